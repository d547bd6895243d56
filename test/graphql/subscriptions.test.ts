import type { Client } from "graphql-ws";
import pg from "pg";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";
import { connect, initialise } from "../support/socket.ts";
import { createApi, type Api } from "./api.ts";

/** How many listen for announcements at this moment, and how many ever did. */
const listeners = vi.hoisted(() => ({ count: 0, started: 0 }));
vi.mock("../../src/database/notifications.ts", async (importOriginal) => {
  const original = await importOriginal<typeof import("../../src/database/notifications.ts")>();
  const createNotifications: typeof original.createNotifications = (connection) => {
    const notifications = original.createNotifications(connection);
    const subscribe: typeof notifications.subscribe = (channel) => {
      const announcements = notifications.subscribe(channel);
      // The server itself listens for new catalogues.
      if (channel === "strata:schema") return announcements;
      const end = announcements.return.bind(announcements);
      listeners.count++;
      listeners.started++;
      let isEnded = false;
      announcements.return = (value) => {
        if (!isEnded) listeners.count--;
        isEnded = true;
        return end(value);
      };
      return announcements;
    };
    return { ...notifications, subscribe };
  };
  return { ...original, createNotifications };
});

let api: Api;
let origin: string;
const clients: Client[] = [];

beforeAll(async () => {
  api = await createApi();
  origin = await api.listen();
});
afterAll(async () => {
  for (const client of clients) await client.dispose();
  await api.close();
});

function connectAs(role: "reader" | "ingestor" | "operator"): Client {
  const client = connect(origin, api.as[role]);
  clients.push(client);
  return client;
}

/** The events of a subscription, as they come. */
function follow(role: "reader" | "ingestor" | "operator", query: string) {
  const before = listeners.started;
  const events = connectAs(role).iterate({ query });
  const next = async (): Promise<any> => (await events.next()).value;
  /** Subscribed means that an announcement sent from now on arrives. */
  const settle = () => expect.poll(() => listeners.started, { timeout: 20_000 }).toBeGreaterThan(before);
  return { next, settle, stop: () => events.return!() };
}

async function addRun(step = "refresh", status = "succeeded", actor = "somebody"): Promise<string> {
  const { rows } = await api.database.pool.query<{ run_id: string }>(
    `insert into strata.runs (step, status, trigger, actor, dataset, started_at, finished_at)
     values ($1, $2, 'api', $3, case when $1 = 'ingest' then 'users' end, clock_timestamp(), clock_timestamp()) returning run_id`,
    [step, status, actor],
  );
  return rows[0]!.run_id;
}

const watch =
  "subscription { pipelineRunUpdated { run { runId step status } query { users { totalCount } } } }";

test("tells of runs as they change, and re-queries", async () => {
  const events = follow("reader", watch);
  const first = events.next();
  await events.settle();
  const runId = await addRun();
  expect(await first).toEqual({
    data: {
      pipelineRunUpdated: {
        run: { runId, step: "refresh", status: "succeeded" },
        query: { users: { totalCount: 0 } },
      },
    },
  });
  await events.stop();
});

test("tells first of what changed since", async () => {
  const since = new Date().toISOString();
  const runId = await addRun();
  const events = follow("reader", `subscription { pipelineRunUpdated(since: "${since}") { run { runId } } }`);
  expect(await events.next()).toEqual({ data: { pipelineRunUpdated: { run: { runId } } } });
  await events.stop();
});

test("an ingestor hears of its own runs alone", async () => {
  const events = follow("ingestor", "subscription { pipelineRunUpdated { run { runId } } }");
  const first = events.next();
  await events.settle();
  await addRun();
  await addRun("ingest", "succeeded", "somebody-else");
  const runId = await addRun("ingest", "succeeded", "test-strata_ingestor");
  expect(await first).toEqual({ data: { pipelineRunUpdated: { run: { runId } } } });
  await events.stop();
});

test("tells of refreshes, a bare one in SQL included, and lets the client read the new data", async () => {
  const events = follow(
    "reader",
    "subscription { analyticsRefreshed { version run { runId } query { dailyUserMetrics { totalCount } } } }",
  );
  const first = events.next();
  await events.settle();
  await api.database.pool.query(
    "insert into production.users (username, email) values ('ada', 'ada@example.org')",
  );
  await api.database.pool.query("refresh materialized view analytics.daily_user_metrics");
  const { data } = await first;
  expect(data.analyticsRefreshed).toEqual({
    version: expect.stringMatching(/^\d+$/),
    run: null,
    query: { dailyUserMetrics: { totalCount: 1 } },
  });
  await events.stop();

  const version = BigInt(data.analyticsRefreshed.version as string);
  const behind = follow("reader", `subscription { analyticsRefreshed(since: ${version - 1n}) { version } }`);
  expect(await behind.next()).toEqual({ data: { analyticsRefreshed: { version: String(version) } } });
  await behind.stop();
});

