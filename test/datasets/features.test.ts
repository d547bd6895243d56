// One test for each thing that a table of production may have. In each of them, a bad row costs no good one.
import { describe, expect, test } from "vitest";
import { readDataset } from "../../src/ingest/dataset.ts";
import { isServer } from "../support/database.ts";
import { useDatasets, type Row } from "./fixture.ts";

const { database, sql, declare, arrive, transform, rows, rejected, retry } = useDatasets();

/** The embedded engine has neither these extensions nor collations that ignore case. */
const onServer = test.runIf(isServer);

/** Runs the transform, and says what each row was rejected for. */
async function outcome(dataset: string): Promise<{ rows: Row[]; reasons: string[][] }> {
  expect(await transform()).toMatchObject({ status: "succeeded", error: null });
  return { rows: await rows(dataset), reasons: (await rejected(dataset)).map(({ reasons }) => reasons) };
}

describe("keys", () => {
  test("a text key", async () => {
    await declare("create table production.things (sku text primary key, price int)", "things");
    await arrive(
      "things",
      { sku: "a", price: 1 },
      { price: 2 },
      { sku: "a", price: 3 },
      { sku: "A", price: 4 },
    );
    expect(await outcome("things")).toEqual({
      rows: [
        { sku: "A", price: 4 },
        { sku: "a", price: 3 },
      ],
      reasons: [["sku_missing"]],
    });
  });

  test("a UUID key, drawn where it is absent, exactly once", async () => {
    await declare(
      "create table production.things (thing_id uuid primary key default gen_random_uuid(), word text not null)",
      "things",
    );
    const id = "00000000-0000-0000-0000-000000000001";
    await arrive(
      "things",
      { word: "x" },
      { word: "x" },
      { thing_id: id, word: "y" },
      { thing_id: id, word: "z" },
      {},
    );
    expect(await transform()).toMatchObject({ rowsRead: 5, rowsWritten: 3, rowsRejected: 1 });
    expect(await transform()).toMatchObject({ rowsRead: 0 });
    expect((await sql("select word from production.things order by 1")).map(({ word }) => word)).toEqual([
      "x",
      "x",
      "z",
    ]);
    expect((await rejected("things")).map(({ reasons }) => reasons)).toEqual([["word_missing"]]);
  });

  test("a composite key, of which PostgreSQL draws a part", async () => {
    await declare(
      "create table production.things (shop text, thing_id serial, word text check (word <> 'bad'), primary key (shop, thing_id))",
      "things",
    );
    await arrive(
      "things",
      { shop: "a", word: "x" },
      { shop: "a", word: "y" },
      { shop: "a", word: "bad" },
      { word: "z" },
    );
    const { reasons } = await outcome("things");
    expect(reasons).toEqual([["things_word_check"], ["shop_missing"]]);
    expect((await sql("select word from production.things order by 1")).map(({ word }) => word)).toEqual([
      "x",
      "y",
    ]);
  });

  test("a composite key whose parts are in another order than the columns", async () => {
    await declare(
      'create table production.things (n int, word text, "Group" text, primary key ("Group", n))',
      "things",
    );
    await arrive(
      "things",
      { n: 1, Group: "a", word: "x" },
      { n: 1, Group: "b", word: "y" },
      { n: 1, Group: "a", word: "z" },
      { n: 2, word: "no" },
    );
    expect(await outcome("things")).toEqual({
      rows: [
        { n: 1, Group: "a", word: "z" },
        { n: 1, Group: "b", word: "y" },
      ],
      reasons: [["Group_missing"]],
    });
    expect(await sql("select field, is_key from strata.fields('things')")).toEqual([
      { field: "Group", is_key: true },
      { field: "n", is_key: true },
      { field: "word", is_key: false },
    ]);
  });

  test("`id` as a column", async () => {
    await declare("create table production.things (id int primary key, n int check (n > 0))", "things");
    expect(await sql("select strata.raw_id_column('things') as c")).toEqual([{ c: "raw_id" }]);
    await arrive("things", { id: 1, n: 1 }, { id: 2, n: 0 }, { id: 1, n: 5 });
    expect(await outcome("things")).toEqual({ rows: [{ id: 1, n: 5 }], reasons: [["things_n_check"]] });
    expect(await rejected("things")).toMatchObject([{ payload: { id: 2, n: 0 } }]);
    await sql("alter table production.things drop constraint things_n_check");
    await retry("things");
    expect(await outcome("things")).toEqual({
      rows: [
        { id: 1, n: 5 },
        { id: 2, n: 0 },
      ],
      reasons: [],
    });
  });

  test("a text `id`", async () => {
    await declare("create table production.things (id text primary key, n int)", "things");
    await arrive("things", { id: "a", n: 1 }, { n: 2 });
    expect(await outcome("things")).toEqual({ rows: [{ id: "a", n: 1 }], reasons: [["id_missing"]] });
  });

  onServer("a key that ignores case", async () => {
    await declare(
      "create extension if not exists citext schema public; create table production.things (code public.citext primary key, n int)",
      "things",
    );
    await arrive("things", { code: "a", n: 1 }, { code: "A", n: 2 });
    await outcome("things");
    await arrive("things", { code: "A", n: 3 }, { n: 4 });
    expect(await outcome("things")).toEqual({
      rows: [{ code: expect.stringMatching(/^a$/i) as string, n: 3 }],
      reasons: [["code_missing"]],
    });
  });

  test("the source as a part of the key", async () => {
    await declare(
      "create table production.things (source_system text, n int, word text not null, primary key (source_system, n))",
      "things",
    );
    await arrive(
      "things",
      { source_system: "shop", n: 1, word: "x" },
      { source_system: "crm", n: 1, word: "y" },
      { source_system: "crm", n: 2 },
    );
    expect(await outcome("things")).toEqual({
      rows: [
        { source_system: "crm", n: 1, word: "y" },
        { source_system: "shop", n: 1, word: "x" },
      ],
      reasons: [["word_missing"]],
    });
    await sql('update staging.quarantine set payload = payload || \'{"word": "z"}\'');
    await retry("things");
    expect((await outcome("things")).rows).toHaveLength(3);
  });

  test("a generated key", async () => {
    await declare(
      "create table production.things (word text not null, key text generated always as (lower(word)) stored primary key, n int)",
      "things",
    );
    await arrive("things", { word: "A", n: 1 }, { word: "a", n: 2 }, { n: 3 });
    expect(await outcome("things")).toEqual({
      rows: [{ word: "a", key: "a", n: 2 }],
      reasons: [["word_missing"]],
    });
  });
});

