// One database a test file, and comparisons of a metric with its query that use nothing of Strata's own.
import { expect } from "vitest";
import type { ClientBase, Pool } from "pg";
import { useDatabase } from "../support/use-database.ts";

export function useMetrics() {
  const { database, sql } = useDatabase();
  const pool = () => database().pool;

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

  /** A shop of its own for each test: sales of products by shops, over enough days that few are a small part. */
  let shops = 0;
  const shop = async (days = 40) => {
    const n = (shops += 1);
    const name = (table: string) => `production.${table}${n}`;
    await sql(`
      create table ${name("region")} (region_id integer primary key, label text);
      create table ${name("shop")} (shop_id integer primary key, region_id integer references ${name("region")} on update cascade, city text);
      create table ${name("product")} (sku text primary key, category text, price numeric, note text);
      create table ${name("sale")} (
        sale_id serial primary key,
        sku text references ${name("product")} on delete cascade on update cascade,
        shop_id integer references ${name("shop")} on delete set null on update cascade,
        ts timestamp, day date generated always as (ts::date) stored,
        amount numeric, quantity integer, note text
      );
      create index on ${name("sale")} (day);
      insert into ${name("region")} select n, 'region ' || n from generate_series(1, 3) n;
      insert into ${name("shop")} select n, 1 + n % 3, 'city ' || n % 4 from generate_series(1, 8) n;
      insert into ${name("product")} select 'p' || n, 'category ' || n % 3, n, 'x' from generate_series(1, 12) n;
      insert into ${name("sale")} (sku, shop_id, note, ts, amount, quantity)
      select 'p' || 1 + n % 12, 1 + n % 8, case when n % 50 = 0 then 'x' end, timestamp '2024-01-01' + (n % ${days}) * interval '1 day' + (n % 24) * interval '1 hour', n % 7 + 0.25, n % 5
      from generate_series(1, ${days * 6}) n;
    `);
    return {
      sale: name("sale"),
      product: name("product"),
      shop: name("shop"),
      region: name("region"),
      name: (metric: string) => `${metric}${n}`,
    };
  };

  return { pool, sql, differences, metric, refresh, shop };
}

export type Shop = Awaited<ReturnType<ReturnType<typeof useMetrics>["shop"]>>;

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
