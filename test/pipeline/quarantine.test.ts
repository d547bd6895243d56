import { expect, test } from "vitest";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, rawUsers, rawTransactions, quarantine } = usePipeline();

const rejected = (dataset: string, payload: unknown, source = "file.csv") =>
  sql(
    `insert into staging.quarantine (dataset, stage, reasons, payload, raw_text, source_name, source_line, ingest_seq)
     values ($1, 'ingest', '{invalid_integer}', $2, 'as it came', $3, 17, 1)`,
    [dataset, payload === null ? null : JSON.stringify(payload), source],
  );
const retry = async (args: string) =>
  (await sql<{ count: number }>(`select analytics.retry_quarantined(${args}) as count`))[0]!.count;
const discard = async (args: string) =>
  (await sql<{ count: number }>(`select analytics.discard_quarantined(${args}) as count`))[0]!.count;

test("a retry that fails again keeps its entry, and counts", async () => {
  await rawUsers({ user_id: 1, email: "bad" });
  await run("transform");
  const [entry] = await sql("select quarantine_id from analytics.quarantine");
  expect(await retry("everything => true")).toBe(1);
  expect(await quarantine(), "hidden until it is decided").toEqual([]);
  expect(await retry("everything => true")).toBe(0);
  await run("transform");
  expect(await sql("select quarantine_id, attempts, reasons from analytics.quarantine")).toEqual([
    { quarantine_id: entry!.quarantine_id, attempts: 2, reasons: ["invalid_email"] },
  ]);
});

test("retries by id, by reason, and with corrected fields", async () => {
  await rawUsers({ user_id: 1, email: "bad" }, { user_id: 2, email: "bad" }, { user_id: 3, username: null });
  await run("transform");
  const [entry] = await sql(
    "select quarantine_id from analytics.quarantine where payload ->> 'user_id' = '2'",
  );
  expect(await retry(`array[${entry!.quarantine_id}], patch => '{"email": "two@example.org"}'`)).toBe(1);
  expect(await retry(`reason => 'missing_username', patch => '{"username": "three"}'`)).toBe(1);
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
  expect(await retry("everything => true")).toBe(2);
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
  expect(await retry("everything => true")).toBe(0);
  expect(
    await sql(
      "select stage, reasons, detail, attempts, raw_text, source_name, source_line from analytics.quarantine order by quarantine_id",
    ),
  ).toEqual([
    {
      stage: "ingest",
      reasons: ["invalid_integer", "invalid_number", "missing_key", "unknown_field"],
      detail:
        'transaction_id: it is the key and is missing. user_id: invalid input syntax for type integer: "x". ' +
        'amount: invalid input syntax for type numeric: "1,5". Unknown fields: colour.',
      attempts: 2,
      raw_text: "as it came",
      source_name: "file.csv",
      source_line: "17",
    },
    {
      stage: "ingest",
      reasons: ["unparseable"],
      detail: "The record cannot be read; give its fields with the retry.",
      attempts: 2,
      raw_text: "as it came",
      source_name: "file.csv",
      source_line: "17",
    },
  ]);
  expect(
    await retry(
      `reason => 'unparseable', patch => '{"user_id": 4, "username": "four", "email": "4@example.org"}'`,
    ),
  ).toBe(1);
  expect(await run("transform")).toMatchObject({ rowsWritten: 1 });
});

test("a typed record that breaks a rule keeps where it came from", async () => {
  await rejected("users", { user_id: "1", username: "ann", email: "bad" });
  await retry("everything => true");
  await run("transform");
  expect(
    await sql("select stage, reasons, source_name, source_line, attempts from analytics.quarantine"),
  ).toEqual([
    {
      stage: "transform",
      reasons: ["invalid_email"],
      source_name: "file.csv",
      source_line: "17",
      attempts: 2,
    },
  ]);
});

test("discards by reason, by id and everything", async () => {
  await rawUsers({ user_id: 1, email: "bad" }, { user_id: 2, username: null }, { user_id: 3, email: null });
  await run("transform");
  expect(await discard("reason => 'invalid_email'")).toBe(1);
  const [entry] = await sql("select quarantine_id from analytics.quarantine limit 1");
  expect(await discard(`array[${entry!.quarantine_id}]`)).toBe(1);
  expect(await discard("everything => true")).toBe(1);
  expect(await quarantine()).toEqual([]);
  expect(await run("transform")).toMatchObject({ rowsRead: 0 });
});

test.each(["", "array[1], reason => 'x'", "everything => true, reason => 'x'"])(
  "refuses the selection (%s)",
  async (args) => {
    await expect(retry(args)).rejects.toThrow("exactly one");
    await expect(discard(args)).rejects.toThrow("exactly one");
  },
);

test("refuses a patch that is no object", async () => {
  await expect(retry("everything => true, patch => '[1]'")).rejects.toThrow(
    "must be an object of fields and values, not [1]",
  );
});

test.each([
  ["strata_reader", false],
  ["strata_ingestor", false],
  ["strata_operator", true],
])("%s may see, retry and discard: %s", async (role, allowed) => {
  for (const text of [
    "select from analytics.quarantine",
    "select analytics.retry_quarantined(everything => true)",
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

test("two rows that wait are taken with their user, others stay", async () => {
  await rawTransactions({ transaction_id: 1 }, { transaction_id: 2 }, { transaction_id: 3, user_id: 9 });
  await run("transform");
  await rawUsers({ user_id: 1 });
  expect(await run("transform")).toMatchObject({ rowsRead: 3, rowsWritten: 3 });
  expect(await quarantine()).toMatchObject([{ payload: { transaction_id: 3 }, waiting: true, attempts: 1 }]);
});