describe("columns", () => {
  test("identity columns, by default and always", async () => {
    await declare(
      `create table production.things (thing_id int generated by default as identity primary key,
         place bigint generated always as identity, word text not null)`,
      "things",
    );
    expect(await sql("select field from strata.fields('things')")).toEqual([
      { field: "thing_id" },
      { field: "word" },
    ]);
    await arrive("things", { thing_id: 7, word: "x" }, {}, { word: "y" });
    const { reasons } = await outcome("things");
    expect(reasons).toEqual([["word_missing"]]);
    expect(
      await sql("select count(*)::int as n, count(distinct place)::int as places from production.things"),
    ).toEqual([{ n: 2, places: 2 }]);
    await arrive("things", { thing_id: 7, word: "z" });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 1 });
  });

  test("an identity key that is always PostgreSQL's takes the source's", async () => {
    await declare(
      "create table production.things (thing_id int generated always as identity primary key, n int)",
      "things",
    );
    await arrive("things", { thing_id: 5, n: 1 }, { thing_id: 5, n: 2 });
    expect((await outcome("things")).rows).toEqual([{ thing_id: 5, n: 2 }]);
    expect(await sql("insert into production.things (n) values (3) returning thing_id")).toEqual([
      { thing_id: 6 },
    ]);
  });

  test("a sequence with steps and an end follows", async () => {
    await declare(
      "create table production.things (n int generated by default as identity (start with 10 increment by 10 maxvalue 1000) primary key, word text)",
      "things",
    );
    await arrive("things", { n: 45, word: "x" }, { n: 30, word: "y" });
    await outcome("things");
    expect(await sql("insert into production.things (word) values ('z') returning n")).toEqual([{ n: 50 }]);
    await arrive("things", { n: 5000, word: "beyond" });
    expect((await outcome("things")).reasons).toEqual([]);
  });

  test("generated columns, and rules about them", async () => {
    await declare(
      `create table production.things (n int primary key, a int not null, b int not null,
         total int not null generated always as (a + b) stored, constraint small_total check (total < 10 and total > a))`,
      "things",
    );
    await arrive(
      "things",
      { n: 1, a: 1, b: 2 },
      { n: 2, a: 5, b: 5 },
      { n: 3, a: 2147483647, b: 1 },
      { n: 4, a: 1 },
      { n: 5, a: 2, b: 3 },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows).toEqual([
      { n: 1, a: 1, b: 2, total: 3 },
      { n: 5, a: 2, b: 3, total: 5 },
    ]);
    expect(reasons.sort()).toEqual([["b_missing"], ["rejected_by_database"], ["small_total"]]);
  });

  test("arrays, enums, ranges, JSON, bytes, intervals and bits", async () => {
    await declare(
      `create type production.mood as enum ('sad', 'happy');
       create table production.things (n int primary key, tags text[] not null, grid int[], feels production.mood default 'sad',
         period tstzrange, days daterange, many int4multirange, doc jsonb, raw json, bytes bytea, wait interval, flags bit(3), at timestamptz,
         xml xml, place point, constraint few_tags check (cardinality(tags) < 3), constraint open_end check (not upper_inf(days)))`,
      "things",
    );
    const good = {
      n: 1,
      tags: ["a", "b,c"],
      grid: [
        [1, 2],
        [3, 4],
      ],
      feels: "happy",
      period: "[2024-01-01,2024-02-01)",
      days: "[2024-01-01,2024-02-01)",
      many: "{[1,3),[5,7)}",
      doc: { a: [1, null] },
      raw: { b: 1, a: 2 },
      bytes: "\\x00ff",
      wait: "1 mon 2 days",
      flags: "101",
      at: "2024-01-01T00:00:00Z",
      xml: "<a/>",
      place: "(1,2)",
    };
    await arrive(
      "things",
      good,
      { ...good, n: 2, tags: ["a", "b", "c"] },
      { ...good, n: 3, days: "[2024-01-01,)" },
      { ...good, n: 4, feels: null },
    );
    await arrive("things", good);
    const first = await transform();
    expect(first).toMatchObject({ rowsRead: 5, rowsWritten: 2, rowsRejected: 2 });
    expect((await rejected("things")).map(({ reasons }) => reasons)).toEqual([["few_tags"], ["open_end"]]);
    expect(
      (await rows("things")).map(({ feels, tags, bytes, many }) => ({ feels, tags, bytes, many })),
    ).toEqual([
      { feels: "happy", tags: ["a", "b,c"], bytes: "\\x00ff", many: "{[1,3),[5,7)}" },
      { feels: "sad", tags: ["a", "b,c"], bytes: "\\x00ff", many: "{[1,3),[5,7)}" },
    ]);
    await arrive("things", good);
    expect(await transform()).toMatchObject({ rowsRead: 1, rowsWritten: 0 });
    await sql("alter table production.things drop constraint few_tags, drop constraint open_end");
    await retry("things");
    expect((await outcome("things")).rows).toHaveLength(4);
    await sql(
      "drop table production.things cascade; drop table staging.raw_things; drop type production.mood",
    );
  });

  test("domains, also of domains, NOT NULL and with a default", async () => {
    await declare(
      `create domain production.percentage as numeric(5, 2) constraint is_percentage check (value between 0 and 100);
       create domain production.share as production.percentage constraint is_share check (value > 0) constraint is_rare check (value <> 50);
       create domain production.word as varchar(5) not null default 'none' constraint lower_case check (value = lower(value));
       comment on constraint is_share on domain production.share is 'A share is more than nothing.';
       create table production.things (n int primary key, share production.share, word production.word, other production.word not null)`,
      "things",
    );
    expect(await sql("select field, type from strata.fields('things')")).toEqual([
      { field: "n", type: "integer" },
      { field: "share", type: "numeric" },
      { field: "word", type: "text" },
      { field: "other", type: "text" },
    ]);
    await arrive(
      "things",
      { n: 1, share: 12.345, word: "a", other: "b" },
      { n: 2, share: 0, word: "A", other: "b" },
      { n: 3, share: 5000, word: "toolong", other: "b" },
      { n: 4, share: -1 },
      { n: 5 },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows).toEqual([
      { n: 1, share: 12.35, word: "a", other: "b" },
      { n: 5, share: null, word: "none", other: "none" },
    ]);
    expect(reasons).toEqual([
      ["is_share", "lower_case"],
      ["share_out_of_range", "word_too_long"],
      ["is_percentage", "is_share"],
    ]);
    expect((await rejected("things"))[0]!.detail).toContain(
      "A share is more than nothing. Given: share = 0.",
    );
    await sql(
      "drop table production.things; drop domain production.share, production.percentage, production.word",
    );
  });

  test("numbers of any precision, and money", async () => {
    await declare(
      `create table production.things (n int primary key, a numeric(3, 5), b numeric(3, -2), c numeric(38, 10), d numeric, e money, f real, g smallint)`,
      "things",
    );
    await arrive(
      "things",
      {
        n: 1,
        a: 0.00999,
        b: 12345,
        c: "1234567890123456789012345678.0123456789",
        d: "1e200",
        e: "$1.50",
        f: 1.5,
        g: 7,
      },
      { n: 2, a: 0.01, b: 99950, c: "1e28" },
      { n: 3, a: 0.009994, b: 99949, c: "NaN", d: "NaN" },
    );
    const { reasons } = await outcome("things");
    expect(reasons).toEqual([["a_out_of_range", "b_out_of_range", "c_out_of_range"], ["c_out_of_range"]]);
    expect(
      await sql("select a::text, b::text, c::text, d = 1e200 as d, e::text from production.things"),
    ).toEqual([
      { a: "0.00999", b: "12300", c: "1234567890123456789012345678.0123456789", d: true, e: "$1.50" },
    ]);
  });

  test("text of limited length", async () => {
    await declare(
      "create table production.things (n int primary key, a varchar(3), b char(3), c char)",
      "things",
    );
    await arrive("things", { n: 1, a: "abc  ", b: "x", c: "y" }, { n: 2, a: "abcd", b: "abcd", c: "yy" });
    const { reasons } = await outcome("things");
    expect(reasons).toEqual([["a_too_long", "b_too_long", "c_too_long"]]);
    expect(await sql("select a, b::text, c from production.things")).toEqual([{ a: "abc", b: "x", c: "y" }]);
  });

  test("positions", async () => {
    await declare(
      "create table production.things (n int primary key, at public.geometry(Point, 4326), area public.geography, constraint north check (public.st_y(at) > 0))",
      "things",
    );
    const at = (y: number) => `SRID=4326;POINT(8 ${y})`;
    await arrive("things", { n: 1, at: at(50), area: "POINT(1 1)" }, { n: 2, at: at(-50) });
    expect((await outcome("things")).reasons).toEqual([["north"]]);
    await sql("alter table production.things drop constraint north");
    await retry("things");
    await outcome("things");
    expect(await sql("select n, public.st_astext(at) as at from production.things order by n")).toEqual([
      { n: 1, at: "POINT(8 50)" },
      { n: 2, at: "POINT(8 -50)" },
    ]);
  });

  onServer("types of extensions", async () => {
    await declare(
      `create extension if not exists hstore schema public; create extension if not exists ltree schema public;
       create table production.things (path public.ltree primary key, attributes public.hstore, parent public.ltree,
         constraint fk_parent foreign key (parent) references production.things (path), constraint big check ((attributes -> 'a')::int > 1))`.replace(
        "attributes -> 'a'",
        "attributes operator(public.->) 'a'",
      ),
      "things",
    );
    await arrive(
      "things",
      { path: "a.b", attributes: 'a=>"5"', parent: "a" },
      { path: "a", attributes: "a=>2" },
      { path: "a.c", attributes: "a=>1" },
    );
    expect((await outcome("things")).reasons).toEqual([["big"]]);
    await arrive(
      "things",
      { path: "a.b", attributes: "a=>6", parent: "x.y" },
      { path: "a.b", attributes: "a=>7", parent: "a" },
    );
    expect((await outcome("things")).reasons).toEqual([["big"], ["fk_parent"]]);
    await sql("alter table production.things drop constraint big");
    await retry("things");
    await outcome("things");
    expect(await sql("select path::text, attributes::text from production.things order by 1")).toEqual([
      { path: "a", attributes: '"a"=>"2"' },
      { path: "a.b", attributes: '"a"=>"7"' },
      { path: "a.c", attributes: '"a"=>"1"' },
    ]);
  });

  onServer("a collation of its own", async () => {
    await declare(
      `create collation if not exists production.ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
       create table production.things (n int primary key, code text collate production.ignore_case unique, constraint not_admin check (code <> 'admin'))`,
      "things",
    );
    await arrive(
      "things",
      { n: 1, code: "a" },
      { n: 2, code: "A" },
      { n: 3, code: "ADMIN" },
      { n: 4, code: "b" },
    );
    expect(await outcome("things")).toEqual({
      rows: [
        { n: 1, code: "a" },
        { n: 4, code: "b" },
      ],
      reasons: [["not_admin"], ["things_code_key"]],
    });
  });

  test("defaults: a constant replaces what is absent, a computed one belongs to the creation", async () => {
    await declare(
      `create table production.things (n int primary key, state text not null default 'new', "limit" int default 5 check ("limit" < 100),
         made_at timestamptz not null default clock_timestamp(), token uuid not null default gen_random_uuid(), word text)`,
      "things",
    );
    await arrive("things", { n: 1, word: "x" }, { n: 2, state: "old", limit: 100 });
    expect((await outcome("things")).reasons).toEqual([["things_limit_check"]]);
    const [before] = await rows("things");
    expect(before).toMatchObject({ n: 1, state: "new", limit: 5 });
    await sql("update production.things set state = 'edited', \"limit\" = 7");
    await arrive("things", { n: 1, word: "y" });
    await transform();
    expect(await rows("things")).toEqual([{ ...before, word: "y" }]);
  });

  test("columns with names of the machinery's own", async () => {
    await declare(
      `create table production.things (seq int primary key, reasons text[], notes text, changed boolean, is_new boolean, u1 int unique,
         value int, j text, b text, w text, dataset text, fault_1 int, "100%" int check ("100%" > 1), constraint short_notes check (length(notes) < 5))`,
      "things",
    );
    await sql(
      `create view staging.things as select r.* from staging.raw_things r; alter view staging.things rename column id to raw_id`,
    );
    await sql("select strata.add_dataset('things')");
    await arrive(
      "things",
      { seq: 1, reasons: ["x"], notes: "ok", u1: 1, "100%": 5 },
      { seq: 2, notes: "too long", u1: 1 },
      { seq: 3, u1: 1 },
      { seq: 4, "100%": 0 },
    );
    const { rows, reasons } = await outcome("things");
    expect(reasons).toEqual([["short_notes"], ["things_100%_check"], ["things_u1_key"]]);
    expect(rows).toMatchObject([{ seq: 1, reasons: ["x"], notes: "ok" }]);
  });
});

