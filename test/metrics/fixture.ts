// One database a test file, and comparisons of a metric with its query that use nothing of Strata's own.
import { afterAll, beforeAll, expect } from "vitest";
import type { ClientBase, Pool } from "pg";
import { createDatabase, type TestDatabase } from "../support/database.ts";

export function useMetrics() {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  const pool = () => database.pool;
  const sql = async <T extends object = Record<string, any>>(
    text: string,
    values?: unknown[],
  ): Promise<T[]> => (await pool().query<T>(text, values)).rows;

  /** Rows that only one of two relations or queries has, as text: equal means equal to the last digit. */
  const differences = (query: string, relation: string, client: Pool | ClientBase = pool()) =>
    compare(client, query, relation);

  const metric = async (name: string, query: string, partition?: string) => {
    await sql("select strata.add_metric($1, $2, $3)", [name, query, partition]);
    const [row] = await sql("select mode, why from strata.metrics where metric = $1", [name]);
    return {
      mode: row!.mode as string,
      why: row!.why as string | null,
      /** The live view is exact; if told, the table is after a refresh, too. */
      exact: async (when: string) =>
        expect(await differences(query, `analytics.${name}_live`), `${name}_live ${when}`).toEqual([]),
      kept: async (when: string) =>
        expect(await differences(query, `analytics.${name}`), `${name} ${when}`).toEqual([]),
      /** What the next refresh will compute: null is everything. */
      stale: async () =>
        (await sql("select strata.stale_partitions($1) as stale", [name]))[0]!.stale as
          (string | null)[] | null,
    };
  };

  const refresh = () => sql("select strata.refresh()");

  return { pool, sql, differences, metric, refresh };
}

/** A query for the rows that only one of both has, as text. */
export async function comparison(
  client: Pool | ClientBase,
  query: string,
  relation: string,
): Promise<string> {
  const { rows } = await client.query<{ list: string }>(
    `select string_agg(quote_ident(attname), ', ' order by attnum) as list from pg_attribute
     where attrelid = $1::regclass and attnum > 0 and not attisdropped`,
    [relation],
  );
  const list = rows[0]!.list;
  return `
    (with truth as materialized (select t::text as row from (select ${list} from (${query}) q) t),
          kept as materialized (select t::text as row from (select ${list} from ${relation}) t)
     (select 'missing' as side, row from (table truth except all table kept) m)
     union all
     (select 'wrong', row from (table kept except all table truth) w))`;
}

export async function compare(
  client: Pool | ClientBase,
  query: string,
  relation: string,
): Promise<unknown[]> {
  return (await client.query(`${await comparison(client, query, relation)} limit 10`)).rows;
}
