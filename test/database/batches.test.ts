// Small reads that come together: what they share, and what they do not do to each other.
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Reading } from "../../src/database/adaptor.ts";
import { createBatches, TookLong, type Batches, type ReadRequest } from "../../src/database/batches.ts";
import { createOperationPool, createPool } from "../../src/database/connect.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { until } from "../support/process.ts";
import { createProxy } from "../support/proxy.ts";

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
/** Two reads with the same id were in one transaction. */
const TRANSACTION = "select pg_current_xact_id()::text";
const requestOf = (text: string, { cost = 2, settings = reader, caller = "someone" } = {}): ReadRequest => ({
  caller,
  settings,
  statement: { text, name: text },
  cost,
});
interface ReadTarget {
  cost?: number;
  settings?: typeof reader;
  caller?: string;
  from?: Batches;
}
const ask = (text: string, { from = batches, ...asked }: ReadTarget = {}): Reading => {
  const request = requestOf(text, asked);
  return from.isSmall(request) ? from.readShared(request) : from.readAlone(request);
};
const answers = (...readings: Reading[]) => Promise.all(readings.map(({ answer }) => answer));
const outcomes = (...readings: Reading[]) =>
  Promise.all(readings.map(({ answer }) => answer.catch(({ code }: { code: string }) => code)));
const idle = async (): Promise<void> => {
  await expect
    .poll(() => operations.pool.totalCount - operations.pool.idleCount, { timeout: 20_000 })
    .toBe(0);
};

it("reads of one caller share a transaction, and each has its own answer", async () => {
  const [one, other, who, writes] = await answers(
    ask(TRANSACTION),
    ask(TRANSACTION),
    ask("select current_user"),
    ask("select current_setting('transaction_read_only')"),
  );
  expect(one).toBe(other);
  expect([who, writes]).toEqual(["strata_reader", "on"]);
  expect(await ask(TRANSACTION).answer).not.toBe(one);
});

it("a read alone takes one connection, and takes it once", async () => {
  const pool = createPool(database.connection, { pipeline: true });
  let taken = 0;
  pool.on("acquire", () => taken++);
  const from = createBatches({ pool, prepare: true, maxBytes: 1e9 });
  for (let i = 0; i < 20; i++) await ask("select 'a'", { from }).answer;
  expect([taken, pool.totalCount]).toEqual([20, 1]);
  await pool.end();
});

it("reads with different settings share nothing", async () => {
  const operator = { ...reader, role: "strata_operator" };
  const read = await answers(
    ask("select current_user || ' ' || pg_current_xact_id()"),
    ask("select current_user || ' ' || pg_current_xact_id()", { settings: operator }),
  );
  const [one, other] = read.map((text) => text.split(/ (.*)/));
  expect([one![0], other![0]]).toEqual(["strata_reader", "strata_operator"]);
  expect(one![1]).not.toBe(other![1]);
});

it("as many share as are read in a few milliseconds; large ones go alone", async () => {
  const transactions = async (...costs: number[]) =>
    new Set(await answers(...costs.map((cost) => ask(TRANSACTION, { cost })))).size;
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
  await database.pool.query(
    `create function public.fault() returns text language plpgsql as
      $$ begin raise 'no room' using errcode = '53400'; end $$;
    grant execute on function public.fault() to strata_reader`,
  );
  expect(await outcomes(ask("select 'a'"), ask("select public.fault()"), ask("select 'b'"))).toEqual([
    "a",
    "53400",
    "b",
  ]);
  const nobody = { ...reader, role: "strata_nobody" };
  expect(
    await outcomes(ask("select 'a'", { settings: nobody }), ask("select 'b'", { settings: nobody })),
  ).toEqual(["22023", "22023"]);
  await idle();
});