describe("rules", { tags: ["long"] }, () => {
  test("several columns in one rule, and a row that breaks all of them", async () => {
    await declare(
      `create table production.things (n int primary key, a int not null, b int,
         constraint "b: \\"above\\" a" check (b > a), constraint positive_a check (a > 0), constraint "it's" check (a <> 13))`.replaceAll(
        '\\"',
        '""',
      ),
      "things",
    );
    await arrive(
      "things",
      { n: 1, a: 1, b: 2 },
      { n: 2, a: 0, b: -1 },
      { n: 3, a: 13 },
      { n: 4, b: 1 },
      { n: 5, a: 1 },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 5]);
    expect(reasons).toEqual([['b: "above" a', "positive_a"], ["it's"], ["a_missing"]]);
    expect((await rejected("things"))[0]!.detail).toBe(
      'The row violates the constraint b: "above" a. Given: a = 0, b = -1. The row violates the constraint positive_a. Given: a = 0.',
    );
  });

  test("a rule that cannot be computed for a row", async () => {
    await declare(
      "create table production.things (n int primary key, a int, constraint inverse check (10 / a > 1))",
      "things",
    );
    await arrive("things", { n: 1, a: 2 }, { n: 2, a: 0 }, { n: 3, a: 3 }, { n: 4, a: 20 });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 3]);
    expect(reasons.sort()).toEqual([["inverse"], ["rejected_by_database"]]);
    expect((await rejected("things")).map(({ detail }) => detail).join()).toContain("division by zero");
  });

  test("a rule about the row as a whole", async () => {
    await declare(
      `create table production.things (n int primary key, a int);
       create function production.is_fine(t production.things) returns boolean language sql immutable return t.a > 0;
       alter table production.things add constraint is_fine check (production.is_fine(things.*))`,
      "things",
    );
    await arrive("things", { n: 1, a: 1 }, { n: 2, a: 0 }, { n: 3, a: 3 });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 3]);
    expect(reasons).toEqual([["is_fine"]]);
  });

  test.each([
    ["P0001", "raise exception 'no % here', new.word", "rejected_by_trigger", "no bad here"],
    ["a SQLSTATE of one's own", "raise 'seven' using errcode = 'AB123'", "rejected_by_database", "seven"],
    [
      "a constraint that the trigger names",
      "raise 'named' using errcode = '23514', constraint = 'house_rule'",
      "house_rule",
      "named",
    ],
    ["ASSERT", "assert new.word <> 'bad', 'asserted'", "rejected_by_trigger", "asserted"],
    ["an internal error", "raise 'inside' using errcode = 'XX000'", "rejected_by_database", "inside"],
    ["NULL in a column that must not have it", "new.word := null", "word_missing", "null value"],
  ])("a trigger that raises: %s", async (_, statement, reason, detail) => {
    await declare(
      `create table production.things (n int primary key, word text not null);
       create or replace function production.look() returns trigger language plpgsql as $$
       begin if new.word = 'bad' then ${statement}; end if; return new; end $$;
       create trigger look before insert or update on production.things for each row execute function production.look()`,
      "things",
    );
    await arrive(
      "things",
      ...Array.from({ length: 50 }, (_, n) => ({ n, word: n % 17 === 3 ? "bad" : "good" })),
    );
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 50,
      rowsWritten: 47,
      rowsRejected: 3,
    });
    expect(await rejected("things")).toMatchObject(
      [3, 20, 37].map((n) => ({ reasons: [reason], payload: { n } })),
    );
    expect((await rejected("things"))[0]!.detail).toContain(detail);
    await arrive("things", { n: 1, word: "bad" }, { n: 2, word: "new" });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 1, rowsRejected: 1 });
  });

  test("an exclusion constraint", async () => {
    await declare(
      `create table production.things (n int primary key, days daterange, constraint no_overlap exclude using gist (days with &&));
       comment on constraint no_overlap on production.things is 'The room is taken.'`,
      "things",
    );
    await arrive(
      "things",
      { n: 1, days: "[2024-01-01,2024-01-05)" },
      { n: 2, days: "[2024-01-04,2024-01-06)" },
      { n: 3, days: "[2024-01-05,2024-01-07)" },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 3]);
    expect(reasons).toEqual([["no_overlap"]]);
    expect((await rejected("things"))[0]!.detail).toMatch(
      /^The room is taken\..*Given: days = "\[2024-01-04,2024-01-06\)"/,
    );
  });

  test("unique indexes: partial, of expressions, and with equal NULLs", async () => {
    await declare(
      `create table production.things (n int primary key, code text, active boolean, a int, b int, unique nulls not distinct (a, b));
       create unique index one_active on production.things (code) where active and code not like '100%';
       create unique index one_lower on production.things (lower(code), (n / 100)) where code like 'x%'`,
      "things",
    );
    await arrive(
      "things",
      { n: 1, code: "k", active: true, a: 1 },
      { n: 2, code: "k", active: false, a: 2 },
      { n: 3, code: "k", active: true, a: 3 },
      { n: 4, code: "x1", a: 4 },
      { n: 5, code: "x1", a: 5 },
      { n: 105, code: "x1", a: 6 },
      { n: 6, a: 1 },
      { n: 7, a: 7, b: 1 },
      { n: 8, a: 7, b: 2 },
      { n: 9 },
      { n: 10 },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n as number).sort((x, y) => x - y)).toEqual([1, 2, 4, 7, 8, 9, 105]);
    expect(reasons).toEqual([["one_active"], ["one_lower"], ["things_a_b_key"], ["things_a_b_key"]]);
  });

  test("a unique value of rows whose key is drawn", async () => {
    await declare("create table production.things (n serial primary key, code text unique)", "things");
    await arrive(
      "things",
      { code: "a" },
      { code: "a" },
      { code: "b" },
      { n: 500, code: "b" },
      { n: 501, code: "c" },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ code }) => code).sort()).toEqual(["a", "b", "c"]);
    expect(reasons).toEqual([["things_code_key"], ["things_code_key"]]);
    await arrive("things", { code: "c" }, { code: "d" });
    expect((await outcome("things")).rows).toHaveLength(4);
  });

  test("constraints that wait for the end of a transaction", async () => {
    await declare(
      `create table production.parents (p int primary key);
       create table production.things (n int primary key, code int unique deferrable initially deferred,
         p int constraint fk_p references production.parents deferrable initially deferred)`,
      "parents",
      "things",
    );
    await arrive("parents", { p: 1 });
    await arrive(
      "things",
      { n: 1, code: 1, p: 1 },
      { n: 2, code: 1, p: 1 },
      { n: 3, code: 3, p: 9 },
      { n: 4, code: 4 },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 4]);
    expect(reasons.sort()).toEqual([["fk_p"], ["things_code_key"]]);
  });
});

