// A batch is one statement in a transaction of its own: tried again, it does what is left to do.
import { setTimeout as sleep } from "node:timers/promises";

const ATTEMPTS = 6;

/** Deadlocks, a user or name that appeared or went meanwhile, a connection or server lost for a moment. */
const isTransient = (error: unknown): boolean =>
  /^(40001|40P01|23503|23505|08...|57P0[123]|53300|ECONN(RESET|REFUSED)|EPIPE)$/.test(
    String((error as { code?: unknown }).code),
  ) || /Connection terminated|timeout exceeded when trying to connect/.test((error as Error).message);

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
