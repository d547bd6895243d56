/** @module-tag long */
import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { ingest } from "../../src/ingest/ingest.ts";
import { checkRetry } from "../../src/ingest/retry.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, retry, rawUsers, rawTransactions, quarantine } = usePipeline();

const rejected = (dataset: string, payload: unknown, source = "file.csv") =>
  sql(
    `insert into staging.quarantine (dataset, stage, reasons, payload, raw_text, source_format, source_name, source_line, ingest_seq)
     values ($1, 'ingest', '{invalid_integer}', $2, 'as it came', 'csv', $3, 17, 1)`,
    [dataset, payload === null ? null : JSON.stringify(payload), source],
  );
const discard = async (args: string) =>
  (await sql<{ count: number }>(`select analytics.discard_quarantined(${args}) as count`))[0]!.count;

test("a retry that fails again keeps its entry, and counts", async () => {
  await rawUsers({ user_id: 1, email: "bad" });
  await run("transform");
  const [entry] = await sql("select quarantine_id from analytics.quarantine");
  expect(await retry({ everything: true })).toBe(1);
  expect(await quarantine(), "hidden until it is decided").toEqual([]);
  expect(await retry({ everything: true })).toBe(0);
  await run("transform");
  expect(await sql("select quarantine_id, attempts, reasons from analytics.quarantine")).toEqual([
    { quarantine_id: entry!.quarantine_id, attempts: 2, reasons: ["valid_email"] },
  ]);
});

test("retries by id, by reason, and with corrected fields", async () => {
  await rawUsers({ user_id: 1, email: "bad" }, { user_id: 2, email: "bad" }, { user_id: 3, username: null });
  await run("transform");
  const [entry] = await sql(
    "select quarantine_id from analytics.quarantine where payload ->> 'user_id' = '2'",
  );
  expect(await retry({ ids: [entry!.quarantine_id] }, { email: "two@example.org" })).toBe(1);
  expect(await retry({ reason: "username_missing" }, { username: "three" })).toBe(1);
  expect(await run("transform")).toMatchObject({ rowsRead: 2, rowsWritten: 2 });
  expect(await sql("select user_id, username, email from production.users order by 1")).toEqual([
    { user_id: 2, username: "user2", email: "two@example.org" },
    { user_id: 3, username: "three", email: "user3@example.org" },
  ]);
  expect(await quarantine()).toMatchObject([{ payload: { user_id: 1 }, attempts: 1 }]);
});

test("types what the ingest could not, converts times and keeps the fields of events", async () => {
  await rawUsers({ user_id: 1 });
  await rejected("transactions", {
    transaction_id: "1",
    user_id: "1",
    amount: "7.5",
    transaction_date: "2024-05-01T23:30:00-02:00",
  });
  await rejected("events", {
    event_id: "1",
    event_type: "sale",
    event_time: "2024-05-01",
    colour: "red",
    event_data: '{"size": 4}',
  });
  expect(await retry({ everything: true })).toBe(2);
  expect(await run("transform")).toMatchObject({ rowsWritten: 3, rowsRejected: 0 });
  expect(
    await sql("select amount, status, transaction_date::text as at from production.transactions"),
  ).toEqual([{ amount: "7.50", status: "pending", at: "2024-05-02 01:30:00" }]);
  expect(await sql("select event_data from production.events")).toEqual([
    { event_data: { size: 4, colour: "red" } },
  ]);
  expect(await quarantine()).toEqual([]);
});

test("what still cannot be typed stays, with every reason and its source", async () => {
  await rejected("transactions", { transaction_id: "", user_id: "x", amount: "1,5", colour: "red" });
  await rejected("users", null);
  expect(await retry({ everything: true })).toBe(0);
  expect(
    await sql(
      "select stage, reasons, detail, attempts, raw_text, source_name, source_line from analytics.quarantine order by quarantine_id",
    ),
  ).toEqual([
    {
      stage: "ingest",
      reasons: ["missing_key", "unknown_field", "invalid_integer", "invalid_number"],
      detail:
        "transaction_id is missing; it is the key of the row. " +
        'Unknown "colour"; allowed: "transaction_id", "user_id", "amount", "status", "transaction_date". ' +
        'user_id: invalid input syntax for type integer: "x". amount: invalid input syntax for type numeric: "1,5".',
      attempts: 2,
      raw_text: "as it came",
      source_name: "file.csv",
      source_line: "17",
    },
    {
      stage: "ingest",
      reasons: ["invalid_integer"],
      detail: "The row cannot be read back; give its fields with the retry.",
      attempts: 2,
      raw_text: "as it came",
      source_name: "file.csv",
      source_line: "17",
    },
  ]);
  expect(await retry({ dataset: "users" }, { user_id: 4, username: "four", email: "4@example.org" })).toBe(1);
  expect(await run("transform")).toMatchObject({ rowsWritten: 1 });
});

