// What metrics do apart from being exact in the plain cases: statements, values, edits, failures, rights.
import { describe, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { useMetrics } from "./fixture.ts";

const { pool, sql, metric, refresh, differences, shop } = useMetrics();

/** Later refreshes do not have to compute these. */
const done = async (...names: string[]) => {
  for (const name of names) await sql("select strata.remove_metric($1)", [name]);
};

describe("statements", () => {
  test("COPY, MERGE, ON CONFLICT and cascades are noticed; updates of other columns are not", async () => {
    const s = await shop();
    const m = await metric(
      "statements",
      `select s.day, p.category, sum(s.amount) as amount from ${s.sale} s join ${s.product} p using (sku) group by 1, 2`,
      "day",
    );
    await refresh();
    const nothing = async (statement: string) => {
      await sql(statement);
      expect(await m.stale(), statement).toEqual([]);
    };
    await nothing(`update ${s.sale} set quantity = quantity + 1, note = 'other'`);
    await nothing(`update ${s.sale} set amount = amount`);
    await nothing(`update ${s.product} set price = price + 1, note = null`);
    await nothing(`insert into ${s.product} values ('unused', 'category 9', 1)`);
    await nothing(`delete from ${s.sale} where false`);
    await nothing(`insert into ${s.sale} (sku) select sku from ${s.sale} where false`);
    const stale = async (statement: string, expected: (string | null)[] | null) => {
      await sql(statement);
      expect((await m.stale())?.sort() ?? null, statement).toEqual(expected);
      await m.exact(statement);
      await refresh();
      await m.kept(statement);
    };
    await stale(`update ${s.sale} set ts = '2024-01-03' where sale_id = 7`, ["2024-01-03", "2024-01-08"]);
    await stale(
      `insert into ${s.sale} (sale_id, sku, ts, amount) values (1, 'p1', '2024-01-10', 1), (9001, 'p1', null, 2)
       on conflict (sale_id) do update set amount = excluded.amount`,
      ["2024-01-02", null],
    );
    await stale(
      `merge into ${s.sale} o using (values (2, 1.5), (9002, 2.5), (3, null)) n (id, amount) on o.sale_id = n.id
       when matched and n.amount is null then delete when matched then update set amount = n.amount
       when not matched then insert (sale_id, sku, ts, amount) values (n.id, 'p2', '2024-01-20', n.amount)`,
      ["2024-01-03", "2024-01-04", "2024-01-20"],
    );
    await stale(`update ${s.sale} set amount = 1.250 where amount = 1.25 and sale_id = 8`, ["2024-01-09"]);
    await sql(`delete from ${s.sale} where sku = 'p12' and day > '2024-01-05'`);
    await refresh();
    await stale(
      `delete from ${s.product} where sku = 'p12'`,
      (
        await sql<{ day: string }>(
          `select distinct day::text as day from ${s.sale} where sku = 'p12' order by 1`,
        )
      ).map(({ day }) => day),
    );
    await stale(`truncate ${s.product} cascade`, null);
    await done("statements");
  });

  test("a row of a dimension that no key promised is noticed when it comes", async () => {
    await sql(`
      create table production.visits (day date, page text);
      create table production.pages (page text primary key, title text);
      insert into production.visits select date '2024-01-01' + n % 40, 'page ' || n % 10 from generate_series(1, 400) n`);
    const m = await metric(
      "visits_by_title",
      "select v.day, p.title, count(*) as n from production.visits v left join production.pages p on p.page = v.page group by 1, 2",
      "day",
    );
    await refresh();
    await sql("insert into production.pages values ('page 3', 'Three')");
    await m.exact("after the page came");
    await refresh();
    await m.kept("after the page came");
    await done("visits_by_title");
  });

  test("a foreign key that is dropped changes the proof when the catalogue is reconciled", async () => {
    const s = await shop();
    const m = await metric(
      "loose",
      `select s.day, count(p.price) as n from ${s.sale} s left join ${s.product} p on p.sku = s.sku group by 1`,
      "day",
    );
    await refresh();
    const [key] = await sql(
      "select conname from pg_constraint where conrelid = $1::regclass and confrelid = $2::regclass",
      [s.sale, s.product],
    );
    await sql(`alter table ${s.sale} drop constraint ${key!.conname}`);
    await sql("select strata.reconcile()");
    await m.exact("after the key went");
    await sql(`update ${s.sale} set sku = 'late' where day = '2024-01-05'`);
    await refresh();
    await m.kept("before the product comes");
    await sql(`insert into ${s.product} values ('late', 'x', 1)`);
    await m.exact("after the product came");
    await refresh();
    await m.kept("after the product came");
    await done("loose");
  });
});

describe("values", () => {
  test("partitions of every type that can be grouped by", async () => {
    await sql(`
      create type production.mood as enum ('fine', 'so, "so"', 'it''s bad');
      create domain production.code as text check (value <> '');
      create table production.kinds (
        id integer primary key, big bigint, real real, double double precision, num numeric, bool boolean, chr char(5), vc varchar(20), tag production.code,
        mood production.mood, uid uuid, at timestamptz, t time, tz timetz, span interval, bytes bytea, doc jsonb, bits bit(4), net inet, range int4range, ranges datemultirange
      );
      insert into production.kinds select n, n * 10000000000, n / 7.0, n / 3.0::float8, n / 10.0, n % 3 = 0, 'c' || n, 'v, "' || n, 'code ' || n,
        (array['fine', 'so, "so"', 'it''s bad']::production.mood[])[1 + n % 3], md5(n::text)::uuid, timestamptz '2024-03-31 00:30+00' + n * interval '1 hour', time '01:00' + n * interval '1 minute',
        timetz '01:00+03' + n * interval '1 minute', n * interval '1 day' - interval '5 hours', decode(lpad(to_hex(n), 4, '0'), 'hex'), jsonb_build_object('a', n), (n % 16)::bit(4), '10.0.0.1'::inet + n, int4range(n, n + 3), datemultirange(daterange('2024-01-01', date '2024-01-02' + n))
      from generate_series(1, 40) n;
      insert into production.kinds (id) values (0)`);
    const columns = [
      "big",
      "real",
      "double",
      "num",
      "bool",
      "chr",
      "vc",
      "tag",
      "mood",
      "uid",
      "at",
      "t",
      "tz",
      "span",
      "bytes",
      "doc",
      "bits",
      "net",
      "range",
      "ranges",
    ];
    const metrics = new Map<string, Awaited<ReturnType<typeof metric>>>();
    for (const column of columns) {
      const m = await metric(
        `by_${column}`,
        `select ${column}, count(*) as n, sum(id) as ids from production.kinds group by ${column}`,
        column,
      );
      expect(m, column).toMatchObject({ mode: "partition", why: null });
      metrics.set(column, m);
    }
    await refresh();
    // A writer with other habits, and a reader with others again.
    const client = await pool().connect();
    try {
      const write = async (statement: string) => {
        await client.query(
          "set timezone = 'Asia/Kathmandu'; set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -5; set bytea_output = 'escape'",
        );
        await client.query(statement);
        await client.query(
          "set timezone = 'UTC'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = 1; set bytea_output = 'hex'",
        );
        const wrong: unknown[] = [];
        for (const column of columns)
          wrong.push(
            ...(await differences(
              `select ${column}, count(*) as n, sum(id) as ids from production.kinds group by ${column}`,
              `analytics.by_${column}_live`,
              client,
            )),
          );
        expect(wrong, statement).toEqual([]);
      };
      await write("update production.kinds set id = id + 1000 where id = 7");
      await write(
        "insert into production.kinds select 500, big, real, double, num, bool, chr, vc, tag, mood, uid, at, t, tz, span, bytes, doc, bits, net, range, ranges from production.kinds where id = 9",
      );
      await write(
        "update production.kinds set num = 0.90, at = at + interval '2 hours', span = span * -1 where id in (0, 9)",
      );
      await write("delete from production.kinds where id = 12");
    } finally {
      client.release(true);
    }
    await refresh();
    for (const [column, m] of metrics) await m.kept(column);
    await done(...columns.map((column) => `by_${column}`));
  });

  test("an array partitions nothing, but stays exact", async () => {
    await sql(
      "create table production.tagged (id integer primary key, tags text[]); insert into production.tagged select n, array['a', 'b' || n % 20] from generate_series(1, 60) n",
    );
    const m = await metric(
      "by_tags",
      "select tags, count(*) as n from production.tagged group by tags",
      "tags",
    );
    expect(m).toMatchObject({ mode: "whole", why: "tags is an array" });
    await refresh();
    await sql("update production.tagged set tags = tags || 'c'::text where id = 5");
    await m.exact("after an update");
    await refresh();
    await m.kept("after an update");
    await done("by_tags");
  });

  test.runIf(isServer)("a collation that ignores case is that of the kept column, too", async () => {
    await sql(`
      create collation production.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
      create table production.names (id integer primary key, name text collate production.any_case);
      insert into production.names select n, 'name ' || n % 30 from generate_series(1, 90) n`);
    const m = await metric(
      "by_name",
      "select name, count(*) as n from production.names group by name",
      "name",
    );
    await refresh();
    await sql("insert into production.names values (100, 'NAME 3')");
    await sql("update production.names set name = upper(name) where id = 4");
    const count = async () =>
      (await sql("select count(*)::integer as n, sum(n)::integer as total from analytics.by_name"))[0];
    await refresh();
    expect(await count()).toEqual({ n: 30, total: 91 });
    expect(await m.stale()).toEqual([]);
    await done("by_name");
  });

  test("names that must be quoted", async () => {
    await sql(`
      create table production."Odd ""Table" ("My Day" date, "select" text, "x AS y" integer, "rows" integer, "a,b" integer primary key);
      create table production."o'dim" ("a,b" integer primary key, "Wörter, (" text);
      insert into production."o'dim" select n, 'w' || n from generate_series(1, 40) n;
      insert into production."Odd ""Table" select date '2024-01-01' + n, 's' || n, n, n, n from generate_series(1, 40) n`);
    const query = `select "x AS y", "My Day" as "the ""Day, FROM x", o."Wörter, (" as "W ö", sum("rows") as "sum()" from production."Odd ""Table" "T t" join production."o'dim" o using ("a,b") group by 1, 2, 3`;
    const a = await metric("odd_names", query, 'the "Day, FROM x');
    const b = await metric("odd_column", query, "x AS y");
    expect([a.mode, a.why, b.mode, b.why]).toEqual(["partition", null, "partition", null]);
    await refresh();
    for (const statement of [
      `update production."o'dim" set "Wörter, (" = '''' where "a,b" = 4`,
      `update production."Odd ""Table" set "rows" = 99 where "a,b" = 5`,
      `insert into production."o'dim" values (50, 'z')`,
      `insert into production."Odd ""Table" values ('2024-05-05', 'q', 1, 2, 50)`,
    ]) {
      await sql(statement);
      expect((await a.stale())!.length, statement).toBeLessThan(4);
      await a.exact(statement);
      await b.exact(statement);
    }
    await refresh();
    await a.kept("after a refresh");
    await b.kept("after a refresh");
    await done("odd_names", "odd_column");
  });
});
