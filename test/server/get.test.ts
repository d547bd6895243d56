// Queries by GET, as urql and caches send them: the same answers as by POST, and nothing that changes data.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

const folder = mkdtempSync(join(tmpdir(), "strata-operations-"));
const QUERY = "query Users($n: Int = 1) { users(first: $n) { nodes { username } } }";
writeFileSync(join(folder, "users.graphql"), QUERY);

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp({ PERSISTED_OPERATIONS_DIR: folder, ANONYMOUS_ROLE: "reader" });
  await server.database.pool.query(
    "insert into production.users (user_id, username, email, country) select n, 'user' || n, n || '@example.org', 'DE' from generate_series(1, 3) n",
  );
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

async function get(parameters: Record<string, string>, headers: Record<string, string> = {}, method = "GET") {
  const response = await server.inject({
    method: method,
    url: `/graphql?${new URLSearchParams(parameters).toString()}`,
    headers: { accept: "application/graphql-response+json", ...server.as.operator, ...headers },
  });
  const body = response.body === "" ? {} : response.json();
  return {
    status: response.statusCode,
    headers: response.headers,
    data: body.data,
    code: body.errors?.[0].extensions.code,
    message: body.errors?.[0].message,
  };
}
const users = (n: number) => ({
  users: { nodes: Array.from({ length: n }, (_, i) => ({ username: `user${i + 1}` })) },
});

test("a query with variables is answered as by POST", async () => {
  const asked = {
    query: `${QUERY} query Other { __typename }`,
    operationName: "Users",
    variables: '{"n":2}',
  };
  const answer = await get(asked);
  expect(answer).toMatchObject({ status: 200, data: users(2) });
  expect(answer.headers["content-type"]).toBe("application/graphql-response+json; charset=utf-8");
  expect(await get(asked, { accept: "application/json", authorization: "" })).toMatchObject({ status: 200 });
});

test("urql's and Apollo's headers and parameters are understood", async () => {
  const accept =
    "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed";
  expect(await get({ query: QUERY, variables: "{}" }, { accept })).toMatchObject({
    status: 200,
    data: users(1),
  });
  const extensions = JSON.stringify({ persistedQuery: { version: 1, sha256Hash: "users" } });
  expect(await get({ extensions, variables: '{"n":3}' })).toMatchObject({ status: 200, data: users(3) });
  expect(await get({ documentId: "users" })).toMatchObject({ status: 200, data: users(1) });
});

test("the answer to refreshed data has an ETag, and 304 confirms it", async () => {
  const asked = { query: "{ quarterlyRevenues { nodes { year } } }" };
  await get(asked);
  const { headers } = await get(asked);
  expect(headers).toMatchObject({ etag: expect.any(String), "cache-control": "private, no-cache" });
  expect(await get(asked, { "if-none-match": headers.etag as string })).toMatchObject({ status: 304 });
  expect((await get({ query: QUERY })).headers["cache-control"]).toBe("no-store");
});

test.each(["GET", "HEAD"])("%s changes nothing", async (method) => {
  const query =
    'mutation { createUser(input: { user: { username: "eve", email: "eve@example.org" } }) { user { userId } } }';
  const answer = await get({ query }, {}, method);
  expect(answer).toMatchObject({ status: 405, headers: { allow: "POST" } });
  if (method === "GET")
    expect(answer).toMatchObject({
      code: "METHOD_NOT_ALLOWED",
      message: "GET is for queries only; send this mutation by POST",
    });
  const { rows } = await server.database.pool.query("select from production.users where username = 'eve'");
  expect(rows).toHaveLength(0);
});

test.each([
  [{}, "The request has neither `query` nor the id of a persisted operation"],
  [{ query: QUERY, variables: "{" }, "The parameter `variables` is not JSON"],
  [{ query: QUERY, variables: "7" }, "`variables` must be an object"],
  [{ query: QUERY, extensions: "[" }, "The parameter `extensions` is not JSON"],
])("%j is refused with a reason", async (parameters, message) => {
  expect(await get(parameters as Record<string, string>)).toMatchObject({
    status: 400,
    code: "BAD_REQUEST",
    message,
  });
});

test("a request is judged by its own errors, also when its document is cached", async () => {
  const invalid = { query: "{ users { nodes { nothing } } }" };
  const ids = [];
  for (let i = 0; i < 2; i++) {
    const response = await server.inject({
      method: "POST",
      url: "/graphql",
      headers: server.as.reader,
      payload: invalid,
    });
    ids.push(response.json().errors[0].extensions.requestId);
    expect(ids.at(-1)).toBe(response.headers["x-request-id"]);
  }
  expect(ids[0]).not.toBe(ids[1]);
});
