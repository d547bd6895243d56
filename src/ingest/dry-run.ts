// Reports what a load would do. Every row is checked as by an ingest; the first ones then land and go through the
// transform in a transaction that is rolled back.
import type { Readable } from "node:stream";
import type pg from "pg";
import { rolledBack } from "../database/transaction.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { readDataset, type Dataset } from "./dataset.ts";
import { isBadInput } from "./faults.ts";
import { decodeCopy, type Formatter, type Row } from "./format.ts";
import {
  BATCH_CHARACTERS,
  BATCH_ROWS,
  checkOptions,
  findFault,
  findSameLoad,
  readRows,
  startRun,
  type IngestOptions,
  type Landing,
  type Reasons,
} from "./ingest.ts";
import { landRows, resolveDoubts, type Source } from "./land.ts";

/**
 * Rows that go through the transform. More give a surer report, and hold locks on the rows that they would replace
 * for longer.
 */
const TRIED_ROWS = 20_000;

/** Sample rows shown of each kind. */
const SAMPLES = 3;

interface Sample {
  line?: number | null;
  key?: string | null;
}

export interface DryRun {
  rowsRead: number;
  /** Rows that would land in staging. */
  rowsLanding: number;
  rowsRejected: number;
  reasons: Reasons;
  /** The first rows that would land: their fields as text, without absent ones. */
  landing: { line: number; row: Record<string, string> }[];
  /** First rejected rows of each reason. */
  rejected: { line: number; reasons: string[]; detail: string; text: string }[];
  /**
   * Effect of the first rows that would land; null for a role that may not read the dataset, and if none would land.
   */
  transform: {
    rowsRead: number;
    rowsWritten: number;
    rowsReplaced: number;
    rowsReplacedFromOtherSource: number;
    /** Null for a full snapshot with more rows than are tried. */
    rowsDeleted: number | null;
    rowsRejected: number;
    reasons: Reasons;
    replaced: (Sample & { source: string | null; before: object; after: object })[];
    deleted: Sample[];
    rejected: (Sample & { reasons: string[]; detail: string })[];
    /** Why a full snapshot would delete nothing; null otherwise. */
    problem: string | null;
    /** Rows of parent datasets that still wait for the transform; rows that reference them count as rejected. */
    waiting: Record<string, number>;
  } | null;
  /** The earlier run that has ingested the same input, if there is one: the load would do nothing. */
  sameAs: string | null;
  /** Why the load would fail. */
  error: string | null;
}

export async function dryRun(
  pool: pg.Pool,
  name: string,
  input: Readable,
  options: IngestOptions,
): Promise<DryRun> {
  input.on("error", () => undefined);
  const dataset = await readDataset(pool, name);
  const { sourceSystem, limit, ...given } = checkOptions(dataset, options);
  // Omit the digest: with it, startRun might return an earlier run in place of a new one.
  const load = { ...options, sourceSystem, sha256: undefined };
  // Check the right to ingest first, so that others learn nothing of the dataset.
  await rolledBack(pool, (client) => startRun(client, name, load));
  const sameAs = await rolledBack(pool, (client) => findSameLoad(client, name, { ...options, sourceSystem }));
  options.signal?.addEventListener("abort", () => input.destroy(new Error("The dry run was cancelled")), {
    once: true,
  });
  const judging = startJudging(pool, dataset);
  let error: Error | undefined;
  try {
    await readRows(input, given, options.format, judging);
    await judging.finish();
  } catch (failure) {
    input.destroy();
    if (isBadInput(failure) || isUnavailable(failure)) throw failure;
    error = failure as Error;
  }
  const { progress, reasons, accepted, rejected, made } = judging;
  error ??= findFault(judging, limit, options.operation);
  const source = { dataset, sourceSystem, sourceName: options.sourceName ?? null, ...made! };
  const transform =
    accepted.length === 0
      ? null
      : await rolledBack(pool, async (client) => {
          const { rows } = await client.query<{ may: boolean }>("select strata.may_try($1, $2) as may", [
            options.role ?? null,
            name,
          ]);
          if (!rows[0]!.may) return null;
          const isReplace = options.operation === "replace";
          const isWhole = accepted.length === progress.rowsWritten;
          // Treat an incomplete or failing snapshot as an upsert: rows that are not tried must not count as deleted.
          const operation = isReplace && (error || !isWhole) ? undefined : options.operation;
          const { id: runId } = await startRun(client, name, { ...load, operation });
          const tried = await tryRows(
            client,
            { ...source, runId, isDelete: operation === "delete" },
            accepted,
          );
          return isReplace && !error && !isWhole ? { ...tried, rowsDeleted: null } : tried;
        });
  return {
    rowsRead: progress.rowsRead,
    rowsLanding: progress.rowsWritten,
    rowsRejected: progress.rowsRejected,
    reasons,
    landing: accepted.slice(0, SAMPLES).map(({ line, copy }) => ({ line, row: fieldsOf(dataset, copy!) })),
    rejected: rejected.map(({ line, text, faults }) => ({
      line,
      reasons: [...new Set(faults.map(({ reason }) => reason))],
      detail: faults.map(({ detail }) => detail).join(" "),
      text,
    })),
    transform,
    sameAs,
    error: error?.message ?? null,
  };
}

const fieldsOf = ({ fields }: Dataset, copy: string): Record<string, string> =>
  Object.fromEntries(
    decodeCopy(copy).flatMap((value, place) => (value === null ? [] : [[fields[place]!.name, value]])),
  );

async function tryRows(
  client: pg.PoolClient,
  source: Source,
  rows: Row[],
): Promise<NonNullable<DryRun["transform"]>> {
  await landRows(client, source, rows);
  const { rows: tried } = await client.query<{ transform: NonNullable<DryRun["transform"]> }>(
    "select strata.try_load($1, $2) as transform",
    [source.runId, SAMPLES],
  );
  return tried[0]!.transform;
}

interface Judging extends Landing {
  /** The first rows without a fault. */
  accepted: Row[];
  /** First rejected rows of each reason. */
  rejected: Row[];
  made: Pick<Source, "formatter" | "format"> | undefined;
}

function startJudging(pool: pg.Pool, dataset: Source["dataset"]): Judging {
  let rows: Row[] = [];
  let characters = 0;
  const judging: Judging = {
    progress: { bytesRead: 0, rowsRead: 0, rowsWritten: 0, rowsRejected: 0 },
    reasons: {},
    accepted: [],
    rejected: [],
    made: undefined,
    start: (formatter: Formatter, format) => void (judging.made = { formatter, format }),
    onBytes: (count) => void (judging.progress.bytesRead += count),
    add(row) {
      rows.push(row);
      characters += row.text.length;
      return rows.length >= BATCH_ROWS || characters >= BATCH_CHARACTERS ? judging.finish() : undefined;
    },
    async finish() {
      const batch = rows;
      rows = [];
      characters = 0;
      if (batch.length === 0) return;
      await rolledBack(pool, (client) => resolveDoubts(client, dataset, batch));
      const { progress, reasons, accepted, rejected } = judging;
      for (const row of batch) {
        progress.rowsRead += 1;
        if (row.faults.length === 0) {
          progress.rowsWritten += 1;
          if (accepted.length < TRIED_ROWS) accepted.push(row);
          continue;
        }
        progress.rowsRejected += 1;
        let isFirst = false;
        for (const reason of new Set(row.faults.map((fault) => fault.reason))) {
          reasons[reason] = (reasons[reason] ?? 0) + 1;
          if (reasons[reason] <= SAMPLES) isFirst = true;
        }
        if (isFirst) rejected.push(row);
      }
    },
  };
  return judging;
}
