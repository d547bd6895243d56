// production → analytics, in one transaction: readers see the old metrics until the new ones are complete.
import { patiently } from "./batch.ts";
import type { Work } from "./runs.ts";

export async function refresh({ pool, runId, arguments: { full }, afterBatch }: Work): Promise<void> {
  await patiently(() => pool.query("select analytics.refresh($1, $2)", [full ?? false, runId]));
  await afterBatch();
}
