// Functions that the pipeline's pages share: reading runs, requesting runs.
import { request, type Variables } from "./api.ts";
import { textOf } from "./format.ts";
import { updates, type RunUpdate } from "./live.ts";
import { rights } from "./rights.ts";
import { features, type Entity } from "./schema.ts";

export interface Run extends RunUpdate {
  trigger: string;
  /** Undefined if the role may not read them. */
  actor?: string | null;
  arguments?: Record<string, unknown> | null;
  error?: string | null;
}

export const STEPS = ["pipeline", "ingest", "transform", "refresh", "retry", "cleanup"];
export const STATUSES = ["queued", "running", "succeeded", "failed"];
export const TRIGGERS = ["cli", "api", "schedule", "sample", "sql"];

export const runFields = (): string =>
  `runId step status trigger dataset parentRunId progress rowsRead rowsWritten rowsReplaced
   rowsReplacedFromOtherSource rowsRejected rowsDeleted queuedAt startedAt finishedAt heartbeatAt durationMs ${rights.value?.runFields.join(" ") ?? ""}`;

export const isActive = ({ status }: { status: string }): boolean =>
  status === "queued" || status === "running";

/** Merges runs with later updates from the socket. */
export function withUpdates(runs: Run[]): Run[] {
  return runs.map((run) => {
    const update = updates.value.get(run.runId);
    return update && isActive(run) ? { ...run, ...update } : run;
  });
}

/** Returns active runs, including those that are known only by an announcement. */
export function activeRuns(runs: Run[]): RunUpdate[] {
  const all = new Map<string, RunUpdate>(withUpdates(runs).map((run) => [run.runId, run]));
  for (const [runId, update] of updates.value) if (!all.has(runId)) all.set(runId, update);
  return [...all.values()].filter(isActive);
}

export type StepMutation = "runPipeline" | "transformStaging" | "refreshAnalytics" | "cleanupOldData";
const INPUTS: Record<StepMutation, string> = {
  runPipeline: "RunPipelineInput",
  transformStaging: "TransformStagingInput",
  refreshAnalytics: "RefreshAnalyticsInput",
  cleanupOldData: "CleanupOldDataInput",
};
export const MUTATION_OF: Record<string, StepMutation> = {
  pipeline: "runPipeline",
  transform: "transformStaging",
  refresh: "refreshAnalytics",
  cleanup: "cleanupOldData",
};

/** Requests a run and returns at once; its progress arrives by the socket. */
export async function start(mutation: StepMutation, input: Variables = {}): Promise<string> {
  const answer = await request<Record<string, { run: { runId: string } }>>(
    `mutation StudioStart($input: ${INPUTS[mutation]}!) { ${mutation}(input: $input) { run { runId } } }`,
    { input: { ...input, background: true } },
  );
  return answer[mutation]!.run.runId;
}

const camel = (name: string): string =>
  name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
const singular = (name: string): string => name.replace(/s$/, "").toLowerCase();

/** Finds the list of a table, metric or view of the database. */
export function entityOf(relation: string): Entity | undefined {
  const name = camel(relation);
  const entities = features.value?.entities ?? [];
  return (
    entities.find(({ field }) => field === name) ??
    entities.find(({ field }) => singular(field) === singular(name)) ??
    entities.find(({ node }) => singular(node) === singular(name))
  );
}

/** Describes a run's arguments: where rows came from, how many days are kept. */
export function argumentsInWords({ arguments: given }: Run): string {
  return Object.entries(given ?? {})
    .filter(([, value]) => value !== null && value !== false)
    .map(([name, value]) => `${name}: ${textOf(value)}`)
    .join(", ");
}
