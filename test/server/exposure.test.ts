/** @module-tag long */
// The schema and GraphiQL, to whom they are offered; origins, headers, cookies.
import { getIntrospectionQuery } from "grafast/graphql";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

const get = (server: TestApp, url: string, headers: Record<string, string> = {}) =>
  server.inject({ method: "GET", url, headers });

describe("offered to operators only", () => {
  let server: TestApp;
  beforeAll(async () => {
    server = await createTestApp({
      ANONYMOUS_ROLE: "reader",
      INTROSPECTION_ROLES: "operator",
      GRAPHIQL_ROLES: "operator",
    });
  });
  afterAll(() => server.close());

  test.each([
    ["__schema", getIntrospectionQuery()],
    ["__type", '{ __type(name: "User") { name } }'],
    ["a fragment", "{ ...a } fragment a on Query { __schema { types { name } } }"],
  ])("introspection by %s", async (_name, query) => {
    for (const who of ["nobody", "reader", "ingestor"] as const)
      expect((await server.ask(who, query)).errors[0]?.extensions.code, who).toBe("FORBIDDEN");
    expect((await server.ask("operator", query)).errors).toEqual([]);
  });

  test("the schema is not given away by suggestions or as a file either", async () => {
    const typo = "{ user { usernam } }";
    expect((await server.ask("operator", typo)).errors.map(({ message }) => message).join()).toContain(
      "Did you mean",
    );
    expect((await server.ask("reader", typo)).errors.map(({ message }) => message).join()).not.toContain(
      "Did you mean",
    );
    expect((await get(server, "/schema.graphql", server.as.reader)).statusCode).toBe(403);
    expect((await get(server, "/schema.graphql", server.as.operator)).statusCode).toBe(200);
    expect((await server.ask("reader", "{ __typename }")).data).toEqual({ __typename: "Query" });
  });

  test.each([
    [
      "an enum's values",
      "query ($o: [UserOrderBy!]) { users(orderBy: $o) { totalCount } }",
      { o: ["USERNAME_AS"] },
    ],
    [
      "an input's fields",
      "query ($f: UserFilter) { users(filter: $f) { totalCount } }",
      { f: { usernam: {} } },
    ],
  ])("nor by suggestions about variables: %s", async (_name, query, variables) => {
    const messages = async (who: "reader" | "operator") =>
      (await server.ask(who, query, variables)).errors.map(({ message }) => message).join();
    expect(await messages("operator")).toContain("Did you mean");
    expect(await messages("reader")).toMatch(/^Variable "\$/);
    expect(await messages("reader")).not.toContain("Did you mean");
  });

  test("GraphiQL and its assets", async () => {
    for (const url of ["/graphiql", "/%67raphiql", "/ruru-static/ruru.js"]) {
      expect((await get(server, url)).statusCode, url).toBe(403);
      expect((await get(server, url, server.as.reader)).statusCode, url).toBe(403);
      expect((await get(server, url, server.as.operator)).statusCode, url).toBe(200);
    }
  });
});

describe("offered to nobody", () => {
  let server: TestApp;
  beforeAll(async () => {
    server = await createTestApp({ GRAPHIQL_ROLES: "none", INTROSPECTION_ROLES: "none" });
  });
  afterAll(() => server.close());

  test("GraphiQL is not there, and nobody introspects", async () => {
    expect((await get(server, "/graphiql", server.as.operator)).statusCode).toBe(404);
    expect((await server.ask("operator", "{ __schema { types { name } } }")).errors[0]?.extensions.code).toBe(
      "FORBIDDEN",
    );
  });
});

describe("pages under development on this machine", () => {
  let server: TestApp;
  beforeAll(async () => {
    server = await createTestApp({ ANONYMOUS_ROLE: "reader" });
  });
  afterAll(() => server.close());

  test("may ask the embedded database, not one that others have, nor from elsewhere", async () => {
    for (const [origin, isLocal] of [
      ["http://localhost:5173", true],
      ["http://127.0.0.1:3000", true],
      ["http://localhost", true],
      ["https://localhost.evil.example", false],
      ["http://localhost:1.evil.example", false],
      ["null", false],
    ] as const) {
      const { headers } = await server.ask("nobody", "{ __typename }", {}, { origin });
      expect(headers["access-control-allow-origin"], origin).toBe(isLocal && !isServer ? origin : undefined);
    }
    const page = await get(server, "/graphiql", { origin: "http://localhost:5173" });
    expect(page.headers["access-control-allow-origin"]).toBeUndefined();
  });
});

describe("browsers", () => {
  let server: TestApp;
  beforeAll(async () => {
    server = await createTestApp({ CORS_ORIGINS: "https://app.example https://admin.example" });
  });
  afterAll(() => server.close());

  const preflight = (origin: string) =>
    server.inject({
      method: "OPTIONS",
      url: "/graphql",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization",
      },
    });

  test("origins in the list may ask, others may not", async () => {
    const allowed = await preflight("https://app.example");
    expect(allowed.statusCode).toBe(204);
    expect(allowed.headers).toMatchObject({
      "access-control-allow-origin": "https://app.example",
      "access-control-allow-headers": expect.stringContaining("authorization"),
    });
    expect(allowed.headers["access-control-allow-credentials"]).toBeUndefined();
    for (const origin of [
      "https://evil.example",
      "https://app.example.evil.example",
      "null",
      "http://app.example",
    ])
      expect((await preflight(origin)).headers["access-control-allow-origin"], origin).toBeUndefined();
    const answer = await server.ask("reader", "{ __typename }", {}, { origin: "https://admin.example" });
    expect(answer.headers["access-control-allow-origin"]).toBe("https://admin.example");
    expect(answer.headers.vary).toContain("Origin");
  });

  test("pages of ours are read by nobody else's", async () => {
    for (const url of ["/graphiql", "/ruru-static/ruru.js"]) {
      const { statusCode, headers } = await get(server, url, { origin: "https://app.example" });
      expect(statusCode, url).toBe(200);
      expect(headers["access-control-allow-origin"], url).toBeUndefined();
    }
  });

  test("what a page may send without asking is not executed", async () => {
    for (const type of [
      "text/plain",
      "application/x-www-form-urlencoded",
      "multipart/form-data; boundary=x",
      "",
    ]) {
      const response = await server.inject({
        method: "POST",
        url: "/graphql",
        headers: { ...server.as.operator, "content-type": type },
        payload: '{"query":"mutation { refreshAnalytics { run { runId } } }"}',
      });
      expect(response.statusCode, type).toBe(415);
    }
    const mutation = encodeURIComponent("mutation { refreshAnalytics { run { runId } } }");
    const asked = await get(server, `/graphql?query=${mutation}`, server.as.operator);
    expect(asked.statusCode).toBe(405);
    expect(asked.headers.allow).toBe("POST");
  });

  test("headers: nothing to sniff, frame or run; no cookies; the page runs its own scripts only", async () => {
    const data = await server.ask("reader", "{ __typename }");
    expect(data.headers).toMatchObject({
      "x-content-type-options": "nosniff",
      "content-security-policy": "default-src 'none';frame-ancestors 'none'",
      "referrer-policy": "no-referrer",
    });
    const page = await get(server, "/graphiql");
    const policy = String(page.headers["content-security-policy"]);
    const [, nonce] = /script-src 'self' 'nonce-([^']+)'/.exec(policy) ?? [];
    expect(policy).not.toMatch(/script-src[^;]*unsafe/);
    const scripts = [...page.body.matchAll(/<script[^>]*>/g)].map(([tag]) => tag);
    expect(scripts.length).toBeGreaterThan(0);
    for (const tag of scripts) expect(tag).toContain(`nonce="${nonce}"`);
    expect((await get(server, "/graphiql")).headers["content-security-policy"]).not.toBe(policy);
    for (const { headers } of [data, page]) {
      expect(headers["set-cookie"]).toBeUndefined();
      expect(headers["x-powered-by"]).toBeUndefined();
      expect(headers.server).toBeUndefined();
    }
  });
});

test("a proxy is believed only if it is named", async () => {
  const forwarded = { "x-forwarded-for": "203.0.113.7" };
  const spend = async (environment: Record<string, string>) => {
    const server = await createTestApp({
      ANONYMOUS_ROLE: "reader",
      RATE_LIMIT_COST: "1000",
      MAX_QUERY_COST: "1000",
      ...environment,
    });
    const query = "{ users(first: 900) { nodes { username } } }";
    await server.ask("nobody", query, {}, forwarded);
    const { status } = await server.ask("nobody", query, {}, { "x-forwarded-for": "203.0.113.8" });
    await server.close();
    return status;
  };
  expect(await spend({})).toBe(429);
  expect(await spend({ TRUSTED_PROXIES: "127.0.0.1" })).toBe(200);
});
