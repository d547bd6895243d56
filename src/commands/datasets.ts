import { styleText } from "node:util";
import type { Command } from "commander";
import { withDatabase } from "./with-database.ts";

/** Each dataset and metric: what it holds, what waits, how fresh it is, where it goes. */
export async function datasets(options: { json?: boolean }): Promise<void> {
  const { datasets: found, metrics } = await withDatabase(async ({ pool }) => ({
    datasets: (await pool.query<DatasetRow>(DATASETS)).rows,
    metrics: (await pool.query<MetricRow>(METRICS)).rows,
  }));
  if (options.json) return console.log(JSON.stringify({ datasets: found, metrics }));
  console.log(styleText("bold", "Datasets"));
  print(
    found.map((row) => ({
      ...row,
      key: row.key.join(", "),
      parents: row.parents.join(", "),
      goesTo: row.goesTo.join(", "),
    })),
  );
  console.log(styleText("bold", "Metrics"));
  print(metrics.map((row) => ({ ...row, readsFrom: row.readsFrom.join(", ") })));
}

interface DatasetRow {
  dataset: string;
  key: string[];
  parents: string[];
  rows: number;
  rowsBehind: number;
  rowsWaiting: number;
  refreshedAt: string | null;
  goesTo: string[];
}

interface MetricRow {
  metric: string;
  rows: number;
  mode: string;
  why: string | null;
  refreshedAt: string | null;
  readsFrom: string[];
}

const DATASETS = `
  select d.dataset, d.key, d.parents, d.rows::double precision as rows,
         f.rows_behind::double precision as "rowsBehind", d.rows_waiting::double precision as "rowsWaiting",
         to_json(f.refreshed_at) #>> '{}' as "refreshedAt",
         array(select distinct l.target_relation::text from analytics.lineage l
                where l.source_schema = 'production' and l.source_relation = d.dataset
                  and l.target_schema = 'analytics' order by 1) as "goesTo"
    from analytics.datasets d left join analytics.freshness f using (dataset)
   order by d.dataset`;

const METRICS = `
  select m.metric, m.mode, m.why, to_json(m.refreshed_at) #>> '{}' as "refreshedAt",
         array(select distinct l.source_relation::text from analytics.lineage l
                where l.target_schema = 'analytics' and l.target_relation = m.metric order by 1) as "readsFrom"
    from strata.metrics m order by m.metric`;

function print(rows: object[]): void {
  if (rows.length === 0) console.log("none");
  else console.table(rows);
}

export const datasetsCommand = (command: Command): Command => command.action(datasets);