test("a typed record that breaks a rule keeps where it came from", async () => {
  await rejected("users", { user_id: "1", username: "ann", email: "bad" });
  await retry({ everything: true });
  await run("transform");
  expect(
    await sql("select stage, reasons, source_name, source_line, attempts from analytics.quarantine"),
  ).toEqual([
    {
      stage: "transform",
      reasons: ["valid_email"],
      source_name: "file.csv",
      source_line: "17",
      attempts: 2,
    },
  ]);
});

test("discards by reason, by id and everything", async () => {
  await rawUsers({ user_id: 1, email: "bad" }, { user_id: 2, username: null }, { user_id: 3, email: null });
  await run("transform");
  expect(await discard("reason => 'valid_email'")).toBe(1);
  const [entry] = await sql("select quarantine_id from analytics.quarantine limit 1");
  expect(await discard(`array[${entry!.quarantine_id}]`)).toBe(1);
  expect(await discard("everything => true")).toBe(1);
  expect(await quarantine()).toEqual([]);
  expect(await run("transform")).toMatchObject({ rowsRead: 0 });
});

test.each([
  [{}, ""],
  [{ ids: ["1"], reason: "x" }, "array[1], reason => 'x'"],
  [{ everything: true, reason: "x" }, "everything => true, reason => 'x'"],
  [{ everything: true, dataset: "users" }, "everything => true, dataset => 'users'"],
])("refuses the selection %j", async (selection, args) => {
  expect(() => checkRetry(selection)).toThrow("exactly one");
  await expect(discard(args)).rejects.toThrow("exactly one");
});

test("refuses a patch that is no object", () => {
  expect(() => checkRetry({ everything: true }, "[1]")).toThrow(
    "must be an object of fields and values, not [1]",
  );
});

test("selects by reason and dataset together", async () => {
  await rejected("transactions", { transaction_id: "1", user_id: "1", amount: "1" });
  await rejected("events", { event_id: "1" });
  expect(await retry({ reason: "invalid_integer", dataset: "events" })).toBe(1);
  expect(await discard("reason => 'invalid_number', dataset => 'transactions'")).toBe(0);
  expect(await discard("reason => 'invalid_integer', dataset => 'transactions'")).toBe(1);
});

test.each([
  ["strata_reader", false],
  ["strata_ingestor", false],
  ["strata_operator", true],
])("%s may see, retry and discard: %s", async (role, allowed) => {
  for (const text of [
    "select from analytics.quarantine",
    "select strata.start_run('retry')",
    "select analytics.discard_quarantined(everything => true)",
  ]) {
    const client = await pool().connect();
    try {
      await client.query("begin");
      await client.query("select set_config('role', $1, true)", [role]);
      if (allowed) await client.query(text);
      else await expect(client.query(text)).rejects.toMatchObject({ code: "42501" });
      await client.query("rollback");
    } finally {
      client.release();
    }
  }
});

