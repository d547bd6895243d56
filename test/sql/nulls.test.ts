/** @module-tag long */
// Columns of views and metrics that are never NULL: what is proven, and that data agrees.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`
    create table production.readings (a integer not null, b integer, c numeric not null, t timestamp not null);
    insert into production.readings
    values (1, null, 2, '2025-01-04'), (1, 3, 0, '2025-01-05'), (2, -1, 1, 'infinity'), (3, 1, 1, '2025-02-04')`);
});
afterAll(() => database.drop());

/** A query, its columns that are proven, and those that are not. */
const QUERIES: [query: string, proven: string, others: string][] = [
  [
    "select a, b, a + 1 as next, a + b as sum, -a as negative from production.readings",
    "a next negative",
    "b sum",
  ],
  [
    "select coalesce(b, 0) as filled, greatest(b, a) as greatest, coalesce(b, null) as empty from production.readings",
    "filled greatest",
    "empty",
  ],
  [
    "select date_trunc('day', t) as day, t::date as date, a::text as text, extract(year from t) as year from production.readings",
    "day date text",
    "year",
  ],
  [
    "select case when b > 0 then 1 else 0 end as sign, case when b > 0 then 1 end as positive, b is null as empty from production.readings",
    "sign empty",
    "positive",
  ],
  [
    "select 'x' as constant, null::text as nothing, row_number() over () as place, lag(a) over (order by a) as before from production.readings",
    "constant place",
    "nothing before",
  ],
  [
    "select a, count(*) as n, count(b) as nb, sum(c) as sum, sum(b) as sum_b, sum(c) filter (where b > 0) as some, max(t) as last from production.readings group by a",
    "a n nb sum last",
    "sum_b some",
  ],
  [
    "select date_trunc('month', t) as month, sum(case when b > 0 then c else 0 end) as sum from production.readings group by 1",
    "month sum",
    "",
  ],
  ["select count(*) as n, sum(c) as sum from production.readings where a > 9", "n", "sum"],
  ["select a, count(*) as n from production.readings group by rollup (a)", "n", "a"],
  ["select x.a, z.c from production.readings x left join production.readings z on z.a = x.b", "", "a c"],
  ["select a, y.c from production.readings x join production.readings y using (a)", "a c", ""],
  [
    "select a, c from production.readings union all select a, sum(c) from production.readings group by a",
    "a c",
    "",
  ],
  ["select a, b from production.readings union select b, a from production.readings", "", "a b"],
  ["select q.next, q.b from (select a + 1 as next, b from production.readings) q", "next", "b"],
  [
    "select (select c from production.readings where a > 9) as c, unnest(array[a, null]) as one from production.readings",
    "",
    "c one",
  ],
];

test.each(QUERIES)("%s", async (query, proven, others) => {
  const { pool } = database;
  await pool.query(
    `drop view if exists analytics.seen, analytics.direct; create view analytics.direct as ${query}; create view analytics.seen as select * from analytics.direct`,
  );
  const { rows } = await pool.query<{ view: string; name: string; proven: boolean }>(`
    select c.relname as view, a.attname as name, a.attnum = any (strata.never_null_columns(c.oid)) as proven
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.oid in ('analytics.direct'::regclass, 'analytics.seen'::regclass) and a.attnum > 0 order by a.attnum`);
  const names = (view: string, isProven: boolean) =>
    rows
      .filter((row) => row.view === view && row.proven === isProven)
      .map(({ name }) => name)
      .join(" ");
  // Through another view nothing is lost.
  for (const view of ["direct", "seen"])
    expect([names(view, true), names(view, false)], view).toEqual([proven, others]);
  for (const name of proven.split(" ").filter(Boolean)) {
    const { rows: empty } = await pool.query(`select from analytics.direct where "${name}" is null`);
    expect(empty, name).toEqual([]);
  }
});

test("a metric's table has what its query shows", async () => {
  const { rows } = await database.pool.query(`
    select array(select attname::text from pg_attribute where attrelid = 'analytics.daily_revenue'::regclass
                 and attnum = any (strata.never_null_columns('analytics.daily_revenue'::regclass)) order by attnum) as proven`);
  expect(rows[0]).toEqual({
    proven: ["date", "transactions", "completed", "pending", "failed", "refunded"],
  });
});
