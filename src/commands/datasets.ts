import { styleText } from "node:util";
import type { Command } from "commander";
import { withDatabase } from "./with-database.ts";

interface Entry {
  dataset: string;
  kind: string;
  /** Null if somebody has dropped the table. */
  key: string[] | null;
  parents: string[];
  /** Estimated number of rows. */
  rows: number | null;
  /** Source rows that it does not include yet. */
  rowsBehind: number | null;
  /** Quarantined rows that wait for a parent. */
  rowsWaiting: number;
  refreshedAt: string | null;
  goesTo: string[];
  partition: string | null;
  mode: string | null;
  why: string | null;
}

/** Lists datasets and metrics: rows, what waits, freshness, and where the data comes from and goes to. */
export async function datasets(options: { json?: boolean }): Promise<void> {
  const rows = await withDatabase(async ({ pool }) => (await pool.query<Entry>(QUERY)).rows);
  const isMetric = ({ kind }: Entry): boolean => kind === "metric";
  if (options.json) {
    const found = rows.filter((row) => !isMetric(row)).map(({ partition, mode, why, ...row }) => row);
    return console.log(JSON.stringify({ datasets: found, metrics: rows.filter(isMetric) }));
  }
  console.log(styleText("bold", "Datasets, and what is made of them"));
  console.table(rows.map(shown));
  for (const { dataset, why } of rows) if (why) console.log(`${dataset} is computed as a whole: ${why}`);
}

const shown = ({
  dataset,
  kind,
  key,
  parents,
  rows,
  rowsBehind,
  rowsWaiting,
  refreshedAt,
  goesTo,
}: Entry) => ({
  dataset,
  kind,
  key: key?.join(", ") ?? null,
  from: parents.join(", "),
  rows,
  behind: rowsBehind,
  waiting: rowsWaiting,
  refreshed: refreshedAt?.slice(0, 19) ?? null,
  to: goesTo.join(", "),
});

const QUERY = `
  select d.dataset, d.kind, d.key_columns as key, d.parents, d.rows_estimated::double precision as rows,
         f.rows_behind::double precision as "rowsBehind", coalesce(q.waiting, 0)::double precision as "rowsWaiting",
         to_json(f.refreshed_at) #>> '{}' as "refreshedAt", coalesce(l.targets, '{}') as "goesTo",
         d.partition_column as partition, d.mode, d.why
    from analytics.datasets d
    left join analytics.freshness f using (dataset)
    left join (select dataset, count(*) as waiting from analytics.quarantine where waiting group by 1) q using (dataset)
    left join (select source_relation as dataset, array_agg(distinct target_relation order by target_relation) as targets
                 from analytics.lineage where source_schema in ('production', 'analytics') group by 1) l using (dataset)
   order by array_position('{dataset,table,metric,materialized view,view}', d.kind), d.dataset`;

export const datasetsCommand = (command: Command): Command => command.action(datasets);
