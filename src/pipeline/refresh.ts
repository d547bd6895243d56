// production → analytics, in one transaction: readers see the old metrics until the new ones are complete.
import { patiently } from "./batch.ts";
import type { Work } from "./runs.ts";

export async function refresh({ pool, runId, arguments: { full }, afterBatch }: Work): Promise<void> {
  await patiently(() => pool.query("select strata.refresh($1, $2)", [full ?? false, runId]));
  await afterBatch();
  const { rows } = await pool.query<{ metric: string; error: string }>(
    "select metric, error from strata.metrics where error is not null order by place, metric",
  );
  if (rows.length > 0)
    throw new Error(
      `${rows.map(({ metric, error }) => `The metric ${metric} could not be computed: ${error}`).join("; ")}; all others are up to date`,
    );
}