describe("a retry takes and refuses what the ingest does", { tags: ["long"] }, () => {
  const send = (dataset: string, ...records: unknown[]) =>
    ingest(
      pool(),
      dataset,
      Readable.from([
        records.map((record) => (typeof record === "string" ? record : JSON.stringify(record))).join("\n"),
      ]),
      { trigger: "cli" },
    );
  const retryAll = (patch?: object) => retry({ everything: true }, patch);
  const reasons = async () => (await quarantine()).map((entry) => entry.reasons as string[]);
  const user = { user_id: 1, username: "ann", email: "ann@example.org" };
  const event = { event_id: 1, event_type: "x", event_time: "2024-01-01" };
  const eventData = async () => {
    expect(await run("transform")).toMatchObject({ rowsRejected: 0 });
    return (await sql("select event_data from production.events order by event_id")).map(
      ({ event_data }) => event_data as unknown,
    );
  };

  test.each([
    ["a text", "users", { ...user, username: { a: 1 } }, { username: "ann" }],
    ["a time", "users", { ...user, created_at: ["2024-01-01"] }, { created_at: "2024-01-01" }],
  ] as const)("an object or array is not %s", async (_kind, dataset, record, patch) => {
    await send(dataset, record);
    expect(await reasons()).toEqual([["invalid_text"]]);
    expect(await retryAll()).toBe(0);
    const [field] = Object.keys(patch);
    expect(await retryAll({ [field!]: ["2024-01-01", { y: 1 }] })).toBe(0);
    expect(await quarantine()).toMatchObject([
      {
        reasons: ["invalid_text"],
        detail: `${field} is an object or array; it has to be text.`,
        attempts: 3,
      },
    ]);
    expect(await retryAll(patch)).toBe(1);
    expect(await run("transform")).toMatchObject({ rowsWritten: 1, rowsRejected: 0 });
  });

  test("a number and a truth value are text", async () => {
    await send("users", { ...user, user_id: "x", username: 7.5, country: true });
    expect(await retryAll({ user_id: 1 })).toBe(1);
    await run("transform");
    expect(await sql("select username, country from production.users")).toEqual([
      { username: "7.5", country: "true" },
    ]);
  });

  test("a text that could not be kept has to be given", async () => {
    await send("users", { ...user, user_id: "x", username: "two\0x", country: "\uFFFD" });
    expect(await retryAll()).toBe(0);
    expect(await retryAll({ user_id: 1 })).toBe(0);
    expect(await quarantine()).toMatchObject([
      {
        reasons: ["invalid_encoding"],
        detail:
          "country has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry. " +
          "username has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry.",
      },
    ]);
    expect(await retryAll({ username: "two\uFFFDx", country: "AT" })).toBe(1);
    await run("transform");
    expect(await sql("select username, country from production.users")).toEqual([
      { username: "two\uFFFDx", country: "AT" },
    ]);
  });

  test("a character that the source sent may look like one that could not be kept", async () => {
    await send("users", { ...user, user_id: "x", username: "two\uFFFDx" });
    expect(await retryAll({ user_id: 1 })).toBe(1);
  });

  test("event_data that could not be kept has to be given, in its own field or another", async () => {
    await send("events", { ...event, event_data: { "\ud800": 1 } }, { ...event, event_id: 2, page: ["a\0"] });
    expect(await retryAll()).toBe(0);
    expect(await quarantine()).toMatchObject([
      {
        reasons: ["invalid_json"],
        detail:
          "event_data has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry.",
      },
      {
        reasons: ["invalid_json"],
        detail:
          "page has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry.",
      },
    ]);
    const ids = (await sql("select quarantine_id as id from analytics.quarantine order by 1")).map(
      ({ id }) => id as string,
    );
    expect(await retry({ ids: [ids[0]!] }, { event_data: { a: 1 } })).toBe(1);
    expect(await retry({ ids: [ids[1]!] }, { event_data: { a: 1 } })).toBe(0);
    expect(await retry({ ids: [ids[1]!] }, { page: ["a"] })).toBe(1);
    expect(await eventData()).toEqual([{ a: 1 }, { a: 1, page: ["a"] }]);
  });

  const VALUES = ["hello", "123", '{"k":1}', "", 5, true, [1], { k: null }];

  test("event_data of NDJSON stays the value it was", async () => {
    await send(
      "events",
      ...VALUES.map((value, i) => ({ ...event, event_id: i, user_id: "x", event_data: value })),
    );
    expect(await retryAll()).toBe(0);
    expect(await reasons()).toEqual(VALUES.map(() => ["invalid_integer"]));
    expect(await retryAll({ user_id: null })).toBe(VALUES.length);
    expect(await eventData()).toEqual(VALUES);
  });

  test("event_data that the transform rejected stays the value it was", async () => {
    await send(
      "events",
      ...VALUES.map((value, i) => ({ ...event, event_id: i, event_type: "", event_data: value })),
    );
    await run("transform");
    expect(await retryAll({ user_id: "x" })).toBe(0);
    expect(await retryAll({ event_type: "y", user_id: null })).toBe(VALUES.length);
    expect(await eventData()).toEqual(VALUES);
  });

  test("event_data of CSV is the text of JSON, until it was read or patched", async () => {
    const texts = ["{bad", '""123""', "123", "null", "", '{""k"": 1}'];
    await send(
      "events",
      "event_id,user_id,event_type,event_time,event_data",
      ...texts.map((text, i) => `${i},x,,2024-01-01,"${text}"`),
    );
    expect(await retryAll()).toBe(0);
    expect(await reasons()).toEqual(
      texts.map((_, i) => (i === 0 ? ["invalid_json", "invalid_integer"] : ["invalid_integer"])),
    );
    expect(await retry({ reason: "invalid_json" }, { event_data: "456" })).toBe(0);
    expect(await retryAll({ user_id: null })).toBe(texts.length);
    expect(await run("transform")).toMatchObject({ rowsRejected: texts.length });
    expect(await retryAll({ user_id: "x" })).toBe(0);
    expect(await retryAll({ user_id: null, event_type: "y" })).toBe(texts.length);
    expect(await eventData()).toEqual(["456", "123", 123, {}, {}, { k: 1 }]);
  });

  test("fields without a column join event_data as in the ingest, also if their names clash", async () => {
    const contents = [
      { event_data: { a: 1, b: 2 }, a: 2 },
      { event_data: { a: 1 }, b: 2 },
      { event_data: [1], a: 2 },
      { event_data: null, a: 2 },
    ];
    const records = contents.map((content, i) => ({ ...event, event_id: i, ...content }));
    await send("events", ...records);
    await send(
      "events",
      ...records.map((record) => ({ ...record, event_id: record.event_id + 4, user_id: "x" })),
    );
    expect(await retryAll({ user_id: null })).toBe(4);
    const expected = [contents[0], { a: 1, b: 2 }, contents[2], { a: 2 }];
    expect(await eventData()).toEqual([...expected, ...expected]);
  });

  test("an empty field is absent in CSV only", async () => {
    await send("events", { ...event, user_id: "", note: null });
    expect(await retryAll()).toBe(0);
    await send("events", "event_id,user_id,event_type,event_time,latitude,note", "2,,x,2024-01-01,y,");
    expect(await reasons()).toEqual([["invalid_integer"], ["invalid_number"]]);
    expect(await retry({ reason: "invalid_number" }, { latitude: "" })).toBe(1);
    expect(await retryAll({ user_id: null })).toBe(1);
    expect(await eventData()).toEqual([{ note: null }, {}]);
  });

  test("a field that the dataset does not have can be taken out, no other one added", async () => {
    // The fields of the first record count for the input as a whole.
    await send("users", user, { ...user, colour: "red" });
    expect(await retryAll()).toBe(0);
    await expect(retryAll({ color: null })).rejects.toThrow(
      "The patch has fields that users do not have; allowed: user_id, username, email, created_at, country, and of this row colour",
    );
    expect(await retryAll({ colour: null, username: "bob" })).toBe(1);
    expect(await run("transform")).toMatchObject({ rowsRead: 2, rowsRejected: 0 });
  });
});

