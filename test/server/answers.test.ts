/** @module-tag long */
// Answers on refreshed data are kept, and never given after a refresh has returned.
import type { FastifyInstance } from "fastify";
import { parse } from "grafast/graphql";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { loadConfig, type Role } from "../../src/config.ts";
import { createApp } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import { createCacheableCheck } from "../../src/graphql/cacheable.ts";
import { createGraphql } from "../../src/graphql/graphql.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
let instances: FastifyInstance[];
let tokens: Record<string, string>;
const metrics = "metrics token of the test";

beforeAll(async () => {
  database = await createDatabase({ METRICS_TOKEN: metrics });
  await sql(
    "insert into production.users (user_id, username, email, country) values (1, 'ann', 'ann@example.org', 'Peru')",
  );
  instances = [await start(), await start()];
  const token = async (role: Role) => `Bearer ${await createToken(database.config, { role })}`;
  tokens = { reader: await token("strata_reader"), operator: await token("strata_operator") };
});
afterAll(async () => {
  await Promise.all(instances.map((app) => app.close()));
  await database.drop();
});

const start = (environment: Record<string, string> = {}) =>
  createApp({ config: loadConfig({ ...database.environment, ...environment }), database });
const sql = (text: string, values?: unknown[]) => database.pool.query(text, values);
const refresh = () => sql("refresh materialized view analytics.daily_user_metrics");
const TOTAL = `{ dailyUserMetrics(filter: { date: { isNull: false } }) { nodes { date totalRevenue activeUsers } } }`;

async function ask(query: string, { app = instances[0]!, role = "reader", headers = {} } = {}) {
  const authorization = tokens[role]!;
  const response = await app.inject({
    method: "POST",
    url: "/graphql",
    headers: { authorization, "content-type": "application/json", ...headers },
    payload: JSON.stringify({ query }),
  });
  return { status: response.statusCode, headers: response.headers, body: response.body && response.json() };
}

async function outcomes(app = instances[0]!): Promise<Record<string, number>> {
  const { body } = await app.inject({ url: "/metrics", headers: { authorization: `Bearer ${metrics}` } });
  const lines = [...body.matchAll(/^strata_cache_requests_total\{outcome="(\w+)"\} (\d+)$/gm)];
  const bytes = /^strata_cache_bytes (\d+)$/m.exec(body);
  return {
    ...Object.fromEntries(lines.map(([, name, count]) => [name, Number(count)])),
    bytes: Number(bytes?.[1]),
  };
}

async function hitsOf(work: () => Promise<unknown>, app?: FastifyInstance): Promise<number> {
  const before = (await outcomes(app)).hit ?? 0;
  await work();
  return ((await outcomes(app)).hit ?? 0) - before;
}

