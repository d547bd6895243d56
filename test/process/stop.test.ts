/** @module-tag long */
// How a server ends: on SIGTERM in order and in bounded time, on a second one at once; and what it leaves behind.
import { once } from "node:events";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { openDatabase } from "../../src/database/connect.ts";
import { loadConfig } from "../../src/config.ts";
import { createToken } from "../../src/http/token.ts";
import { createPlace, isServer, templateOf, type Place } from "../support/database.ts";
import {
  graphql,
  readiness,
  runStrata,
  startReadyServer,
  startStrata,
  until,
  type Server,
} from "../support/process.ts";
import { initialise } from "../support/socket.ts";

const SOCKET = ".s.PGSQL.5432";
// An embedded engine takes seconds to start, on a busy machine many.
vi.setConfig({ testTimeout: 240_000 });
const ROWS = isServer ? 80_000 : 15_000;
let prepared: Place;
let place: Place;
let token: string;
let server: Server | undefined;

beforeAll(async () => {
  prepared = place = await createPlace();
  // With rows of its own, a start adds no sample data.
  await query("insert into production.users (username, email) values ('ann', 'ann@example.com')");
  token = await createToken(loadConfig(place.environment), { role: "strata_operator", subject: "test" });
});
afterAll(() => prepared.remove());
beforeEach(async () => void (place = await createPlace({ LOG_LEVEL: "info" }, templateOf(prepared))));
afterEach(async () => {
  await server?.stop("SIGKILL");
  server = undefined;
  await place.remove();
});

async function query(sql: string): Promise<any[]> {
  const database = await openDatabase(loadConfig(place.environment));
  try {
    return (await database.pool.query(sql)).rows;
  } finally {
    await database.close();
  }
}
const seed = (): Promise<any[]> =>
  query(
    `insert into staging.raw_users (user_id, username, email, created_at, country)
     select 1000 + i, 'user' || i, 'user' || i || '@example.com', '2025-01-01', 'NO' from generate_series(1, ${ROWS}) i`,
  );
/** A request whose body never ends: nothing that waits for it ends by itself. */
async function hang({ url }: Server) {
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  socket.on("error", () => undefined);
  await once(socket, "connect");
  socket.write(
    `POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n{`,
  );
  // The server says "100 Continue" when it has taken the request.
  await once(socket, "data");
}

async function lastRun(): Promise<{ status: string; rowsWritten: string } | undefined> {
  const runs = "{ pipelineRuns(first: 1, orderBy: RUN_ID_DESC) { nodes { status rowsWritten } } }";
  return (await graphql(server!, token, runs)).data.pipelineRuns.nodes[0];
}

test("a server whose log nobody reads any more ends all the same", async () => {
  server = await startReadyServer(place.environment);
  server.child.stdout.destroy();
  // Its last lines are written when it ends.
  const end = server.stop();
  const seconds = new Promise<string>((resolve) => setTimeout(resolve, 60_000, "still there").unref());
  expect(await Promise.race([end, seconds])).toBe(0);
});

test("while it drains it is not ready, but serves", { tags: ["long"] }, async () => {
  server = await startReadyServer({ ...place.environment, SHUTDOWN_DELAY_MS: "2000" });
  const exit = server.stop();
  await until(async () => (await readiness(server!)).status === 503);
  expect(await readiness(server)).toMatchObject({
    retryAfter: "5",
    checks: { database: { ok: true }, process: { ok: false, detail: "stopping" } },
  });
  expect((await graphql(server, token, "{ users { totalCount } }")).status).toBe(200);
  expect(await exit).toBe(0);
});