describe("references", { tags: ["long"] }, () => {
  test("a tree in one batch, in reverse order, and over several", async () => {
    await declare(
      `create table production.things (n int primary key, parent int, n2 int check (n2 > 0),
         constraint fk_parent foreign key (parent) references production.things (n))`,
      "things",
    );
    await arrive(
      "things",
      { n: 3, parent: 2 },
      { n: 2, parent: 1 },
      { n: 1 },
      { n: 12, parent: 11 },
      { n: 11, parent: 10 },
      { n: 10, n2: 0 },
    );
    expect(await transform()).toMatchObject({ rowsWritten: 3, rowsRejected: 3 });
    expect((await rejected("things")).map(({ reasons, waiting }) => [reasons, waiting])).toEqual([
      [["things_n2_check"], false],
      [["fk_parent"], true],
      [["fk_parent"], true],
    ]);
    await arrive("things", { n: 10 }, { n: 20, parent: 21 });
    await transform();
    await arrive("things", { n: 21, parent: 22 });
    await transform();
    await arrive("things", { n: 22, parent: 22 });
    await transform();
    expect((await rows("things")).map(({ n }) => n as number).sort((a, b) => a - b)).toEqual([
      1, 2, 3, 10, 11, 12, 20, 21, 22,
    ]);
    expect((await rejected("things")).map(({ reasons }) => reasons)).toEqual([["things_n2_check"]]);
  });

  test("several parents, one by a composite key, one by a UNIQUE", async () => {
    await declare(
      `create table production.shops (country text, shop int, primary key (country, shop));
       create table production.products (product_id int primary key, sku text not null unique);
       create table production.sales (n int primary key, country text, shop int, sku text not null,
         constraint fk_shop foreign key (country, shop) references production.shops (country, shop),
         constraint fk_product foreign key (sku) references production.products (sku))`,
      "sales",
      "products",
      "shops",
    );
    expect(
      await sql(
        "select dataset from strata.datasets where dataset in ('sales', 'products', 'shops') order by place, dataset",
      ),
    ).toEqual(
      [{ dataset: "products" }, { dataset: "shops" }, { dataset: "sales" }].sort((a, b) =>
        a.dataset === "sales" ? 1 : b.dataset === "sales" ? -1 : 0,
      ),
    );
    await arrive(
      "sales",
      { n: 1, country: "DE", shop: 1, sku: "a" },
      { n: 2, country: "DE", shop: 2, sku: "b" },
      { n: 3, shop: 9, sku: "a" },
      { n: 4, country: "DE", shop: 1 },
    );
    await arrive("shops", { country: "DE", shop: 1 });
    await arrive("products", { product_id: 1, sku: "a" });
    const { rows, reasons } = await outcome("sales");
    expect(rows.map(({ n }) => n)).toEqual([1, 3].sort());
    expect(reasons).toEqual([["fk_product", "fk_shop"], ["sku_missing"]]);
    expect(await sql("select waiting_for from staging.quarantine where waiting")).toEqual([
      { waiting_for: { fk_product: { sku: "b" }, fk_shop: { country: "DE", shop: "2" } } },
    ]);
    await arrive("shops", { country: "DE", shop: 2 });
    await transform();
    expect(await rejected("sales")).toHaveLength(2);
    await arrive("products", { product_id: 2, sku: "b" });
    expect((await outcome("sales")).reasons).toEqual([["sku_missing"]]);
  });

  test("a reference wider than the key it refers to", async () => {
    await declare(
      `create table production.parents (p smallint primary key);
       create table production.things (n int primary key, p bigint constraint fk_p references production.parents)`,
      "parents",
      "things",
    );
    await arrive("things", { n: 1, p: 99999999999 }, { n: 2, p: 5 });
    await transform();
    await arrive("parents", { p: 5 });
    const { rows, reasons } = await outcome("things");
    expect(rows).toEqual([{ n: 2, p: 5 }]);
    expect(reasons).toEqual([["fk_p"]]);
  });

  onServer("a parent that ignores case", async () => {
    await declare(
      `create extension if not exists citext schema public;
       create table production.parents (p public.citext primary key);
       create table production.things (n int primary key, p public.citext constraint fk_p references production.parents)`,
      "parents",
      "things",
    );
    await arrive("things", { n: 1, p: "A" }, { n: 2, p: "B" });
    await transform();
    await arrive("parents", { p: "a" }, { p: "c" });
    await arrive("things", { n: 3, p: "C" });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 3]);
    expect(reasons).toEqual([["fk_p"]]);
  });

  test("all or none of a composite reference (MATCH FULL)", async () => {
    await declare(
      `create table production.parents (a int, b int, primary key (a, b));
       create table production.things (n int primary key, a int, b int, constraint fk_p foreign key (a, b) references production.parents match full)`,
      "parents",
      "things",
    );
    await arrive("parents", { a: 1, b: 1 });
    await arrive("things", { n: 1, a: 1, b: 1 }, { n: 2, a: 1 }, { n: 3 });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 3].sort());
    expect(reasons).toEqual([["fk_p"]]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsRead: 0 });
  });

  test("a partitioned parent", async () => {
    await declare(
      `create table production.parents (p int primary key) partition by range (p);
       create table production.parents_1 partition of production.parents for values from (0) to (10);
       create table production.parents_2 partition of production.parents for values from (10) to (20);
       create table production.things (n int primary key, p int constraint fk_p references production.parents)`,
      "parents",
      "things",
    );
    await arrive("parents", { p: 1 }, { p: 11 }, { p: 50 });
    await arrive("things", { n: 1, p: 1 }, { n: 2, p: 11 }, { n: 3, p: 12 });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([1, 2]);
    expect(reasons).toEqual([["fk_p"]]);
    expect(await rejected("parents")).toMatchObject([
      { reasons: ["rejected_by_database"], detail: expect.stringContaining("no partition") as string },
    ]);
  });

  test("ON DELETE CASCADE and SET NULL", async () => {
    await declare(
      `create table production.parents (p int primary key);
       create table production.things (n int primary key, p int constraint fk_p references production.parents on delete cascade,
         q int constraint fk_q references production.parents on delete set null)`,
      "parents",
      "things",
    );
    await arrive("parents", { p: 1 }, { p: 2 });
    await arrive("things", { n: 1, p: 1, q: 2 }, { n: 2, p: 2, q: 1 }, { n: 3, p: 3 });
    await transform();
    await sql("delete from production.parents where p = 1");
    expect(await rows("things")).toEqual([{ n: 2, p: 2, q: null }]);
    await arrive("things", { n: 1, p: 1 }, { n: 4, p: 2 });
    expect((await outcome("things")).reasons).toEqual([["fk_p"], ["fk_p"]]);
    await arrive("parents", { p: 1 }, { p: 3 });
    expect((await outcome("things")).rows.map(({ n }) => n)).toEqual([1, 2, 3, 4]);
  });

  test("two datasets that refer to each other", async () => {
    await declare(
      `create table production.teams (team int primary key, lead int);
       create table production.people (person int primary key, team int constraint fk_team references production.teams);
       alter table production.teams add constraint fk_lead foreign key (lead) references production.people`,
      "teams",
      "people",
    );
    await arrive("teams", { team: 1 }, { team: 2, lead: 9 });
    await arrive("people", { person: 1, team: 1 }, { person: 2, team: 3 });
    await transform();
    await arrive("teams", { team: 1, lead: 1 }, { team: 3, lead: 1 });
    expect(await outcome("people")).toEqual({
      rows: [
        { person: 1, team: 1 },
        { person: 2, team: 3 },
      ],
      reasons: [],
    });
    expect(await rows("teams")).toEqual([
      { team: 1, lead: 1 },
      { team: 3, lead: 1 },
    ]);
    expect(await rejected("teams")).toMatchObject([{ reasons: ["fk_lead"], waiting: true }]);
  });

  test("a value that other rows refer to and that a record takes away", async () => {
    await declare(
      `create table production.things (n int primary key, code text unique, parent text constraint fk_parent references production.things (code))`,
      "things",
    );
    await arrive("things", { n: 1, code: "a" }, { n: 2, code: "b", parent: "a" });
    await transform();
    await arrive("things", { n: 1, code: "c" }, { n: 3, code: "d" });
    const run = await transform();
    expect(run).toMatchObject({ status: "succeeded" });
    expect((await rows("things")).map(({ code }) => code)).toEqual(["a", "b", "d"]);
    expect((await rejected("things")).map(({ reasons }) => reasons)).toEqual([["fk_parent"]]);
    expect(run.rowsRead).toBeLessThan(20);
  });
});

