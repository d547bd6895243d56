/** @module-tag long */
// analytics.lineage: what is declared, and by experiment: when the values of a column change, only columns change that
// the lineage leads to from it.
import { expect, test } from "vitest";
import { useMetrics } from "./fixture.ts";

const { sql, refresh } = useMetrics();

interface Edge {
  source: string;
  source_column: string | null;
  target: string;
  target_column: string | null;
}

const lineage = () =>
  sql<Edge>(
    `select source_schema || '.' || source_relation as source, source_column, target_schema || '.' || target_relation as target, target_column from analytics.lineage`,
  );

test("leads from raw to production to metrics to views", async () => {
  const edges = await lineage();
  const has = (source: string, target: string) => {
    const [from, to] = [source, target].map((name) => name.split(/\.(?=[^.]*$)/));
    return edges.some(
      (e) =>
        e.source === from![0] &&
        e.source_column === from![1] &&
        e.target === to![0] &&
        e.target_column === (to![1] || null),
    );
  };
  for (const [source, target] of [
    ["staging.raw_users.email", "production.users.email"],
    ["staging.raw_events.latitude", "production.events.position"],
    ["staging.raw_transactions.status", "production.transactions.status"],
    ["production.transactions.amount", "analytics.daily_user_metrics_live.total_revenue"],
    ["production.transactions.transaction_day", "analytics.daily_user_metrics_live.date"],
    ["production.users.country", "analytics.daily_user_metrics_live.country"],
    ["production.users.user_id", "analytics.daily_user_metrics_live.active_users"],
    ["analytics.daily_user_metrics_live.total_revenue", "analytics.daily_user_metrics.total_revenue"],
    ["analytics.daily_user_metrics.total_revenue", "analytics.quarterly_revenue.total_revenue"],
    ["production.dim_date.is_weekend", "analytics.quarterly_revenue.weekend_revenue"],
    ["production.dim_date.full_date", "analytics.quarterly_revenue."],
  ] as const)
    expect(has(source, target), `${source} → ${target}`).toBe(true);
  expect(has("production.transactions.amount", "analytics.daily_user_metrics_live.active_users")).toBe(false);
  expect(has("production.dim_date.is_weekend", "analytics.quarterly_revenue.total_revenue")).toBe(false);
  expect(edges.filter((e) => e.source.startsWith("strata.") || e.target.startsWith("strata."))).toEqual([]);
});