test(
  "a job that is running ends with the process, and nothing of it is lost or done twice",
  { tags: ["long"] },
  async () => {
    await seed();
    server = await startReadyServer({ ...place.environment, SHUTDOWN_TIMEOUT_MS: "20000" });
    const { data } = await graphql(
      server,
      token,
      "mutation { transformStaging(input: {background: true}) { run { status } } }",
    );
    expect(["queued", "running"]).toContain(data.transformStaging.run.status);
    await until(async () => Number((await lastRun())?.rowsWritten) > 0);
    // It has 70 % of the time to finish, and is cancelled then; exit code 1 would mean that it was given up.
    expect(await server.stop()).toBe(0);
    expect(await query("select * from strata.runs where status in ('running', 'queued')")).toEqual([]);
    expect((await runStrata(["transform"], place.environment)).code).toBe(0);
    expect(
      await query(
        "select count(*)::int as users, count(distinct username)::int as names from production.users",
      ),
    ).toEqual([{ users: ROWS + 1, names: ROWS + 1 }]);
  },
);

test("a mutation that is running gets its answer", { tags: ["long"] }, async () => {
  await seed();
  server = await startReadyServer(place.environment);
  const answer = graphql(server, token, "mutation { transformStaging { run { status rowsWritten } } }");
  await until(async () => (await lastRun())?.status === "running");
  const exit = server.stop();
  expect((await answer).data).toEqual({
    transformStaging: { run: { status: "succeeded", rowsWritten: String(ROWS) } },
  });
  expect(await exit).toBe(0);
});

test("a connection opened ahead of need does not keep it", { tags: ["long"] }, async () => {
  server = await startReadyServer(place.environment);
  const socket = connect(Number(new URL(server.url).port), "127.0.0.1");
  await once(socket, "connect");
  socket.on("error", () => undefined);
  // Exit code 1 would mean that it was given up.
  expect(await server.stop()).toBe(0);
});

test("sockets are told to go elsewhere", { tags: ["long"] }, async () => {
  server = await startReadyServer(place.environment);
  const socket = await initialise(server.url, { authorization: `Bearer ${token}` });
  await socket.next("connection_ack");
  const exit = server.stop();
  expect((await socket.closed).code).toBe(1001);
  expect(await exit).toBe(0);
});

test("what does not end is given up after SHUTDOWN_TIMEOUT_MS", async () => {
  server = await startReadyServer({ ...place.environment, SHUTDOWN_TIMEOUT_MS: "1500" });
  await hang(server);
  expect(await server.stop()).toBe(1);
  expect(server.output.stdout).toContain("Not finished after 1500 ms (SHUTDOWN_TIMEOUT_MS); ending anyway");
});

test("with --json every line is JSON, the start's too", { tags: ["long"] }, async () => {
  server = await startReadyServer({ ...place.environment, LOG_LEVEL: "info" }, ["--json"]);
  await until(() => Promise.resolve(server!.output.stdout.includes('"ready"')));
  await graphql(server, token, "{ users { totalCount } }");
  expect(await server.stop()).toBe(0);
  const lines = server.output.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, any>);
  expect(lines.find((line) => line.ready)?.ready).toMatchObject({
    graphql: expect.stringMatching(/\/graphql$/),
    graphiql: expect.stringMatching(/\/graphiql$/),
  });
  expect(lines.find((line) => line.msg === "request" && line.path === "/graphql")).toBeDefined();
});

test("a second signal ends it at once", { tags: ["long"] }, async () => {
  // Only the second signal ends it while the test waits.
  server = await startReadyServer({ ...place.environment, SHUTDOWN_TIMEOUT_MS: "600000" });
  await hang(server);
  server.child.kill("SIGTERM");
  await until(() => Promise.resolve(server!.output.stdout.includes("finishing what is running")));
  expect(await server.stop()).toBe(1);
});

test("a terminal that is closed ends it as SIGTERM does", { tags: ["long"] }, async () => {
  server = await startReadyServer(place.environment);
  expect(await server.stop("SIGHUP")).toBe(0);
  expect(server.output.stdout).toContain("Stopped");
});

