import { afterAll, beforeAll, expect, test } from "vitest";
import { createApi, type Api } from "./api.ts";

let api: Api;

// Saturday 4 and Monday 6 January (quarter 1), Sunday 6 April 2025 (quarter 2).
beforeAll(async () => {
  api = await createApi();
  await api.database.pool.query(`
    insert into production.users (user_id, username, email, country)
    values (1, 'ada', 'ada@example.org', 'UK'), (2, 'bo', 'bo@example.org', 'SE'), (3, 'cy', 'cy@example.org', null);
    insert into production.transactions (user_id, amount, status, transaction_date) values
      (1, 10, 'completed', '2025-01-04 09:15'), (1, 20, 'completed', '2025-01-06 09:45'),
      (2, 40, 'pending', '2025-01-06 23:59:59.5'), (2, 80, 'refunded', '2025-04-06 00:00')`);
});
afterAll(() => api.close());

interface Group {
  keys: (string | null)[];
  sum: { amount: string };
}

async function groups(groupBy: string, having = ""): Promise<Record<string, number>> {
  const data = await api.read(
    `{ transactions { groupedAggregates(groupBy: [${groupBy}] ${having}) { keys sum { amount } } } }`,
  );
  const entries = (data.transactions.groupedAggregates as Group[]).map(({ keys, sum }) => [
    keys.join(" "),
    Number(sum.amount),
  ]);
  return Object.fromEntries(entries) as Record<string, number>;
}

test("revenue by quarter and weekend, through the calendar, is one query", async () => {
  expect(await groups("DIM_DATE_QUARTER, DIM_DATE_IS_WEEKEND")).toEqual({
    "1 true": 10,
    "1 false": 60,
    "2 true": 80,
  });
});

test("groups by what the user is", async () => {
  expect(await groups("USER_COUNTRY")).toEqual({ UK: 30, SE: 120 });
});

test.each([
  [
    "HOUR",
    {
      "2025-01-04T09:00:00Z": 10,
      "2025-01-06T09:00:00Z": 20,
      "2025-01-06T23:00:00Z": 40,
      "2025-04-06T00:00:00Z": 80,
    },
  ],
  ["DAY", { "2025-01-04T00:00:00Z": 10, "2025-01-06T00:00:00Z": 60, "2025-04-06T00:00:00Z": 80 }],
  ["WEEK", { "2024-12-30T00:00:00Z": 10, "2025-01-06T00:00:00Z": 60, "2025-03-31T00:00:00Z": 80 }],
  ["MONTH", { "2025-01-01T00:00:00Z": 70, "2025-04-01T00:00:00Z": 80 }],
  ["QUARTER", { "2025-01-01T00:00:00Z": 70, "2025-04-01T00:00:00Z": 80 }],
  ["YEAR", { "2025-01-01T00:00:00Z": 150 }],
])("groups by %s", async (unit, expected) => {
  expect(await groups(`TRANSACTION_DATE_TRUNCATED_TO_${unit}`)).toEqual(expected);
});

test("keeps only the groups that the conditions hold for", async () => {
  expect(await groups("STATUS", "having: { sum: { amount: { greaterThan: 35 } } }")).toEqual({
    pending: 40,
    refunded: 80,
  });
});

test("aggregates numbers and times, over a filter and over a relation", async () => {
  const data = await api.read(`{
    transactions(filter: { transactionDate: { lessThan: "2025-02-01T00:00:00Z" } }) {
      aggregates { sum { amount } average { amount } distinctCount { userId }
        min { amount transactionDate } max { transactionDate transactionDay } } }
    users(orderBy: [TRANSACTIONS_SUM_AMOUNT_DESC], first: 2) {
      nodes { username transactions { aggregates { sum { amount } max { transactionDate } } totalCount } } }
    rich: users(filter: { transactions: { aggregates: { sum: { amount: { greaterThan: 100 } } } } }) {
      nodes { username } }
  }`);
  expect(data.transactions.aggregates).toEqual({
    sum: { amount: "70.00" },
    average: { amount: "23.3333333333333333" },
    distinctCount: { userId: "2" },
    min: { amount: "10.00", transactionDate: "2025-01-04T09:15:00.000000Z" },
    max: { transactionDate: "2025-01-06T23:59:59.500000Z", transactionDay: "2025-01-06" },
  });
  expect(data.users.nodes).toMatchObject([
    { username: "bo", transactions: { totalCount: 2, aggregates: { sum: { amount: "120.00" } } } },
    { username: "ada", transactions: { totalCount: 2, aggregates: { sum: { amount: "30.00" } } } },
  ]);
  expect(data.rich.nodes).toEqual([{ username: "bo" }]);
});