test("a column's values change no other columns than those it leads to", async () => {
  await sql(`
    create table production.l_shop (shop_id integer primary key, city text, size integer);
    create table production.l_sale (sale_id integer primary key, shop_id integer, day date, amount integer, quantity integer, note text);
    insert into production.l_shop select n, 'city ' || n % 3, n * 3 from generate_series(1, 6) n;
    insert into production.l_sale select n, 1 + n % 8, date '2024-01-01' + n % 5, n % 11, n % 4, 'note ' || n % 6 from generate_series(1, 60) n;
    create view analytics.l_plain as select s.sale_id, s.amount * s.quantity as value, upper(s.note) as note, h.city from production.l_sale s left join production.l_shop h using (shop_id);
    create view analytics.l_nested as select city, max(value) as top, min(note) as note from analytics.l_plain where value > 2 group by city;
    create view analytics.l_union as select sale_id as id, amount as x, note from production.l_sale union all select shop_id, size, city from production.l_shop;
    create view analytics.l_distinct as select note as n, quantity as q from production.l_sale union select city, size from production.l_shop;
    create view analytics.l_from as select q.sale_id, q.twice, q.note from (select sale_id, amount * 2 as twice, note, quantity from production.l_sale where day > '2024-01-02') q;
    create view analytics.l_same as select s.sale_id, s.amount, q.total from production.l_sale s join (select shop_id, sum(amount) as total from production.l_sale where quantity > 1 group by shop_id) q using (shop_id);
    create view analytics.l_with as with x as (select shop_id, count(*) as n from production.l_sale group by shop_id) select h.shop_id, h.size, x.n from production.l_shop h join x using (shop_id);
    create view analytics.l_scalar as select s.sale_id, s.note, (select h.city from production.l_shop h where h.shop_id = s.shop_id) as city from production.l_sale s;
    create view analytics.l_exists as select s.sale_id, s.amount from production.l_sale s where exists (select from production.l_shop h where h.shop_id = s.shop_id and h.size > 6);
    create view analytics.l_lateral as select h.shop_id, l.best from production.l_shop h cross join lateral (select max(s.amount + h.size) as best from production.l_sale s where s.shop_id = h.shop_id) l;
    create view analytics.l_window as select sale_id, note, sum(amount) over (partition by shop_id order by day) as running from production.l_sale;
    create view analytics.l_first as select sale_id, note from production.l_sale order by amount, sale_id limit 7;
    create view analytics.l_filter as select day, count(*) filter (where quantity > 1) as n, sum(amount) as total from production.l_sale group by day having max(note) > 'note 2';
    create materialized view analytics.l_kept as select day, array_agg(note order by sale_id) as notes, count(*) as n from production.l_sale group by day;
    select strata.add_metric('l_metric', 'select s.day, h.city, sum(s.amount) as amount, count(distinct s.note) as notes from production.l_sale s join production.l_shop h using (shop_id) group by 1, 2', 'day');
    create view analytics.l_top as select city, sum(amount) as amount from analytics.l_metric group by city`);
  await refresh();
  const edges = (await lineage()).filter(({ target }) => target.startsWith("analytics.l_"));
  const columns = new Map<string, string[]>();
  for (const { relation, names } of await sql<{ relation: string; names: string[] }>(
    `select 'analytics.' || c.relname as relation, array_agg(a.attname::text) as names from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relname like 'l\\_%' and c.relnamespace = 'analytics'::regnamespace and c.relkind in ('r', 'v', 'm') group by 1`,
  ))
    columns.set(relation, names);

  /** All that a column leads to, through other relations, too. */
  const reached = (source: string, column: string): Set<string> => {
    const found = new Set([`${source} ${column}`]);
    for (let size = 0; size !== found.size;) {
      size = found.size;
      for (const e of edges) {
        const isHit =
          e.source_column === null
            ? [...found].some((item) => item.startsWith(`${e.source} `))
            : found.has(`${e.source} ${e.source_column}`);
        if (isHit)
          for (const name of e.target_column === null ? columns.get(e.target)! : [e.target_column])
            found.add(`${e.target} ${name}`);
      }
    }
    return found;
  };
  const rows = async (relation: string, names: string[]) =>
    names.length === 0
      ? []
      : sql(
          `select md5(string_agg(x::text, '|' order by x::text)) as digest from (select ${names.join(", ")} from ${relation}) x`,
        );
  const snapshot = async () => {
    const all = new Map<string, Map<string, unknown>>();
    for (const [relation, names] of columns) {
      const each = new Map<string, unknown>();
      for (const name of names) each.set(name, await rows(relation, [name]));
      all.set(relation, each);
    }
    return all;
  };

  const changes = {
    "production.l_sale": {
      shop_id: "1 + (shop_id + 2) % 8",
      day: "day + sale_id % 2",
      amount: "(amount * 7 + 3) % 12",
      quantity: "(quantity + 1) % 4",
      note: "'note ' || (sale_id * 5) % 7",
    },
    "production.l_shop": { city: "'town ' || shop_id % 2", size: "(size * 5) % 13" },
  };
  let changed = 0;
  for (const [table, expressions] of Object.entries(changes))
    for (const [column, expression] of Object.entries(expressions)) {
      const expected = reached(table, column);
      const before = await snapshot();
      await sql(`create table production.l_backup as select * from ${table}`);
      await sql(`update ${table} set ${column} = ${expression}`);
      await refresh();
      const after = await snapshot();
      for (const [relation, names] of columns)
        for (const name of names)
          if (
            JSON.stringify(before.get(relation)!.get(name)) !== JSON.stringify(after.get(relation)!.get(name))
          ) {
            changed += 1;
            expect([...expected], `${table}.${column} changed ${relation}.${name}`).toContain(
              `${relation} ${name}`,
            );
          }
      await sql(
        `delete from ${table}; insert into ${table} select * from production.l_backup; drop table production.l_backup`,
      );
      await refresh();
    }
  expect(changed).toBeGreaterThan(40);
  // And the lineage is not just everything.
  expect([...reached("production.l_sale", "note")]).not.toContain("analytics.l_from twice");
  expect([...reached("production.l_sale", "amount")]).not.toContain("analytics.l_union note");
  expect([...reached("production.l_shop", "size")]).not.toContain("analytics.l_metric amount");
});