describe("an answer on refreshed data", () => {
  beforeEach(refresh);

  it("is kept from the second time on, and given again", async () => {
    const answers = await Promise.all([]);
    expect(
      await hitsOf(async () => {
        for (let i = 0; i < 5; i++) answers.push((await ask(TOTAL)) as never);
      }),
    ).toBe(3);
    expect(new Set(answers.map((answer: { body: unknown }) => JSON.stringify(answer.body))).size).toBe(1);
  });

  it("is not sent again to who has it: 304", async () => {
    await ask(TOTAL);
    const { headers } = await ask(TOTAL);
    expect(headers["cache-control"]).toBe("private, no-cache");
    const etag = headers.etag as string;
    const again = await ask(TOTAL, { headers: { "if-none-match": etag } });
    expect(again).toMatchObject({ status: 304, body: "" });
    expect(again.headers.etag).toBe(etag);
    expect((await ask(TOTAL, { headers: { "if-none-match": '"another"' } })).status).toBe(200);
    await sql(
      "insert into production.transactions (user_id, amount, transaction_date) values (1, 5, '2024-01-01')",
    );
    await refresh();
    const changed = await ask(TOTAL, { headers: { "if-none-match": etag } });
    expect(changed.status).toBe(200);
    expect(changed.headers.etag).not.toBe(etag);
  });

  it.each([
    ["a bare REFRESH", refresh],
    ["analytics.refresh", () => sql("select strata.refresh(true)")],
    [
      "the calendar",
      () => sql("update production.dim_date set is_holiday = not is_holiday where full_date = '2024-01-01'"),
    ],
    ["a grant", () => sql("grant select on analytics.daily_user_metrics to strata_ingestor")],
  ])("is computed again after a change by %s", async (_name, change) => {
    for (let i = 0; i < 3; i++) await ask(TOTAL);
    expect(await hitsOf(() => ask(TOTAL))).toBe(1);
    await change();
    expect(await hitsOf(() => ask(TOTAL))).toBe(0);
  });

  it("is not another role's, nor that of another question", async () => {
    for (let i = 0; i < 3; i++) await ask(TOTAL);
    expect(await hitsOf(() => ask(TOTAL, { role: "operator" }))).toBe(0);
    expect(await hitsOf(() => ask(TOTAL.replace("totalRevenue", "")))).toBe(0);
  });

  it("is refused to a role that lost its right", async () => {
    for (let i = 0; i < 3; i++) await ask(TOTAL);
    await sql("revoke select on analytics.daily_user_metrics from strata_reader");
    const { body } = await ask(TOTAL);
    await sql("grant select on analytics.daily_user_metrics to strata_reader");
    expect(body.errors[0].extensions.code).toBe("FORBIDDEN");
    expect((await ask(TOTAL)).body.errors).toBeUndefined();
  });

  it("varies with the origin as well, where some may ask", async () => {
    const app = await start({ CORS_ORIGINS: "https://app.example" });
    for (let i = 0; i < 3; i++) {
      const { headers } = await ask(TOTAL, { app, headers: { origin: "https://app.example" } });
      if (i > 0)
        expect(headers).toMatchObject({ etag: expect.any(String), vary: "Origin, authorization, accept" });
    }
    await app.close();
  });

  it("is not kept if the setting says so", async () => {
    const app = await start({ RESPONSE_CACHE_MB: "0" });
    for (let i = 0; i < 3; i++) expect((await ask(TOTAL, { app })).headers.etag).toBeUndefined();
    await app.close();
  });

  it("takes no more memory than allowed", async () => {
    const app = await start({ RESPONSE_CACHE_MB: "1" });
    const filler = " ".repeat(15_000);
    for (let i = 0; i < 50; i++)
      for (let time = 0; time < 2; time++) await ask(`${TOTAL}${filler}#${i}`, { app });
    const { bytes } = await outcomes(app);
    expect(bytes).toBeGreaterThan(500_000);
    expect(bytes).toBeLessThanOrEqual(1024 * 1024);
    await app.close();
  });

  // The amount is the number of the refresh. Whoever asks after the nth has returned must see the nth at least.
  it("is never older than the last refresh that had returned when it was asked for, on any instance", async () => {
    await sql("truncate production.transactions");
    await sql(
      "insert into production.transactions (user_id, amount, transaction_date) values (1, 1, '2024-02-02')",
    );
    await refresh();
    let returned = 1;
    let stopped = false;
    const refreshing = (async () => {
      for (let n = 2; n <= 40; n++) {
        await sql("update production.transactions set amount = $1", [n]);
        await (n % 2 === 0 ? refresh() : sql("select strata.refresh(false)"));
        returned = n;
        await new Promise((done) => setTimeout(done, 20));
      }
      stopped = true;
    })();
    let asked = 0;
    const reading = instances.flatMap((app) =>
      Array.from({ length: 3 }, async () => {
        while (!stopped) {
          const atLeast = returned;
          const { body } = await ask(TOTAL, { app });
          expect(Number(body.data.dailyUserMetrics.nodes[0].totalRevenue)).toBeGreaterThanOrEqual(atLeast);
          asked++;
        }
      }),
    );
    const hits = await hitsOf(() => Promise.all([refreshing, ...reading]));
    expect(returned).toBe(40);
    expect(asked).toBeGreaterThan(100);
    expect(hits).toBeGreaterThan(asked / 10);
  });
});

describe("what is not known to be refreshed data", () => {
  it.each([
    "{ users { totalCount } }",
    "{ dailyUserMetricsLive { totalCount } }",
    "{ freshness { nodes { dataset } } }",
    "{ pipelineRuns { totalCount } }",
    "{ dailyUserMetrics { totalCount } users { totalCount } }",
  ])("is not stored: %s", async (query) => {
    for (let i = 0; i < 3; i++) {
      const { headers, body } = await ask(query);
      expect(body.errors).toBeUndefined();
      expect(headers.etag).toBeUndefined();
      expect(headers["cache-control"]).toBe("no-store");
    }
  });

  it("is told from what is", async () => {
    const graphql = createGraphql({
      config: database.config,
      database,
    });
    const isCacheable = createCacheableCheck(await graphql.instance.getSchema());
    await graphql.release();
    const expectations: [string, boolean][] = [
      ["{ dailyUserMetrics { nodes { date dimDate { year } } pageInfo { hasNextPage } } }", true],
      ["{ quarterlyRevenues { nodes { year totalRevenue } } __typename }", true],
      ["query A { dimDates { totalCount } } fragment F on DailyUserMetric { date }", true],
      ["{ dailyUserMetrics { groupedAggregates(groupBy: COUNTRY) { keys sum { totalRevenue } } } }", true],
      ["{ dailyUserMetrics { nodes { ...F } } } fragment F on DailyUserMetric { __typename }", true],
      ["{ dailyUserMetricsLive { nodes { date } } }", false],
      ["{ query { dailyUserMetrics { totalCount } } }", true],
      ["{ query { users { totalCount } } }", false],
      ['{ node(id: "x") { __typename ... on DailyUserMetric { date } } }', false],
      ["{ __schema { queryType { name } } }", false],
      ["{ quarantinedRows { totalCount } }", false],
      ["{ dailyUserMetrics { nodes { nothing } } }", false],
      ["mutation { refreshAnalytics { run { status } } }", false],
    ];
    for (const [query, expected] of expectations)
      expect([query, isCacheable(parse(query))]).toEqual([query, expected]);
  });
});

