import { afterAll, beforeAll, expect, test } from "vitest";
import { createApi, type Api } from "./api.ts";

let api: Api;

beforeAll(async () => {
  api = await createApi({ DEFAULT_PAGE_SIZE: "3", MAX_PAGE_SIZE: "5" });
  await api.database.pool.query(`
    insert into production.users (user_id, username, email)
    select i, 'user' || i, 'user' || i || '@example.org' from generate_series(1, 7) i;
    insert into production.transactions (user_id, amount) select 1, i from generate_series(1, 7) i`);
});
afterAll(() => api.close());

const ids = (connection: { nodes: { userId: number }[] }) => connection.nodes.map(({ userId }) => userId);

test("without a size, a connection has the default one, at every depth", async () => {
  const { users } = await api.read(
    `{ users { nodes { userId transactions { nodes { amount } } } pageInfo { hasNextPage } totalCount } }`,
  );
  expect(ids(users)).toEqual([1, 2, 3]);
  expect(users.nodes[0].transactions.nodes).toHaveLength(3);
  expect(users).toMatchObject({ pageInfo: { hasNextPage: true }, totalCount: 7 });
});

test("null is no size", async () => {
  const { users } = await api.read(
    `query ($first: Int) { users(first: $first, last: null) { nodes { userId } } }`,
    {
      first: null,
    },
  );
  expect(ids(users)).toEqual([1, 2, 3]);
});

test("first and last read up to the limit", async () => {
  const { start, end } = await api.read(`{
    start: users(first: 5) { nodes { userId } }
    end: users(last: 2) { nodes { userId } pageInfo { hasPreviousPage hasNextPage } } }`);
  expect(ids(start)).toEqual([1, 2, 3, 4, 5]);
  expect(ids(end)).toEqual([6, 7]);
  expect(end.pageInfo).toEqual({ hasPreviousPage: true, hasNextPage: false });
});

test.each([
  ["{ users(first: 6) { nodes { userId } } }", {}],
  ["{ users(last: 6) { nodes { userId } } }", {}],
  ["{ users(first: -1) { nodes { userId } } }", {}],
  ["{ users { nodes { transactions(first: 6) { nodes { amount } } } } }", {}],
  [
    "query ($n: Int) { users { nodes { transactions(first: $n) { edges { cursor } } } } }",
    { n: 2_000_000_000 },
  ],
  ["query ($n: Int = 6) { users(last: $n) { nodes { userId } } }", {}],
])("refuses %s", async (source, variables) => {
  const { errors } = await api.ask("reader", source, variables);
  expect(errors).toMatchObject([
    {
      message: expect.stringMatching(/`(first|last)` must be between 0 and 5, but is /),
      extensions: { code: "PAGE_SIZE_EXCEEDED", limit: 5 },
    },
  ]);
});

test("pages forwards and backwards by cursor", async () => {
  const page = `query ($after: Cursor, $before: Cursor, $first: Int, $last: Int) {
    users(after: $after, before: $before, first: $first, last: $last, orderBy: [USERNAME_DESC]) {
      nodes { userId } pageInfo { startCursor endCursor hasNextPage hasPreviousPage } } }`;
  const first = (await api.read(page, { first: 4 })).users;
  expect(ids(first)).toEqual([7, 6, 5, 4]);
  const second = (await api.read(page, { first: 4, after: first.pageInfo.endCursor })).users;
  expect(ids(second)).toEqual([3, 2, 1]);
  expect(second.pageInfo.hasNextPage).toBe(false);
  const back = (await api.read(page, { last: 2, before: second.pageInfo.startCursor })).users;
  expect(ids(back)).toEqual([5, 4]);
});

test("refuses more groups than a page may have rows", async () => {
  const groups = "{ transactions { groupedAggregates(groupBy: [AMOUNT]) { keys } } }";
  const { errors } = await api.ask("reader", groups);
  expect(errors).toMatchObject([
    {
      message: expect.stringContaining("more than 5 groups"),
      extensions: { code: "PAGE_SIZE_EXCEEDED", limit: 5 },
    },
  ]);
  const some = `{ transactions { groupedAggregates(groupBy: [AMOUNT], having: { sum: { amount: { lessThan: 6 } } }) { keys } } }`;
  expect((await api.read(some)).transactions.groupedAggregates).toHaveLength(5);
});