test("metrics are grouped by the calendar's quarter, too", async () => {
  await api.database.pool.query("refresh materialized view analytics.daily_user_metrics");
  const data = await api.read(`{
    dailyUserMetrics { groupedAggregates(groupBy: [DIM_DATE_QUARTER, COUNTRY]) { keys sum { totalRevenue } } }
    quarterlyRevenues { nodes { year quarter totalRevenue weekendRevenue } } }`);
  expect(data.dailyUserMetrics.groupedAggregates).toContainEqual({
    keys: ["1", "UK"],
    sum: { totalRevenue: "30.00" },
  });
  expect(data.quarterlyRevenues.nodes).toEqual([
    { year: 2025, quarter: 1, totalRevenue: "70.00", weekendRevenue: "10.00" },
    { year: 2025, quarter: 2, totalRevenue: "80.00", weekendRevenue: "80.00" },
  ]);
});

test("a group has the values it was made by under their names, with their types", async () => {
  const query = `query ($by: [TransactionGroupBy!]!) {
    transactions {
      groupedAggregates(groupBy: $by) {
        keys
        group {
          transactionDateTruncatedToDay transactionDateTruncatedToQuarter status
          userCountry dimDateQuarter dimDateIsWeekend userId
        }
        sum { amount }
      }
    }
    dailyUserMetrics { groupedAggregates(groupBy: [DATE_TRUNCATED_TO_MONTH]) { group { date dateTruncatedToMonth } } }
  }`;
  const read = (by: string[]) => api.read(query, { by });
  const grouped = (data: any, userCountry: string) =>
    data.transactions.groupedAggregates.find(({ group }: any) => group.userCountry === userCountry);
  const nothing = {
    transactionDateTruncatedToDay: null,
    transactionDateTruncatedToQuarter: null,
    status: null,
    userCountry: null,
    dimDateQuarter: null,
    dimDateIsWeekend: null,
    userId: null,
  };
  const byDay = await read(["TRANSACTION_DATE_TRUNCATED_TO_DAY", "USER_COUNTRY", "DIM_DATE_IS_WEEKEND"]);
  expect(byDay.transactions.groupedAggregates).toContainEqual({
    keys: ["2025-01-04T00:00:00Z", "UK", "true"],
    group: {
      ...nothing,
      transactionDateTruncatedToDay: "2025-01-04T00:00:00Z",
      userCountry: "UK",
      dimDateIsWeekend: true,
    },
    sum: { amount: "10.00" },
  });
  const byQuarter = await read([
    "USER_ID",
    "USER_COUNTRY",
    "DIM_DATE_QUARTER",
    "TRANSACTION_DATE_TRUNCATED_TO_QUARTER",
    "STATUS",
  ]);
  expect(grouped(byQuarter, "UK").group).toEqual({
    ...nothing,
    userId: 1,
    userCountry: "UK",
    dimDateQuarter: 1,
    transactionDateTruncatedToQuarter: "2025-01-01T00:00:00Z",
    status: "completed",
  });
  expect(byQuarter.dailyUserMetrics.groupedAggregates).toContainEqual({
    group: { date: null, dateTruncatedToMonth: "2025-04-01" },
  });
  const all = await api.read("{ transactions { aggregates { keys group { status } } } }");
  expect(all.transactions.aggregates).toEqual({ keys: null, group: { status: null } });
});
