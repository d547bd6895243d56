// staging → production: users first, so that what belongs to them finds them.
import { patiently } from "./batch.ts";
import type { Work } from "./runs.ts";

const BATCH_ROWS = 20_000;

export async function transform({ pool, runId, afterBatch }: Work): Promise<void> {
  let done = 0;
  let total = 0;

  const openWindow = async (datasets: readonly string[]) => {
    const { rows } = await pool.query<Record<string, string>>("select * from staging.transform_window()");
    total = done + datasets.reduce((sum, dataset) => sum + Number(rows[0]![dataset]), 0);
    return rows[0]!.upper_xid!;
  };
  const take = async (dataset: string, upper: string) => {
    let read: number;
    do {
      const progress = total === 0 ? null : Math.min(1, done / total);
      const { rows } = await patiently(() =>
        pool.query<{ read: number }>(
          "select rows_read::integer as read from staging.transform_batch($1, $2, $3, $4, $5)",
          [runId, dataset, upper, BATCH_ROWS, progress],
        ),
      );
      read = rows[0]!.read;
      done += read;
      await afterBatch();
    } while (read === BATCH_ROWS);
  };

  await pool.query("select staging.renumber_restored()");
  await take("users", await openWindow(["users", "transactions", "events"]));
  await requeueWaiting();
  // Opened again, because those have just arrived.
  const upper = await openWindow(["transactions", "events"]);
  await take("transactions", upper);
  await take("events", upper);

  async function requeueWaiting() {
    let found: number;
    do {
      const { rows } = await patiently(() =>
        pool.query<{ found: number }>("select staging.requeue_waiting($1, $2) as found", [runId, BATCH_ROWS]),
      );
      found = rows[0]!.found;
      await afterBatch();
    } while (found > 0);
  }
}