describe("names", { tags: ["long"] }, () => {
  test.each([
    "order",
    "user",
    "two words",
    "Upper",
    "with-hyphen",
    'a"b',
    "it's",
    "percent%s",
    "colon:",
    "raw_users",
    "quarantine",
  ])("a table called %s", async (dataset) => {
    const quoted = `"${dataset.replaceAll('"', '""')}"`;
    await declare(
      `create table production.${quoted} ("Key" int generated by default as identity primary key, "select" text constraint "no: \\"%s\\"" check ("select" <> 'bad'),
           "a-b %d" int constraint "fk %1$s" references production.${quoted} ("Key"), "ü" int, constraint "u%s" unique ("ü"))`.replaceAll(
        '\\"',
        '""',
      ),
      dataset,
    );
    await arrive(
      dataset,
      { Key: 1, select: "x", ü: 1 },
      { Key: 2, select: "bad", "a-b %d": 9 },
      { Key: 3, "a-b %d": 1 },
      { Key: 4, ü: 1 },
      { ü: 5 },
      { Key: 6, "a-b %d": 77 },
    );
    const { rows, reasons } = await outcome(dataset);
    expect(rows.map(({ Key, ü }) => (ü === 5 ? 0 : Key)).sort()).toEqual([0, 1, 3]);
    expect(reasons.map((r) => r.join())).toEqual(['no: "%s",fk %1$s', "fk %1$s", "u%s"]);
    await arrive(dataset, { Key: 77 }, { Key: 9 });
    expect((await outcome(dataset)).reasons).toHaveLength(2);
    expect(await sql("select rows_behind from analytics.freshness where dataset = $1", [dataset])).toEqual([
      { rows_behind: "0" },
    ]);
  });

  test("a name too long for what is made of it", async () => {
    const dataset = "x".repeat(46);
    await sql(`create table production.${dataset} (n int primary key)`);
    await expect(sql("select strata.add_dataset($1)", [dataset])).rejects.toThrow(
      /too long for a dataset; given: 46 bytes; allowed: 45/,
    );
    await sql(`drop table production.${dataset}`);
  });
});

