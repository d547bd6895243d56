import { styleText } from "node:util";
import type { Command } from "commander";
import { readRuns } from "../pipeline/runs.ts";
import { withDatabase } from "./with-database.ts";

const SHOWN_RUNS = 10;

export async function status(options: { json?: boolean }): Promise<void> {
  const { freshness, runs } = await withDatabase(async ({ pool }) => ({
    freshness: (
      await pool.query(
        `select dataset, to_json(refreshed_at) #>> '{}' as "refreshedAt", run_id as "runId",
                rows_behind::double precision as "rowsBehind", lag_seconds as "lagSeconds"
           from analytics.freshness order by dataset`,
      )
    ).rows,
    runs: await readRuns(pool, SHOWN_RUNS),
  }));
  if (options.json) return console.log(JSON.stringify({ freshness, runs }));
  console.log(styleText("bold", "Freshness"));
  console.table(freshness);
  console.log(styleText("bold", "Last runs"));
  console.table(runs);
}

export const statusCommand = (command: Command): Command => command.action(status);
