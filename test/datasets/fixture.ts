// Datasets of a test's own: declared, filled and transformed in a database that the file's tests share.
import { afterEach } from "vitest";
import { runStep, type Run } from "../../src/pipeline/runs.ts";
import { useDatabase } from "../support/use-database.ts";

export type Row = Record<string, unknown>;

export interface Rejected {
  reasons: string[];
  detail: string;
  waiting: boolean;
  payload: Row;
}

export function useDatasets() {
  const { database, sql } = useDatabase();

  const own = () =>
    sql<{ dataset: string; view: boolean }>(
      "select dataset, strata.mapping_view(dataset) is not null as view from strata.datasets where dataset not in ('users', 'transactions', 'events')",
    );
  afterEach(async () => {
    for (const { dataset, view } of await own()) {
      await sql("select strata.remove_dataset($1)", [dataset]);
      await sql(
        `${view ? `drop view ${name("staging", dataset)};` : ""} drop table if exists ${name("production", dataset)} cascade;
         drop table if exists ${name("staging", `raw_${dataset}`)} cascade`,
      );
    }
    await sql("truncate staging.quarantine; delete from strata.runs");
  });

  return {
    database,
    sql,
    /** Creates what the DDL says and makes datasets of the tables named. */
    declare: async (ddl: string, ...datasets: string[]) => {
      await sql(ddl);
      for (const dataset of datasets) await sql("select strata.add_dataset($1)", [dataset]);
    },
    /** Rows arrive in one transaction, in this order; a column that a row does not name is absent. */
    arrive: async (dataset: string, ...rows: Row[]) => {
      const columns = [...new Set(rows.flatMap(Object.keys))].map(
        (column) => `"${column.replaceAll('"', '""')}"`,
      );
      const raw = name("staging", `raw_${dataset}`);
      await sql(
        `insert into ${raw} (${columns.join(", ")}) select ${columns.map((c) => `(p).${c}`).join(", ")}
         from (select jsonb_populate_record(null::${raw}, r) as p, i
               from jsonb_array_elements($1) with ordinality x (r, i) order by i) rows order by i`,
        [JSON.stringify(rows)],
      );
    },
    transform: (): Promise<Run> =>
      runStep(database().pool, { step: "transform", trigger: "cli", actor: "test" }),
    /** What production holds, without the provenance, in the order of the key. */
    rows: async (dataset: string): Promise<Row[]> => {
      const [found] = await sql<{ key: string }>(
        "select string_agg(quote_ident(k), ', ') as key from unnest(strata.key_columns(strata.production_table($1))) k",
        [dataset],
      );
      return (
        await sql<{ row: Row }>(
          `select to_jsonb(t) - '{source_seq,strata_source}'::text[] as row from ${name("production", dataset)} t order by ${found!.key}`,
        )
      ).map(({ row }) => row);
    },
    rejected: (dataset: string): Promise<Rejected[]> =>
      sql<Rejected & Row>(
        "select reasons, detail, waiting, payload from analytics.quarantine where dataset = $1 order by quarantine_id",
        [dataset],
      ),
    /** Gives everything in quarantine that is like this back to the transform. */
    retry: (dataset: string) =>
      sql(
        "select strata.requeue($1, array(select quarantine_id from staging.quarantine where dataset = $1))",
        [dataset],
      ),
  };
}

export const name = (schema: string, relation: string): string =>
  `${schema}."${relation.replaceAll('"', '""')}"`;