test("a retry is a run that goes batch by batch and shows how far it is", { tags: ["long"] }, async () => {
  const count = 45_000;
  await sql(
    `insert into staging.quarantine (dataset, stage, reasons, payload, ingest_seq)
     select 'users', 'transform', '{valid_email}',
            jsonb_build_object('user_id', i, 'username', 'user' || i, 'email', 'user' || i || '@example.org'), i
     from generate_series(1, $1) i`,
    [count],
  );
  await rejected("users", { user_id: "x" });
  const seen: number[] = [];
  const done = await run("retry", {
    retry: { dataset: "users" },
    onProgress: ({ rowsRead }) => seen.push(rowsRead),
  });
  expect(done).toMatchObject({
    step: "retry",
    status: "succeeded",
    rowsRead: count + 1,
    rowsWritten: count,
    rowsRejected: 1,
  });
  expect(new Set(seen)).toEqual(new Set([0, 20_000, 40_000, count + 1]));
  expect(await sql("select progress, arguments from strata.runs where run_id = $1", [done.id])).toEqual([
    { progress: 1, arguments: { dataset: "users" } },
  ]);
  expect(await quarantine()).toHaveLength(1);
  expect(await sql("select count(*)::int as n from staging.raw_users")).toEqual([{ n: count }]);
});

