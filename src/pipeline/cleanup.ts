// Deletes old raw rows that the transform has taken, batch by batch.
import { patiently } from "./batch.ts";
import type { Work } from "./runs.ts";

const BATCH_ROWS = 20_000;
const DEFAULT_DAYS_TO_KEEP = 30;

export async function cleanup({ pool, runId, arguments: { daysToKeep }, afterBatch }: Work): Promise<void> {
  let deleted: number;
  do {
    const { rows } = await patiently(() =>
      pool.query<{ deleted: number }>("select strata.cleanup_batch($1, $2, $3) as deleted", [
        runId,
        daysToKeep ?? DEFAULT_DAYS_TO_KEEP,
        BATCH_ROWS,
      ]),
    );
    deleted = rows[0]!.deleted;
    await afterBatch();
  } while (deleted > 0);
}