test("an ingestor is refused refreshes", async () => {
  const events = follow("ingestor", "subscription { analyticsRefreshed { version } }");
  const answer = await events.next().catch((error: unknown) => ({ errors: error }));
  expect(JSON.stringify(answer)).toContain("FORBIDDEN");
});

test.runIf(isServer)("resumes after a lost connection, without a gap", async () => {
  const events = follow("reader", watch);
  const first = events.next();
  await events.settle();
  const listeners =
    "from pg_stat_activity where application_name = 'strata listen' and datname = current_database()";
  const { rowCount } = await api.database.pool.query(`select pg_terminate_backend(pid) ${listeners}`);
  expect(rowCount).toBe(1);
  // Announced to nobody.
  const missed = await addRun();
  expect((await first).data.pipelineRunUpdated.run).toMatchObject({ runId: expect.any(String) });
  const seen = [(await first).data.pipelineRunUpdated.run.runId];
  while (!seen.includes(missed)) seen.push((await events.next()).data.pipelineRunUpdated.run.runId);
  const count = async () => (await api.database.pool.query(`select 1 ${listeners}`)).rowCount;
  await expect.poll(count, { timeout: 30_000 }).toBe(1);
  const later = await addRun();
  while (!seen.includes(later)) seen.push((await events.next()).data.pipelineRunUpdated.run.runId);
  await events.stop();
});

test("who has completed a subscription leaves nothing behind that waits for the next event", async () => {
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(0);
  const queries = [
    "subscription { analyticsRefreshed { version } }",
    "subscription { pipelineRunUpdated { run { runId } } }",
  ];
  const completes = queries.flatMap((query) =>
    Array.from({ length: 10 }, () =>
      connectAs("reader").subscribe({ query }, { next() {}, error() {}, complete() {} }),
    ),
  );
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(20);
  for (const complete of completes) complete();
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(0);
});

test("over HTTP subscriptions are refused, and take nothing", async () => {
  for (const [accept, status] of [
    ["application/graphql-response+json", 400],
    ["application/json", 200],
    ["multipart/mixed, */*", 200],
  ] as const) {
    const answer = await api.ask("reader", watch, {}, { accept });
    expect(answer.status, accept).toBe(status);
    expect(answer.data).toBeUndefined();
    expect(answer.errors).toMatchObject([
      { message: expect.stringContaining("graphql-transport-ws"), extensions: { code: "BAD_REQUEST" } },
    ]);
  }
  expect(listeners.count).toBe(0);
});

test.each([
  "subscription { analyticsRefreshed @skip(if: true) { version } }",
  "subscription { ... @include(if: false) { analyticsRefreshed { version } } }",
  "subscription { ...a } fragment a on Subscription { ...b @skip(if: true) } fragment b on Subscription { analyticsRefreshed { version } }",
  "subscription ($skip: Boolean = true) { analyticsRefreshed @skip(if: $skip) { version } }",
])("a subscription that may have no field is refused: %s", async (query) => {
  const refused = [
    {
      message: expect.stringContaining("@skip and @include are not allowed"),
      extensions: { code: "GRAPHQL_VALIDATION_FAILED" },
    },
  ];
  await expect(follow("reader", query).next()).rejects.toMatchObject(refused);
  expect(await api.ask("reader", query)).toMatchObject({ status: 400, errors: refused });
});

/** Runs that all changed, one after the other, in the hour before now. */
const addHistory = ({ database }: TestApp, count: number) =>
  database.pool.query(
    `insert into strata.runs (step, status, queued_at, started_at, finished_at)
     select 'refresh', 'succeeded', at, at, at
     from (select now() - interval '1 hour' + n * interval '1 second' from generate_series(1, $1) n) t (at)`,
    [count],
  );
const sinceEver = (selection: string) =>
  `subscription { pipelineRunUpdated(since: "1970-01-01") { ${selection} } }`;

test("tells of no more than the last 1000 runs at first", async () => {
  await addHistory(api, 1_100);
  const { rows } = await api.database.pool.query<{ run_id: string }>(
    `select run_id from strata.runs
     order by greatest(queued_at, started_at, finished_at, heartbeat_at) desc, run_id desc limit 1000`,
  );
  const events = follow("reader", sinceEver("run { runId }"));
  const told: string[] = [];
  while (told.length < 1_000) told.push((await events.next()).data.pipelineRunUpdated.run.runId);
  expect(told).toEqual(rows.map(({ run_id }) => run_id).reverse());
  await events.stop();
});

