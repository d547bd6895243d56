/** @module-tag long-server */
// Each thing that the query of a provable metric may contain, under changes of every kind in every table: the live view
// equals the query at every moment, the table after every refresh.
import { beforeAll, describe, expect, test } from "vitest";
import { comparison, useMetrics, type Shop } from "./fixture.ts";

const { pool, sql, metric, refresh, shop } = useMetrics();

/** Changes of every kind in every table; keys too. */
const changes = ({ sale, product, shop, region }: Shop): string[] => [
  `insert into ${sale} (sku, shop_id, ts, amount, quantity) values ('p1', 1, '2024-01-05 10:00', 3, 1), ('p2', null, '2024-02-01 10:00', 4.5, 1)`,
  `insert into ${sale} (sku, shop_id, ts, amount, quantity) values ('p1', 1, null, 3, 1), (null, 2, '2024-01-07', 1, 1)`,
  `update ${sale} set amount = amount + 1 where day = '2024-01-05'`,
  `update ${sale} set ts = ts + interval '1 day' where day = '2024-01-06'`,
  `update ${sale} set ts = null where day = '2024-01-08' and sale_id % 2 = 0`,
  `update ${sale} set ts = '2024-01-09' where ts is null`,
  `update ${sale} set sku = 'p3' where sku = 'p4' and day < '2024-01-10'`,
  `update ${sale} set sale_id = sale_id + 100000 where day = '2024-01-03'`,
  `update ${sale} set shop_id = null where sale_id % 17 = 0`,
  `update ${product} set category = 'other' where sku = 'p5'`,
  `update ${product} set price = price * 2, category = null where sku = 'p6'`,
  `update ${product} set sku = 'q7' where sku = 'p7'`,
  `insert into ${product} values ('new', 'category 1', 9)`,
  `update ${sale} set sku = 'new' where sku = 'p8'`,
  `delete from ${product} where sku = 'p9'`,
  `update ${shop} set region_id = 2 where shop_id = 1`,
  `update ${shop} set shop_id = 99, city = 'moved' where shop_id = 2`,
  `delete from ${shop} where shop_id = 3`,
  `update ${region} set label = 'renamed' where region_id = 2`,
  `update ${region} set region_id = 77 where region_id = 3`,
  `delete from ${sale} where day = '2024-01-12'`,
  `delete from ${sale} where amount < 1`,
];

interface Case {
  title: string;
  partition: string;
  query: string;
  mode: string;
  wrong: string[];
}
const cases: Case[] = [];

/** A metric that is computed by partition; "{sale}" is the table of sales. */
const provable = (title: string, partition: string, query: string): void => {
  const found: Case = { title, partition, query, mode: "", wrong: [] };
  cases.push(found);
  test(title, () => expect(found).toMatchObject({ mode: "partition", wrong: [] }));
};

// Every metric has a shop of its own, since triggers serve all metrics of a table: one could hide what another misses.
// The histories run side by side, because they are many.
beforeAll(async () => {
  const shops: Shop[] = [];
  const queries: string[] = [];
  for (const [i, { query, partition }] of cases.entries()) {
    const s = await shop();
    shops.push(s);
    queries.push(query.replaceAll(/\{(\w+)\}/g, (_, table: keyof Shop) => s[table] as string));
    cases[i]!.mode = (await metric(`m${i}`, queries[i]!, partition)).mode;
  }
  const check = async (when: string, suffix: string) => {
    const rows = await sql<{ place: number; row: string }>(
      (await Promise.all(queries.map((query, i) => comparison(pool(), query, `analytics.m${i}${suffix}`))))
        .map((text, i) => `(select ${i} as place, d.row from ${text} d limit 1)`)
        .join(" union all "),
    );
    for (const { place, row } of rows) cases[place]!.wrong.push(`${suffix}, ${when}: ${row}`);
  };
  await check("before the first refresh", "_live");
  await refresh();
  await check("after the first refresh", "");
  const histories = shops.map((s) => [...changes(s), `truncate ${s.sale}`]);
  for (const [i, statement] of histories[0]!.entries()) {
    await sql(histories.map((history) => history[i]).join(";"));
    await check(`after: ${statement}`, "_live");
    if (i % 3 === 2 || i === histories[0]!.length - 1) {
      await refresh();
      await check(`refreshed after: ${statement}`, "");
      await check(`refreshed after: ${statement}`, "_live");
    }
  }
  for (const { name } of await sql(
    "select metric as name from strata.metrics where schema_name = 'analytics'",
  ))
    await sql("select strata.remove_metric($1)", [name]);
}, 600_000);

