// Every apiError: a stable code, the right status, the request's id, and nothing of what is inside.
import { Writable } from "node:stream";
import { gzipSync } from "node:zlib";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

let server: TestApp;
const log: string[] = [];

beforeAll(async () => {
  const stream = new Writable({ write: (line, _encoding, done) => (log.push(String(line)), done()) });
  server = await createTestApp(
    {},
    { logger: pino({ level: "debug", serializers: { error: pino.stdSerializers.err } }, stream) },
  );
  await server.database.pool.query(
    "insert into production.users (user_id, username, email) values (1, 'ann', 'ann@secret.example'), (2, 'bob', 'bob@secret.example')",
  );
});
afterAll(() => server.close());

const expectNothingInternal = (text: string) =>
  expect(text).not.toMatch(
    /select |insert |production\.|analytics\.|node_modules|\.ts:|at \w+ \(|secret\.example/i,
  );

test("a caller without a token is UNAUTHENTICATED, one without the right is FORBIDDEN", async () => {
  const nobody = await server.ask("nobody", "{ users { totalCount } }");
  expect(nobody.status).toBe(401);
  expect(nobody.headers["www-authenticate"]).toBe("Bearer");
  expect(nobody.errors[0]!.extensions.code).toBe("UNAUTHENTICATED");

  const reader = await server.ask("reader", "{ users { nodes { username email } } }");
  expect(reader.errors[0]).toMatchObject({ extensions: { code: "FORBIDDEN" } });
  expect(reader.errors[0]!.message).toBe("Your role (strata_reader) may not read `email` of `User`");
  expectNothingInternal(JSON.stringify(reader));
});

test("a forbidden column does not answer guesses either", async () => {
  for (const query of [
    '{ users(filter: { email: { startsWith: "ann" } }) { nodes { username } } }',
    "{ users(orderBy: EMAIL_ASC) { nodes { username } } }",
    '{ userByEmail(email: "ann@secret.example") { username } }',
  ]) {
    const { errors, data } = await server.ask("reader", query);
    expect(errors.length, query).toBeGreaterThan(0);
    expect(["FORBIDDEN", "GRAPHQL_VALIDATION_FAILED"], query).toContain(errors[0]!.extensions.code);
    expect(JSON.stringify(data ?? null)).not.toContain("ann");
  }
});

test.each([
  ["{", "GRAPHQL_PARSE_FAILED"],
  ["{ nothing }", "GRAPHQL_VALIDATION_FAILED"],
  ["query ($n: Int!) { users(first: $n) { totalCount } }", "BAD_USER_INPUT"],
  ["query A { __typename } query B { __typename }", "BAD_USER_INPUT"],
])("%s is refused with 400 and %s", async (query, code) => {
  const { status, errors, data } = await server.ask("reader", query);
  expect({ status, code: errors[0]?.extensions.code, data }).toEqual({ status: 400, code, data: undefined });
});

test("the request's id is in the answer's header, its errors and the log, and the caller may choose it", async () => {
  const { headers, errors } = await server.ask(
    "reader",
    "{ users { nodes { email } } }",
    {},
    { "x-request-id": "trace-0007" },
  );
  expect(headers["x-request-id"]).toBe("trace-0007");
  expect(errors[0]!.extensions.requestId).toBe("trace-0007");
  expect(log.some((line) => line.includes('"trace-0007"') && line.includes("FORBIDDEN"))).toBe(true);

  const forged = await server.ask("reader", "{", {}, { "x-request-id": 'a"}\n{"level":60' });
  expect(forged.headers["x-request-id"]).toMatch(/^[\da-f-]{36}$/);
  expect(forged.errors[0]!.extensions.requestId).toBe(forged.headers["x-request-id"]);
});

test.each([
  ["GET", "/nowhere", {}, undefined, 404, "NOT_FOUND"],
  ["GET", "/graphql", {}, undefined, 400, "BAD_REQUEST"],
  [
    "POST",
    "/graphql",
    { "content-type": "application/json", accept: "text/html" },
    '{"query":"{ __typename }"}',
    406,
    "NOT_ACCEPTABLE",
  ],
  ["POST", "/graphql", { "content-type": "application/json" }, "{", 400, "BAD_REQUEST"],
  ["POST", "/graphql", { "content-type": "application/json" }, "[]", 400, "BAD_REQUEST"],
  ["POST", "/graphql", { "content-type": "application/json" }, '{"query":7}', 400, "BAD_REQUEST"],
  [
    "POST",
    "/graphql",
    { "content-type": "application/json", "content-encoding": "gzip" },
    gzipSync('{"query":"{ __typename }"}'),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "POST",
    "/graphql",
    { "content-type": "text/plain" },
    '{"query":"{ __typename }"}',
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "POST",
    "/graphql",
    { "content-type": "application/x-www-form-urlencoded" },
    "query=%7B__typename%7D",
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "POST",
    "/graphql",
    { "content-type": "multipart/form-data; boundary=x" },
    "--x--",
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "POST",
    "/graphql",
    { "content-type": "application/json" },
    `{"query":"${" ".repeat(600_000)}"}`,
    413,
    "PAYLOAD_TOO_LARGE",
  ],
] as const)(
  "%s %s %j %# is answered with its status and code",
  async (method, url, headers, payload, status, code) => {
    const response = await server.inject({
      method,
      url,
      headers: { ...server.as.reader, ...headers },
      payload,
    });
    expect(response.statusCode).toBe(status);
    expect(response.json().errors[0].extensions).toMatchObject({
      code,
      requestId: response.headers["x-request-id"],
    });
    expectNothingInternal(response.body);
  },
);

test.each([
  ["PUT", "/graphql", "POST, GET, HEAD"],
  ["GET", "/graphql?query=mutation%7B__typename%7D", "POST"],
  // On the embedded engine it is the question of a local page.
  ...(isServer ? [["OPTIONS", "/graphql", "POST, GET, HEAD"] as const] : []),
  ["GET", "/ingest/users?source=crm", "POST"],
  ["POST", "/healthz", "GET, HEAD"],
  ["DELETE", "/graphiql", "GET, HEAD"],
] as const)("%s %s is not taken, and the answer says what is: %s", async (method, url, allow) => {
  const response = await server.inject({ method, url, headers: server.as.reader });
  expect(response).toMatchObject({ statusCode: 405, headers: { allow } });
  expect(response.json().errors[0].extensions.code).toBe("METHOD_NOT_ALLOWED");
});

test("a packed body is refused by its encoding", async () => {
  const response = await server.inject({
    method: "POST",
    url: "/graphql",
    headers: { ...server.as.reader, "content-type": "application/json", "content-encoding": "gzip" },
    payload: gzipSync('{"query":"{ __typename }"}'),
  });
  expect(response.json().errors[0].message).toBe('Content-Encoding "gzip" is not taken; allowed: identity');
});

test("a breach of a constraint has its code and no SQL", async () => {
  const { errors } = await server.ask(
    "operator",
    'mutation { createUser(input: { user: { username: "ann", email: "other@example.org" } }) { user { userId } } }',
  );
  expect(errors[0]!.extensions.code).toBe("UNIQUE_VIOLATION");
  expectNothingInternal(JSON.stringify(errors));
});

test.runIf(isServer)(
  "a fault of the server is INTERNAL_SERVER_ERROR, and its reason only in the log",
  async () => {
    await server.database.pool.query("alter table production.events rename column event_type to kind");
    try {
      const { errors } = await server.ask("reader", "{ events { nodes { eventType } } }");
      expect(errors[0]).toMatchObject({
        message: "Internal server error",
        extensions: { code: "INTERNAL_SERVER_ERROR" },
      });
      expect(Object.keys(errors[0]!.extensions)).toEqual(["code", "requestId"]);
      const { requestId } = errors[0]!.extensions;
      expect(log.filter((line) => line.includes(requestId)).join("")).toContain("event_type");
    } finally {
      await server.database.pool.query("alter table production.events rename column kind to event_type");
    }
  },
);

test("the log holds no token, variable or e-mail address", () => {
  const token = server.as.reader.authorization!.split(" ")[1]!;
  expect(log.join("")).not.toContain(token);
  expect(log.join("")).not.toContain("secret.example");
});
