// What metrics do apart from being exact in the plain cases: statements, values, edits, failures, rights.
import { describe, expect, test, vi } from "vitest";
import { isServer } from "../support/database.ts";
import { useMetrics } from "./fixture.ts";

// Some declare dozens of metrics, which takes the embedded engine a while on a busy machine.
vi.setConfig({ testTimeout: 240_000 });

const { pool, sql, metric, refresh, differences, shop } = useMetrics();

/** Later refreshes do not have to compute these. */
const done = async (...names: string[]) => {
  for (const name of names) await sql("select strata.remove_metric($1)", [name]);
};

describe("statements", () => {
  test("MERGE, ON CONFLICT and cascades are noticed; updates of other columns are not", async () => {
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

describe("what cannot be proven", { tags: ["long"] }, () => {
  test("is computed as a whole, says why, and stays exact", async () => {
    const s = await shop();
    await sql(`create view production.some_sales as select * from ${s.sale} where amount > 1`);
    const cases: [string, string, RegExp][] = [
      [`select day, 1 as n from ${s.sale} union select day, 2 from ${s.sale}`, "day", /combines queries/],
      [`with x as (select * from ${s.sale}) select day, count(*) as n from x group by day`, "day", /WITH/],
      [
        `select day, count(*) filter (where sku in (select sku from ${s.product} where price > 5)) as n from ${s.sale} group by day`,
        "day",
        /subquery in an expression/,
      ],
      [
        `select day, sum(amount) as n, sum(sum(amount)) over (order by day) as total from ${s.sale} group by day`,
        "day",
        /window function/,
      ],
      [`select day, generate_series(1, quantity) as n from ${s.sale}`, "day", /returns rows/],
      [`select day, sku, count(*) as n from ${s.sale} group by rollup (day, sku)`, "day", /several sets/],
      [
        `select distinct on (day) day, sale_id as n from ${s.sale} order by day, sale_id`,
        "day",
        /DISTINCT ON/,
      ],
      [`select day, count(*) as n from ${s.sale} group by day order by day limit 5`, "day", /LIMIT/],
      [
        `select max(day) as day, sku, count(*) as n from ${s.sale} group by sku`,
        "day",
        /does not group by day/,
      ],
      [`select count(*) as n, max(day) as day from ${s.sale}`, "day", /without GROUP BY/],
      [
        `select greatest(s.day, p.price::text::date) as day, count(*) as n from ${s.sale} s join (select sku, null::text as price from ${s.product}) p using (sku) group by 1`,
        "day",
        /not computed from one table/,
      ],
      [
        `select s.day, count(*) as n from ${s.sale} s join (select distinct sku from ${s.product}) p using (sku) group by 1`,
        "day",
        /subquery in FROM/,
      ],
      [
        `select s.day, count(*) as n from ${s.sale} s cross join generate_series(1, 2) group by 1`,
        "day",
        /no table/,
      ],
      [
        `select day, count(*) as n from production.some_sales group by 1`,
        "day",
        /reads the view production.some_sales/,
      ],
      [
        `select s.day, count(*) as n from ${s.product} p left join ${s.sale} s using (sku) group by 1`,
        "day",
        /outer join makes rows without/,
      ],
      [
        `select s.day, count(*) as n from ${s.sale} s join ${s.product} p on p.price > s.amount group by 1`,
        "day",
        /without an equality/,
      ],
      [`select day, count(*) as n from ${s.sale} group by day`, "", /no partition column/],
    ];
    const metrics = [];
    for (const [i, [query, partition, why]] of cases.entries()) {
      const m = await metric(`whole_${i}`, query, partition || undefined);
      expect(m.mode, query).toBe("whole");
      expect(m.why, query).toMatch(why);
      metrics.push(m);
    }
    await refresh();
    for (const statement of [
      `update ${s.sale} set ts = ts + interval '1 day' where sale_id < 20`,
      `delete from ${s.product} where sku = 'p5'`,
      `create or replace view production.some_sales as select * from ${s.sale} where amount > 2; select strata.reconcile()`,
    ]) {
      await sql(statement);
      for (const m of metrics) await m.exact(statement);
    }
    await refresh();
    for (const m of metrics) await m.kept("after a refresh");
    await done(...metrics.map((_, i) => `whole_${i}`));
  });

  test("that has no rows is up to date all the same, and has those that come later", async () => {
    const s = await shop();
    const query = `select sku, sum(amount) as amount from ${s.sale} where quantity > 1000 group by sku order by 2 limit 3`;
    const m = await metric("large_sales", query);
    expect(m.mode).toBe("whole");
    const state = () =>
      sql("select error, rebuild, partition_count from strata.metrics where metric = 'large_sales'");
    const upToDate = [{ error: null, rebuild: false, partition_count: "0" }];
    await refresh();
    expect(await state()).toEqual(upToDate);
    await m.kept("without rows");
    await sql(`update ${s.sale} set quantity = 2000 where sale_id = 7`);
    await refresh();
    await m.kept("with a row");
    await sql(`update ${s.sale} set quantity = 2 where sale_id = 7`);
    await refresh();
    expect(await state()).toEqual(upToDate);
    await m.kept("without rows again");
    await done("large_sales");
  });

  test("what depends on the time, on a view that does, or on a function that reads, is computed each time", async () => {
    const s = await shop();
    await sql(`
      create view production.recent as select *, now() as at from ${s.sale};
      create function production.sale_count() returns bigint language sql stable as 'select count(*) from ${s.sale}';
      create materialized view analytics.sale_days as select day, count(*) as n from ${s.sale} group by day`);
    const metrics = {
      by_clock: await metric(
        "by_clock",
        `select day, count(*) filter (where day < current_date) as past from ${s.sale} group by day`,
        "day",
      ),
      by_view: await metric(
        "by_view",
        "select day, max(at)::date as n from production.recent group by day",
        "day",
      ),
      by_function: await metric(
        "by_function",
        `select day, max(production.sale_count()) as n from ${s.sale} group by day`,
        "day",
      ),
      by_materialized: await metric("by_materialized", "select day, n from analytics.sale_days", "day"),
      by_now: await metric(
        "by_now",
        "select date, country, active_users from analytics.daily_user_metrics_live",
        "date",
      ),
      by_daily: await metric(
        "by_daily",
        "select date, sum(active_users) as users from analytics.daily_user_metrics group by date",
        "date",
      ),
    };
    for (const [name, m] of Object.entries(metrics)) expect(m.mode, name).toBe("whole");
    expect(metrics.by_view.why).toContain("now()");
    expect(metrics.by_materialized.why).toContain("analytics.sale_days is not an ordinary table");
    await sql(
      "create materialized view analytics.over_metric as select sum(n) as n from analytics.by_materialized",
    );
    await refresh();
    await sql(`delete from ${s.sale} where day = '2024-01-05'`);
    await sql(
      "insert into production.users (user_id, username, email, country) values (77, 'u77', 'u77@example.org', 'XX')",
    );
    for (const m of Object.values(metrics)) await m.exact("after changes");
    await refresh();
    for (const m of Object.values(metrics)) await m.kept("after a refresh");
    // The view was refreshed before the metric that reads it, and that one before the view that reads the metric.
    expect(await sql("select n from analytics.over_metric")).toEqual(
      await sql(`select count(*)::numeric::text as n from ${s.sale}`),
    );
    await sql("drop materialized view analytics.over_metric");
    await done(...Object.keys(metrics));
    await sql("drop table analytics.by_materialized; drop materialized view analytics.sale_days");
  });

  test("a virtual column is not seen by triggers", async () => {
    const [version] = await sql("select current_setting('server_version_num')::integer as number");
    if (version!.number < 180000) return;
    await sql(
      "create table production.virtual (id integer primary key, ts timestamp, day date generated always as (ts::date) virtual); insert into production.virtual select n, timestamp '2024-01-01' + n * interval '1 day' from generate_series(1, 60) n",
    );
    const m = await metric(
      "by_virtual",
      "select day, count(*) as n from production.virtual group by day",
      "day",
    );
    expect(m.why).toMatch(/production.virtual.day is a virtual column/);
    await refresh();
    await sql("update production.virtual set ts = ts + interval '1 day' where id = 3");
    await m.exact("after an update");
    await done("by_virtual");
  });
});

describe("edits", { tags: ["long"] }, () => {
  test("another query keeps rights, comments and, where it can, the views that read it", async () => {
    const s = await shop();
    const base = `count(*) as n, sum(amount) as amount from ${s.sale} group by`;
    await metric("edited", `select day, ${base} 1`, "day");
    await refresh();
    const refreshed = async () =>
      (await sql("select rebuild from strata.metrics where metric = 'edited'"))[0]!.rebuild as boolean;
    await sql(
      "create role edited_reader; grant select on analytics.edited, analytics.edited_live to edited_reader; revoke select on analytics.edited_live from strata_reader",
    );
    await sql(
      "comment on column analytics.edited.n is 'Sales of the day.'; comment on table analytics.edited is 'Sales, as of the last refresh.'",
    );
    await sql("create view analytics.edited_days as select day, n from analytics.edited_live");
    await metric("edited", `select day, ${base} 1`, "day");
    await sql("select strata.reconcile()");
    expect(await refreshed(), "the same again").toBe(false);

    const kept = async () =>
      (
        await sql(`select has_table_privilege('edited_reader', 'analytics.edited_live', 'select') as hand, has_table_privilege('strata_reader', 'analytics.edited_live', 'select') as revoked,
          has_table_privilege('strata_reader', 'analytics.edited', 'select') as table, col_description('analytics.edited_live'::regclass, 2) as column, obj_description('analytics.edited'::regclass) as comment`)
      )[0];
    const expected = {
      hand: true,
      revoked: false,
      table: true,
      column: "Sales of the day.",
      comment: "Sales, as of the last refresh.",
    };
    let m = await metric("edited", `select day, ${base} 1 having count(*) > 2`, "day");
    expect(await refreshed(), "another condition").toBe(true);
    await m.exact("after another condition");
    m = await metric("edited", `select day, ${base.replace("from", ", max(sku) as sku from")} 1`, "day");
    await m.exact("after a new column");
    expect(await kept()).toEqual(expected);
    await expect(
      metric("edited", `select day, count(*)::text as n from ${s.sale} group by 1`, "day"),
    ).rejects.toMatchObject({
      code: "2BP01",
      message: expect.stringMatching(
        /The columns of analytics.edited cannot change.*analytics.edited_days/s,
      ) as string,
    });
    await m.exact("after a rejected edit");
    await sql("drop view analytics.edited_days");
    m = await metric(
      "edited",
      `select quantity, day, count(*)::text as n from ${s.sale} group by 1, 2`,
      "quantity",
    );
    await m.exact("after other columns");
    await refresh();
    await m.kept("after other columns");
    await m.exact("after other columns and a refresh");
    expect(
      await sql(
        "select col_description('analytics.edited_live'::regclass, attnum) as column from pg_attribute where attrelid = 'analytics.edited_live'::regclass and attname = 'n'",
      ),
    ).toEqual([{ column: "Sales of the day." }]);
    expect(await kept()).toMatchObject({ hand: true, revoked: false, table: true });
    await done("edited");
    await sql("drop table analytics.edited; drop role edited_reader");
  });

  test("a table under a metric gets columns and other names", async () => {
    const s = await shop();
    const m = await metric(
      "under",
      `select date(ts) as d, sum(amount) as amount from ${s.sale} group by 1`,
      "d",
    );
    await refresh();
    await sql(
      `alter table ${s.sale} add column more integer default 3; alter table ${s.sale} drop column note`,
    );
    await sql(`update ${s.sale} set more = 4`);
    expect(await m.stale()).toEqual([]);
    await sql(`alter table ${s.sale} rename column ts to happened_at`);
    // Nobody told Strata: writes go on, and nothing is lost.
    await sql(`update ${s.sale} set amount = 9 where sale_id = 3`);
    const query = `select date(happened_at) as d, sum(amount) as amount from ${s.sale} group by 1`;
    expect(await differences(query, "analytics.under_live")).toEqual([]);
    await sql("select strata.reconcile()");
    await refresh();
    expect(await differences(query, "analytics.under")).toEqual([]);
    await sql(`update ${s.sale} set amount = 10 where sale_id = 3`);
    expect(await m.stale()).toEqual(["2024-01-04"]);
    await done("under");
  });

  test("names that are taken, and circles, are rejected", async () => {
    const s = await shop();
    const query = `select day, count(*) as n from ${s.sale} group by day`;
    const add = (name: string, text = query) => metric(name, text, "day");
    await expect(add("daily_rollup")).rejects.toThrow("daily_rollup is already a metric, in schema strata");
    await expect(add("freshness")).rejects.toThrow("analytics.freshness exists and is not a metric");
    await sql("create view analytics.taken_live as select 1 as x");
    await expect(add("taken")).rejects.toThrow(
      "analytics.taken_live exists, but the live view of the metric taken needs that name",
    );
    await expect(add("Bad name")).rejects.toThrow("given: 'Bad name'");
    await expect(metric("wrong", query, "week")).rejects.toThrow(
      "The query has no column 'week' to partition by; it has: day, n.",
    );
    await add("circle_a");
    await add("circle_b", "select day, n from analytics.circle_a");
    await expect(add("circle_a", "select day, n from analytics.circle_b")).rejects.toThrow(
      /may not be computed from itself.*circle_a.*circle_b/,
    );
    await expect(add("circle_a", "select day, n from analytics.circle_a")).rejects.toThrow(
      /may not be computed from itself|cannot change/,
    );
    for (const name of ["runs", "changes", "metrics", "s"]) {
      const m = await add(name);
      await refresh();
      await sql(`update ${s.sale} set ts = ts + interval '1 day' where sale_id = 5`);
      await m.exact(name);
      await refresh();
      await m.kept(name);
    }
    await expect(sql("select strata.remove_metric('nothing')")).rejects.toThrow(
      "There is no metric 'nothing'; there are: ",
    );
    await done("runs", "changes", "metrics", "s", "circle_b", "circle_a");
    expect(
      await sql("select tgname from pg_trigger where tgrelid = $1::regclass and tgname like 'strata%'", [
        s.sale,
      ]),
    ).toEqual([]);
    await expect(add("runs")).rejects.toThrow("analytics.runs exists and is not a metric");
  });
});

describe("failures", { tags: ["long"] }, () => {
  test("a metric whose query went with a column says so after a migration, and can be removed or declared again", async () => {
    const s = await shop();
    const query = `select day, count(note) as notes from ${s.sale} group by day`;
    const m = await metric("notes", query, "day");
    await metric("other_notes", query, "day");
    await refresh();
    await sql(`alter table ${s.sale} drop column note cascade; select strata.reconcile()`);
    await refresh();
    const gone = expect.stringMatching(
      /^its query no longer exists, because something that it reads was dropped; declare it/,
    );
    expect(await sql("select metric, error from strata.metrics where error is not null order by 1")).toEqual([
      { metric: "notes", error: gone },
      { metric: "other_notes", error: gone },
    ]);
    expect(
      await sql("select dataset, rows_behind::int from analytics.freshness where dataset = 'notes'"),
    ).toEqual([{ dataset: "notes", rows_behind: 1 }]);
    await sql(
      `alter table ${s.sale} add column note text; update ${s.sale} set note = 'new' where sale_id = 7`,
    );
    await sql("select strata.add_metric('notes', $1, 'day'), strata.remove_metric('other_notes')", [query]);
    await refresh();
    expect(await sql("select metric from strata.metrics where error is not null")).toEqual([]);
    await m.kept("declared again");
    await done("notes");
  });

  test("a metric that fails leaves the others alone, says so, and recovers; so does a view", async () => {
    const s = await shop();
    const bad = await metric("bad", `select day, sum(1 / amount) as n from ${s.sale} group by day`, "day");
    const worse = await metric(
      "worse",
      `select 100 / quantity as part, count(*) as n from ${s.sale} where quantity > 0 group by 1`,
      "part",
    );
    const good = await metric("good", `select day, sum(amount) as n from ${s.sale} group by day`, "day");
    await sql(`create materialized view analytics.bad_view as select sum(1 / amount) as n from ${s.sale}`);
    await refresh();
    // The expression by which "worse" is partitioned fails for this row (its WHERE leaves it out): the write goes on.
    await sql(`insert into ${s.sale} (sale_id, ts, amount, quantity) values (8000, '2024-01-05', 0, 0)`);
    await refresh();
    await good.kept("beside one that fails");
    await worse.kept("after a failing expression");
    expect(await sql("select metric, error from strata.metrics where error is not null")).toEqual([
      { metric: "bad", error: "division by zero" },
    ]);
    expect(await sql("select view_errors from strata.refresh_state")).toEqual([
      { view_errors: { "analytics.bad_view": "division by zero" } },
    ]);
    const behind = () =>
      sql(
        "select dataset, rows_behind > 0 as lags from analytics.freshness where dataset in ('bad', 'good') order by 1",
      );
    expect(await behind()).toEqual([
      { dataset: "bad", lags: true },
      { dataset: "good", lags: false },
    ]);
    await expect(bad.exact("")).rejects.toThrow("division by zero");
    await sql(`delete from ${s.sale} where sale_id = 8000`);
    await bad.exact("after the cause went");
    await refresh();
    await bad.kept("after the cause went");
    expect(await behind()).toMatchObject([{ lags: false }, { lags: false }]);
    expect(
      await sql(
        "select (select count(*)::integer from strata.metrics where error is not null) as errors, view_errors from strata.refresh_state",
      ),
    ).toEqual([{ errors: 0, view_errors: {} }]);
    await sql("drop materialized view analytics.bad_view");
    await done("bad", "worse", "good");
  });

  test("more expressions on a table than a function takes arguments", async () => {
    const s = await shop();
    const names = Array.from({ length: 52 }, (_, i) => `many_${i}`);
    for (const [i, name] of names.entries())
      await sql("select strata.add_metric($1, $2, 'k')", [
        name,
        `select (sale_id + ${i}) % 40 as k, count(*) as n from ${s.sale} group by 1`,
      ]);
    await sql(`insert into ${s.sale} (amount) values (1)`);
    expect(
      await sql(
        "select cardinality(array(select jsonb_object_keys(keys))) as n from strata.changes where relation = $1",
        [s.sale],
      ),
    ).toEqual([{ n: 52 }]);
    await done(...names);
  });
});

test("readers read the table and the live view, and nothing else of it", async () => {
  const s = await shop();
  await metric("readable", `select day, count(*) as n from ${s.sale} group by day`, "day");
  await refresh();
  await sql(`insert into ${s.sale} (ts) values ('2024-01-05')`);
  const client = await pool().connect();
  try {
    await client.query("begin; set local role strata_reader");
    const { rows } = await client.query(
      "select (select sum(n) from analytics.readable)::integer as kept, (select sum(n) from analytics.readable_live)::integer as live",
    );
    expect(rows).toEqual([{ kept: 240, live: 241 }]);
    await expect(client.query(`select from ${s.sale}`)).rejects.toThrow("permission denied");
  } finally {
    await client.query("rollback");
    client.release();
  }
  await done("readable");
});
