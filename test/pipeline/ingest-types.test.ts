/** @module-tag long */
// Any type that a column may have: certain values, doubts, and what JSON holds that CSV does not.
import { Readable } from "node:stream";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { ingest, type IngestOptions } from "../../src/ingest/ingest.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const sql = async <T = Record<string, unknown>>(text: string): Promise<T[]> =>
  (await database.pool.query(text)).rows as T[];

beforeAll(async () => {
  database = await createDatabase();
  await sql(`
    create type production.mood as enum ('sad', 'happy');
    create domain production.percent as integer check (value between 0 and 100);
    create type production.size as (width integer, height integer);
    create table production."Odd things" (
      "the key" text primary key,
      small smallint, num numeric(6, 2), real_number real, flag boolean, day date, at timestamptz, id uuid, plain json,
      mood production.mood, percent production.percent, size production.size, numbers integer[], words text[], docs jsonb[],
      days date[], dates daterange, span int4range, spans numrange, period interval, place geometry(Point, 4326), spot geography,
      code char(3), bytes bytea
    );
    select strata.add_dataset('Odd things');
    create table production.pairs (a integer, b varchar(3), rest jsonb not null, primary key (a, b));
    select strata.add_dataset('pairs', 'rest');`);
});
afterAll(() => database.drop());
beforeEach(() => sql('truncate staging."raw_Odd things", staging.raw_pairs, staging.quarantine'));

const send = (dataset: string, content: string, options: Partial<IngestOptions> = {}) =>
  ingest(database.pool, dataset, Readable.from([content]), { trigger: "cli", ...options });

/** Lands one field, from NDJSON, and gives what is in staging. */
async function land(field: string, value: unknown, shown = `"${field}"::text`): Promise<unknown> {
  await send("Odd things", JSON.stringify({ "the key": "k", [field]: value }));
  const rows = await sql<{ value: unknown }>(`select ${shown} as value from staging."raw_Odd things"`);
  if (rows[0]) return rows[0].value;
  const [entry] = await sql<{ reasons: string[] }>("select reasons from staging.quarantine");
  return entry?.reasons;
}

