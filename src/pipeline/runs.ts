// A run: asked for under the caller's role, claimed once, executed in batches, finished. Every transition is a
// function of schema.sql; here are the waiting, the sign of life and the second tries.
import type { Pool, PoolClient } from "pg";
import { setTimeout as sleep } from "node:timers/promises";
import { reasonOf } from "../abort.ts";
import { inTransaction } from "../database/transaction.ts";
import { retry, type RetryArguments } from "../ingest/retry.ts";
import { patiently } from "./batch.ts";
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
  /** Rows that took the place of others with the same key and other values. */
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
  /** Role under which strata.start_run is called: the database refuses those who may not. */
  role?: string;
  full?: boolean;
  /** First and last day that a refresh computes again, whether anything of them changed or not. */
  from?: string | undefined;
  to?: string | undefined;
  /** Days that rows, runs and rejected rows are kept: arguments of a cleanup. */
  retention?: Partial<Retention> | undefined;
  retry?: RetryArguments;
  /** Raw rows that a transform takes again before the new ones. */
  replays?: Replay[] | undefined;
  /** Corrections of a retry, as JSON. They may be personal: a run shows its arguments to readers, but not these. */
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
  /** Between batches: throws if the run was stopped, and reports progress. */
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
  const { rows } = await patiently(() =>
    pool.query<Run>(`select ${RUN_COLUMNS} from strata.runs where run_id = $1`, [runId]),
  );
  if (!rows[0]) throw new Error(`There is no run ${runId}`);
  return rows[0];
}

/** How many rows in quarantine each reason has that a run, or a part of it, rejected; a row may have several. */
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

/** The latest first. */
export async function readRuns(pool: Pool, limit: number): Promise<(Run & { actor: string | null })[]> {
  const { rows } = await pool.query<Run & { actor: string | null }>(
    `select ${RUN_COLUMNS}, actor from strata.runs order by run_id desc limit $1`,
    [limit],
  );
  return rows;
}

/** Executes a step and waits for its end, after the run of the step that is running; joins the one that waits. */
export async function runStep(pool: Pool, request: RunRequest): Promise<Run> {
  const { id } = await inTransaction(pool, (client) => startRun(client, request));
  return executeRun(pool, id, request);
}

/** Leaves a step to a worker and returns its run at once. */
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

/** Does the work of a run, or waits for the process that does. */
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
    // Cut short by the signal, which is looked at above.
    await sleep(POLL_MS, undefined, { signal: options.signal }).catch(() => undefined);
  }
}

/** Whoever no longer waits for a run has not stopped it. */
function waitEnded(run: Run): Error {
  const state = run.status === "running" ? "goes on" : "is left to whoever asks for the step next";
  return Object.assign(new Error(`Waiting was interrupted; run ${run.id} (${run.step}) ${state}`), { run });
}

async function work(pool: Pool, runId: string, args: Work["arguments"], options: RunOptions): Promise<Run> {
  const stopped = new AbortController();
  const signal = AbortSignal.any([stopped.signal, ...(options.signal ? [options.signal] : [])]);
  // The database may be away for a while: the run ends when it says so, not when it cannot be asked.
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
  await patiently(() => pool.query("select from strata.finish_run($1, $2)", [runId, failure]));
  const run = await readRun(pool, runId);
  options.onProgress?.(run);
  return run;
}

/** Transform, then refresh, as runs of their own. */
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
