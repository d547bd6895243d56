// Keeps a worker running for the life of the process, across outages of the database.
import { setTimeout as sleep } from "node:timers/promises";
import type { Runner } from "graphile-worker";
import type { Check } from "../http/health.ts";
import { startWorker, type WorkerOptions } from "./worker.ts";

export interface KeptWorker {
  state(): Check;
  /** Takes no more jobs and waits for the running ones. */
  stop(): Promise<void>;
}

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 30_000;

export function keepWorker(options: WorkerOptions, stopping: AbortSignal): KeptWorker {
  let runner: Runner | undefined;

  async function keep(): Promise<void> {
    let pause = FIRST_PAUSE_MS;
    while (!stopping.aborted) {
      try {
        runner = await startWorker(options);
        pause = FIRST_PAUSE_MS;
        await runner.promise;
        if (!stopping.aborted) options.log("error", "the worker stopped; starting it again");
      } catch (error) {
        options.log("error", `the worker failed; next start in ${pause} ms: ${(error as Error).message}`);
      }
      runner = undefined;
      await sleep(pause, undefined, { signal: stopping }).catch(() => undefined);
      pause = Math.min(pause * 2, MAX_PAUSE_MS);
    }
  }

  const kept = keep();
  return {
    state: () => (runner ? { ok: true, detail: "running" } : { ok: false, detail: "not running" }),
    async stop() {
      await runner?.stop();
      await kept;
    },
  };
}
