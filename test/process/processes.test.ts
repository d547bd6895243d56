// Several processes that serve as one server: PROCESSES.
import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Socket } from "node:net";
import type { Client } from "graphql-ws";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { readiness, runStrata, startServer, startStrata, until, type Server } from "../support/process.ts";
import { createProxy } from "../support/proxy.ts";
import { connect as connectSocket } from "../support/socket.ts";

const METRICS_TOKEN = "a-token-for-metrics";
const environment = (database: TestDatabase): Record<string, string> => ({
  ...database.environment,
  PROCESSES: "2",
  ANONYMOUS_ROLE: "reader",
  METRICS_TOKEN,
  LOG_LEVEL: "info",
});

/** Each with a connection of its own: the next process takes it. */
async function ask(
  server: Server,
  query: string,
  agent = new Agent({ keepAlive: false }),
): Promise<{ status: number; body: any }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      `${server.url}/graphql`,
      { method: "POST", agent, headers: { "content-type": "application/json" } },
      (response) => {
        let text = "";
        response.on("data", (data: Buffer) => (text += String(data)));
        response.on("end", () => resolve({ status: response.statusCode!, body: JSON.parse(text) }));
        response.on("error", reject);
      },
    );
    sent.on("error", reject);
    sent.end(JSON.stringify({ query }));
  });
}

async function metric(server: Server, pattern: RegExp): Promise<number> {
  const response = await fetch(`${server.url}/metrics`, {
    headers: { authorization: `Bearer ${METRICS_TOKEN}`, connection: "close" },
  });
  const text = await response.text();
  return Number(pattern.exec(text)?.[1] ?? 0);
}

const serving = async (server: Server): Promise<string | undefined> =>
  (await readiness(server)).checks.processes?.detail;

/** Processes of the server, from the operating system. */
async function pidsOf({ child }: Server): Promise<number[]> {
  const { readFileSync } = await import("node:fs");
  const text = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim();
  return text === "" ? [] : text.split(" ").map(Number);
}

test("on the embedded database there is one process", async () => {
  const { code, stderr } = await runStrata(["serve"], { PROCESSES: "2" });
  expect(code).toBe(1);
  expect(stderr).toContain("PROCESSES needs DATABASE_URL");
});