test("two retries at a time take each row once", async () => {
  await rawUsers(...Array.from({ length: 200 }, (_, i) => ({ user_id: i, email: "bad" })));
  await run("transform");
  const counts = await Promise.all([1, 2, 3].map(() => retry({ everything: true })));
  expect(counts.reduce((sum, count) => sum + count)).toBe(200);
  expect(await sql("select count(*)::int as n from staging.raw_users")).toEqual([{ n: 200 }]);
});

test("a row that staging refuses costs no other", async () => {
  await sql("alter table staging.raw_users add constraint no_seven check (user_id <> 7)");
  try {
    for (let id = 1; id <= 9; id++) await rejected("users", { user_id: String(id), username: "u" });
    expect(await retry({ everything: true })).toBe(8);
    expect(await quarantine()).toMatchObject([
      {
        stage: "ingest",
        reasons: ["invalid_value"],
        detail: expect.stringContaining("no_seven"),
        attempts: 2,
      },
    ]);
  } finally {
    await sql("alter table staging.raw_users drop constraint no_seven");
  }
});

test("corrections are judged as an ingest judges, and are not shown to those who see runs", async () => {
  await rawUsers({ user_id: 1, email: "bad" });
  await run("transform");
  const patch = (text: string) => run("retry", { retry: { everything: true }, patch: text });
  expect(await patch('{"created_at": "06/10/2011"}')).toMatchObject({ rowsWritten: 0, rowsRejected: 1 });
  expect(await quarantine()).toMatchObject([
    { reasons: ["ambiguous_date"], payload: { user_id: 1, created_at: "06/10/2011" } },
  ]);
  const last = await patch('{"created_at": "2011-10-06T02:00:00+02:00", "email": "secret@example.org"}');
  expect(last).toMatchObject({ rowsWritten: 1 });
  expect(await sql("select arguments from strata.runs where run_id = $1", [last.id])).toEqual([
    { arguments: { everything: true } },
  ]);
  expect(await run("transform")).toMatchObject({ rowsWritten: 1 });
  expect(await sql("select email, created_at::text from production.users")).toEqual([
    { email: "secret@example.org", created_at: "2011-10-06 00:00:00" },
  ]);
});

test("a retry can say how dates are written", async () => {
  await rejected("users", {
    user_id: "1",
    username: "ann",
    email: "a@example.org",
    created_at: "06/10/2011",
  });
  expect(await retry({ everything: true })).toBe(0);
  expect(await quarantine()).toMatchObject([{ reasons: ["ambiguous_date"] }]);
  const done = await run("retry", { retry: { reason: "ambiguous_date", dateFormat: "DD/MM/YYYY" } });
  expect(done.rowsWritten).toBe(1);
  await run("transform");
  expect(await sql("select created_at::text from production.users")).toEqual([
    { created_at: "2011-10-06 00:00:00" },
  ]);
});

test("a row with numbers that could not be kept needs all its fields", async () => {
  const line = '{"event_id": 1, "event_type": "x", "event_time": "2024-01-01", "a": 1e400}';
  await ingest(pool(), "events", Readable.from([line]), { trigger: "cli" });
  expect(await retry({ everything: true })).toBe(0);
  expect(await quarantine()).toMatchObject([
    {
      reasons: ["out_of_range"],
      detail: "The row cannot be read back; give its fields with the retry.",
      payload: null,
      attempts: 2,
    },
  ]);
  const fields = { event_id: 1, event_type: "x", event_time: "2024-01-01", event_data: { a: 1 } };
  expect(await retry({ everything: true }, fields)).toBe(1);
  expect(await run("transform")).toMatchObject({ rowsWritten: 1 });
});

test("two rows that wait are taken with their user, others stay", async () => {
  await rawTransactions({ transaction_id: 1 }, { transaction_id: 2 }, { transaction_id: 3, user_id: 9 });
  await run("transform");
  await rawUsers({ user_id: 1 });
  expect(await run("transform")).toMatchObject({ rowsRead: 3, rowsWritten: 3 });
  expect(await quarantine()).toMatchObject([{ payload: { transaction_id: 3 }, waiting: true, attempts: 1 }]);
});