describe("aggregates", () => {
  provable(
    "sums, counts and averages",
    "day",
    "select day, sku, count(*) as n, count(shop_id) as with_shop, sum(amount) as amount, avg(amount) as mean, min(note) as low, max(quantity) as high from {sale} group by day, sku",
  );
  provable(
    "distinct counts",
    "day",
    "select day, count(distinct shop_id) as shops, count(distinct (sku, quantity)) as pairs from {sale} group by day",
  );
  provable(
    "percentiles and the mode",
    "day",
    "select day, percentile_cont(0.5) within group (order by amount) as median, percentile_disc(0.9) within group (order by amount) as high, mode() within group (order by sku) as usual from {sale} group by day",
  );
  provable(
    "arrays, strings and JSON",
    "day",
    "select day, array_agg(sku order by sale_id) as skus, string_agg(sku, ',' order by sale_id) as list, jsonb_object_agg(sale_id, amount) as amounts from {sale} group by day",
  );
  provable(
    "FILTER",
    "day",
    "select day, count(*) filter (where quantity > 2) as many, sum(amount) filter (where sku in ('p1', 'p2')) as some from {sale} group by day",
  );
  provable(
    "HAVING",
    "day",
    "select day, sku, sum(amount) as amount from {sale} group by day, sku having count(*) > 1",
  );
  provable(
    "WHERE",
    "day",
    "select day, count(*) as n from {sale} where quantity between 1 and 3 and (sku like 'p%' or note is not null) group by day",
  );
});

describe("partitions", () => {
  provable(
    "by date(timestamp)",
    "d",
    "select date(ts) as d, count(*) as n, sum(amount) as amount from {sale} group by date(ts)",
  );
  provable(
    "by date_trunc",
    "month",
    "select date_trunc('day', s.ts) as month, count(*) as n from {sale} s group by 1",
  );
  // The parse tree marks its own fields with a colon.
  provable(
    "names that begin with a colon",
    ":day",
    'select ":s".day as ":day", ":s".sku as "::a :varno", count(*) as ":n" from {sale} ":s" group by 1, 2',
  );
  provable("by a cast", "d", "select ts::date as d, count(*) as n from {sale} group by 1");
  provable(
    "by extract",
    "hour",
    "select extract(hour from ts) as hour, count(*) as n from {sale} group by 1",
  );
  provable(
    "by CASE with commas, quotes and parentheses",
    "kind",
    `select case when s.sku = 'it''s, a "(' then 'a, "b' when s.day in ('2024-01-05', '2024-01-06') then E'x\\\\''y' when quantity > 2 then 'from ' || s.sku else ' FROM x, (' end as kind, count(*) as n
     from {sale} s group by 1`,
  );
  provable(
    "by coalesce",
    "sku",
    "select coalesce(s.sku, 'none AS such') as sku, sum(amount) as amount from {sale} s group by 1",
  );
  provable("by an integer", "quantity", "select quantity, count(*) as n from {sale} group by quantity");
  provable("by a number", "amount", "select amount, count(*) as n from {sale} group by amount");
  provable("by text", "sku", "select sku, count(*) as n from {sale} group by sku");
  provable("by a truth value", "big", "select amount > 3 as big, count(*) as n from {sale} group by 1");
  provable(
    "by one of several group columns",
    "sku",
    "select day, sku, count(*) as n from {sale} group by day, sku",
  );
  provable(
    "by a column of the dimension",
    "category",
    "select p.category, count(*) as n, sum(s.amount) as amount from {sale} s join {product} p using (sku) group by p.category",
  );
  provable(
    "by an expression of the dimension",
    "kind",
    "select upper(p.category) as kind, sum(s.amount) as amount from {product} p join {sale} s on s.sku = p.sku group by 1",
  );
  provable(
    "of plain rows",
    "day",
    "select sale_id, day, amount, upper(sku) as sku from {sale} where quantity > 1",
  );
  provable(
    "of joined plain rows",
    "day",
    "select s.day, s.sale_id, p.category from {sale} s left join {product} p using (sku)",
  );
  provable("of distinct rows", "day", "select distinct day, sku from {sale}");
  provable(
    "with whole rows",
    "day",
    "select s.day, count(distinct s) as n, max(p::text) as product from {sale} s join {product} p using (sku) group by s.day",
  );
  provable(
    "with whole rows of a named join",
    "day",
    "select day, max(j::text) as last from ({sale} s join {product} p using (sku)) as j group by day",
  );
});