describe.runIf(isServer && process.platform === "linux")("two processes", { timeout: 120_000 }, () => {
  let database: TestDatabase;
  let server: Server;
  beforeEach(async () => {
    database = await createDatabase();
    await database.pool.query(
      "insert into production.users (username, email) values ('ann', 'ann@example.org')",
    );
  });
  afterEach(async () => {
    await server?.stop("SIGKILL");
    await database.close();
  });
  const start = async (more: Record<string, string> = {}): Promise<void> => {
    server = await startServer({ ...environment(database), ...more });
    await until(async () => (await serving(server)) === "2 of 2 serve");
  };

  test("have one port, one health, one count of what they did, and stop together", async () => {
    await start();
    expect(await pidsOf(server)).toHaveLength(2);
    for (let i = 0; i < 20; i++) {
      const { status, body } = await ask(server, "query Both { users { nodes { username } } }");
      expect([status, body]).toEqual([200, { data: { users: { nodes: [{ username: "ann" }] } } }]);
    }
    const COUNT = /strata_operations_total\{type="query",name="Both",outcome="ok"\} (\d+)/;
    expect(await metric(server, COUNT)).toBe(20);
    // What the database says is said once, not once for each process.
    expect(await metric(server, /strata_database_up (\d+)/)).toBe(1);
    // Each of them has answered: the system counts the connections that it accepted.
    expect(server.output.stdout.match(/Strata is ready/g)).toHaveLength(1);
    const pids = await pidsOf(server);
    expect(await server.stop()).toBe(0);
    for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  });

  test("scheduled and background work runs in one of them", async () => {
    await start();
    const { rows } = await database.pool.query<{ workers: number }>(
      "select count(*)::int as workers from pg_stat_activity where datname = current_database() and query ~* 'listen \"?jobs:insert'",
    );
    expect(rows[0]!.workers).toBe(1);
  });

  test("a budget is that of all of them together", async () => {
    const limit = 30_000;
    await start({ MAX_QUERY_COST: "10000", RATE_LIMIT_COST: `anonymous=${limit}` });
    const outcomes: number[] = [];
    // A little over 1,000 units each. In turn, so that each process learns what the other one has counted.
    for (let i = 0; i < 60; i++) {
      const { status } = await ask(server, "{ users(first: 1000) { nodes { userId } } }");
      outcomes.push(status);
      await new Promise((resolve) => setTimeout(resolve, 110));
    }
    const passed = outcomes.filter((status) => status === 200).length;
    expect(outcomes.at(-1)).toBe(429);
    expect(passed).toBeGreaterThan(20);
    expect(passed).toBeLessThanOrEqual(31);
  });

  test("subscriptions of a caller are counted in all of them, until the process that has them ends", async () => {
    await start();
    const clients: Client[] = [];
    // Each with a socket of its own: the next process takes it.
    const connectTo = (): Client => {
      const client = connectSocket(server.url);
      clients.push(client);
      return client;
    };
    /** Undefined if it is open. */
    const open = async (client: Client): Promise<string | undefined> => {
      const events = client.iterate<any>({
        query: `subscription { analyticsRefreshed(since: "-1") { version } }`,
      });
      const { value } = await events.next();
      return value.errors?.[0].extensions.code;
    };
    const first = [connectTo(), connectTo()];
    // At most 50 on a socket, 100 of a caller.
    for (const client of first)
      expect(new Set(await Promise.all(Array.from({ length: 50 }, () => open(client))))).toEqual(
        new Set([undefined]),
      );
    // Reports take a moment, in which a few more may be opened.
    for (const client of [connectTo(), connectTo()]) {
      let asked = 0;
      await until(async () => (asked++, (await open(client)) === "RATE_LIMITED"));
      expect(asked).toBeLessThan(10);
    }
    const [victim] = await pidsOf(server);
    process.kill(victim!, "SIGKILL");
    // A connection that was just being handed to it is lost without a word.
    await until(async () => !(await pidsOf(server)).includes(victim!));
    await until(async () => {
      const lost = sleep(5_000, "lost", { ref: false });
      return (await Promise.race([open(connectTo()).catch(() => "closed"), lost])) === undefined;
    });
    for (const client of clients) void client.dispose();
  });

  test("slow bodies of a caller are counted in all of them", async () => {
    // Two places in each process are the caller's at most; fifty more bodies may arrive slowly without one.
    await start({ MAX_CONCURRENT_OPERATIONS: "8" });
    const { hostname, port } = new URL(server.url);
    const sockets: Socket[] = [];
    /** Resolves with true if it is let in: with nothing to read for longer than anybody waits for a place. */
    const send = (): Promise<boolean> =>
      new Promise((resolve) => {
        const socket = connect({ host: hostname, port: Number(port) });
        sockets.push(socket.on("error", () => resolve(false)));
        socket.write(
          'POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"query":',
        );
        socket.once("data", (data) => resolve(!String(data).startsWith("HTTP/1.1 503")));
        setTimeout(() => resolve(true), 1_000).unref();
      });
    let accepted = 0;
    for (let i = 0; i < 45; i++)
      accepted += (await Promise.all([send(), send(), send(), send()])).filter(Boolean).length;
    // Reports take a moment, in which a few more are let in.
    expect(accepted).toBeGreaterThanOrEqual(50);
    expect(accepted).toBeLessThanOrEqual(50 + 4 + 8);
    for (const socket of sockets) socket.destroy();
    await until(async () => (await ask(server, "{ users { totalCount } }")).status === 200);
  });

  test("the end of one drops no other's requests, and another one takes its place", async () => {
    await start();
    const [, victim] = await pidsOf(server);
    const held = new Agent({ keepAlive: true, maxSockets: 1 });
    // Connections go to the processes in turn: of two agents, each has another one.
    const other = new Agent({ keepAlive: true, maxSockets: 1 });
    const QUERY = "{ users { nodes { username } } }";
    for (const agent of [held, other]) expect((await ask(server, QUERY, agent)).status).toBe(200);
    process.kill(victim!, "SIGKILL");
    const outcomes = await Promise.allSettled([held, other].map((agent) => ask(server, QUERY, agent)));
    expect(outcomes.filter(({ status }) => status === "fulfilled").length).toBeGreaterThanOrEqual(1);
    await until(
      async () => (await serving(server)) === "1 of 2 serve" || (await pidsOf(server)).length === 2,
    );
    for (let i = 0; i < 50; i++) expect((await ask(server, QUERY)).status).toBe(200);
    await until(async () => (await serving(server)) === "2 of 2 serve");
    expect(await pidsOf(server)).not.toContain(victim);
    held.destroy();
    other.destroy();
  });

  test("a connection that one had not taken when it ended is another's", async () => {
    await start();
    const [, victim] = await pidsOf(server);
    process.kill(victim!, "SIGSTOP");
    // Connections go to the processes in turn, so that each has one of these.
    const answers = [1, 2].map(() => ask(server, "{ users { nodes { username } } }", new Agent()));
    await Promise.race(answers);
    process.kill(victim!, "SIGKILL");
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([200, 200]);
  });

  test("a message to one that has just ended ends none of the others", async () => {
    await start({ RATE_LIMIT_COST: "anonymous=100000" });
    const [first, second] = await pidsOf(server);
    const QUERY = "{ users { nodes { username } } }";
    // Connections go to the processes in turn: each agent holds one to another process.
    const agents = [1, 2].map(() => new Agent({ keepAlive: true, maxSockets: 1 }));
    for (const agent of agents) expect((await ask(server, QUERY, agent)).status).toBe(200);
    // While the supervisor sleeps, the first process reports what was spent, and the second one dies: the supervisor
    // wakes to a report that it passes on to a process of whose end it has not heard.
    process.kill(server.child.pid!, "SIGSTOP");
    process.kill(second!, "SIGKILL");
    await Promise.allSettled(agents.map((agent) => ask(server, QUERY, agent)));
    await sleep(500);
    process.kill(server.child.pid!, "SIGCONT");
    await until(async () => !(await pidsOf(server)).includes(second!) && (await pidsOf(server)).length === 2);
    await until(async () => (await serving(server)) === "2 of 2 serve");
    expect(await pidsOf(server)).toContain(first);
    for (const agent of agents) agent.destroy();
  });

  test("SIGHUP replaces them one by one, without a failed request", async () => {
    await start();
    const before = await pidsOf(server);
    let isOver = false;
    const failures: unknown[] = [];
    let answered = 0;
    const load = (async () => {
      while (!isOver && failures.length === 0)
        await ask(server, "{ users { nodes { username } } }").then(
          ({ status, body }) => (status === 200 ? answered++ : failures.push(body)),
          (error: unknown) => failures.push(error),
        );
    })();
    server.child.kill("SIGHUP");
    await until(async () => {
      const now = await pidsOf(server);
      return (
        now.length === 2 &&
        now.every((pid) => !before.includes(pid)) &&
        (await serving(server)) === "2 of 2 serve"
      );
    }).finally(() => (isOver = true));
    await load;
    expect(failures).toEqual([]);
    expect(answered).toBeGreaterThan(0);
  });

  test("the port says that they are alive, and not ready, while the database is away", async () => {
    const place = new URL(environment(database).DATABASE_URL!);
    const gate = await createProxy(undefined);
    const real = { host: place.hostname, port: Number(place.port) };
    place.hostname = "127.0.0.1";
    place.port = String(gate.port);
    server = await startServer({ ...environment(database), DATABASE_URL: place.href });
    expect(await readiness(server)).toMatchObject({ status: 503, retryAfter: expect.any(String) });
    gate.leadTo(real);
    await until(async () => (await serving(server)) === "2 of 2 serve");
    expect((await ask(server, "{ users { nodes { username } } }")).status).toBe(200);
    await server.stop("SIGKILL");
    gate.close();
  });

  test("a start that cannot succeed ends with its reason", async () => {
    const strata = startStrata(["serve"], { ...environment(database), PORT: "1", HOST: "203.0.113.1" });
    expect(await strata.exit).toBe(1);
    expect(strata.output.stderr).toContain('HOST "203.0.113.1" is not an address of this machine');
    server = undefined as unknown as Server;
  });
});