test.each(["Promise.reject(new Error('boom'))", "(() => { throw new Error('boom') })()"])(
  "an unforeseen fault is logged and ends the process: %s",
  { tags: ["long"] },
  async (fault) => {
    // The fault comes when the server catches such ones, whenever that is.
    const when = `const timer = setInterval(() => { if (process.listenerCount("uncaughtException") > 0) { clearInterval(timer); ${fault} } }, 20)`;
    const strata = startStrata(["serve"], {
      ...place.environment,
      NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(when)}`,
    });
    expect(await strata.exit).toBe(1);
    expect(strata.output.stdout).toMatch(/"level":"fatal".*boom.*Unforeseen fault/);
  },
);

// Not by `runIf`, which would run it without TEST_LONG.
test("the embedded database survives kill -9, and takes one server at a time", async ({ skip }) => {
  skip(isServer);
  server = await startReadyServer(place.environment);
  const create = `mutation { createUser(input: {user: {username: "bob", email: "bob@example.com"}}) { user { username } } }`;
  expect((await graphql(server, token, create)).data).toEqual({ createUser: { user: { username: "bob" } } });
  const second = await runStrata(["serve"], { ...place.environment, PORT: "0" });
  expect(second).toMatchObject({ code: 1 });
  expect(second.stderr).toMatch(/is served by another process; stop it or set DATA_DIR\n$/);
  const status = await runStrata(["status", "--json"], place.environment);
  expect(status.code).toBe(0);
  expect(Object.keys(JSON.parse(status.stdout))).toEqual(["freshness", "runs"]);
  await server.stop("SIGKILL");
  server = await startReadyServer(place.environment);
  expect(
    (await graphql(server, token, "{ users(orderBy: USER_ID_ASC) { nodes { username } } }")).data,
  ).toEqual({
    users: { nodes: [{ username: "ann" }, { username: "bob" }] },
  });
});

describe.skipIf(isServer)("two commands on the embedded database", { tags: ["long"] }, () => {
  let commands: ReturnType<typeof startStrata>[];
  beforeEach(() => void (commands = []));
  afterEach(() => Promise.all(commands.map((command) => command.stop("SIGKILL"))));

  const running = async () => (await query("select from strata.runs where status = 'running'")).length;
  const userRow = (i: number): string => `{"user_id": ${i}, "username": "user${i}"}\n`;

  /** Begins to ingest what is written to it; resolves when it is at it, one more than there were. */
  async function ingest(nth: number) {
    const command = startStrata(["ingest", "users", "-", "--format", "ndjson", "--json"], place.environment);
    commands.push(command);
    command.child.stdin.on("error", () => undefined);
    command.child.stdin.write(userRow(nth));
    // Whoever asks before that would run the engine itself.
    if (nth === 1)
      await until(() => Promise.resolve(existsSync(join(place.environment.DATA_DIR!, SOCKET))), 120);
    await until(async () => (await running()) === nth, 120);
    return command;
  }

  test("the one that runs the engine tells its result, and keeps it open for the other", async () => {
    const first = await ingest(1);
    const second = await ingest(2);
    first.child.stdin.end();
    await until(() => Promise.resolve(first.output.stdout !== ""));
    expect(JSON.parse(first.output.stdout).run).toMatchObject({ status: "succeeded", rowsWritten: 1 });
    second.child.stdin.end(userRow(3));
    expect([await second.exit, second.output.stderr]).toEqual([0, ""]);
    expect(JSON.parse(second.output.stdout).run).toMatchObject({ status: "succeeded", rowsWritten: 2 });
    expect([await first.exit, first.output.stderr]).toEqual([0, ""]);
    expect(await query("select count(*)::int as rows from staging.raw_users")).toEqual([{ rows: 3 }]);
  });

  test.each(["SIGTERM", "SIGKILL"] as const)(
    "a %s to the one that runs the engine closes it, and the other says so in a sentence",
    async (signal) => {
      const first = await ingest(1);
      const second = await ingest(2);
      first.child.stdin.end();
      await until(() => Promise.resolve(first.output.stdout !== ""));
      expect(await first.stop(signal)).toBe(signal === "SIGTERM" ? 0 : null);
      second.child.stdin.end(userRow(3));
      expect(await second.exit).toBe(1);
      expect(second.output).toEqual({
        stdout: "",
        stderr: "strata: The embedded database was closed by the process that ran it\n",
      });
    },
  );
});
