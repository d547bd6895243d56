// Retries and discards rows, by ids or by filter, and reports the result.
import { request, type Variables } from "./api.ts";
import { isActive, start } from "./pipeline.ts";
import { features } from "./schema.ts";

export type Selection =
  | { kind: "ids"; ids: string[]; patch?: Record<string, string | null> | undefined; dateFormat?: string }
  | { kind: "filter"; dataset: string; reason: string; run: string; patch?: undefined; dateFormat?: string };

export interface Outcome {
  verb: "retried" | "discarded";
  wentOn: number;
  cameBack: number;
  reasons: { reason: string; rows: number }[];
  runId?: string;
  error?: string | undefined;
}

type Report = (progress: number) => void;

const IDS_PER_REQUEST = 1_000;
const WAIT_MS = 400;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Reads all matching ids in pages, for filters that the mutations do not support. */
async function idsOf({ dataset, reason, run }: Extract<Selection, { kind: "filter" }>): Promise<string[]> {
  const filter = {
    ...(dataset && { dataset: { equalTo: dataset } }),
    ...(reason && { reasons: { contains: [reason] } }),
    ...(run && { runId: { equalTo: run } }),
  };
  const ids: string[] = [];
  for (let after: string | null = null; ;) {
    const page: {
      quarantinedRows: {
        nodes: { quarantineId: string }[];
        pageInfo: { hasNextPage: boolean; endCursor: string };
      };
    } = await request(
      `query StudioIds($filter: QuarantinedRowFilter, $after: Cursor) {
          quarantinedRows(filter: $filter, first: 1000, after: $after) { nodes { quarantineId } pageInfo { hasNextPage endCursor } }
        }`,
      { filter, after },
    );
    ids.push(...page.quarantinedRows.nodes.map(({ quarantineId }) => quarantineId));
    if (!page.quarantinedRows.pageInfo.hasNextPage) return ids;
    after = page.quarantinedRows.pageInfo.endCursor;
  }
}

/** Makes one request if the mutation supports the selection, else one per thousand ids. */
async function inputsOf(selection: Selection, known: Set<string>): Promise<Variables[]> {
  if (selection.kind === "filter" && !selection.run) {
    const { dataset, reason } = selection;
    if (!dataset && !reason) return [{ everything: true }];
    if (!dataset || known.has("dataset")) return [{ ...(dataset && { dataset }), ...(reason && { reason }) }];
  }
  const ids = selection.kind === "ids" ? selection.ids : await idsOf(selection);
  const inputs: Variables[] = [];
  for (let from = 0; from < ids.length; from += IDS_PER_REQUEST)
    inputs.push({ ids: ids.slice(from, from + IDS_PER_REQUEST) });
  return inputs.map((input) => ({ ...input, ...(selection.patch && { patch: selection.patch }) }));
}

interface EndedRun {
  runId: string;
  status: string;
  progress: number;
  rowsRead: string;
  rowsWritten: string;
  rowsRejected: string;
  error?: string | null;
}

async function waitFor(runId: string, report: Report): Promise<EndedRun> {
  for (;;) {
    const { pipelineRun: run } = await request<{ pipelineRun: EndedRun }>(
      `query StudioRun($runId: BigInt!) { pipelineRun(runId: $runId) { runId status progress rowsRead rowsWritten rowsRejected error } }`,
      { runId },
    );
    if (!isActive(run)) return run;
    report(run.progress);
    await sleep(WAIT_MS);
  }
}

/** Counts rows that are in quarantine again after this retry, by whichever run. */
async function cameBackFrom(runId: string): Promise<{ reason: string; rows: number }[]> {
  const { quarantinedRows } = await request<{
    quarantinedRows: { groupedAggregates: { keys: string[]; distinctCount: { quarantineId: string } }[] };
  }>(
    `query StudioCameBack($runId: BigInt!) {
      quarantinedRows(first: 1, filter: { retriedBy: { equalTo: $runId } }) { groupedAggregates(groupBy: [REASONS]) { keys distinctCount { quarantineId } } }
    }`,
    { runId },
  );
  return quarantinedRows.groupedAggregates.map(({ keys, distinctCount }) => ({
    reason: keys[0]!.slice(1, -1).replaceAll(",", ", "),
    rows: Number(distinctCount.quarantineId),
  }));
}

/** Whether the mutation's payload has a run; that of older servers has a number. */
const hasRun = (mutation: string): boolean => features.value?.retryInput.has("background") ?? mutation === "";

async function retryAsRuns(inputs: Variables[], report: Report): Promise<string[]> {
  const ids: string[] = [];
  for (const input of inputs) {
    const { retryQuarantined } = await request<{ retryQuarantined: { run: { runId: string } } }>(
      `mutation StudioRetry($input: RetryQuarantinedInput!) { retryQuarantined(input: $input) { run { runId } } }`,
      { input: { ...input, background: true } },
    );
    const { runId } = retryQuarantined.run;
    const done = ids.length / inputs.length;
    await waitFor(runId, (progress) => report((done + progress / inputs.length) / 2));
    ids.push(runId);
  }
  return ids;
}

async function retryInPlace(inputs: Variables[], report: Report): Promise<void> {
  for (const [index, input] of inputs.entries()) {
    await request(
      `mutation StudioRetry($input: RetryQuarantinedInput!) { retryQuarantined(input: $input) { clientMutationId } }`,
      { input },
    );
    report((index + 1) / inputs.length / 2);
  }
}

/** Returns rows to the transform and runs it, after which the result is known. */
export async function retry(selection: Selection, rows: number, report: Report): Promise<Outcome> {
  const { dateFormat } = selection;
  const inputs = (await inputsOf(selection, features.value?.retryInput ?? new Set())).map((input) =>
    dateFormat ? { ...input, dateFormat } : input,
  );
  const retries = hasRun("retryQuarantined") ? await retryAsRuns(inputs, report) : [];
  if (retries.length === 0) await retryInPlace(inputs, report);
  const transform = await waitFor(await start("transformStaging"), (progress) => report(0.5 + progress / 2));
  const reasons = new Map<string, number>();
  for (const runId of retries)
    for (const { reason, rows: some } of await cameBackFrom(runId))
      reasons.set(reason, (reasons.get(reason) ?? 0) + some);
  const cameBack = [...reasons.values()].reduce((total, some) => total + some, 0);
  return {
    verb: "retried",
    wentOn: Math.max(0, rows - cameBack),
    cameBack: Math.min(rows, cameBack),
    reasons: [...reasons].map(([reason, some]) => ({ reason, rows: some })),
    runId: retries[0] ?? transform.runId,
    error:
      transform.status === "failed"
        ? `The transform failed: ${transform.error ?? "no reason given"}`
        : undefined,
  };
}

export async function discard(selection: Selection, rows: number, report: Report): Promise<Outcome> {
  const inputs = await inputsOf(selection, features.value?.discardInput ?? new Set());
  for (const [index, input] of inputs.entries()) {
    await request(
      `mutation StudioDiscard($input: DiscardQuarantinedInput!) { discardQuarantined(input: $input) { clientMutationId } }`,
      { input },
    );
    report((index + 1) / inputs.length);
  }
  return { verb: "discarded", wentOn: rows, cameBack: 0, reasons: [] };
}
