// Refreshes analytics in one transaction: readers see the old metrics until the new ones are complete.
import { withRetries } from "./batch.ts";
import type { Work } from "./runs.ts";

export async function refresh({
  pool,
  runId,
  arguments: { full, from, to },
  afterBatch,
}: Work): Promise<void> {
  await withRetries(() =>
    pool.query("select strata.refresh($1, $2, $3, $4)", [full ?? false, runId, from ?? null, to ?? null]),
  );
  await afterBatch();
  const { rows } = await pool.query<{ message: string }>(
    `select format('The metric %s could not be computed: %s', metric, error) as message from strata.metrics where error is not null
     union all
     select format('The materialized view %s could not be refreshed: %s', key, value) from strata.refresh_state, jsonb_each_text(view_errors)`,
  );
  if (rows.length > 0)
    throw new Error(`${rows.map(({ message }) => message).join("; ")}; all others are up to date`);
}
