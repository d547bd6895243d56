// Runs work in one transaction and returns the connection to the pool without leftovers.
import type { Pool, PoolClient } from "pg";

type Work<T> = (client: PoolClient) => Promise<T>;

/** Committed if the work resolves, rolled back if it throws. */
export const inTransaction = <T>(pool: Pool, work: Work<T>, begin = "begin"): Promise<T> =>
  transaction(pool, work, begin, "commit");

/** Rolled back in any case. */
export const rolledBack = <T>(pool: Pool, work: Work<T>): Promise<T> =>
  transaction(pool, work, "begin", "rollback");

async function transaction<T>(pool: Pool, work: Work<T>, begin: string, end: string): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query(begin);
    const result = await work(client);
    await client.query(end);
    return result;
  } catch (error) {
    await client.query("rollback").catch((lost: Error) => (broken = lost));
    throw error;
  } finally {
    client.release(broken);
  }
}