describe("joins", () => {
  provable(
    "by USING",
    "day",
    "select day, category, sum(amount) as amount from {sale} join {product} using (sku) group by day, category",
  );
  provable(
    "by USING with a name, and an expression",
    "d",
    "select date(s.ts) as d, j.sku, count(*) as n from {sale} s join {product} p using (sku) as j group by 1, 2",
  );
  provable(
    "by ON",
    "day",
    "select s.day, p.category, sum(s.amount * p.price) as value from {sale} s join {product} p on p.sku = s.sku group by s.day, p.category",
  );
  provable(
    "by comma and WHERE",
    "day",
    "select s.day, p.category, count(*) as n from {sale} s, {product} p where s.sku = p.sku and p.price > 2 group by s.day, p.category",
  );
  provable(
    "natural",
    "day",
    "select day, category, count(*) as n from {sale} natural join (select 1) x natural join {product} group by 1, 2"
      .replace(" natural join (select 1) x", "")
      .replace("{product}", "{product} p (sku, category, price, remark)"),
  );
  provable(
    "left, with the fact on the preserved side",
    "day",
    "select s.day, p.category, h.city, count(*) as n, count(p.price) as priced from {sale} s left join {product} p using (sku) left join {shop} h on h.shop_id = s.shop_id and h.city <> 'city 1' group by 1, 2, 3",
  );
  provable(
    "right, with the fact on the preserved side",
    "day",
    "select s.day, p.category, count(*) as n from {product} p right join {sale} s using (sku) group by 1, 2",
  );
  provable(
    "in a chain",
    "day",
    "select s.day, r.label, sum(s.amount) as amount from {sale} s join {shop} h using (shop_id) join {region} r using (region_id) group by 1, 2",
  );
  provable(
    "left in a chain",
    "day",
    "select s.day, r.label, count(*) as n from {sale} s left join {shop} h using (shop_id) left join {region} r on r.region_id = h.region_id group by 1, 2",
  );
  provable(
    "nested in the other side of a left join",
    "day",
    "select s.day, r.label, count(*) as n from {sale} s left join ({shop} h join {region} r on r.region_id = h.region_id) on h.shop_id = s.shop_id group by 1, 2",
  );
  provable(
    "of a chain, by a column in its middle",
    "city",
    "select h.city, r.label, count(*) as n from {sale} s join {shop} h using (shop_id) join {region} r using (region_id) group by 1, 2",
  );
  provable(
    "of a table with itself",
    "day",
    "select a.day, count(*) as n, count(distinct b.sku) as others from {sale} a join {sale} b on b.shop_id = a.shop_id and b.quantity = 4 group by a.day",
  );
  provable(
    "of a dimension in two roles",
    "day",
    "select s.day, a.city as one, b.city as other, count(*) as n from {sale} s join {shop} a on a.shop_id = s.shop_id join {shop} b on b.shop_id = s.quantity group by 1, 2, 3",
  );
  provable(
    "anti-join",
    "shop_id",
    "select distinct h.shop_id, h.city from {shop} h left join {sale} s on s.shop_id = h.shop_id where s.shop_id is null",
  );
  // An equality in ON of a left join does not hold for the rows that find no partner.
  provable(
    "left, whose condition compares two tables of the preserved side",
    "day",
    "select s.day, p.price, count(*) as n, count(h.city) as cities from {sale} s join {product} p on p.note = s.note left join {shop} h on h.shop_id = s.shop_id and p.category = s.sku group by 1, 2",
  );
});
