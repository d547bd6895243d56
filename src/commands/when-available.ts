import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import { isUnavailable } from "../database/unavailable.ts";

const MAX_PAUSE_MS = 15_000;

/** Retries for as long as the database is unavailable; any other error ends the start. */
export async function whenAvailable<T>(config: Config, logger: Logger, open: () => Promise<T>): Promise<T> {
  for (let pause = 500; ; pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
    try {
      return await open();
    } catch (error) {
      if (!config.DATABASE_URL || !isUnavailable(error)) throw error;
      logger.warn(`${(error as Error).message} (next attempt in ${pause} ms)`);
      await sleep(pause);
    }
  }
}
