import { afterAll, beforeAll, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { createApi, type Api } from "./api.ts";

let api: Api;

beforeAll(async () => {
  api = await createApi();
  await api.database.pool.query(`
    insert into production.users (user_id, username, email, country, created_at) values
      (1, 'ada', 'ada@example.org', 'UK', '2024-12-01'), (2, 'bo', 'bo@example.org', 'SE', '2024-12-02'),
      (3, 'cy', 'cy@example.org', null, '2024-12-03');
    insert into production.transactions (transaction_id, user_id, amount, transaction_date)
    values (1, 1, 10, '2025-01-04 23:30'), (2, 2, 20, '2025-01-06 00:30');
    insert into production.events (event_id, user_id, event_type, event_data, event_time) values
      (1, 1, 'view', '{"page": "/home", "seconds": 45, "device": {"os": "linux"}, "tags": ["a", "b"]}', '2025-01-04'),
      (2, 2, 'view', '{"page": "/shop", "seconds": 5, "device": {"os": "mac"}}', '2025-01-05'),
      (3, null, 'ping', '{"ok": true, "quote\\"d": 1}', '2025-01-06');
    refresh materialized view analytics.daily_user_metrics`);
});
afterAll(() => api.close());

test("relations lead both ways, and to the calendar", async () => {
  const data = await api.read(`{
    user(userId: 1) { username
      transactions { nodes { amount dimDate { dayName isWeekend quarter } user { username } } }
      events { nodes { eventType dimDate { fullDate } } } }
    event(eventId: 3) { user { username } dimDate { week } } }`);
  expect(data.user).toEqual({
    username: "ada",
    transactions: {
      nodes: [
        {
          amount: "10.00",
          dimDate: { dayName: "Saturday", isWeekend: true, quarter: 1 },
          user: { username: "ada" },
        },
      ],
    },
    events: { nodes: [{ eventType: "view", dimDate: { fullDate: "2025-01-04" } }] },
  });
  expect(data.event).toEqual({ user: null, dimDate: { week: 2 } });
});

test("times are UTC, and offsets are converted", async () => {
  const data = await api.read(`{
    a: transactions(filter: { transactionDate: { equalTo: "2025-01-05T00:30:00+01:00" } }) { nodes { transactionDate transactionDay } }
    b: transactions(filter: { transactionDate: { equalTo: "2025-01-05T23:30:00.0-0100" } }) { nodes { transactionId } } }`);
  expect(data.a.nodes).toEqual([
    { transactionDate: "2025-01-04T23:30:00.000000Z", transactionDay: "2025-01-04" },
  ]);
  expect(data.b.nodes).toEqual([{ transactionId: 2 }]);
});

test("metrics have keys, node ids and cursors, for the group without a date as well", async () => {
  const page = `query ($after: Cursor) { dailyUserMetrics(first: 2, after: $after) {
    nodes { id date country activeUsers totalRevenue dimDate { isWeekend } } pageInfo { endCursor hasNextPage } } }`;
  const first = (await api.read(page)).dailyUserMetrics;
  expect(first.nodes).toMatchObject([
    {
      date: "2025-01-04",
      country: "UK",
      activeUsers: "1",
      totalRevenue: "10.00",
      dimDate: { isWeekend: true },
    },
    {
      date: "2025-01-06",
      country: "SE",
      activeUsers: "1",
      totalRevenue: "20.00",
      dimDate: { isWeekend: false },
    },
  ]);
  const second = (await api.read(page, { after: first.pageInfo.endCursor })).dailyUserMetrics;
  expect(second).toMatchObject({
    nodes: [{ date: null, country: null, activeUsers: "1", totalRevenue: null, dimDate: null }],
    pageInfo: { hasNextPage: false },
  });
  const node = `query ($id: ID!) { node(id: $id) { ... on DailyUserMetric { date country activeUsers } } }`;
  for (const { id, date, country } of [...first.nodes, ...second.nodes]) {
    expect((await api.read(node, { id })).node).toEqual({ date, country, activeUsers: "1" });
  }
});

test("live metrics need no refresh", async () => {
  const data = await api.read(
    `{ dailyUserMetricsLive(filter: { country: { equalTo: "UK" } }) { nodes { date totalRevenue } } }`,
  );
  expect(data.dailyUserMetricsLive.nodes).toEqual([{ date: "2025-01-04", totalRevenue: "10.00" }]);
});

test("freshness tells of every dataset", async () => {
  const data = await api.read("{ freshness { nodes { dataset rowsBehind lagSeconds } } }");
  const datasets = data.freshness.nodes.map(({ dataset }: { dataset: string }) => dataset);
  expect(datasets).toEqual(["daily_revenue", "daily_user_metrics", "events", "transactions", "users"]);
});

test.each([
  [`username: { startsWith: "a" }`, [1]],
  [`country: { isNull: true }`, [3]],
  [`or: [{ country: { equalTo: "SE" } }, { userId: { in: [3] } }]`, [2, 3]],
  [`not: { country: { equalTo: "SE" } }, createdAt: { lessThan: "2024-12-03T00:00:00Z" }`, [1]],
  [`transactions: { some: { dimDate: { isWeekend: { equalTo: true } } } }`, [1]],
  [`transactionsExist: false`, [3]],
  [`eventsExist: true`, [1, 2]],
  [`events: { every: { eventType: { equalTo: "view" } } }`, [1, 2, 3]],
])("filters users by %s", async (filter, expected) => {
  const data = await api.read(`{ users(filter: { ${filter} }) { nodes { userId } } }`);
  expect(data.users.nodes.map(({ userId }: { userId: number }) => userId)).toEqual(expected);
});

test.each([
  [`contains: { device: { os: "linux" } }`, ["1"]],
  [`hasKey: "ok"`, ["3"]],
  [`hasAllKeys: ["page", "seconds"]`, ["1", "2"]],
  [`hasAnyKeys: ["tags", "ok"]`, ["1", "3"]],
  [`path: { path: ["device", "os"], equalTo: "mac" }`, ["2"]],
  [`path: { path: ["ok"], equalTo: true }`, ["3"]],
  [`path: { path: ["device", "os"], in: ["mac", "linux"] }`, ["1", "2"]],
  [`path: { path: ["seconds"], greaterThan: 5 }`, ["1"]],
  [`path: [{ path: ["seconds"], greaterThanOrEqualTo: 5, lessThan: 45 }]`, ["2"]],
  [`path: { path: ["page"], lessThanOrEqualTo: "/home" }`, ["1"]],
  [`path: { path: ["device"], exists: true }`, ["1", "2"]],
  [`path: { path: ["device"], exists: false }`, ["3"]],
  [`path: { path: ["quote\\"d"], exists: true }`, ["3"]],
])("filters events by data: %s", async (filter, expected) => {
  const data = await api.read(`{ events(filter: { eventData: { ${filter} } }) { nodes { eventId } } }`);
  expect(data.events.nodes.map(({ eventId }: { eventId: string }) => eventId)).toEqual(expected);
});

test.each([
  [`eventData: { path: { path: [], exists: true } }`, /must name at least one key/],
  [`eventData: { path: { path: ["a"] } }`, /Say what to compare/],
  [`eventData: { path: { path: ["a"], lessThan: [1] } }`, /compares numbers or texts, not \[1\]/],
  [`eventId: null`, /Null literals are forbidden/],
])("refuses events by %s", async (filter, message) => {
  const { errors } = await api.ask("reader", `{ events(filter: { ${filter} }) { totalCount } }`);
  expect(errors).toMatchObject([
    { message: expect.stringMatching(message), extensions: { code: "BAD_USER_INPUT" } },
  ]);
});

test.each([
  ["Datetime", `eventTime: { lessThan: $value }`, "2025-02-30T00:00:00Z", /is not a date and time such as/],
  ["Datetime", `eventTime: { lessThan: $value }`, "yesterday", /is not a date and time such as/],
  ["Datetime", `eventTime: { lessThan: $value }`, "0000-01-01T00:00:00Z", /is not a date and time such as/],
  ["Datetime", `eventTime: { lessThan: $value }`, "9999-12-31T23:00:00-05:00", /is not a date and time/],
  ["BigInt", `eventId: { equalTo: $value }`, "1.5", /is not a whole number/],
  ["BigInt", `eventId: { equalTo: $value }`, "9223372036854775808", /whole number from .* to 92233/],
])("refuses a %s in %s that is %s", async (type, filter, value, message) => {
  const source = `query ($value: ${type}) { events(filter: { ${filter} }) { totalCount } }`;
  const { errors } = await api.ask("reader", source, { value });
  expect(errors).toMatchObject([
    { message: expect.stringMatching(message), extensions: { code: "BAD_USER_INPUT" } },
  ]);
});

test("takes a date that there is, and no other way to say one", async () => {
  const source = `query ($day: Date!) { dimDateByFullDate(fullDate: $day) { fullDate } }`;
  expect(await api.read(source, { day: "2024-02-29" })).toEqual({
    dimDateByFullDate: { fullDate: "2024-02-29" },
  });
  for (const day of [
    "today",
    "now",
    "01/02/2026",
    "2023-02-29",
    "2026-13-01",
    "0000-01-01",
    "2026-1-2",
    20260102,
  ])
    expect((await api.ask("reader", source, { day })).errors, String(day)).toMatchObject([
      {
        message: expect.stringMatching(/is not a date such as "2026-01-31"/),
        extensions: { code: "BAD_USER_INPUT" },
      },
    ]);
  const relative = `{ dailyUserMetrics(filter: { date: { in: ["yesterday"] } }) { totalCount } }`;
  expect((await api.ask("reader", relative)).errors).toMatchObject([
    { message: expect.stringMatching(/"yesterday" is not a date such as/) },
  ]);
});

test("orders nulls first or last, and pages across them", async () => {
  const page = `query ($orderBy: [DailyUserMetricOrderBy!], $after: Cursor) {
    dailyUserMetrics(first: 1, orderBy: $orderBy, after: $after) {
      nodes { country } pageInfo { endCursor hasNextPage } } }`;
  const countries = async (orderBy: string) => {
    const found = [];
    for (let after: string | null = null; ;) {
      const { nodes, pageInfo } = (await api.read(page, { orderBy, after })).dailyUserMetrics;
      found.push(nodes[0].country);
      if (!pageInfo.hasNextPage) return found;
      after = pageInfo.endCursor as string;
    }
  };
  expect(await countries("COUNTRY_ASC")).toEqual(["SE", "UK", null]);
  expect(await countries("COUNTRY_ASC_NULLS_FIRST")).toEqual([null, "SE", "UK"]);
  expect(await countries("COUNTRY_DESC")).toEqual([null, "UK", "SE"]);
  expect(await countries("COUNTRY_DESC_NULLS_LAST")).toEqual(["UK", "SE", null]);
  expect(await countries("PRIMARY_KEY_DESC")).toEqual([null, "SE", "UK"]);
});

test("offers no filter and no order without an index on a large table", async () => {
  const data = await api.read(`{
    filter: __type(name: "TransactionFilter") { inputFields { name } }
    order: __type(name: "EventOrderBy") { enumValues { name } }
    text: __type(name: "StringFilter") { inputFields { name } } }`);
  const names = (elements: { name: string }[]) => elements.map(({ name }) => name);
  expect(names(data.filter.inputFields)).toEqual(
    expect.arrayContaining(["userId", "amount", "status", "transactionDate", "user", "dimDate"]),
  );
  expect(names(data.filter.inputFields)).not.toContain("updatedAt");
  expect(names(data.order.enumValues).filter((name) => /DATA|POSITION|DAY/.test(name))).toEqual([]);
  expect(names(data.text.inputFields)).toContain("startsWith");
  // What trigrams serve is refused where there are none: trigrams.test.ts.
  expect(
    names(data.text.inputFields).filter((name) =>
      /includes|like|endsWith|(?<!contains|startsWith|equalTo)Insensitive/.test(name),
    ),
  ).toEqual([]);
});

test.runIf(isServer)("an index serves every filter and order of the large tables", async () => {
  await api.database.pool.query(`
    insert into production.events (event_id, event_type, event_data, event_time)
    select i + 100, 'bulk', jsonb_build_object('n', i, 'k' || i % 5000, 1), '2025-01-01'::timestamp + i * interval '1 minute'
    from generate_series(1, 20000) i;
    insert into production.users (user_id, username, email, country)
    select i + 100, 'bulk' || i, 'bulk' || i || '@example.org', 'C' || i % 200 from generate_series(1, 20000) i;
    insert into production.transactions (transaction_id, user_id, amount, transaction_date)
    select user_id + 100, user_id, user_id, '2025-01-01'::timestamp + user_id * interval '1 minute' from production.users`);
  await api.database.pool.query("analyze production.events, production.users, production.transactions");
  const served: [string, RegExp][] = [
    [`events(filter: { eventData: { contains: { k1: 1 } } })`, /Bitmap Index Scan on idx_events_event_data/],
    [`events(filter: { eventData: { hasKey: "k1" } })`, /Bitmap Index Scan on idx_events_event_data/],
    [
      `events(filter: { eventData: { path: { path: ["k1"], equalTo: 1 } } })`,
      /Bitmap Index Scan on idx_events_event_data/,
    ],
    [
      `events(filter: { eventData: { path: { path: ["k1"], greaterThan: 0 } } })`,
      /Bitmap Index Scan on idx_events_event_data/,
    ],
    [`events(filter: { eventTime: { greaterThan: "2025-01-14T20:00:00Z" } })`, /idx_events_time/],
    [`events(first: 5, orderBy: [EVENT_TIME_DESC])`, /Index Scan Backward using idx_events_time/],
    [`transactions(first: 5, orderBy: [AMOUNT_DESC])`, /Index Scan Backward using idx_transactions_amount/],
    [`transactions(filter: { status: { equalTo: "failed" } })`, /idx_transactions_status_date/],
    [`users(filter: { username: { startsWith: "bulk1999" } })`, /Index Cond: .*username/],
    [`users(filter: { country: { equalTo: "C7" } })`, /idx_users_country/],
  ];
  for (const [connection, index] of served) {
    // Counted, because for a page in the order of the key the planner may rather walk the key.
    const selection = connection.includes("orderBy") ? "nodes { id }" : "totalCount";
    expect(await api.plans(`{ ${connection} { ${selection} } }`), connection).toMatch(index);
  }
});