it.each([
  ["small", 32767, "32767"],
  ["small", 32768, ["out_of_range"]],
  ["num", "9999.99", "9999.99"],
  ["real_number", 1e39, ["out_of_range"]],
  ["real_number", 1.5, "1.5"],
  ["flag", true, "true"],
  ["flag", "off", "false"],
  ["flag", "perhaps", ["invalid_value"]],
  ["day", "2024-02-29", "2024-02-29"],
  ["day", "2023-02-29", ["impossible_date"]],
  ["day", "20240229", "2024-02-29"],
  ["dates", "[2024-02-28,2024-02-29]", "[2024-02-28,2024-03-01)"],
  ["dates", "2024-02-28", ["invalid_value"]],
  ["at", "2024-06-01T12:00:00+02:00", "2024-06-01 10:00:00+00"],
  ["at", "2024-06-01", "2024-06-01 00:00:00+00"],
  ["at", "2024-06-01 12:00:00 Europe/Vienna", "2024-06-01 10:00:00+00"],
  ["id", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
  ["id", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
  ["id", "x", ["invalid_value"]],
  ["plain", { a: [1] }, '{"a":[1]}'],
  ["mood", "happy", "happy"],
  ["mood", "so-so", ["invalid_value"]],
  ["size", "(1,2)", "(1,2)"],
  ["size", { width: 1 }, ["invalid_text"]],
  ["numbers", [1, null, 3], "{1,NULL,3}"],
  [
    "numbers",
    [
      [1, 2],
      [3, 4],
    ],
    "{{1,2},{3,4}}",
  ],
  ["numbers", "{1,2}", "{1,2}"],
  ["numbers", ["x"], ["invalid_value"]],
  ["numbers", { a: 1 }, ["invalid_text"]],
  ["words", ['say "hi"', "a,b", "null", "", "\\", true], '{"say \\"hi\\"","a,b","null","","\\\\",true}'],
  ["words", [{ a: 1 }], ["invalid_text"]],
  ["docs", [{ a: 'x"y' }, [1]], '{"{\\"a\\": \\"x\\\\\\"y\\"}",[1]}'],
  ["days", ["2024-01-31"], "{2024-01-31}"],
  ["days", ["06/10/2011"], ["impossible_date"]],
  ["span", "[1,10)", "[1,10)"],
  ["span", [1, 10], ["invalid_text"]],
  ["spans", "[1.5,2e3)", "[1.5,2000)"],
  ["spans", "[1e131071,)", ["too_long"]],
  ["period", "3 days", "3 days"],
  ["code", "abcd", "abcd"],
  ["bytes", "\\x00ff", "\\x00ff"],
  ["the key", ["a"], ["invalid_text"]],
  ["nothing", 1, undefined],
] as [string, unknown, unknown][])("%s takes %j as %j", async (field, value, expected) => {
  if (expected === undefined) return await expect(land(field, value)).rejects.toThrow("Unknown column");
  expect(await land(field, value)).toEqual(expected);
});

it.each([
  ["GeoJSON", { type: "Point", coordinates: [16.37, 48.2] }],
  ["GeoJSON as text", '{"type":"Point","coordinates":[16.37,48.2]}'],
  ["WKT", "POINT(16.37 48.2)"],
  ["EWKT", "SRID=4326;POINT(16.37 48.2)"],
])("positions are taken as %s", async (_what, value) => {
  expect(await land("place", value, "public.st_asewkt(place)")).toBe("SRID=4326;POINT(16.37 48.2)");
  await sql('truncate staging."raw_Odd things"');
  expect(await land("spot", value, "public.st_astext(spot)")).toBe("POINT(16.37 48.2)");
});

it("rejects positions of another kind", async () => {
  expect(
    await land("place", {
      type: "LineString",
      coordinates: [
        [0, 0],
        [1, 1],
      ],
    }),
  ).toEqual(["invalid_value"]);
  await sql("truncate staging.quarantine");
  expect(await land("place", [1, 2])).toEqual(["invalid_text"]);
});

it("takes JSON, arrays and positions as text of CSV", async () => {
  const header = "the key,plain,numbers,words,place,docs";
  const lines = [
    'a,"{""x"": 1}","[1,2]","[""a,b""]","{""type"":""Point"",""coordinates"":[1,2]}","[{""a"":1}]"',
    'b,,"{3,4}",[0:1]={x\\,y},POINT(1 2),',
  ];
  const run = await send("Odd things", [header, ...lines].join("\n"), { format: "csv" });
  expect(run).toMatchObject({ rowsRead: 2, rowsWritten: 1, rowsRejected: 1 });
  expect(
    await sql(
      'select plain, numbers, words, public.st_astext(place) as place, docs from staging."raw_Odd things"',
    ),
  ).toEqual([{ plain: { x: 1 }, numbers: [1, 2], words: ["a,b"], place: "POINT(1 2)", docs: [{ a: 1 }] }]);
});

it("needs every field of a key, and puts other fields where the dataset says", async () => {
  await expect(send("pairs", "a,c\n1,2\n")).rejects.toThrow('No column for "b", the key of pairs');
  const run = await send("pairs", "a,b,c\n1,xy,2\n1,,2\n");
  expect(run).toMatchObject({ rowsWritten: 1, rowsRejected: 1, reasons: { missing_key: 1 } });
  await send("pairs", '{"a": 2, "b": "z", "rest": {"d": 1}, "e": [1]}');
  expect(await sql("select a, b, rest from staging.raw_pairs order by a")).toEqual([
    { a: 1, b: "xy", rest: { c: "2" } },
    { a: 2, b: "z", rest: { d: 1, e: [1] } },
  ]);
});

it("names the datasets that there are", async () => {
  await expect(send("orders", "id\n1\n")).rejects.toThrow(
    'There is no dataset "orders"; there are: Odd things, pairs, users, events, transactions',
  );
});
