// What arrives, lands: good rows in staging, the others in quarantine, nothing in between.
import { PassThrough, Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ingest, type IngestOptions, type IngestRun } from "../../src/ingest/ingest.ts";
import { fieldNames, readDataset } from "../../src/ingest/dataset.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());
beforeEach(() =>
  database.pool.query(
    "truncate staging.raw_users, staging.raw_transactions, staging.raw_events, staging.quarantine",
  ),
);

const send = (
  dataset: string,
  content: string | Buffer | Buffer[],
  options: Partial<IngestOptions> = {},
): Promise<IngestRun> =>
  ingest(database.pool, dataset, Readable.from([content].flat(), { objectMode: false }), {
    trigger: "cli",
    ...options,
  });

async function rows<T = Record<string, unknown>>(text: string): Promise<T[]> {
  return (await database.pool.query(text)).rows as T[];
}
const landed = async (dataset: string) =>
  rows(
    `select ${fieldNames(await readDataset(database.pool, dataset))
      .map((field) => `${field}::text`)
      .join(", ")}, source_system from staging.raw_${dataset} order by ingest_seq`,
  );
const quarantined = () =>
  rows<{ reasons: string[]; source_line: string; raw_text: string; payload: unknown; detail: string }>(
    `select reasons, source_line::int, raw_text, payload, detail, source_name, stage
     from staging.quarantine order by source_line`,
  );

describe("formats", () => {
  const good = [
    {
      user_id: "1",
      username: "anna, the first",
      email: "anna@example.org",
      created_at: "2025-01-31 10:00:00",
      country: "Österreich",
      source_system: "crm",
    },
    {
      user_id: "2",
      username: 'a "quoted"\nname\twith \\ signs',
      email: null,
      created_at: null,
      country: null,
      source_system: "crm",
    },
  ];
  const csv =
    "\uFEFFcountry,user_id,username,email,created_at\r\n" +
    'Österreich,1,"anna, the first",anna@example.org,2025-01-31 10:00:00\r\n' +
    ',2,"a ""quoted""\nname\twith \\ signs","",\r\n';
  const ndjson = good
    .map(({ source_system: _, ...user }) => JSON.stringify({ ...user, user_id: Number(user.user_id) }))
    .join("\n");

  it.each([
    ["CSV with byte order mark, CR LF, any order of columns", csv],
    ["CSV without the last line's end", csv.trimEnd()],
    ["gzipped CSV", gzipSync(csv)],
    ["CSV that arrives byte by byte", [...Buffer.from(csv)].map((byte) => Buffer.from([byte]))],
    ["NDJSON", ndjson],
    [
      "gzipped NDJSON in two members",
      Buffer.concat([gzipSync(ndjson.slice(0, 40)), gzipSync(ndjson.slice(40))]),
    ],
    ["NDJSON with empty lines and CR LF", `\n${ndjson.replace("\n", "\r\n\r\n")}\r\n`],
  ])("%s", async (_name, content) => {
    const run = await send("users", content, { sourceSystem: "crm" });
    expect(run).toMatchObject({
      step: "ingest",
      status: "succeeded",
      rowsRead: 2,
      rowsWritten: 2,
      error: null,
    });
    expect(await landed("users")).toEqual(good);
  });

  it("renames and leaves out columns", async () => {
    const map = ["customer=user_id", "note="];
    await send("users", "customer,note,username\n5,x,five\n", { map });
    await send("users", '{"customer": 6, "note": "x", "username": "six"}', { map });
    expect(await landed("users")).toMatchObject([
      { user_id: "5", username: "five" },
      { user_id: "6", username: "six" },
    ]);
  });

  it("puts fields without a column into event_data", async () => {
    await send(
      "events",
      'event_id,page,event_data,latitude\n1,/home,"{""n"": 12345678901234567890.10}",48.2\n2,,,\n',
    );
    await send(
      "events",
      '{"event_id": 9007199254740993, "device": {"os": "x"}, "__proto__": 1, "event_data": [1]}',
    );
    const events = await rows(
      "select event_id::text, event_data::text, latitude from staging.raw_events order by ingest_seq",
    );
    expect(events).toEqual([
      { event_id: "1", event_data: '{"n": 12345678901234567890.10, "page": "/home"}', latitude: 48.2 },
      { event_id: "2", event_data: null, latitude: null },
      {
        event_id: "9007199254740993",
        event_data: '{"device": {"os": "x"}, "__proto__": 1, "event_data": [1]}',
        latitude: null,
      },
    ]);
  });

  it("keeps event_data whole beside fields of the same names", async () => {
    await send("events", '{"event_id": 1, "event_data": {"a": 1, "b": 2}, "a": 2}');
    await send("events", 'event_id,event_data,a,b\n2,"{""a"": 1}",2,\n3,"{""a"": 1}",,2\n');
    expect(await rows("select event_data from staging.raw_events order by ingest_seq")).toEqual([
      { event_data: { event_data: { a: 1, b: 2 }, a: 2 } },
      { event_data: { event_data: { a: 1 }, a: "2" } },
      { event_data: { a: 1, b: "2" } },
    ]);
  });
});

