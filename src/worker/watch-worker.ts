// Serving processes check whether any worker runs. If none does, they deliver the alert about that themselves, by the
// same queue.
import { runOnce } from "graphile-worker";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { alertTask, workerLogger, type WorkerOptions } from "./worker.ts";

const LOOK_MS = 60_000;

export interface WorkerWatch {
  stop(): Promise<void>;
}

export function watchWorker(options: WorkerOptions): WorkerWatch {
  let looking = Promise.resolve();
  const look = async (): Promise<void> => {
    try {
      await lookForWorker(options);
    } catch (error) {
      // The database may be unavailable, which /readyz reports.
      options.log("debug", `the worker could not be looked for: ${(error as Error).message}`);
    }
  };
  const timer = setInterval(() => void (looking = looking.then(look)), LOOK_MS);
  return {
    stop() {
      clearInterval(timer);
      return looking;
    },
  };
}

export async function lookForWorker(
  { config, pool, log }: WorkerOptions,
  patience = "5 minutes",
): Promise<void> {
  const { rows } = await pool.query<{ works: boolean }>("select strata.check_worker($1) as works", [
    patience,
  ]);
  if (!rows[0]!.works && config.ALERT_WEBHOOK_URL !== undefined) await deliverAlerts(config, pool, log);
}

async function deliverAlerts(config: Config, pool: Pool, log: WorkerOptions["log"]): Promise<void> {
  await runOnce({
    pgPool: pool,
    noHandleSignals: true,
    concurrency: 1,
    logger: workerLogger(log),
    taskList: { deliver_alerts: alertTask(config, pool) },
  });
}