it("what gives no text is nobody's answer", async () => {
  const [, ...others] = await Promise.allSettled([
    ask("select 'a'").answer,
    ask("select 'b' where false").answer,
    ask("select null").answer,
  ]);
  expect(others.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
});

it("statements that are prepared stay bounded, also when some fail", async () => {
  const pool = createPool(database.connection, { pipeline: true, max: 1 });
  const from = createBatches({ pool, prepare: true, maxBytes: 1e9 });
  for (let round = 0; round < 5; round++) {
    const readings = Array.from({ length: 100 }, (_, i) => ask(`select '${round} ${i}'`, { from }));
    await outcomes(...readings, ask(`select (${round} / length(''))::text`, { from }));
  }
  const { rows } = await pool.query("select count(*)::int as count from pg_prepared_statements");
  expect(rows[0].count).toBeLessThan(400);
  await pool.end();
});

it("a time limit of the connection's own ends with the read", async () => {
  const pool = createPool(database.connection, { pipeline: true, max: 1, query_timeout: 200 });
  const from = createBatches({ pool, prepare: true, maxBytes: 1e9 });
  expect(await ask("select 'a'", { from }).answer).toBe("a");
  // The limit has passed by then.
  await sleep(400);
  expect(await ask("select 'b'", { from, cost: 1000 }).answer).toBe("b");
  await pool.end();
});

it("few transactions of one caller run at once, and more reads share them", async () => {
  const started = await answers(...Array.from({ length: 40 }, () => ask(TRANSACTION, { cost: 80 })));
  expect(new Set(started.slice(0, 5)).size).toBe(1);
  expect(new Set(started).size).toBe(8);
  const pids = await answers(
    ...Array.from({ length: 12 }, () => ask("select pg_backend_pid()::text", { cost: 400 })),
  );
  if (isServer) expect(new Set(pids).size).toBeLessThanOrEqual(4);
});

it("what nobody waits for any more is not asked", async () => {
  const readings = [ask("select 'a'"), ask("select nothing"), ask("select 'c'")];
  readings[1]!.cancel();
  expect(await outcomes(...readings)).toEqual(["a", "57014", "c"]);
  const gone = ask("select nothing");
  gone.cancel();
  expect(await outcomes(gone)).toEqual(["57014"]);
  await idle();
});

it("nothing is read without a role", () => {
  for (const role of ["", "none"])
    expect(() => ask("select 'a'", { settings: { ...reader, role } })).toThrow("role");
});

it("nothing is prepared where a pooler may give another connection each time", async () => {
  const pool = createPool(database.connection, { pipeline: true, max: 1 });
  const from = createBatches({ pool, prepare: false, maxBytes: 1e9 });
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
  const from = createBatches({ pool, prepare: true, maxBytes: 1e9 });
  const readings = [2, 2, 1000].map((cost) => ask("select 'a'", { from, cost }));
  expect(await outcomes(...readings)).toEqual(["ENOENT", "ENOENT", "ENOENT"]);
  await pool.end();
});

// The embedded engine runs one statement at a time, and neither stops it for a time limit nor when it is told to.
describe.runIf(isServer)("on a server", () => {
  it("one that takes long does not keep the others waiting, and goes alone from then on", async () => {
    const slow = "select pg_sleep(20)::text";
    const from = createBatches(operations);
    const isSmall = (text: string, caller?: string) =>
      from.isSmall(requestOf(text, { ...(caller && { caller }) }));
    const startedAt = performance.now();
    const first = expect(ask(slow, { from }).answer).rejects.toThrow(TookLong);
    const others = ["one", "other"].map((caller) => ask("select 'a'", { from, caller }));
    expect(await answers(...others)).toEqual(["a", "a"]);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
    await first;
    for (let i = 0; i < 100; i++) expect(isSmall(slow, "other")).toBe(false);
    expect(isSmall(slow, "other")).toBe(true);
    // Its caller has other ones, perhaps.
    expect(isSmall("select 'a'")).toBe(false);
    await expect.poll(() => isSmall("select 'a'"), { timeout: 20_000 }).toBe(true);
  });

  it("many that wait for the same lock are found out together", async () => {
    await database.pool.query("create table public.locked (a text); grant all on public.locked to public");
    const owner = await database.pool.connect();
    await owner.query("begin; lock table public.locked");
    const from = createBatches(operations);
    const startedAt = performance.now();
    const text = "select coalesce(max(a), '') from public.locked";
    const waiting = Array.from({ length: 100 }, (_, i) =>
      expect(ask(text, { from, caller: `caller ${i}` }).answer).rejects.toThrow(TookLong),
    );
    expect(await ask("select 'a'", { from }).answer).toBe("a");
    await Promise.all(waiting);
    // One after the other they would take 50 ms each.
    expect(performance.now() - startedAt).toBeLessThan(3_000);
    await owner.query("rollback");
    owner.release();
    await idle();
  });

  it("one that runs alone is cancelled when nobody waits for it, and has its own time limit", async () => {
    const running = async (): Promise<boolean> => {
      const { rows } = await database.pool.query(
        `select from pg_stat_activity
         where datname = current_database() and query like '%pg_sleep%' and state = 'active' and pid <> pg_backend_pid()`,
      );
      return rows.length > 0;
    };
    const patient = { ...reader, statement_timeout: "120000" };
    const long = ask("select pg_sleep(120)::text", { cost: 1000, settings: patient });
    await until(running);
    long.cancel();
    expect(await outcomes(long)).toEqual(["57014"]);
    await until(async () => !(await running()), 30);
    const settings = { ...reader, statement_timeout: "200" };
    expect(await outcomes(ask("select pg_sleep(120)::text", { cost: 1000, settings }))).toEqual(["57014"]);
    await idle();
  });

  it("a connection that is lost takes along what it was sent, and nothing after it", async () => {
    const { rows } = await database.pool.query("select current_user as login");
    const settings = { ...reader, role: rows[0].login as string };
    for (const cost of [2, 1000]) {
      for (let i = 0; i < 20; i++) {
        const end = ask("select pg_terminate_backend(pg_backend_pid())::text", { settings, cost });
        expect(await outcomes(end)).toEqual(["57P01"]);
        expect(await outcomes(ask("select 'b'", { cost }), ask("select 'c'"))).toEqual(["b", "c"]);
      }
    }
    await idle();
  });

  it("a connection that ends with its last answer is no fault of a read", async () => {
    const target = new URL(process.env.TEST_DATABASE_URL!);
    let isCutting = false;
    // Withholds "ready for query", the last six bytes.
    const toClient = (data: Buffer, client: Socket) =>
      isCutting ? client.end(data.subarray(0, -6)) : client.write(data);
    const proxy = await createProxy(
      { host: target.hostname, port: Number(target.port || 5432) },
      { toClient },
    );
    const url = new URL(database.config.DATABASE_URL!);
    url.hostname = "127.0.0.1";
    url.port = String(proxy.port);
    const pool = createPool({ connectionString: url.href }, { pipeline: true, max: 1 });
    const from = createBatches({ pool, prepare: true, maxBytes: 1e9 });
    expect(await answers(ask("select 'a'", { from }), ask("select 'b'", { from }))).toEqual(["a", "b"]);
    isCutting = true;
    expect(await answers(ask("select 'a'", { from }), ask("select 'b'", { from }))).toEqual(["a", "b"]);
    isCutting = false;
    expect(await ask("select 'c'", { from }).answer).toBe("c");
    await pool.end();
    proxy.close();
  });
});