describe("more than the server can do", () => {
  let app: FastifyInstance;
  let blocker: pg.Client;
  beforeAll(async () => {
    app = await start({ MAX_CONCURRENT_OPERATIONS: "4" });
    blocker = new pg.Client(database.connection);
    await blocker.connect();
  });
  afterAll(async () => {
    await blocker.end();
    await app.close();
  });
  const COUNT = "{ users { totalCount } }";
  const count = () => ask(COUNT, { app });

  it.skipIf(!isServer)("waits for a moment if that is enough", async () => {
    await count();
    await blocker.query("begin; lock table production.users");
    const answers = Promise.all(Array.from({ length: 5 }, count));
    await blocker.query("rollback");
    for (const { status, body } of await answers) expect([status, body.errors]).toEqual([200, undefined]);
  });

  it.skipIf(!isServer)("leaves room for somebody else, and for a third", async () => {
    await blocker.query("begin; lock table production.users");
    const first = Array.from({ length: 6 }, count);
    const second = Array.from({ length: 6 }, () => ask(COUNT, { app, role: "operator" }));
    const headers = {
      authorization: `Bearer ${await createToken(database.config, { role: "strata_reader", subject: "third" })}`,
    };
    const third = await ask("{ dimDates(first: 1) { nodes { year } } }", { app, headers });
    await blocker.query("rollback");
    expect(third.status).toBe(200);
    await Promise.all([...first, ...second]);
  });

  it.skipIf(!isServer)("is not made of heavy work that waits for its caller's own", async () => {
    const heavy = "{ users(first: 1000) { nodes { transactions(first: 20) { nodes { amount } } } } }";
    await blocker.query("begin; lock table production.users");
    const answers = Promise.all(Array.from({ length: 10 }, () => ask(heavy, { app })));
    // Longer than anything may wait for a place.
    await new Promise((done) => setTimeout(done, 500));
    await blocker.query("rollback");
    for (const { status, body } of await answers) expect([status, body.errors]).toEqual([200, undefined]);
  });

  it.skipIf(!isServer)("is refused, and what was let in is answered", async () => {
    await blocker.query("begin; lock table production.users");
    let answered = 0;
    const answers = Promise.all(
      Array.from({ length: 20 }, async () => {
        const answer = await count();
        answered++;
        return answer;
      }),
    );
    await expect.poll(() => answered, { timeout: 20_000 }).toBe(18);
    await blocker.query("rollback");
    const refused = (await answers).filter(({ status }) => status === 503);
    expect(refused).toHaveLength(18);
    for (const { headers, body } of refused) {
      expect(headers["retry-after"]).toBe("1");
      expect(headers["x-content-type-options"]).toBe("nosniff");
      expect(body.errors[0].extensions.code).toBe("SERVICE_UNAVAILABLE");
    }
    expect((await answers).filter(({ status, body }) => status === 200 && !body.errors)).toHaveLength(2);
    expect((await count()).status).toBe(200);
  });

  it.skipIf(!isServer)("is not made of runs of the pipeline, which may take long", async () => {
    await blocker.query("begin; lock table strata.datasets");
    const transform = "mutation { transformStaging { run { status } } }";
    const runs = Array.from({ length: 4 }, () => ask(transform, { app, role: "operator" }));
    const isBlocked = async () =>
      (
        await sql(
          "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
        )
      ).rowCount !== 0;
    await expect.poll(isBlocked, { timeout: 20_000 }).toBe(true);
    expect((await count()).status).toBe(200);
    await blocker.query("rollback");
    for (const { status } of await Promise.all(runs)) expect(status).toBe(200);
  });
});
