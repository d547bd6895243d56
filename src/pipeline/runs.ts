// Executes runs: requested under the caller's role, claimed once, executed in batches, finished. Each transition is
// an SQL function; this module waits, sends heartbeats and retries.
import type { Pool, PoolClient } from "pg";
import { setTimeout as sleep } from "node:timers/promises";
import { reasonOf } from "../abort.ts";
import { inTransaction } from "../database/transaction.ts";
import { retry, type RetryArguments } from "../ingest/retry.ts";
import { withRetries } from "./batch.ts";
import { cleanup, type Retention } from "./cleanup.ts";
import { refresh } from "./refresh.ts";
import { transform } from "./transform.ts";

export type Step = "transform" | "refresh" | "cleanup" | "pipeline" | "retry";

export interface Run {
  id: string;
  step: string;
  status: "queued" | "running" | "succeeded" | "failed";
  trigger: string;
  startedAt: string | null;
  finishedAt: string | null;
  durationMs: number | null;
  rowsRead: number;
  rowsWritten: number;
  /** Rows that replaced others with the same key and different values. */
  rowsReplaced: number;
  /** Of the rows replaced, those that came from another source system. */
  rowsReplacedFromOtherSource: number;
  rowsRejected: number;
  rowsDeleted: number;
  error: string | null;
}

/** Rows that arrived from a time on and before another, in ISO 8601. */
interface Replay {
  dataset: string;
  since?: string | undefined;
  until?: string | undefined;
}

export interface RunRequest {
  step: Step;
  trigger: "cli" | "api" | "schedule" | "sample";
  actor?: string;
  /** Database role that calls strata.start_run, which needs the right to. */
  role?: string;
  full?: boolean;
  /** First and last day that a refresh recomputes, whether their rows changed or not. */
  from?: string | undefined;
  to?: string | undefined;
  /** Retention in days of rows, runs and rejected rows, for a cleanup. */
  retention?: Partial<Retention> | undefined;
  retry?: RetryArguments;
  /** Raw rows that a transform takes again, before the new ones. */
  replays?: Replay[] | undefined;
  /**
   * Corrections of a retry, as JSON. They are not among the arguments that readers of runs see, as they may hold
   * personal data.
   */
  patch?: string;
  onProgress?: (run: Run) => void;
  signal?: AbortSignal;
}

export interface RunOptions {
  patch?: string;
  onProgress?: (run: Run) => void;
  signal?: AbortSignal;
}

/** Arguments of a step's function. */
export interface Work {
  pool: Pool;
  runId: string;
  arguments: { full?: boolean; from?: string; to?: string; replays?: Replay[] } & Partial<Retention> &
    RetryArguments;
  patch?: string;
  /** Called between batches: reports progress, and throws if the run was stopped. */
  afterBatch: () => Promise<void>;
}

type Steps = Record<string, (work: Work, options: RunOptions) => Promise<void>>;

const steps: Steps = { transform, refresh, cleanup, pipeline, retry };

const HEARTBEAT_MS = 5_000;
const POLL_MS = 200;

const RUN_COLUMNS = `
  run_id as id, step, status, trigger, to_json(started_at) #>> '{}' as "startedAt",
  to_json(finished_at) #>> '{}' as "finishedAt", duration_ms as "durationMs",
  rows_read::double precision as "rowsRead", rows_written::double precision as "rowsWritten",
  rows_replaced::double precision as "rowsReplaced",
  rows_replaced_from_other_source::double precision as "rowsReplacedFromOtherSource",
  rows_rejected::double precision as "rowsRejected", rows_deleted::double precision as "rowsDeleted", error`;

export async function readRun(pool: Pool, runId: string): Promise<Run> {
  const { rows } = await withRetries(() =>
    pool.query<Run>(`select ${RUN_COLUMNS} from strata.runs where run_id = $1`, [runId]),
  );
  if (!rows[0]) throw new Error(`There is no run ${runId}`);
  return rows[0];
}

/** Counts the quarantined rows of a run and its parts by reason; a row may count for several. */
export async function readReasons(pool: Pool, runId: string): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ reasons: Record<string, number> | null }>(
    `select json_object_agg(c.reason, c.amount) as reasons from (
       select reason, count(*) as amount from staging.quarantine q, unnest(q.reasons) reason
       where q.run_id in (select r.run_id from strata.runs r where r.run_id = $1 or r.parent_run_id = $1) group by 1
     ) c`,
    [runId],
  );
  return rows[0]!.reasons ?? {};
}

/** Returns the latest runs, newest first. */
export async function readRuns(pool: Pool, limit: number): Promise<(Run & { actor: string | null })[]> {
  const { rows } = await pool.query<Run & { actor: string | null }>(
    `select ${RUN_COLUMNS}, actor from strata.runs order by run_id desc limit $1`,
    [limit],
  );
  return rows;
}

