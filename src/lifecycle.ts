// Ends a long-running process: on a signal in order and within a bounded time, on an unexpected fault at once.
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { Config } from "./config.ts";

export interface Lifecycle {
  /** Aborted when the process begins to stop and must take no new work. */
  stopping: AbortSignal;
  /** Aborted when most of the time to stop is used, and running work should give up. */
  hurry: AbortSignal;
  /** Registers what to close; the last registered is closed first. */
  onStop(close: () => Promise<unknown>): void;
  stop(exitCode: number): Promise<void>;
}

/** Signals of Ctrl-C, of a supervisor, and of a closed terminal. */
export const STOP_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Share of SHUTDOWN_TIMEOUT_MS within which running work may finish. */
const PATIENCE = 0.7;

export function createLifecycle(
  logger: Logger,
  { SHUTDOWN_TIMEOUT_MS, SHUTDOWN_DELAY_MS }: Pick<Config, "SHUTDOWN_TIMEOUT_MS" | "SHUTDOWN_DELAY_MS">,
  /** Empty if another process decides when this one stops. */
  signals: readonly NodeJS.Signals[] = STOP_SIGNALS,
): Lifecycle {
  const stopping = new AbortController();
  const hurry = new AbortController();
  const closers: (() => Promise<unknown>)[] = [];

  async function stop(exitCode: number): Promise<void> {
    if (stopping.signal.aborted) return;
    stopping.abort();
    setTimeout(
      () => hurry.abort(new Error("The process is stopping")),
      SHUTDOWN_DELAY_MS + SHUTDOWN_TIMEOUT_MS * PATIENCE,
    ).unref();
    setTimeout(() => {
      logger.error(`Not finished after ${SHUTDOWN_TIMEOUT_MS} ms (SHUTDOWN_TIMEOUT_MS); ending anyway`);
      process.exit(1);
    }, SHUTDOWN_DELAY_MS + SHUTDOWN_TIMEOUT_MS).unref();
    // A load balancer needs a probe or two to see /readyz change; until then it sends requests.
    await sleep(SHUTDOWN_DELAY_MS);
    for (const close of closers.reverse()) {
      await close().catch((error: unknown) => {
        logger.error({ error }, "Closing failed");
        exitCode = 1;
      });
    }
    logger.info("Stopped");
    process.exit(exitCode);
  }

  for (const signal of signals) {
    process.on(signal, () => {
      if (stopping.signal.aborted) {
        logger.warn(`${signal} again: ending at once`);
        process.exit(1);
      }
      logger.info(`${signal}: finishing what is running`);
      void stop(0);
    });
  }
  // After an unexpected fault the process's state is unknown, so end at once.
  process.on("uncaughtException", (error, origin) => {
    logger.fatal({ error, origin }, "Unforeseen fault; the process ends");
    process.exit(1);
  });
  return {
    stopping: stopping.signal,
    hurry: hurry.signal,
    onStop: (close) => void closers.push(close),
    stop,
  };
}
