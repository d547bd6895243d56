// graphile-worker: runs what mutations queued, and the three steps on their schedules.
import { Logger, parseCronItems, run, runMigrations, type Runner } from "graphile-worker";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { retentionOf } from "../pipeline/cleanup.ts";
import { executeRun, runStep, type Step } from "../pipeline/runs.ts";

export interface WorkerOptions {
  config: Config;
  pool: Pool;
  log: (level: string, message: string) => void;
}

const DAY_MS = 24 * 60 * 60 * 1000;

const workerLogger = (log: WorkerOptions["log"]) =>
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

export function startWorker({ config, pool, log }: WorkerOptions): Promise<Runner> {
  const schedule = (step: Step, match: string) => ({
    task: "scheduled_step",
    match,
    identifier: step,
    payload: { step },
    // A server that was stopped makes up for what it missed, once: one job a step, however many were due.
    options: { backfillPeriod: DAY_MS, maxAttempts: 5, jobKey: `scheduled_${step}` },
  });
  return run({
    pgPool: pool,
    noHandleSignals: true,
    // Until then a stopping worker waits for its jobs; after it they are told to give up.
    preset: { worker: { gracefulShutdownAbortTimeout: config.SHUTDOWN_TIMEOUT_MS * 0.7 } },
    concurrency: 3,
    logger: workerLogger(log),
    parsedCronItems: parseCronItems([
      schedule("transform", config.TRANSFORM_CRON),
      schedule("refresh", config.REFRESH_CRON),
      schedule("cleanup", config.CLEANUP_CRON),
    ]),
    taskList: {
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
        // Thrown, so that the job is tried again with back-off.
        if (done.status === "failed") throw new Error(`run ${done.id} failed: ${done.error}`);
      },
    },
  });
}
