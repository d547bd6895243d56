// What a role may not read is null alone, and named: compiled as one statement, planned, and on a socket.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { answerOnSocket } from "../support/socket.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create table production.secrets (
      secret_id integer primary key references production.users,
      digits json,
      words text not null
    );
    grant select on production.secrets to strata_operator;
    insert into production.users (user_id, username, email) values (1, 'ada', 'ada@example.org'), (2, 'bo', 'bo@example.org');
    insert into production.events (event_id, user_id, event_type, event_data, event_time)
    values (1, 1, 'view', '{"n": 12345678901234567890.25}', '2025-01-04');`,
  );
});
afterAll(() => server.close());

const forbidden = (field: string, path: unknown[], type = "User") => ({
  message: expect.stringMatching(
    new RegExp("^Your role \\(strata_reader\\) may not read .*`" + field + "` of `" + type + "`"),
  ),
  path,
  extensions: { code: "FORBIDDEN", role: "strata_reader", field, type },
});

/** An alias of the server's own field is planned; so are directives. */
const PATHS = { compiled: "", planned: "query { __typename }" };

test.each(Object.entries(PATHS))("a column is null alone, in every row: %s", async (_path, extra) => {
  const query = `query Users($n: Int = 2) {
    users(first: $n, orderBy: [USER_ID_ASC]) { totalCount nodes { username mail: email ...More } } ${extra} }
    fragment More on User { events { nodes { eventData user { email } } } }`;
  const { status, data, errors, text } = await server.ask("reader", query);
  expect(errors).toMatchObject([
    forbidden("email", ["users", "nodes", 0, "mail"]),
    forbidden("email", ["users", "nodes", 0, "events", "nodes", 0, "user", "email"]),
    forbidden("email", ["users", "nodes", 1, "mail"]),
  ]);
  expect(errors).toHaveLength(3);
  expect(status).toBe(200);
  expect(data.users).toMatchObject({
    totalCount: 2,
    nodes: [
      { username: "ada", mail: null, events: { nodes: [{ user: { email: null } }] } },
      { username: "bo", mail: null, events: { nodes: [] } },
    ],
  });
  expect(text).toContain("12345678901234567890.25");
  // Not kept from one caller for the next.
  const { data: all, errors: none } = await server.ask("operator", query);
  expect(none).toEqual([]);
  expect(all.users.nodes[1].mail).toBe("bo@example.org");
});

test.each(Object.entries(PATHS))("so is a row of a table without any right: %s", async (_path, extra) => {
  const { data, errors } = await server.ask(
    "reader",
    `{ secrets { totalCount } user(userId: 1) { username secretBySecretId { words } } ${extra} }`,
  );
  expect(errors).toMatchObject([
    forbidden("secrets", ["secrets"], "Query"),
    forbidden("secretBySecretId", ["user", "secretBySecretId"]),
  ]);
  expect(data).toMatchObject({ secrets: null, user: { username: "ada", secretBySecretId: null } });
});

test.each(Object.values(PATHS))("an answer without rows names it as well %s", async (extra) => {
  const query = `{ users(filter: { userId: { equalTo: 7 } }) { nodes { email } } ${extra} }`;
  const { data, errors } = await server.ask("reader", query);
  expect(data.users).toEqual({ nodes: [] });
  expect(errors).toMatchObject([{ message: "Your role (strata_reader) may not read `email` of `User`" }]);
});

test("where null is not allowed the field around it is null, and the error names what it was", async () => {
  await server.database.pool.query("revoke select (username) on production.users from strata_reader");
  try {
    const { data, errors } = await server.ask(
      "reader",
      "{ users { nodes { username } } transactions { totalCount } }",
    );
    expect(data).toEqual({ users: null, transactions: { totalCount: 0 } });
    expect(errors).toMatchObject([forbidden("username", ["users"])]);
  } finally {
    await server.database.pool.query("grant select (username) on production.users to strata_reader");
  }
});

test("by a filter nothing is told of the column", async () => {
  const { data, errors } = await server.ask(
    "reader",
    `{ users(filter: { email: { startsWith: "ada" } }) { nodes { username email } } }`,
  );
  expect(data).toEqual({ users: null });
  expect(errors).toMatchObject([
    { message: "Your role (strata_reader) may not read `email` of `User`" },
    { path: ["users"], message: "Your role may not do this", extensions: { code: "FORBIDDEN" } },
  ]);
});

test("on a socket, too", async () => {
  const query = "{ user(userId: 1) { username email } }";
  const message = await answerOnSocket(await server.listen(), server.as.reader, { query });
  const { payload } = JSON.parse(message) as { payload: unknown };
  expect(payload).toMatchObject({
    data: { user: { username: "ada", email: null } },
    errors: [forbidden("email", ["user", "email"])],
  });
});