describe("mapping views", { tags: ["long"] }, () => {
  test("renames, computes, adds reasons with and without words, and divides by zero for one row", async () => {
    await declare(
      `create table production.things (n int primary key, full_name varchar(10) not null, share numeric(5, 2));
       create table staging.raw_things (id uuid primary key default public.uuid_generate_v4(), n int, first text, last text, part int, whole int,
         ingest_seq bigint not null generated by default as identity, ingest_xid xid8 not null default pg_current_xact_id())`,
    );
    await sql(
      `create view staging.things as select n, first || ' ' || last as full_name, part * 100.0 / whole as share,
         array_remove(array[case when part > whole then 'too_much: More than there is. Given: ' || part || '.' end, case when n < 0 then 'negative' end], null) as reasons,
         ingest_seq, ingest_xid from staging.raw_things`,
    );
    await sql("select strata.add_dataset('things')");
    await arrive(
      "things",
      { n: 1, first: "A", last: "B", part: 1, whole: 3 },
      { n: 2, first: "A", last: "B", part: 1, whole: 0 },
      { n: -3, first: "A", last: "B", part: 5, whole: 2 },
      { n: 4, first: "A", part: 1, whole: 1 },
      { n: 5, first: "Anastasia", last: "B", part: 1, whole: 1 },
      { n: 6, first: "C", last: "D" },
    );
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 6,
      rowsWritten: 2,
      rowsRejected: 4,
    });
    expect(await rows("things")).toEqual([
      { n: 1, full_name: "A B", share: 33.33 },
      { n: 6, full_name: "C D", share: null },
    ]);
    const found = Object.fromEntries(
      (await rejected("things")).map(({ payload, reasons, detail }) => [payload.n, [reasons, detail]]),
    );
    expect(found).toEqual({
      2: [["rejected_by_database"], "division by zero"],
      "-3": [["too_much", "negative"], "More than there is. Given: 5. negative"],
      4: [["full_name_missing"], "The full_name is missing."],
      5: [["full_name_too_long"], "The full_name is too long."],
    });
  });

  test("text for other types", async () => {
    await declare(
      `create table production.things (n int primary key, at date, amount numeric(5, 2), word tsquery, tags int[]);
       create table staging.raw_things (id uuid primary key default public.uuid_generate_v4(), n text, at text, amount text, word text, tags text,
         ingest_seq bigint not null generated by default as identity, ingest_xid xid8 not null default pg_current_xact_id())`,
    );
    await sql(
      "create view staging.things as select n, at, amount, to_tsquery('simple', word) as word, tags, ingest_seq, ingest_xid from staging.raw_things",
    );
    await sql("select strata.add_dataset('things')");
    await arrive(
      "things",
      { n: "1", at: "2024-01-01", amount: "1.5", word: "a & b", tags: "{1,2}" },
      { n: "x", at: "2024-02-30", amount: "12345", tags: "1" },
      { n: "3", word: "a b !" },
      { n: "4", amount: "1,5" },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows).toEqual([{ n: 1, at: "2024-01-01", amount: 1.5, word: "'a' & 'b'", tags: [1, 2] }]);
    expect(reasons.sort()).toEqual([
      ["amount_invalid"],
      ["n_invalid", "at_invalid", "amount_out_of_range", "tags_invalid"],
      ["rejected_by_database"],
    ]);
  });

  test.each(["ingest_seq, ingest_xid", "ingest_seq, ingest_xid, source_system"])(
    "rows keep their source, whether the view has it or not: %s",
    async (columns) => {
      await declare("create table production.things (n int primary key, m int)", "things");
      await sql(`create view staging.things as select n, m, ${columns} from staging.raw_things`);
      await sql("select strata.add_dataset('things')");
      const arrive = (source: string, m: number) =>
        sql("insert into staging.raw_things (n, m, source_system) values (1, $1, $2)", [m, source]);
      await arrive("crm", 1);
      await transform();
      expect(await sql("select m, strata_source from production.things")).toEqual([
        { m: 1, strata_source: "crm" },
      ]);
      await arrive("shop", 2);
      expect(await transform()).toMatchObject({ rowsReplaced: 1, rowsReplacedFromOtherSource: 1 });
    },
  );

  test("one that leaves rows away, over several batches, and one that makes several of one", async () => {
    await declare("create table production.things (n int primary key, m int)", "things");
    await sql(
      "create view staging.things as select n, m, ingest_seq, ingest_xid from staging.raw_things where n % 2 = 0",
    );
    await sql("select strata.add_dataset('things')");
    await sql("insert into staging.raw_things (n) select generate_series(1, 20500)");
    expect(await transform()).toMatchObject({ rowsRead: 20_500, rowsWritten: 10_250 });
    await sql(
      "drop view staging.things; create view staging.things as select n * 10 + i as n, m, ingest_seq, ingest_xid from staging.raw_things, generate_series(1, m) i",
    );
    await sql("truncate production.things; truncate staging.raw_things");
    await sql(
      "insert into staging.raw_things (n, m) select i, 3 from generate_series(1, 500) i union all select 30000, 41000",
    );
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 501,
      rowsWritten: 1500,
      rowsRejected: 1,
    });
    expect((await rejected("things"))[0]!.detail).toMatch(/returns \d+ or more rows for one record/);
  });

  test("one that makes several rows of one, of which a trigger rejects some", async () => {
    await declare(
      `create table production.things (n int primary key, m int);
       create or replace function production.look() returns trigger language plpgsql as $$
       begin if new.n = 22 then raise exception 'no'; end if; return new; end $$;
       create trigger look before insert on production.things for each row execute function production.look()`,
      "things",
    );
    await sql(
      "create view staging.things as select n * 10 + i as n, m, ingest_seq, ingest_xid from staging.raw_things, generate_series(1, m) i",
    );
    await sql("select strata.add_dataset('things')");
    await arrive("things", { n: 1, m: 1 }, { n: 2, m: 4 }, { n: 3, m: 2 });
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ n }) => n)).toEqual([11, 31, 32]);
    expect(reasons).toHaveLength(1);
  });

  test("columns that it leaves away keep what production has", async () => {
    await declare(
      "create table production.things (n int primary key, a int not null, top int not null default 10, stamp text, constraint below check (a <= top))",
      "things",
    );
    await sql("create view staging.things as select n, a, ingest_seq, ingest_xid from staging.raw_things");
    await sql("select strata.add_dataset('things')");
    await arrive("things", { n: 1, a: 5 }, { n: 2, a: 50 });
    expect((await outcome("things")).reasons).toEqual([["below"]]);
    await sql("update production.things set top = 100, stamp = 'seen'");
    await arrive("things", { n: 1, a: 60 });
    expect((await outcome("things")).rows).toEqual([{ n: 1, a: 60, top: 100, stamp: "seen" }]);
  });

  test.each([
    [
      "without ingest_seq",
      "select n, a, ingest_xid from staging.raw_things",
      /staging.things lacks the columns ingest_xid and ingest_seq/,
    ],
    [
      "without a needed column",
      "select n, ingest_seq, ingest_xid from staging.raw_things",
      /has no column for a; production.things requires it/,
    ],
    [
      "with an unknown column",
      "select n, a, a as b, ingest_seq, ingest_xid from staging.raw_things",
      /columns that production.things does not have: b/,
    ],
    [
      "with reasons that are no array",
      "select n, a, 'x' as reasons, ingest_seq, ingest_xid from staging.raw_things",
      /reasons of the mapping view staging.things must be of type text\[\]/,
    ],
  ])("one %s is an error", async (_, query, message) => {
    await declare("create table production.things (n int primary key, a int not null)", "things");
    await sql(`create view staging.things as ${query}`);
    await expect(sql("select strata.add_dataset('things')")).rejects.toThrow(message);
  });

  test("one that was broken afterwards stops its dataset, not the run", async () => {
    await declare("create table production.other (n int primary key)", "other");
    await declare("create table production.things (n int primary key)", "things");
    await sql("create view staging.things as select n, ingest_xid from staging.raw_things");
    await arrive("things", { n: 1 });
    await arrive("other", { n: 1 });
    expect(await transform()).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/^things: .*ingest_seq/) as string,
    });
    expect(await rows("other")).toEqual([{ n: 1 }]);
    await sql("drop view staging.things");
    expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 1 });
  });
});

