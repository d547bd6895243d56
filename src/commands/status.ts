import { styleText } from "node:util";
import { withDatabase } from "./with-database.ts";

export async function status(options: { json?: boolean }): Promise<void> {
  const { freshness, runs } = await withDatabase(async ({ pool }) => ({
    freshness: (await pool.query("select * from analytics.freshness order by dataset")).rows,
    runs: (
      await pool.query(
        `select run_id, step, status, trigger, actor, started_at, duration_ms,
                rows_read, rows_written, rows_rejected, rows_deleted, error
           from analytics.pipeline_runs order by run_id desc limit 10`,
      )
    ).rows,
  }));
  if (options.json) return console.log(JSON.stringify({ freshness, runs }));
  console.log(styleText("bold", "Freshness"));
  console.table(freshness);
  console.log(styleText("bold", "Last runs"));
  console.table(runs);
}
