// Loads with a limit of rejected rows that failed: none of their rows goes on to production.
import type pg from "pg";
import { patiently } from "./batch.ts";

/** Deletes what they have landed, which the transform has not taken. */
export async function dropFailedLoads(pool: pg.Pool): Promise<void> {
  for (let deleted = "1"; deleted !== "0";) {
    const { rows } = await patiently(() =>
      pool.query<{ deleted: string }>("select strata.drop_failed_load() as deleted"),
    );
    deleted = rows[0]!.deleted;
  }
}