describe("changes of a table", { tags: ["long"] }, () => {
  test("a dropped one does not stop the others", async () => {
    await declare("create table production.gone (n int primary key)", "gone");
    await declare("create table production.things (n int primary key)", "things");
    await arrive("gone", { n: 1 });
    await arrive("things", { n: 1 });
    await sql("drop table production.gone");
    expect((await outcome("things")).rows).toEqual([{ n: 1 }]);
    expect(await sql("select dataset from analytics.freshness where dataset = 'gone'")).toHaveLength(1);
    await expect(readDataset(database().pool, "gone")).rejects.toThrow(
      'The dataset "gone" has lost its table in production or staging',
    );
  });

  test("a new column, and a new rule that rows in staging break", async () => {
    await declare("create table production.things (n int primary key, a int)", "things");
    await arrive("things", { n: 1, a: 1 }, { n: 2, a: -2 });
    await sql(
      "alter table production.things add column b text default 'none', add constraint positive_a check (a > 0)",
    );
    expect((await outcome("things")).reasons).toEqual([["positive_a"]]);
    await sql("select strata.add_dataset('things')");
    await arrive("things", { n: 1, a: 1, b: "x" });
    expect((await outcome("things")).rows).toEqual([{ n: 1, a: 1, b: "x" }]);
    await sql("alter table production.things drop column a");
    await arrive("things", { n: 3, b: "y" });
    expect((await outcome("things")).rows).toHaveLength(2);
  });

  test("a column that is dropped, or has another name, is no field any more", async () => {
    await declare("create table production.things (n int primary key, a text, b text)", "things");
    await sql("alter table production.things drop column a");
    await sql("alter table production.things rename column b to c; select strata.add_dataset('things')");
    const fields = "select field, type from strata.fields('things')";
    expect((await sql(fields)).map(({ field }) => field)).toEqual(["n", "c"]);
    await sql(
      "create view staging.things as select n, coalesce(c, b) as c, ingest_seq, ingest_xid from staging.raw_things",
    );
    expect((await sql(fields)).map(({ field }) => field)).toEqual(["n", "a", "b", "c"]);
  });

  test("a column that holds more takes more", async () => {
    await declare(
      "create table production.things (n int primary key, a int, b date, c int, d numeric, e varchar(3))",
      "things",
    );
    await arrive("things", { n: 1, a: 1, b: "2026-01-01", c: 1, d: 1.5, e: "x" });
    await sql(
      `alter table production.things alter n type bigint, alter a type numeric(12, 2), alter b type timestamptz,
         alter c type text, alter d type int, alter e type varchar(5)`,
    );
    await sql("select strata.add_dataset('things')");
    expect(await sql("select field, type from strata.fields('things')")).toEqual([
      { field: "n", type: "bigint" },
      { field: "a", type: "numeric" },
      { field: "b", type: "timestamp with time zone" },
      { field: "c", type: "text" },
      // What is in staging may not fit.
      { field: "d", type: "numeric" },
      { field: "e", type: "text" },
    ]);
    await arrive("things", { n: 3e9, a: 2.5, b: "2026-01-01T12:00:00Z", c: "two", d: 2, e: "four" });
    expect((await outcome("things")).rows).toEqual([
      { n: 1, a: 1, b: "2026-01-01T00:00:00+00:00", c: "1", d: 2, e: "x" },
      { n: 3e9, a: 2.5, b: "2026-01-01T12:00:00+00:00", c: "two", d: 2, e: "four" },
    ]);
  });

  test("add_dataset again changes nothing", async () => {
    await declare(
      "create table production.things (n int primary key, parent int references production.things, updated_at timestamptz, doc jsonb)",
      "things",
    );
    const catalogue = () =>
      sql(
        `select c.oid::text, c.relname, c.relacl::text, obj_description(c.oid), (select jsonb_agg(to_jsonb(a) order by attnum) from pg_attribute a where a.attrelid = c.oid) as columns,
           (select jsonb_agg(pg_get_triggerdef(t.oid) order by tgname) from pg_trigger t where t.tgrelid = c.oid) as triggers
         from pg_class c where c.relname like '%things%' order by c.oid`,
      );
    const before = await catalogue();
    await sql("select strata.add_dataset('things')");
    expect(await catalogue()).toEqual(before);
  });

  test("remove_dataset leaves rows and rights", async () => {
    await declare("create table production.things (n int primary key)", "things");
    await arrive("things", { n: 1 }, {});
    await transform();
    await arrive("things", { n: 2 });
    await sql("select strata.remove_dataset('things')");
    expect(await transform()).toMatchObject({ rowsRead: 0 });
    expect(await rows("things")).toEqual([{ n: 1 }]);
    expect(await rejected("things")).toHaveLength(1);
    await expect(sql("select strata.remove_dataset('things')")).rejects.toThrow(
      /There is no dataset 'things'; there are: .*users/,
    );
    await sql("select strata.add_dataset('things')");
    expect((await outcome("things")).rows).toEqual([{ n: 1 }, { n: 2 }]);
  });

  test("a partitioned one", async () => {
    await declare(
      `create table production.things (day date, n int, word text, updated_at timestamptz default current_timestamp, primary key (day, n), unique (day, word)) partition by range (day);
       create table production.things_2024 partition of production.things for values from ('2024-01-01') to ('2025-01-01');
       create table production.things_2025 partition of production.things for values from ('2025-01-01') to ('2026-01-01')`,
      "things",
    );
    await arrive(
      "things",
      { day: "2024-05-01", n: 1, word: "a" },
      { day: "2025-05-01", n: 1, word: "a" },
      { day: "2030-01-01", n: 1 },
      { day: "2024-05-01", n: 2, word: "a" },
      { day: "2024-05-01", n: 1, word: "b" },
    );
    const { rows, reasons } = await outcome("things");
    expect(rows.map(({ day, n, word }) => [day, n, word])).toEqual([
      ["2024-05-01", 1, "b"],
      ["2025-05-01", 1, "a"],
    ]);
    expect(reasons.sort()).toEqual([["rejected_by_database"], ["things_day_word_key"]]);
  });

  test("one with row-level security", async () => {
    await declare(
      `create table production.things (n int primary key, tenant text, a int check (a > 0));
       alter table production.things enable row level security;
       create policy own on production.things using (tenant = current_setting('strata.sub', true))`,
      "things",
    );
    await arrive(
      "things",
      { n: 1, tenant: "x", a: 1 },
      { n: 2, tenant: "y", a: 0 },
      { n: 1, tenant: "x", a: 2 },
    );
    expect(await outcome("things")).toEqual({
      rows: [{ n: 1, tenant: "x", a: 2 }],
      reasons: [["things_a_check"]],
    });
  });
});