describe("values", () => {
  it("converts times to UTC and never cuts their offset off", async () => {
    const times = {
      "2025-06-01T12:00:00+02:00": "2025-06-01 10:00:00",
      "2025-06-01 00:30:00.123456-0530": "2025-06-01 06:00:00.123456",
      "2025-01-01T00:00+14": "2024-12-31 10:00:00",
      "2025-06-01T12:00:00Z": "2025-06-01 12:00:00",
      "2025-06-01 12:00": "2025-06-01 12:00:00",
      "2024-02-29": "2024-02-29 00:00:00",
      "June 1, 2025 12:00 PST": "2025-06-01 20:00:00",
      "2025-06-01 12:00:00 Europe/Vienna": "2025-06-01 10:00:00",
    };
    await send(
      "users",
      Object.keys(times)
        .map((time, i) => JSON.stringify({ user_id: i, created_at: time }))
        .join("\n"),
    );
    expect((await landed("users")).map((user) => user.created_at)).toEqual(Object.values(times));
  });

  it("quarantines what cannot be typed, with every reason, text, line and fields", async () => {
    const lines = [
      "transaction_id,user_id,amount,status,transaction_date",
      "1,1,10.50,completed,2025-01-01 00:00:00",
      "x,1,ten,completed,2025-01-01",
      "2,1,1e3,completed,2025-02-30 00:00:00",
      `3,1,1,${"s".repeat(51)},2025-01-01`,
      "99999999999,1,1,completed,yesterdayish",
      ",1,1,completed,2025-01-01",
      "4,1,1",
      '5,1,1,"comp"leted,2025-01-01',
      "6,1,.5,completed,2025-01-01",
    ];
    const run = await send("transactions", lines.join("\n"), { sourceName: "may.csv" });
    expect(run).toMatchObject({ status: "succeeded", rowsRead: 9, rowsWritten: 2, rowsRejected: 7 });
    expect((await landed("transactions")).map((row) => [row.transaction_id, row.amount])).toEqual([
      ["1", "10.50"],
      ["6", "0.5"],
    ]);
    const bad = await quarantined();
    expect(bad.map(({ source_line, reasons }) => [source_line, reasons])).toEqual([
      [3, ["invalid_integer", "invalid_number"]],
      [4, ["impossible_date"]],
      [5, ["too_long"]],
      [6, ["out_of_range", "invalid_timestamp"]],
      [7, ["missing_key"]],
      [8, ["wrong_field_count"]],
      [9, ["unparseable"]],
    ]);
    expect(bad[0]).toMatchObject({
      raw_text: lines[2],
      payload: {
        transaction_id: "x",
        user_id: "1",
        amount: "ten",
        status: "completed",
        transaction_date: "2025-01-01",
      },
      detail:
        'transaction_id: invalid input syntax for type integer: "x". amount: invalid input syntax for type numeric: "ten".',
      source_name: "may.csv",
      stage: "ingest",
    });
    expect(bad.at(-1)).toMatchObject({ raw_text: lines[8], payload: null });
  });

  it("quarantines NDJSON lines that are no rows", async () => {
    const lines = [
      '{"user_id": 1}',
      "{nonsense",
      "[1, 2]",
      '{"user_id": 2, "colour": "red"}',
      '{"user_id": 3, "username": {"first": "a"}}',
      '{"user_id": 4, "username": "a\\u0000b"}',
      '{"user_id": 5, "username": "\\ud800"}',
      '{"user_id": true}',
      '{"user_id": "6", "username": 7}',
    ];
    await send("users", lines.join("\n"));
    expect((await landed("users")).map((user) => [user.user_id, user.username])).toEqual([
      ["1", null],
      ["6", "7"],
    ]);
    expect((await quarantined()).map(({ source_line, reasons }) => [source_line, reasons[0]])).toEqual([
      [2, "unparseable"],
      [3, "unparseable"],
      [4, "unknown_field"],
      [5, "invalid_text"],
      [6, "invalid_encoding"],
      [7, "invalid_encoding"],
      [8, "invalid_integer"],
    ]);
  });

  it("keeps events whose data jsonb does not take out of staging", async () => {
    const deep = "[".repeat(20_000) + "]".repeat(20_000);
    const lines = [
      '{"event_id": 1, "a": "\\u0000"}',
      '{"event_id": 2, "a": "\\udc00"}',
      '{"event_id": 3, "a": 1e999999}',
      `{"event_id": 4, "a": ${deep}}`,
      '{"event_id": 5, "a": "tab\\t and \\u0001"}',
      '{"event_id": 6, "a": 1e400}',
    ];
    const run = await send("events", lines.join("\n"));
    expect(run).toMatchObject({ status: "succeeded", rowsWritten: 1, rowsRejected: 5 });
    expect((await quarantined()).map(({ source_line, reasons }) => [source_line, ...reasons])).toEqual([
      [1, "invalid_json"],
      [2, "invalid_json"],
      [3, "out_of_range"],
      [4, "unparseable"],
      [6, "out_of_range"],
    ]);
  });

  it("rejects numbers that no client can hold, however short they are written", async () => {
    const bomb = `[${"1e131071,".repeat(4000)}0]`;
    const lines = [
      `{"event_id": 1, "a": ${bomb}}`,
      '{"event_id": 2, "event_data": {"a": {"b": -1e309}}}',
      '{"event_id": 3, "a": 1e-400}',
      '{"event_id": 4, "a": [1e308, 4.9e-324, 0e999, "1e999", 0.12345678901234567890123]}',
      `{"event_id": 5, "a": [${"1e300,".repeat(5000)}0]}`,
      `{"event_id": 6, "latitude": 1e999}`,
    ];
    for (const again of [0, 1]) {
      await send("events", lines.join("\n"));
      expect(await rows("select event_id::int as id from staging.raw_events")).toHaveLength(again + 1);
    }
    const found = await quarantined();
    expect(found.map(({ source_line, reasons }) => [source_line, ...reasons])).toEqual(
      [
        [1, "out_of_range"],
        [2, "out_of_range"],
        [3, "out_of_range"],
        [5, "too_long"],
        [6, "out_of_range"],
      ].flatMap((entry) => [entry, entry]),
    );
    expect(found[0]).toMatchObject({
      detail:
        "event_data: the number 1e131071 is beyond what a double can hold (5e-324 to 1.8e308, and negative).",
      payload: null,
      raw_text: lines[0],
    });
    expect(found[6]!.detail).toMatch(/has 15\d{5} characters with the numbers written out; allowed: 1048576/);
    await send("events", `event_id,event_data\n7,${bomb.replaceAll(",", "")}\n8,"${bomb}"\n`);
    expect((await quarantined()).filter(({ source_line }) => Number(source_line) < 4)).toHaveLength(8);
  });

  it("bounds the digits of a number", async () => {
    const amounts = [
      "1e131071",
      "1e-16383",
      "1e1000",
      "1e999",
      `0.${"1".repeat(1000)}`,
      `0.${"1".repeat(1001)}`,
    ];
    const content = amounts.map((amount, id) => `${id},${amount}`).join("\n");
    await send("transactions", `transaction_id,amount\n${content}\n`);
    expect((await landed("transactions")).map((row) => row.transaction_id)).toEqual(["3", "4"]);
    const [entry] = await quarantined();
    expect(entry).toMatchObject({
      reasons: ["out_of_range"],
      detail: "amount: more than 1000 digits before or after the decimal point.",
    });
    await send("transactions", '{"transaction_id": 9, "amount": 1e131071}');
    expect((await quarantined())[0]).toMatchObject({ reasons: ["out_of_range"], payload: null });
    const [answer] = await rows<{ longest: number }>(
      `select max(length(concat(value, problem))) as longest
       from strata.typed_values(array['numeric', 'double precision', 'jsonb', 'integer'], array['1e131071', '1e308', '[1e131071]', repeat('x', 100000)])
       where reason is null or length(problem) > 500`,
    );
    expect(answer!.longest).toBeLessThan(20);
  });

  it("quarantines bytes that are not UTF-8 and NUL characters, and nothing else with them", async () => {
    const content = Buffer.concat([
      Buffer.from("user_id,username\n1,\uFFFD é\n2,a"),
      Buffer.from([0xff, 0xfe]),
      Buffer.from("\n3,a\0b\n4,ok\n5,cut "),
      Buffer.from([0xe2, 0x82]),
    ]);
    await send("users", content);
    expect((await landed("users")).map((user) => user.username)).toEqual(["\uFFFD é", "ok"]);
    expect(await quarantined()).toMatchObject([
      { source_line: 3, reasons: ["invalid_encoding"], raw_text: "2,a\uFFFD\uFFFD" },
      { source_line: 4, reasons: ["invalid_encoding"], raw_text: "3,a\uFFFDb" },
      { source_line: 6, reasons: ["invalid_encoding"], raw_text: "5,cut \uFFFD" },
    ]);
  });

  it("loses no line to a quote that is not closed, nor to one that closes a later one", async () => {
    await send("users", 'user_id,username\n1,"open\n2,two\n3,"three"\n4,"four\n5,five\n');
    expect((await landed("users")).map((user) => user.user_id)).toEqual(["2", "3", "5"]);
    expect((await quarantined()).map(({ source_line }) => source_line)).toEqual([2, 5]);
  });

  it("takes no line between quotes that close for a record, whatever else is wrong with theirs", async () => {
    const inside = (id: number) => `${id},injected,i${id}@example.org`;
    const lines = [
      "user_id,username,email",
      `501,"caf\xe9\n${inside(502)}\nend",m501@example.org`,
      `503,"two\ncaf\xe9\n${inside(504)}\nend",m503@example.org`,
      `511,"ok\n${inside(512)}\n",m511@example.org,extra`,
      `521,"ok\n${inside(522)}\nend","text"follows`,
      `531,"ok\n${inside(532)}\nend",stray"quote`,
      "541,fine,f541@example.org",
      `551,"ok\n${inside(552)}\nend","open`,
      "561,fine,f561@example.org",
    ];
    const run = await send("users", Buffer.from(lines.join("\n"), "latin1"));
    expect(run).toMatchObject({ rowsRead: 8, rowsWritten: 2, rowsRejected: 6 });
    expect((await landed("users")).map((user) => user.user_id)).toEqual(["541", "561"]);
    const rejected = await quarantined();
    expect(rejected.map(({ source_line, reasons }) => [source_line, ...reasons])).toEqual([
      [2, "invalid_encoding"],
      [5, "invalid_encoding"],
      [9, "wrong_field_count"],
      [12, "unparseable"],
      [15, "unparseable"],
      [19, "unparseable"],
    ]);
    expect(rejected[0]!.raw_text).toBe(lines[1]!.replace("\xe9", "\uFFFD"));
    expect(rejected[2]!.raw_text).toBe(lines[3]);
  });

  it("cuts records beyond the limit", async () => {
    const long = "x".repeat(3_000_000);
    await send(
      "users",
      [..."ab"].map((end) => Buffer.from(end === "a" ? `user_id,username\n1,${long}` : `${long}\n2,b\n`)),
    );
    expect((await landed("users")).map((user) => user.user_id)).toEqual(["2"]);
    const [entry] = await quarantined();
    expect(entry).toMatchObject({ reasons: ["too_long"], source_line: 2, payload: null });
    expect(entry!.raw_text.length).toBeLessThan(10_000);
  });

  it("finds the row that the database refuses in spite of all checks", async () => {
    await database.pool.query(
      "alter table staging.raw_users add constraint no_seven check (user_id % 7 <> 0), add constraint no_odd_name check (username <> 'n22')",
    );
    try {
      const content = Array.from({ length: 50 }, (_, i) => `${i},n${i}`).join("\n");
      const run = await send("users", `user_id,username\n${content}`);
      expect(run).toMatchObject({ status: "succeeded", rowsRead: 50, rowsWritten: 41, rowsRejected: 9 });
      expect(await quarantined()).toMatchObject(
        [0, 7, 14, 21, 22, 28, 35, 42, 49].map((i) => ({
          source_line: i + 2,
          reasons: ["invalid_value"],
          payload: { user_id: String(i) },
        })),
      );
    } finally {
      await database.pool.query(
        "alter table staging.raw_users drop constraint no_seven, drop constraint no_odd_name",
      );
    }
  });
});

