// Handles failed loads with a limit of rejected rows (--max-rejected): none of their rows reaches production.
import type pg from "pg";
import { withRetries } from "./batch.ts";

/** Deletes the rows that they have landed, which the transform holds back. */
export async function dropFailedLoads(pool: pg.Pool): Promise<void> {
  for (let deleted = "1"; deleted !== "0";) {
    const { rows } = await withRetries(() =>
      pool.query<{ deleted: string }>("select strata.drop_failed_load() as deleted"),
    );
    deleted = rows[0]!.deleted;
  }
}
