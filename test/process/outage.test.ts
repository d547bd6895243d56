/** @module-tag long */
// The database goes away and comes back in every way it can; the server stays up, says so and goes on by itself.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "../../src/database/connect.ts";
import { canStartCluster, createCluster, type Cluster } from "../support/cluster.ts";
import {
  graphql,
  readiness,
  runStrata,
  startReadyServer,
  startServer,
  until,
  type Server,
} from "../support/process.ts";

const JWT_SECRET = "a secret of the tests, long enough for HS256";
const QUERY = "{ users(first: 1) { totalCount } }";
const RUN = "mutation { transformStaging { run { status } } }";

/** A disk that is full without filling the machine's. */
const canMount = canStartCluster && tryMount();

function tryMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), "strata-mount-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], { stdio: "ignore" });
    execFileSync("umount", [folder]);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe.runIf(canStartCluster)("outages", () => {
  let cluster: Cluster;
  let environment: Record<string, string>;
  let token: string;
  let server: Server | undefined;

  beforeAll(async () => {
    cluster = await createCluster();
    await execute("create database outage", "postgres");
    environment = { DATABASE_URL: cluster.url("outage"), JWT_SECRET };
    expect((await runStrata(["migrate"], environment)).stderr).toBe("");
    token = (await runStrata(["token", "--role", "operator"], environment)).stdout.trim();
  });
  afterAll(() => cluster?.remove());
  afterEach(async () => {
    await server?.stop("SIGKILL");
    server = undefined;
    // A test that failed in the middle must not take the others with it.
    if (!cluster.isRunning()) cluster.start();
  });

  async function execute(sql: string, database = "outage"): Promise<any[]> {
    const pool = createPool({ connectionString: cluster.url(database) }, { max: 1 });
    try {
      return (await pool.query(sql)).rows;
    } finally {
      await pool.end();
    }
  }
  const isServing = async (): Promise<void> => {
    expect(server!.child.exitCode).toBeNull();
    expect(await graphql(server!, token, QUERY)).toMatchObject({
      status: 200,
      data: { users: { totalCount: 0 } },
    });
    expect((await graphql(server!, token, RUN)).data).toEqual({
      transformStaging: { run: { status: "succeeded" } },
    });
  };
  const answersUnavailable = async (query = QUERY): Promise<void> => {
    const { status, retryAfter, errors } = await graphql(server!, token, query);
    expect({ status, code: errors?.[0]?.extensions.code }).toEqual({
      status: 503,
      code: "SERVICE_UNAVAILABLE",
    });
    expect(Number(retryAfter)).toBeGreaterThan(0);
    expect(JSON.stringify(errors)).not.toMatch(/ECONN|127\.0\.0\.1|select|node_modules/);
  };

  test("away at the start: alive, not ready, and serving once it is there", async () => {
    cluster.stop();
    server = await startServer(environment);
    expect(await readiness(server)).toMatchObject({
      status: 503,
      retryAfter: "5",
      checks: { database: { ok: false } },
    });
    await answersUnavailable();
    cluster.start();
    await until(async () => (await readiness(server!)).status === 200);
    await isServing();
  });

  test.each(["fast", "immediate"] as const)("stopped (%s) and started again", async (mode) => {
    server = await startReadyServer(environment);
    await isServing();
    cluster.stop(mode);
    await until(async () => (await readiness(server!)).checks.database?.ok === false);
    expect(await readiness(server)).toMatchObject({ status: 503, retryAfter: "5" });
    await answersUnavailable();
    await answersUnavailable(RUN);
    cluster.start();
    await until(async () => (await readiness(server!)).status === 200);
    await isServing();
  });

  test("every connection terminated while requests run", async () => {
    server = await startReadyServer(environment);
    const statuses: number[] = [];
    let done = false;
    const load = Array.from({ length: 4 }, async () => {
      while (!done) statuses.push((await graphql(server!, token, QUERY)).status);
    });
    const moreAnswers = async (): Promise<void> => {
      const enough = statuses.length + 2 * load.length;
      await until(() => Promise.resolve(statuses.length >= enough));
    };
    for (let i = 0; i < 5; i++) {
      await moreAnswers();
      await execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'strata%' and pid <> pg_backend_pid()",
      );
    }
    await moreAnswers();
    done = true;
    await Promise.all(load);
    expect(new Set(statuses).difference(new Set([200, 503]))).toEqual(new Set());
    expect(statuses.at(-1)).toBe(200);
    await until(async () => (await readiness(server!)).status === 200);
    await isServing();
  });

  test("failed over to a server that takes no writes", async () => {
    server = await startReadyServer(environment);
    cluster.stop();
    cluster.start("-c default_transaction_read_only=on");
    await until(
      async () => (await readiness(server!)).checks.database?.detail.startsWith("read-only") ?? false,
    );
    await answersUnavailable(RUN);
    cluster.stop();
    cluster.start();
    await until(async () => (await readiness(server!)).status === 200);
    await isServing();
  });

  test("out of connections", async () => {
    server = await startReadyServer(environment);
    // Every slot taken by others: what the server has is closed, and it gets no more.
    const hogs = createPool({ connectionString: cluster.url("postgres") }, { max: 60 });
    const taken = await Promise.allSettled(Array.from({ length: 60 }, () => hogs.connect()));
    await execute("select 1").catch(() => undefined);
    const first = taken.find((one) => one.status === "fulfilled")!;
    await first.value.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'strata%' and datname = 'outage'",
    );
    const more = await Promise.allSettled(Array.from({ length: 30 }, () => hogs.connect()));
    await until(async () => (await readiness(server!)).status === 503);
    await answersUnavailable();
    for (const one of [...taken, ...more]) if (one.status === "fulfilled") one.value.release();
    await hogs.end();
    await until(async () => (await readiness(server!)).status === 200);
    await isServing();
  });

  test("pool exhausted: who waits too long is told so, and everything goes on afterwards", async () => {
    // More places than connections: it is the pool that has none.
    const limits = { STATEMENT_TIMEOUT_MS: "60000", MAX_CONCURRENT_OPERATIONS: "64" };
    server = await startReadyServer({ ...environment, ...limits });
    const locker = createPool({ connectionString: cluster.url("outage") }, { max: 1 });
    const lock = await locker.connect();
    await lock.query("begin; lock table production.users in access exclusive mode");
    // One caller's operations wait for each other first: it takes several to use up the pool.
    const tokens = await Promise.all(
      ["a", "b", "c", "d", "e"].map(async (name) => {
        const args = ["token", "--role", "operator", "--sub", name];
        return (await runStrata(args, environment)).stdout.trim();
      }),
    );
    const waiting = tokens.flatMap((other) =>
      Array.from({ length: 6 }, () => graphql(server!, other, QUERY)),
    );
    const first = await Promise.race(waiting);
    expect(first).toMatchObject({ status: 503, retryAfter: "5" });
    expect(first.errors![0]!.extensions.code).toBe("SERVICE_UNAVAILABLE");
    // Busy is not broken: probes have connections of their own.
    expect((await readiness(server)).status).toBe(200);
    await lock.query("commit");
    lock.release();
    await locker.end();
    const statuses = (await Promise.all(waiting)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThan(0);
    expect(statuses.filter((status) => status === 200 || status === 503).length).toBe(30);
    await isServing();
  });

  test.runIf(canMount)("disk full", async () => {
    const disk = mkdtempSync(join(tmpdir(), "strata-disk-"));
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=20m,mode=700,uid=${cluster.uid}`, "tmpfs", disk]);
    try {
      await execute(`create tablespace small location '${disk}'`);
      await execute("alter table production.dim_date set tablespace small");
      server = await startReadyServer(environment);
      await execute("create table filler (text text) tablespace small");
      await expect(async () => {
        for (;;) await execute("insert into filler select repeat('x', 1000) from generate_series(1, 100)");
      }).rejects.toThrow(/No space left|could not extend/);
      // Rewrites rows until no page has room for another one.
      const holiday = (value: boolean) =>
        `mutation { a: updateDimDateByFullDate(input: {fullDate: "2020-01-01", patch: {isHoliday: ${value}}}) { clientMutationId } }`;
      await execute("update production.dim_date set is_holiday = false").catch(() => undefined);
      let answer = await graphql(server, token, holiday(true));
      for (let i = 0; i < 500 && answer.status === 200; i++)
        answer = await graphql(server, token, holiday(i % 2 === 0));
      expect(answer).toMatchObject({ status: 503, retryAfter: "5" });
      expect(answer.errors![0]).toMatchObject({ extensions: { code: "SERVICE_UNAVAILABLE" } });
      expect((await graphql(server, token, QUERY)).status).toBe(200);
      await execute("drop table filler");
      expect((await graphql(server, token, holiday(true))).errors).toBeUndefined();
      await isServing();
    } finally {
      await execute(
        "drop table if exists filler; alter table production.dim_date set tablespace pg_default; drop tablespace small",
      ).catch(() => undefined);
      execFileSync("umount", ["-l", disk]);
      rmSync(disk, { recursive: true, force: true });
    }
  });
});