describe("refusals before the first row", () => {
  it.each([
    [
      "users",
      "user_id,colour\n1,red\n",
      {},
      /Unknown column "colour"; allowed for users: "user_id", "username"/,
    ],
    ["users", '{"user_id": 1, "colour": 2}', {}, /Unknown column "colour"/],
    ["transactions", "user_id,amount\n1,2\n", {}, /No column for "transaction_id"/],
    ["users", "user_id,user_id\n1,2\n", {}, /More than one column for "user_id"/],
    ["users", "user_id;username\n1;2\n", {}, /Unknown column "user_id;username"/],
    ["users", "", {}, /The input is empty/],
    ["users", '[{"user_id": 1}, {"user_id": 2}]', {}, /is a JSON array; NDJSON has one object a line/],
    ["users", '[\n  {"user_id": 1},\n  {"user_id": 2}\n]\n', {}, /is a JSON array/],
    ["users", "[]", { format: "ndjson" }, /is a JSON array/],
    ["users", "id\n1", { map: ["id"] }, /not of the form column=field/],
    ["users", "id\n1", { map: ["id=usr"] }, /unknown field of users/],
    ["users", "id\n1", { map: ["key=user_id"] }, /no column "key" to map; it has: "id"/],
    ["users", "user_id\n1", { sourceSystem: "s".repeat(51) }, /allowed: 1 to 50/],
  ] as const)("%s %j %j", async (dataset, content, options, message) => {
    const attempt = send(dataset, content, {
      ...options,
      map: "map" in options ? [...options.map] : undefined,
    });
    await expect(attempt).rejects.toThrow(message);
    await expect(attempt).rejects.toMatchObject({ code: expect.stringMatching(/^BAD_(INPUT|OPTION)$/) });
    expect(await landed(dataset)).toEqual([]);
    expect(await rows("select from strata.runs where status = 'running'")).toEqual([]);
  });
});