describe("the order of arrival", () => {
  test("last write wins, whatever a retry brings back", async () => {
    await declare(
      "create table production.things (n int primary key, a int constraint odd check (a % 2 = 1))",
      "things",
    );
    await arrive("things", { n: 1, a: 2 }, { n: 1, a: 3 }, { n: 2, a: 4 });
    expect(await transform()).toMatchObject({ rowsRead: 3, rowsWritten: 1, rowsRejected: 2 });
    await sql("alter table production.things drop constraint odd");
    await retry("things");
    expect(await transform()).toMatchObject({ rowsRead: 2, rowsWritten: 1, rowsRejected: 0 });
    expect(await rows("things")).toEqual([
      { n: 1, a: 3 },
      { n: 2, a: 4 },
    ]);
    expect(await rejected("things")).toEqual([]);
  });

  test("rows that are read again change nothing", async () => {
    await declare(
      "create table production.things (n int primary key, a int, doc json, at point, updated_at timestamptz not null default clock_timestamp())",
      "things",
    );
    await arrive("things", { n: 1, a: 1, doc: { x: 1 }, at: "(1,2)" }, { n: 2 });
    await transform();
    const before = await rows("things");
    await sql("update strata.datasets set xid = '0', seq = 0 where dataset = 'things'");
    expect(await transform()).toMatchObject({ rowsRead: 2, rowsWritten: 0 });
    await arrive("things", { n: 1, a: 1, doc: { x: 1 }, at: "(1,2)" });
    expect(await transform()).toMatchObject({ rowsRead: 1, rowsWritten: 0 });
    expect(await rows("things")).toEqual(before);
  });
});

test("counts, freshness and cleanup of a dataset", async () => {
  await declare("create table production.things (n int primary key, a int check (a > 0))", "things");
  await declare("create table production.others (n int primary key)", "others");
  await arrive("things", { n: 1, a: 1 }, { n: 2, a: 0 }, { n: 1, a: 2 });
  await arrive("others", { n: 1 }, {});
  expect(await sql("select rows_behind from analytics.freshness where dataset = 'things'")).toEqual([
    { rows_behind: "3" },
  ]);
  const run = await transform();
  expect(run).toMatchObject({ rowsRead: 5, rowsWritten: 2, rowsRejected: 2 });
  expect(
    await sql(
      "select dataset, rows_read, rows_written, rows_rejected from strata.run_datasets where run_id = $1 order by 1",
      [run.id],
    ),
  ).toEqual([
    { dataset: "others", rows_read: "2", rows_written: "1", rows_rejected: "1" },
    { dataset: "things", rows_read: "3", rows_written: "1", rows_rejected: "1" },
  ]);
  expect(
    await sql(
      "select rows_behind, refreshed_at is not null as done from analytics.freshness where dataset = 'things'",
    ),
  ).toEqual([{ rows_behind: "0", done: true }]);
  await sql("update staging.raw_things set ingested_at = ingested_at - interval '60 days'");
  await arrive("things", { n: 3, a: 3 });
  await sql("update staging.raw_things set ingested_at = ingested_at - interval '60 days' where n = 3");
  await sql("select staging.cleanup_old_data(30)");
  expect(await sql("select n from staging.raw_things")).toEqual([{ n: 3 }]);
  await retry("things");
  expect((await outcome("things")).reasons).toEqual([["things_a_check"]]);
});

describe("rights", () => {
  const may = async (role: string, table: string, right: string) =>
    (
      await sql<{ may: boolean }>("select has_any_column_privilege($1, $2, $3) as may", [role, table, right])
    )[0]!.may;

  test("by default readers read, operators write and ingestors push, new columns included", async () => {
    await declare("create table production.things (n serial primary key, a int)", "things");
    await sql("alter table production.things add column b int; select strata.add_dataset('things')");
    expect(
      await sql(
        `select has_column_privilege('strata_reader', 'production.things', 'b', 'select') as reads, has_column_privilege('strata_operator', 'production.things', 'b', 'update') as writes,
           has_column_privilege('strata_operator', 'production.things', 'n', 'update') as rekeys, has_column_privilege('strata_operator', 'production.things', 'source_seq', 'insert') as forges,
           has_table_privilege('strata_ingestor', 'staging.raw_things', 'insert') as pushes, has_sequence_privilege('strata_operator', 'production.things_n_seq', 'usage') as draws`,
      ),
    ).toEqual([{ reads: true, writes: true, rekeys: false, forges: false, pushes: true, draws: true }]);
  });

  test("those made by hand stay", async () => {
    await sql(
      "create table production.things (n int primary key, secret text); grant select (n) on production.things to strata_reader",
    );
    await sql("select strata.add_dataset('things')");
    await sql("alter table production.things add column b int; select strata.add_dataset('things')");
    expect(await may("strata_operator", "production.things", "insert")).toBe(false);
    expect(
      await sql(
        "select has_column_privilege('strata_reader', 'production.things', 'secret', 'select') as a, has_column_privilege('strata_reader', 'production.things', 'b', 'select') as b",
      ),
    ).toEqual([{ a: false, b: false }]);
  });
});

describe("wrong declarations", { tags: ["long"] }, () => {
  test.each([
    ["strata.add_dataset(null)", "There is no table production.null; a dataset needs one."],
    ["strata.add_dataset('')", 'There is no table production.""; a dataset needs one.'],
    [
      "strata.add_dataset('things', owned_by_source => null)",
      "owned_by_source must be true or false, not null.",
    ],
    [
      "strata.add_dataset('things', 'nope')",
      "no column 'nope' of type jsonb for extra fields; columns of this type: doc.",
    ],
    ["strata.add_dataset('numbered')", "has a column source_seq or strata_source of another type"],
    [
      "strata.add_dataset('things_1')",
      "production.things_1 is a partition; a dataset is the whole table, production.parted.",
    ],
    ["strata.remove_dataset(null)", "There is no dataset null; there are: "],
    ["strata.announce_changes(null)", "There is no table production.null with a primary key"],
    ["strata.announce_changes('things', null)", "enabled must be true or false, not null."],
    [
      "strata.add_metric(null, 'select 1 as a')",
      "The name of a metric is not valid; given: null; allowed are at most 50",
    ],
    ["strata.add_metric('wrong', null)", "The query of wrong is empty."],
    ["strata.add_metric('wrong', ' ;')", "The query of wrong is empty."],
    ["strata.add_metric('wrong', 'select from production.things')", "The query of wrong has no columns."],
    [
      "strata.add_metric('wrong', 'select 1 as a; drop table production.things')",
      'syntax error at or near ";"',
    ],
    [
      "strata.add_metric('wrong', 'select 1 as a); drop table production.things; --')",
      'syntax error at or near ")"',
    ],
    ["strata.count_differences('nope')", "There is no metric 'nope'; there are: "],
    [
      "strata.refresh(from_date => '-infinity', to_date => 'infinity')",
      "at most 36600 days apart; given: -infinity to infinity.",
    ],
    [
      "production.extend_dim_date('2026-01-01', 'infinity')",
      "dim_date cannot be extended from 2026-01-01 to infinity",
    ],
  ])("%s says what is wrong", async (call, message) => {
    await declare("create table production.things (n int primary key, doc jsonb)", "things");
    await sql(`create table production.numbered (n int primary key, source_seq text);
      create table production.parted (n int primary key) partition by list (n);
      create table production.things_1 partition of production.parted for values in (1)`);
    await expect(sql(`select ${call}`)).rejects.toThrow(message);
    await sql("drop table production.numbered, production.parted");
  });

  test("a missing table comes with those that there are", async () => {
    await expect(sql("select strata.add_dataset('user')")).rejects.toMatchObject({
      hint: expect.stringMatching(/production\.\"user\" \(…\)\. Existing tables: .*users\.$/) as string,
    });
  });

  test("a metric's query may end in a semicolon and a comment", async () => {
    await sql(
      "select strata.add_metric('right', E'select 1 as a;\\r\\n'); select strata.add_metric('right', 'select 2 as a -- two')",
    );
    await sql("select strata.refresh()");
    expect(await sql('select a from analytics."right"')).toEqual([{ a: 2 }]);
    await sql("select strata.remove_metric('right'); drop table analytics.\"right\"");
  });
});
