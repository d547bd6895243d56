// Retries a batch after temporary errors. A batch is one statement in its own transaction, so repeating it is safe.
import { setTimeout as sleep } from "node:timers/promises";
import { isUnavailable } from "../database/unavailable.ts";

/** Attempts of a batch, the last one six seconds after the first. More delay the failure of a run. */
const ATTEMPTS = 6;

/** Temporary errors: an unavailable database, deadlocks, and rows that others inserted or deleted meanwhile. */
const isTransient = (error: unknown): boolean =>
  isUnavailable(error) || /^(40001|40P01|23503|23505)$/.test(String((error as { code?: unknown }).code));

export async function withRetries<T>(batch: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await batch();
    } catch (error) {
      if (attempt === ATTEMPTS || !isTransient(error)) throw error;
      await sleep(100 * 2 ** attempt);
    }
  }
}
