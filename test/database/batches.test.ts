// Small reads that come together: what they share, and what they do not do to each other.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createBatches, TookLong, type Batches, type Reading } from "../../src/database/batches.ts";
import { createOperationPool, createPool } from "../../src/database/connect.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
let operations: ReturnType<typeof createOperationPool>;
let batches: Batches;
beforeAll(async () => {
  database = await createDatabase();
  operations = createOperationPool(database.config, database);
  batches = createBatches(operations);
});
afterAll(async () => {
  await operations.pool.end();
  await database.drop();
});

const reader = { role: "strata_reader", statement_timeout: "10000" };
/** Two reads with the same start were in one transaction. */
const STARTED = "select transaction_timestamp()::text";
const ask = (text: string, { cost = 2, settings = reader, from = batches } = {}): Reading => {
  const request = { settings, statement: { text, name: text }, cost };
  return from.isSmall(request) ? from.readShared(request) : from.readAlone(request);
};
const answers = (...readings: Reading[]) => Promise.all(readings.map(({ answer }) => answer));
const outcomes = (...readings: Reading[]) =>
  Promise.all(readings.map(({ answer }) => answer.catch(({ code }: { code: string }) => code)));
const idle = async (): Promise<void> => {
  for (let i = 0; i < 100 && operations.pool.idleCount < operations.pool.totalCount; i++) await sleep(20);
  expect(operations.pool.idleCount).toBe(operations.pool.totalCount);
};

it("reads of one caller share a transaction, and each has its own answer", async () => {
  const [one, other, who, writes] = await answers(
    ask(STARTED),
    ask(STARTED),
    ask("select current_user"),
    ask("select current_setting('transaction_read_only')"),
  );
  expect(one).toBe(other);
  expect([who, writes]).toEqual(["strata_reader", "on"]);
  await sleep(5);
  expect(await ask(STARTED).answer).not.toBe(one);
});

it("reads of different callers share nothing", async () => {
  const operator = { ...reader, role: "strata_operator" };
  const read = await answers(
    ask("select current_user || ' ' || transaction_timestamp()"),
    ask("select current_user || ' ' || transaction_timestamp()", { settings: operator }),
  );
  const [one, other] = read.map((text) => text.split(/ (.*)/));
  expect([one![0], other![0]]).toEqual(["strata_reader", "strata_operator"]);
  expect(one![1]).not.toBe(other![1]);
});

it("as many share as are read in a few milliseconds; large ones go alone", async () => {
  const transactions = async (...costs: number[]) =>
    new Set(await answers(...costs.map((cost) => ask(STARTED, { cost })))).size;
  expect(await transactions(200, 200)).toBe(1);
  expect(await transactions(200, 201)).toBe(2);
  expect(await transactions(2, 401, 2)).toBe(2);
});

it("one that fails leaves the others their answers", async () => {
  const failing = "select (1 / length(''))::text";
  expect(
    await outcomes(ask("select 'a'"), ask(failing), ask("select 'b'"), ask(failing), ask("select 'c'")),
  ).toEqual(["a", "22012", "b", "22012", "c"]);
  expect(await outcomes(ask("select 'a'"), ask("select nothing"))).toEqual(["a", "42703"]);
  await idle();
});

it("few transactions of one caller run at once, and more reads share them", async () => {
  const started = await answers(...Array.from({ length: 40 }, () => ask(STARTED, { cost: 80 })));
  expect(new Set(started.slice(0, 5)).size).toBe(1);
  expect(new Set(started).size).toBe(8);
  const pids = await answers(
    ...Array.from({ length: 12 }, () => ask("select pg_backend_pid()::text", { cost: 400 })),
  );
  if (isServer) expect(new Set(pids).size).toBeLessThanOrEqual(4);
});

it("what nobody waits for any more is not asked", async () => {
  const readings = [ask("select 'a'"), ask("select nothing"), ask("select 'c'")];
  readings[1]!.forget();
  expect(await outcomes(...readings)).toEqual(["a", "57014", "c"]);
  const gone = ask("select nothing");
  gone.forget();
  expect(await outcomes(gone)).toEqual(["57014"]);
  await idle();
});

it("nothing is read without a role", () => {
  for (const role of ["", "none"])
    expect(() => ask("select 'a'", { settings: { ...reader, role } })).toThrow("role");
});

it("nothing is prepared where a pooler may give another connection each time", async () => {
  const pool = createPool(database.connection, { pipeline: true, max: 1 });
  const from = createBatches({ pool, prepare: false });
  expect(await answers(ask("select 'a'", { from }), ask("select 'b'", { from, cost: 1000 }))).toEqual([
    "a",
    "b",
  ]);
  const { rows } = await pool.query("select name from pg_prepared_statements where name like 'select ''%'");
  expect(rows).toEqual([]);
  await pool.end();
});

it("all fail if there is no connection", async () => {
  const pool = createPool({ host: "/nowhere" }, { pipeline: true });
  const from = createBatches({ pool, prepare: true });
  const readings = [2, 2, 1000].map((cost) => ask("select 'a'", { from, cost }));
  expect(await outcomes(...readings)).toEqual(["ENOENT", "ENOENT", "ENOENT"]);
  await pool.end();
});

// The embedded engine runs one statement at a time, and neither stops it for a time limit nor when it is told to.
it.runIf(isServer)(
  "one that takes long does not keep the others waiting, and goes alone from then on",
  async () => {
    const slow = "select pg_sleep(1)::text || transaction_timestamp()";
    const isSmall = (text: string) =>
      batches.isSmall({ settings: reader, statement: { text, name: text }, cost: 2 });
    const startedAt = performance.now();
    const first = ask(slow);
    expect(await answers(ask("select 'a'"), ask("select 'b'"))).toEqual(["a", "b"]);
    expect(performance.now() - startedAt).toBeLessThan(800);
    await expect(first.answer).rejects.toThrow(TookLong);
    for (let i = 0; i < 100; i++) expect(isSmall(slow)).toBe(false);
    expect(isSmall(slow)).toBe(true);
  },
);

it.runIf(isServer)(
  "one that runs alone is cancelled when nobody waits for it, and has its own time limit",
  async () => {
    const startedAt = performance.now();
    const long = ask("select pg_sleep(20)::text", { cost: 1000 });
    await sleep(100);
    long.forget();
    expect(await outcomes(long)).toEqual(["57014"]);
    const settings = { ...reader, statement_timeout: "200" };
    expect(await outcomes(ask("select pg_sleep(30)::text", { cost: 1000, settings }))).toEqual(["57014"]);
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    await idle();
    const { rows } = await database.pool.query(
      "select count(*)::int as running from pg_stat_activity where query like '%pg_sleep%' and state = 'active' and pid <> pg_backend_pid()",
    );
    expect(rows).toEqual([{ running: 0 }]);
  },
);