/**
 * Executes a step and waits for its end. If a run of the step is running, it waits for that one first; it joins a
 * queued one.
 */
export async function runStep(pool: Pool, request: RunRequest): Promise<Run> {
  const { id } = await inTransaction(pool, (client) => startRun(client, request));
  return executeRun(pool, id, request);
}

/** Queues a step for a worker and returns its run at once. */
export async function queueStep(pool: Pool, request: RunRequest): Promise<Run> {
  const { id } = await inTransaction(pool, async (client) => {
    const run = await startRun(client, request);
    if (run.status === "queued")
      await client.query(
        `select graphile_worker.add_job('run_step', json_build_object('runId', $1::text, 'patch', $2::text), job_key => 'run_step:' || $1)`,
        [run.id, request.patch ?? null],
      );
    return run;
  });
  return readRun(pool, id);
}

/** Executes a run, or waits for the process that does. */
export async function executeRun(pool: Pool, runId: string, options: RunOptions = {}): Promise<Run> {
  for (;;) {
    const run = await readRun(pool, runId);
    options.onProgress?.(run);
    if (run.status === "succeeded" || run.status === "failed") return run;
    if (options.signal?.aborted) throw waitEnded(run);
    const { rows } = await pool.query<{ arguments: Work["arguments"] }>(
      "select arguments from strata.claim_run($1)",
      [runId],
    );
    if (rows[0]) return work(pool, runId, rows[0].arguments, options);
    // An aborted sleep is handled above, where the signal is checked.
    await sleep(POLL_MS, undefined, { signal: options.signal }).catch(() => undefined);
  }
}

/** Makes the error for a wait that ended although the run continues. */
function waitEnded(run: Run): Error {
  const state = run.status === "running" ? "goes on" : "is left to whoever asks for the step next";
  return Object.assign(new Error(`Waiting was interrupted; run ${run.id} (${run.step}) ${state}`), { run });
}

async function work(pool: Pool, runId: string, args: Work["arguments"], options: RunOptions): Promise<Run> {
  const stopped = new AbortController();
  const signal = AbortSignal.any([stopped.signal, ...(options.signal ? [options.signal] : [])]);
  // A failed heartbeat is ignored: the database may be unavailable for a while, and only its answer ends the run.
  const beat = () =>
    pool
      .query<{ alive: boolean }>("select strata.heartbeat_run($1) as alive", [runId])
      .then(
        ({ rows }) =>
          rows[0]!.alive || stopped.abort(new Error(`Run ${runId} was closed by another process`)),
      )
      .catch(() => undefined);
  const heartbeat = setInterval(() => void beat(), HEARTBEAT_MS);
  let failure: string | null = null;
  try {
    const afterBatch = async () => {
      signal.throwIfAborted();
      if (options.onProgress) options.onProgress(await readRun(pool, runId));
    };
    const { step } = await readRun(pool, runId);
    const { patch } = options;
    await steps[step]!({ pool, runId, arguments: args, patch, afterBatch }, { ...options, signal });
  } catch (error) {
    failure = signal.aborted
      ? `Stopped: ${reasonOf(signal, "the process is shutting down")}`
      : (error as Error).message;
  } finally {
    clearInterval(heartbeat);
  }
  await withRetries(() => pool.query("select from strata.finish_run($1, $2)", [runId, failure]));
  const run = await readRun(pool, runId);
  options.onProgress?.(run);
  return run;
}

/** Executes transform, then refresh, as runs of their own. */
async function pipeline({ pool, runId }: Work, options: RunOptions): Promise<void> {
  for (const step of ["transform", "refresh"] as const) {
    const { id } = await inTransaction(pool, async (client) => {
      const { rows } = await client.query<{ id: string }>(
        `select child.run_id as id from strata.runs parent,
                strata.start_run($2, parent.trigger, parent.actor, '{}', parent.run_id) child
         where parent.run_id = $1`,
        [runId, step],
      );
      return rows[0]!;
    });
    const child = await executeRun(pool, id, { signal: options.signal });
    if (child.status === "failed") throw new Error(`The ${step} failed (run ${child.id}): ${child.error}`);
    options.onProgress?.(await readRun(pool, runId));
  }
}

async function startRun(client: PoolClient, request: RunRequest): Promise<{ id: string; status: string }> {
  const { step, trigger, actor, full, from, to, replays, retention, role, retry: selection } = request;
  await client.query("select set_config('role', $1, true), set_config('strata.sub', $2, true)", [
    role ?? "none",
    actor ?? "",
  ]);
  const { rows } = await client.query<{ id: string; status: string }>(
    "select run_id as id, status from strata.start_run($1, $2, $3, $4)",
    [step, trigger, actor ?? null, JSON.stringify({ full, from, to, replays, ...retention, ...selection })],
  );
  await client.query("select set_config('role', 'none', true)");
  return rows[0]!;
}
