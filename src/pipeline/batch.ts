// Retries of a batch, which is one statement in a transaction of its own: repeated, it does what is left to do.
import { setTimeout as sleep } from "node:timers/promises";
import { isUnavailable } from "../database/unavailable.ts";

/** The last one starts six seconds after the first. */
const ATTEMPTS = 6;

/** Besides an unavailable database: deadlocks, and rows that others inserted or deleted meanwhile. */
const isTransient = (error: unknown): boolean =>
  isUnavailable(error) || /^(40001|40P01|23503|23505)$/.test(String((error as { code?: unknown }).code));

export async function patiently<T>(batch: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await batch();
    } catch (error) {
      if (attempt === ATTEMPTS || !isTransient(error)) throw error;
      await sleep(100 * 2 ** attempt);
    }
  }
}