describe("many columns", () => {
  const names = Array.from({ length: 60_000 }, (_, i) => `c${i}`);

  it.each([
    ["a CSV header", "events", names.join(","), /The header has 60000 columns; allowed: 2000/],
    [
      "an NDJSON object",
      "users",
      `{${names.map((name) => `"${name}":1`).join(",")}}`,
      /^Unknown columns "c0", .*"c49" and 59950 more; allowed for users/,
    ],
  ] as const)("are counted, not compared with each other: %s", async (_what, dataset, content, message) => {
    await expect(send(dataset, content)).rejects.toThrow(message);
  });
});

describe("runs", () => {
  it("keeps the whole rows that came before a stream broke, and says so", async () => {
    const input = new PassThrough();
    const attempt = ingest(database.pool, "users", input, { trigger: "api", actor: "crm" });
    input.write("user_id,username\n1,one\n2,two\n3,cut of");
    try {
      await expect.poll(() => landed("users"), { timeout: 50_000 }).toHaveLength(2);
    } finally {
      input.destroy(new Error("The client went away"));
      await attempt;
    }
    const run = await attempt;
    expect(run).toMatchObject({
      status: "failed",
      rowsWritten: 2,
      error: "The client went away",
      trigger: "api",
    });
    expect(await landed("users")).toHaveLength(2);
  });

  it("counts rows by reason, each reason of a row once", async () => {
    const run = await send("transactions", "transaction_id,user_id,amount\n1,1,1\nx,y,1\n2,x,z\n3,1,zz\n");
    expect(run).toMatchObject({
      status: "succeeded",
      rowsWritten: 1,
      reasons: { invalid_integer: 2, invalid_number: 2 },
    });
  });

  it("fails if it rejected every row, and says why", async () => {
    const run = await send("users", "user_id\nx\ny\n,\n");
    expect(run).toMatchObject({
      status: "failed",
      rowsRead: 3,
      rowsRejected: 3,
      error: "All 3 rows were rejected: invalid_integer 2, wrong_field_count 1",
    });
    expect(await quarantined()).toHaveLength(3);
    expect(await send("users", '{"user_id": "x"}')).toMatchObject({
      status: "failed",
      error: "The only row was rejected: invalid_integer 1",
    });
    expect(await send("users", "user_id\n")).toMatchObject({ status: "succeeded", rowsRead: 0 });
  });

  it("fails if a stream broke before it was read", async () => {
    const input = new PassThrough();
    const attempt = ingest(database.pool, "users", input, { trigger: "api" });
    input.destroy(new Error("The client went away"));
    expect(await attempt).toMatchObject({ status: "failed", error: "The client went away", rowsRead: 0 });
  });

  it("fails on a damaged gzip", async () => {
    const content = gzipSync(Array.from({ length: 9999 }, (_, i) => `${i},${Math.random()}`).join("\n"));
    const whole = Buffer.concat([gzipSync("user_id,username\n"), content]);
    const run = await send("users", whole.subarray(0, whole.length - 2000));
    expect(run.status).toBe("failed");
    expect(run.rowsWritten).toBeGreaterThan(0);
    expect(await landed("users")).toHaveLength(run.rowsWritten);
  });

  it("is stopped by a signal", async () => {
    const stop = new AbortController();
    const input = new PassThrough();
    const attempt = ingest(database.pool, "users", input, { trigger: "cli", signal: stop.signal });
    input.write("user_id\n1\n");
    await expect
      .poll(() => rows("select from strata.runs where status = 'running'"), { timeout: 50_000 })
      .toHaveLength(1);
    stop.abort();
    expect(await attempt).toMatchObject({ status: "failed", error: "The ingest was cancelled" });
  });

  it("lands rows of a slow source while it goes on, and shows them in the run", async () => {
    const input = new PassThrough();
    const attempt = ingest(database.pool, "users", input, { trigger: "cli" });
    input.write("user_id\n1\n");
    await expect
      .poll(() => rows("select rows_written::int as n from strata.runs where status = 'running'"), {
        timeout: 50_000,
      })
      .toEqual([{ n: 1 }]);
    input.end("2\n");
    expect(await attempt).toMatchObject({ status: "succeeded", rowsWritten: 2 });
  });

  it("writes nothing more once its run was closed", async () => {
    const input = new PassThrough();
    const attempt = ingest(database.pool, "users", input, { trigger: "cli" });
    input.write("user_id\n1\n");
    await expect.poll(() => landed("users"), { timeout: 50_000 }).toHaveLength(1);
    await database.pool.query(
      "update strata.runs set status = 'failed', error = 'closed', finished_at = now() where status = 'running'",
    );
    input.end("2\n");
    expect(await attempt).toMatchObject({ status: "failed", error: "closed", rowsWritten: 1 });
    expect(await landed("users")).toHaveLength(1);
  });

  it("starts under a role: a reader may not", async () => {
    await expect(send("users", "user_id\n1\n", { role: "strata_reader" })).rejects.toMatchObject({
      code: "42501",
    });
    expect(await send("users", "user_id\n1\n", { role: "strata_ingestor" })).toMatchObject({
      rowsWritten: 1,
    });
  });
});
