// Behind transform, refresh, cleanup and run: executes one step and prints its run.
import { userInfo } from "node:os";
import { describeReasons, type IngestRun } from "../ingest/ingest.ts";
import { retentionOf } from "../pipeline/cleanup.ts";
import { readReasons, runStep, type Run, type RunRequest } from "../pipeline/runs.ts";
import { clearProgress, showProgress } from "./progress.ts";
import { stoppable } from "./stop-signal.ts";
import { withDatabase } from "./with-database.ts";

export async function printStep(
  {
    daysToKeep,
    ...request
  }: Pick<RunRequest, "step" | "full" | "from" | "to" | "replays"> & {
    daysToKeep?: number | undefined;
  },
  options: { json?: boolean },
): Promise<void> {
  const run = stoppable("run", (signal) =>
    withDatabase(async ({ pool }, config) => {
      const done = await runStep(pool, {
        ...request,
        retention: request.step === "cleanup" ? retentionOf(config, daysToKeep) : undefined,
        trigger: "cli",
        actor: userInfo().username,
        onProgress: showRun,
        signal,
      }).finally(clearProgress);
      return { ...done, reasons: done.rowsRejected > 0 ? await readReasons(pool, done.id) : {} };
    }),
  );
  await printRun(run, options);
}

/** Prints a run when it has ended; with --json, also the run that an error refers to. */
export async function printRun(running: Promise<Run>, options: { json?: boolean }): Promise<void> {
  const run = await running.catch((error: Error & { run?: Run }) => {
    if (options.json && error.run) console.log(JSON.stringify({ run: error.run }));
    throw error;
  });
  if (options.json) console.log(JSON.stringify({ run }));
  else console.log("skipped" in run ? describeSkipped(run) : describeRun(run));
  if (run.status === "failed") process.exitCode = 1;
}

const describeSkipped = ({ id, finishedAt, rowsWritten }: Run): string =>
  `ingest skipped: run ${id} ingested the same content at ${finishedAt} (rows written ${rowsWritten})`;

function describeRun(run: Run & Partial<IngestRun>): string {
  const foreign = run.rowsReplacedFromOtherSource;
  // The error of an ingest already lists the reasons.
  const reasons = run.reasons && !(run.error && run.step === "ingest") ? describeReasons(run.reasons) : "";
  const counts = [
    ["read", run.rowsRead],
    ["written", run.rowsWritten],
    ["replaced", run.rowsReplaced, foreign > 0 ? ` (${foreign} from another source)` : ""],
    ["rejected", run.rowsRejected, reasons && ` (${reasons})`],
    ["deleted", run.rowsDeleted],
  ].filter(([, count]) => count !== 0);
  const rows =
    counts.length === 0
      ? "nothing to do"
      : `rows ${counts.map(([verb, count, note = ""]) => `${verb} ${count}${note}`).join(", ")}`;
  const seconds = ((run.durationMs ?? 0) / 1000).toFixed(1);
  // A failed run keeps the batches that it has committed.
  const result = !run.error
    ? rows
    : run.rowsWritten + run.rowsDeleted > 0
      ? `${run.error}; ${rows}`
      : run.error;
  return `${run.step} ${run.status} in ${seconds} s: ${result} (run ${run.id})`;
}

export const showRun = ({ step, rowsRead, rowsWritten }: Run): void =>
  showProgress(`${step}: ${rowsRead} rows read, ${rowsWritten} written`);