test("a client has as many subscriptions as it likes, up to a number", async () => {
  const begin = (count: number) => {
    const outcomes: unknown[] = [];
    const ends: (() => void)[] = [];
    for (let i = 0; i < count; i++) {
      if (i % 40 === 0) connectAs("operator");
      const answer = (value: unknown) => outcomes.push(value);
      const sink = { next: answer, error: answer, complete() {} };
      ends.push(
        clients.at(-1)!.subscribe({ query: "subscription { analyticsRefreshed { version } }" }, sink),
      );
    }
    return { outcomes, end: () => ends.forEach((each) => each()) };
  };
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(0);
  const first = begin(100);
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(100);
  const more = begin(1);
  await expect.poll(() => more.outcomes, { timeout: 20_000 }).toHaveLength(1);
  expect(more.outcomes).toMatchObject([{ errors: [{ extensions: { code: "RATE_LIMITED", limit: 100 } }] }]);
  // Others are none the worse.
  const other = follow("reader", "subscription { analyticsRefreshed(since: -1) { version } }");
  expect((await other.next()).data.analyticsRefreshed).toBeDefined();
  await other.stop();
  first.end();
  await expect.poll(() => listeners.count, { timeout: 20_000 }).toBe(0);
  const again = follow("operator", "subscription { analyticsRefreshed(since: -1) { version } }");
  expect((await again.next()).data.analyticsRefreshed).toBeDefined();
  await again.stop();
});

test("each event costs what the subscription does", async () => {
  const server = await createTestApp({ RATE_LIMIT_COST: "420", MAX_QUERY_COST: "400" });
  try {
    await addHistory(server, 10);
    const query = sinceEver("query { users { nodes { userId } } }");
    const client = connect(await server.listen(), server.as.reader);
    clients.push(client);
    const events = client.iterate({ query });
    const told: unknown[] = [];
    const all = async () => {
      for await (const event of events) told.push(event);
    };
    await expect(all()).rejects.toMatchObject([{ extensions: { code: "RATE_LIMITED", limit: 420 } }]);
    expect(told).toHaveLength(2);
  } finally {
    await server.close();
  }
});

test("events are made as the client takes them", async () => {
  await addHistory(api, 200);
  await api.database.pool.query(
    "insert into production.users (username, email) select repeat('x', 90) || n, n || '@example.org' from generate_series(1, 1000) n",
  );
  const names = Array.from({ length: 10 }, (_, i) => `name${i}: username`).join(" ");
  const query = sinceEver(`query { users(first: 1000) { nodes { ${names} } } }`);
  const sent = vi.spyOn(pg.Client.prototype, "query");
  const made = () => sent.mock.calls.filter((call) => JSON.stringify(call[0]).includes("users")).length;
  const { socket, send, next } = await initialise(origin, api.as.reader);
  try {
    await next("connection_ack");
    send({ type: "subscribe", id: "1", payload: { query } });
    await next("next");
    socket.pause();
    let before = -1;
    const news = () => {
      const known = before;
      before = made();
      return before - known;
    };
    await expect.poll(news, { timeout: 40_000, interval: 1_000 }).toBe(0);
    expect(before).toBeGreaterThan(0);
    expect(before).toBeLessThan(100);
  } finally {
    sent.mockRestore();
    socket.terminate();
  }
});

test.runIf(isServer)("events of one client leave connections for the others", async () => {
  await addHistory(api, 100);
  const waiting = async (): Promise<number> =>
    (
      await api.database.pool.query(
        "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
      )
    ).rows[0].n;
  const other = await api.database.pool.connect();
  const streams = Array.from({ length: 30 }, () =>
    follow("reader", sinceEver("query { dimDates { nodes { year } } }")),
  );
  try {
    await other.query("begin; lock table production.dim_date in access exclusive mode");
    const firsts = streams.map(({ next }) => next());
    await expect.poll(waiting, { timeout: 8_000 }).toBeGreaterThan(0);
    for (let i = 0; i < 20; i++)
      expect(await api.ask("operator", `{ freshness(first: ${i + 1}) { nodes { dataset } } }`)).toMatchObject(
        { errors: [] },
      );
    // While they wait: nothing was ended by a time-out.
    expect(await waiting()).toBeGreaterThan(0);
    await other.query("rollback");
    for (const first of firsts) expect((await first).errors).toBeUndefined();
  } finally {
    await other.query("rollback");
    other.release();
    await Promise.all(streams.map(({ stop }) => stop()));
  }
});
