// Runs graphile-worker: queued runs, the three steps on their schedules, detection of incidents, delivery of
// messages.
import { Logger, parseCronItems, run, runMigrations, type Runner, type Task } from "graphile-worker";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { retentionOf } from "../pipeline/cleanup.ts";
import { executeRun, runStep, type Step } from "../pipeline/runs.ts";
import { sendAlert } from "./alerts.ts";
import { deliver } from "./deliver.ts";
import { isLineageOn, sendLineage } from "./open-lineage.ts";

export interface WorkerOptions {
  config: Config;
  pool: Pool;
  log: (level: string, message: string) => void;
}

const DAY_MS = 24 * 60 * 60 * 1000;
const HEARTBEAT_MS = 30_000;

/** Concurrent jobs: three for runs, and one for each receiver, which may be slow. */
const CONCURRENCY = 5;

export const workerLogger = (log: WorkerOptions["log"]) =>
  new Logger(() => (level, message) => log(level === "warning" ? "warn" : level, message));

const DUPLICATE_TABLE = "42P07";

export async function migrateWorker(pool: Pool): Promise<void> {
  try {
    await runMigrations({ pgPool: pool, logger: new Logger(() => () => undefined) });
  } catch (error) {
    if ((error as { code?: unknown }).code !== DUPLICATE_TABLE) throw error;
    throw new Error(
      "The schema graphile_worker has its tables but no record of their version, as after a restore without data; " +
        "run: drop schema graphile_worker cascade (jobs that wait in it are lost), then npx strata-graphql migrate",
      { cause: error },
    );
  }
}

export const alertTask =
  (config: Config, pool: Pool): Task =>
  (_, { abortSignal }) =>
    deliver(pool, "alerts", (message) => sendAlert(config, message, abortSignal), abortSignal);

const lineageTask =
  (config: Config, pool: Pool): Task =>
  (_, { abortSignal }) =>
    deliver(pool, "lineage", (message) => sendLineage(config, pool, message, abortSignal), abortSignal);

export async function startWorker(options: WorkerOptions): Promise<Runner> {
  const { config, pool } = options;
  await migrateWorker(pool);
  await pool.query(
    "select strata.set_receiver('alerts', $1), strata.set_receiver('lineage', $2), strata.note_worker()",
    [config.ALERT_WEBHOOK_URL !== undefined, isLineageOn(config)],
  );
  const runner = await runJobs(options);
  const heartbeat = setInterval(
    () => void pool.query("select strata.note_worker()").catch(() => undefined),
    HEARTBEAT_MS,
  );
  void runner.promise.catch(() => undefined).finally(() => clearInterval(heartbeat));
  return runner;
}

function runJobs({ config, pool, log }: WorkerOptions): Promise<Runner> {
  const schedule = (step: Step, match: string) => ({
    task: "scheduled_step",
    match,
    identifier: step,
    payload: { step },
    // After a stop, missed schedules lead to one job per step, however many were due.
    options: { backfillPeriod: DAY_MS, maxAttempts: 5, jobKey: `scheduled_${step}` },
  });
  return run({
    pgPool: pool,
    noHandleSignals: true,
    // A stopping worker waits so long for its jobs, then aborts them.
    preset: { worker: { gracefulShutdownAbortTimeout: config.SHUTDOWN_TIMEOUT_MS * 0.7 } },
    concurrency: CONCURRENCY,
    logger: workerLogger(log),
    parsedCronItems: parseCronItems([
      schedule("transform", config.TRANSFORM_CRON),
      schedule("refresh", config.REFRESH_CRON),
      schedule("cleanup", config.CLEANUP_CRON),
      {
        task: "check_incidents",
        match: "* * * * *",
        options: { backfillPeriod: 0, jobKey: "check_incidents" },
      },
    ]),
    taskList: {
      deliver_alerts: alertTask(config, pool),
      deliver_lineage: lineageTask(config, pool),
      check_incidents: async () => {
        const { rows } = await pool.query<{ detail: string; isOver: boolean }>(
          `select detail, resolved_at is not null as "isOver" from strata.check_incidents($1)`,
          [config.ALERT_QUARANTINE_ROWS],
        );
        for (const { detail, isOver } of rows)
          log(isOver ? "info" : "warn", isOver ? `incident over: ${detail}` : `incident: ${detail}`);
      },
      run_step: async (payload, helpers) => {
        const { runId, patch } = payload as { runId: string; patch?: string | null };
        const done = await executeRun(pool, runId, {
          patch: patch ?? undefined,
          signal: helpers.abortSignal,
        });
        if (done.status === "failed") log("error", `run ${runId} failed: ${done.error}`);
      },
      scheduled_step: async (payload, helpers) => {
        const { step } = payload as { step: Step };
        const retention = step === "cleanup" ? retentionOf(config) : undefined;
        const done = await runStep(pool, {
          step,
          retention,
          trigger: "schedule",
          signal: helpers.abortSignal,
        });
        // Throw, so that the job is retried with back-off.
        if (done.status === "failed") throw new Error(`run ${done.id} failed: ${done.error}`);
      },
    },
  });
}
