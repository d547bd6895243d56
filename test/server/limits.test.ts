/** @module-tag long */
// How much may you: what is refused before it costs anything, and that nobody's load is everybody's.
import { request as httpRequest } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { getIntrospectionQuery } from "grafast/graphql";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import pg from "pg";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

let server: TestApp;

beforeAll(async () => {
  server = await createTestApp({ STATEMENT_TIMEOUT_MS: "reader=3000 ingestor=3000 operator=800" });
  await server.database.pool.query(
    "insert into production.users (user_id, username, email, country) select n, 'user' || n, n || '@example.org', 'DE' from generate_series(1, 1000) n",
  );
  await server.database.pool.query(
    "insert into production.transactions (transaction_id, user_id, amount) select n, 1 + n % 1000, 1 from generate_series(1, $1::integer) n",
    [isServer ? 60_000 : 2_000],
  );
  await server.app.listen({ port: 0, host: "127.0.0.1" });
});
afterAll(() => server.close());

const codeOf = async (query: string, variables?: unknown) => {
  const { status, errors } = await server.ask("reader", query, variables);
  return { status, code: errors[0]?.extensions.code };
};
const times = (n: number, text: (i: number) => string): string =>
  Array.from({ length: n }, (_, i) => text(i)).join(" ");

describe("documents", () => {
  test.each([
    [
      "13 levels",
      "{ users { nodes { transactions { nodes { user { transactions { nodes { user { transactions { nodes { user { transactions { totalCount } } } } } } } } } } } } }",
      "QUERY_TOO_DEEP",
    ],
    [
      "13 levels by fragments",
      "{ users { nodes { ...a } } } fragment a on User { transactions { nodes { user { ...b } } } } fragment b on User { transactions { nodes { user { ...c } } } } fragment c on User { transactions { nodes { user { transactions { nodes { amount } } } } } }",
      "QUERY_TOO_DEEP",
    ],
    [
      "a fragment within itself",
      "{ users { nodes { ...a } } } fragment a on User { transactions { nodes { user { ...a } } } }",
      "GRAPHQL_VALIDATION_FAILED",
    ],
    ["800 aliases", `{ ${times(800, (i) => `a${i}: users { totalCount }`)} }`, "TOO_MANY_ALIASES"],
    [
      "800 aliases by fragments",
      `{ ${times(20, (i) => `...f${i}`)} } ${times(20, (i) => `fragment f${i} on Query { ${times(40, (j) => `a${i}_${j}: users { totalCount }`)} }`)}`,
      "TOO_MANY_ALIASES",
    ],
    [
      "aliases doubled by every fragment",
      `{ ...f0 } ${times(30, (i) => `fragment f${i} on Query { ${i < 29 ? `...f${i + 1} x${i}: query { ...f${i + 1} }` : "users { totalCount }"} }`)}`,
      "QUERY_TOO_DEEP",
    ],
    [
      "directives",
      `{ users ${times(60, () => "@include(if: true)")} { totalCount } }`,
      "TOO_MANY_DIRECTIVES",
    ],
    ["one field 600 times", `{ users { nodes { ${times(600, () => "username")} } } }`, "TOO_MANY_FIELDS"],
    ["101 objects", `{ ${times(101, () => "users { totalCount }")} }`, "TOO_MANY_FIELDS"],
    ["5001 tokens", `{ ${times(5000, () => "a")} }`, "QUERY_TOO_LARGE"],
    [
      "fragments that nothing uses",
      `{ users { totalCount } } ${times(20, (i) => `fragment f${i} on User { ${times(100, () => "username")} }`)}`,
      "GRAPHQL_VALIDATION_FAILED",
    ],
    [
      "operations that are not asked for",
      `query a { users { totalCount } } ${times(5, (i) => `query q${i} { users { nodes { ${times(300, () => "username")} } } }`)}`,
      "TOO_MANY_FIELDS",
    ],
    ["brackets", `{ users(filter: ${"[".repeat(20_000)}`, "QUERY_TOO_DEEP"],
    [
      "introspection in circles",
      `{ __schema { types { ${"fields { type { ".repeat(5)} name ${"} } ".repeat(5)} } } }`,
      "GRAPHQL_VALIDATION_FAILED",
    ],
  ])("%s are refused at once", async (_name, query, code) => {
    expect(await codeOf(query)).toEqual({ status: 400, code });
  });

  test("variables nested without end are refused", async () => {
    const query = "query ($filter: UserFilter) { users(filter: $filter) { totalCount } }";
    const filter = `${'{"and":['.repeat(10_000)}{}${"]}".repeat(10_000)}`;
    const response = await server.inject({
      method: "POST",
      url: "/graphql",
      headers: {
        ...server.as.reader,
        "content-type": "application/json",
        accept: "application/graphql-response+json",
      },
      payload: `{"query":${JSON.stringify(query)},"variables":{"filter":${filter}}}`,
    });
    expect(response.statusCode).toBe(400);
    expect(response.json().errors[0].extensions.code).toBe("BAD_USER_INPUT");
  });

  test("a value nested without end is refused", async () => {
    const query = "query ($v: JSON) { events(filter: { eventData: { contains: $v } }) { totalCount } }";
    const response = await server.inject({
      method: "POST",
      url: "/graphql",
      headers: { ...server.as.reader, "content-type": "application/json" },
      payload: `{"query":${JSON.stringify(query)},"variables":{"v":${"[".repeat(100_000)}${"]".repeat(100_000)}}}`,
    });
    expect(response.json().errors[0].extensions.code).toBe("BAD_USER_INPUT");
  });

  test("more variables than anybody has are refused", async () => {
    const query = "query ($ids: [Int!]) { users(filter: { userId: { in: $ids } }) { totalCount } }";
    const ids = (n: number) => ({ ids: Array.from({ length: n }, (_, i) => i) });
    expect(await codeOf(query, ids(1_000))).toEqual({ status: 200, code: undefined });
    expect(await codeOf(query, ids(30_000))).toEqual({ status: 400, code: "BAD_USER_INPUT" });
  });

  test.each([
    [
      "orderBy",
      "query ($o: [UserOrderBy!]) { users(first: 1, orderBy: $o) { nodes { userId } } }",
      "USERNAME_ASC",
      10,
    ],
    [
      "groupBy",
      "query ($o: [TransactionGroupBy!]!) { transactions { groupedAggregates(groupBy: $o) { keys } } }",
      "STATUS",
      10,
    ],
  ])("%s has a few terms", async (name, query, term, limit) => {
    const ask = (n: number) => server.ask("reader", query, { o: Array.from({ length: n }, () => term) });
    expect((await ask(limit)).errors).toEqual([]);
    for (const given of [limit + 1, 19_000]) {
      const { status, errors } = await ask(given);
      expect({ status, ...errors[0] }).toMatchObject({
        status: 400,
        message: `\`${name}\` has ${given} terms; at most ${limit} are allowed`,
        extensions: { code: "BAD_USER_INPUT", limit, given },
      });
    }
  });

  test("terms in the document and in a variable's default are counted, too", async () => {
    const terms = `[${times(11, () => "USERNAME_ASC")}]`;
    for (const query of [
      `{ users(orderBy: ${terms}) { nodes { userId } } }`,
      `query ($o: [UserOrderBy!]! = ${terms}) { users(orderBy: $o) { nodes { userId } } }`,
    ])
      expect(await codeOf(query)).toEqual({ status: 400, code: "BAD_USER_INPUT" });
  });

  test("filters have so many conditions together, also in a fragment that is used again", async () => {
    const ask = (n: number) =>
      codeOf(
        `query ($f: UserFilter) { a: query { ...count } b: query { ...count } } fragment count on Query { users(first: 1, filter: $f) { nodes { userId } } }`,
        { f: { or: Array.from({ length: n }, () => ({ username: { equalTo: "a" } })) } },
      );
    expect(await ask(100)).toEqual({ status: 200, code: undefined });
    expect(await ask(300)).toEqual({ status: 400, code: "BAD_USER_INPUT" });
  });

  test("batches are refused", async () => {
    const response = await server.inject({
      method: "POST",
      url: "/graphql",
      headers: server.as.reader,
      payload: [{ query: "{ __typename }" }, { query: "{ __typename }" }],
    });
    expect(response.statusCode).toBe(400);
  });

  test("what tools and people send passes", async () => {
    const introspection = getIntrospectionQuery({
      schemaDescription: true,
      specifiedByUrl: true,
      directiveIsRepeatable: true,
      inputValueDeprecation: true,
      oneOf: true,
    });
    expect(await codeOf(introspection)).toEqual({ status: 200, code: undefined });
    expect(
      await codeOf(
        "{ users(first: 50) { nodes { username transactions(first: 10) { nodes { amount } } } } }",
      ),
    ).toEqual({ status: 200, code: undefined });
    expect(await codeOf("{ users(first: 1000) { totalCount nodes { username } } }")).toEqual({
      status: 200,
      code: undefined,
    });
  });
});

describe("cost", () => {
  const five =
    "{ users { nodes { transactions { nodes { user { transactions { nodes { user { username } } } } } } } } }";
  test.each([
    ["five nested levels at the default page size", five, undefined],
    [
      "a page size in a variable",
      "query ($n: Int) { users(first: $n) { nodes { transactions(first: $n) { nodes { amount } } } } }",
      { n: 1000 },
    ],
    [
      "a page size in a variable's default",
      "query ($n: Int = 1000) { users(first: $n) { nodes { transactions(first: $n) { nodes { amount } } } } }",
      undefined,
    ],
    [
      "a page size in a fragment",
      "{ ...a } fragment a on Query { users(last: 1000) { edges { node { ...b } } } } fragment b on User { transactions(first: 500) { nodes { amount } } }",
      undefined,
    ],
    [
      "a null for the default page size",
      "query ($n: Int) { users(first: $n) { nodes { transactions(first: $n) { nodes { user { transactions { nodes { amount } } } } } } } }",
      { n: null },
    ],
    [
      "orders by sums",
      `query ($o: [UserOrderBy!]) { ${times(29, (i) => `a${i}: users(first: 1, orderBy: $o) { nodes { userId } }`)} users(first: 1000) { nodes { transactions(first: 10) { nodes { amount } } } } }`,
      { o: Array.from({ length: 10 }, () => "TRANSACTIONS_SUM_AMOUNT_ASC") },
    ],
    [
      "filters by sums and by relations",
      "query ($f: UserFilter) { users(first: 1000, filter: $f) { nodes { userId } } }",
      {
        f: {
          or: Array.from({ length: 163 }, () => ({
            transactions: { aggregates: { sum: { amount: { greaterThan: "1" } } }, some: {} },
            eventsExist: true,
          })),
        },
      },
    ],
    ["a count in every row", "{ users(first: 1000) { nodes { transactions { totalCount } } } }", undefined],
  ])("%s is refused before it is planned", async (_name, query, variables) => {
    expect(await codeOf(query, variables)).toEqual({ status: 400, code: "QUERY_TOO_EXPENSIVE" });
  });

  test("a name that goes on into another document does not stand for its operation", async () => {
    const expensive =
      "fragment F on Query { users(first: 1000) { nodes { transactions(first: 1000) { nodes { amount } } } } } query A { ...F }";
    const cheap = "query B { dimDates { totalCount } }";
    const ask = async (query: string, operationName: string) => {
      const headers = { ...server.as.reader, "content-type": "application/json" };
      const payload = { query, operationName };
      return (await server.inject({ method: "POST", url: "/graphql", headers, payload })).json();
    };
    const honest = await ask(`${expensive} ${cheap}`, "A");
    expect(honest.errors[0].extensions.code).toBe("QUERY_TOO_EXPENSIVE");
    const hidden = await ask(cheap, `A ${expensive}`);
    expect(hidden.errors[0].message).toMatch(/^Unknown operation/);
    expect(hidden.data).toBeUndefined();
  });

  test("a page of two thousand million rows is refused by its field", async () => {
    for (const [query, variables] of [
      ["{ users(first: 2000000000) { nodes { username } } }", {}],
      ["query ($n: Int) { users(last: $n) { nodes { username } } }", { n: 2_000_000_000 }],
    ] as const) {
      const { errors } = await server.ask("reader", query, variables);
      expect(errors[0]!.message).toMatch(/must be between 0 and 1000, but is 2000000000/);
    }
  });

  test("documents that are rejected use up the budget, by their length", async () => {
    const small = await createTestApp({ RATE_LIMIT_COST: "3000", MAX_QUERY_COST: "3000" });
    try {
      const invalid = (i: number) => `{ users { nodes { nothing${i} ${times(100, () => "username")} } } }`;
      const codes = [];
      for (let i = 0; i < 5; i++)
        codes.push((await small.ask("reader", invalid(i))).errors[0]!.extensions.code);
      expect(codes).toEqual([
        ...Array<string>(3).fill("GRAPHQL_VALIDATION_FAILED"),
        "RATE_LIMITED",
        "RATE_LIMITED",
      ]);
      const { status, headers } = await small.ask("reader", invalid(9), {}, { accept: "application/json" });
      expect([status, Number(headers["retry-after"]) > 0]).toEqual([429, true]);
      expect((await small.ask("operator", "{ users { totalCount } }")).status).toBe(200);
    } finally {
      await small.close();
    }
  });

  test("each caller has a budget per minute, and is told when to come back", async () => {
    const small = await createTestApp({
      RATE_LIMIT_COST: "3000",
      MAX_QUERY_COST: "3000",
      ANONYMOUS_ROLE: "reader",
    });
    try {
      const query = "{ users(first: 500) { nodes { username } } }";
      const statuses = [];
      for (let i = 0; i < 7; i++) statuses.push((await small.ask("reader", query)).status);
      expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429]);
      const refused = await small.ask("reader", query);
      expect(refused.errors[0]!.extensions).toMatchObject({ code: "RATE_LIMITED", limit: 3000 });
      expect(Number(refused.headers["retry-after"])).toBeGreaterThan(0);
      // Over application/json, too: it is HTTP that says it.
      expect((await small.ask("reader", query, {}, { accept: "application/json" })).status).toBe(429);
      expect((await small.ask("operator", query)).status).toBe(200);
      expect((await small.ask("nobody", query)).status).toBe(200);
    } finally {
      await small.close();
    }
  });
});

test("bodies that do not come to their end are cut off, but not those of an ingest", async () => {
  const { server: http } = server.app;
  expect(http.requestTimeout).toBeGreaterThan(0);
  expect(http.requestTimeout).toBeLessThanOrEqual(120_000);
  const { port } = http.address() as AddressInfo;
  const usual = [http.requestTimeout, http.headersTimeout] as const;
  [http.requestTimeout, http.headersTimeout] = [1_000, 1_000];
  const open = (path: string, type: string, who: keyof TestApp["as"], body: string) => {
    const socket = connect(port, "127.0.0.1").on("error", () => undefined);
    const headers = Object.entries({
      ...server.as[who],
      host: "x",
      "content-type": type,
      "content-length": 100,
    });
    const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    socket.write(`POST ${path} HTTP/1.1\r\n${lines}\r\n${body}`);
    let answer = "";
    socket.on("data", (data) => (answer += String(data)));
    const closed = new Promise<string>((resolve) => socket.once("close", () => resolve(answer)));
    return { socket, closed };
  };
  const start = '{"user_id": 1';
  const ingest = open("/ingest/users", "application/x-ndjson", "ingestor", start);
  try {
    const slow = open("/graphql", "application/json", "reader", '{"query":');
    const refused = open("/ingest/users", "application/x-ndjson", "nobody", start);
    expect(await slow.closed).toMatch(/^HTTP\/1.1 408 /);
    expect(await refused.closed).toMatch(/^HTTP\/1.1 401 /);
    ingest.socket.write(`${"}".padEnd(99 - start.length)}\n`);
    await expect.poll(() => ingest.socket.bytesRead, { timeout: 20_000 }).toBeGreaterThan(0);
    ingest.socket.end();
    expect(await ingest.closed).toMatch(/^HTTP\/1.1 200 /);
  } finally {
    ingest.socket.destroy();
    [http.requestTimeout, http.headersTimeout] = usual;
  }
});

describe.runIf(isServer)("on a server", () => {
  /** Statements that wait for a lock, which a test holds. */
  const blocked = async (): Promise<number> =>
    (
      await server.database.pool.query<{ count: number }>(
        "select count(*)::integer from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
      )
    ).rows[0]!.count;
  const untilBlocked = () => expect.poll(blocked, { timeout: 20_000 }).toBeGreaterThan(0);

  test("ten heavy operations at once leave a cheap one of somebody else its connection", async () => {
    const heavy =
      "{ users(first: 1000) { nodes { username country createdAt transactions(first: 20) { nodes { transactionId amount status transactionDate createdAt } } } } }";
    const other = new pg.Client(server.database.connection);
    await other.connect();
    try {
      await other.query("begin; lock table production.transactions in access exclusive mode");
      const attack = Array.from({ length: 10 }, () => server.ask("reader", heavy));
      await untilBlocked();
      // None of the ten ends before the lock does: whoever waited for one of them would wait for good.
      for (let i = 0; i < 5; i++) {
        const cheap = await server.ask("operator", "{ users(first: 1) { nodes { username } } }");
        expect(cheap.data.users.nodes).toHaveLength(1);
        expect(await blocked()).toBeGreaterThan(0);
      }
      await other.query("rollback");
      for (const answer of attack) expect((await answer).status).toBe(200);
    } finally {
      await other.end();
    }
  });

  test("bodies that do not come keep nobody out, however their token is written", async () => {
    const { port } = server.app.server.address() as AddressInfo;
    const token = server.as.reader.authorization!.slice(7);
    let received = 0;
    const count = () => void received++;
    server.app.server.on("request", count);
    const sockets = Array.from({ length: 60 }, (_, i) => {
      const scheme = [..."bearer"].map((c, bit) => ((i >> bit) & 1 ? c.toUpperCase() : c)).join("");
      const socket = connect(port, "127.0.0.1").on("error", () => undefined);
      socket.write(
        `POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: ${scheme} ${token}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n`,
      );
      return socket;
    });
    await expect.poll(() => received, { timeout: 20_000 }).toBe(sockets.length);
    server.app.server.off("request", count);
    const other = await server.ask("operator", "{ users(first: 1) { nodes { username } } }");
    for (const socket of sockets) socket.destroy();
    expect(other.status).toBe(200);
  });

  test.skipIf(!isServer)("the places are few, however the path is written", async () => {
    const payload = { query: "{ events(first: 1) { nodes { eventId } } }" };
    const other = new pg.Client(server.database.connection);
    await other.connect();
    try {
      await other.query("begin; lock table production.events in access exclusive mode");
      const flood = (["reader", "ingestor", "operator"] as const).flatMap((who) =>
        Array.from({ length: 30 }, () =>
          server.inject({ method: "POST", url: "/%67raphql", headers: server.as[who], payload }),
        ),
      );
      const overloaded = flood.map(async (answer) =>
        expect((await answer).body).toMatch("The server is overloaded"),
      );
      await Promise.any(overloaded);
      await other.query("rollback");
      await Promise.allSettled(overloaded);
    } finally {
      await other.end();
    }
  });

  test.skipIf(!isServer)("who has gone away does not wait any more", async () => {
    const heavy =
      "{ events(first: 1000) { nodes { eventId user { username transactions(first: 12) { nodes { amount } } } } } }";
    const { port } = server.app.server.address() as AddressInfo;
    const goAway = () =>
      new Promise<void>((done) => {
        const headers = { ...server.as.reader, "content-type": "application/json" };
        const options = { port, host: "127.0.0.1", path: "/graphql", method: "POST", headers };
        const request = httpRequest(options, (response) => response.resume());
        request.on("close", done).on("error", () => undefined);
        request.end(JSON.stringify({ query: heavy }));
        // When it waits for its turn; a later one would be no fault.
        setTimeout(() => request.destroy(), 100);
      });
    const other = new pg.Client(server.database.connection);
    await other.connect();
    try {
      await other.query("begin; lock table production.events in access exclusive mode");
      const first = server.ask("reader", heavy);
      await untilBlocked();
      for (let i = 0; i < 6; i++) await Promise.all(Array.from({ length: 7 }, goAway));
      const last = server.ask("reader", heavy);
      await other.query("rollback");
      expect([(await first).status, (await last).status]).toEqual([200, 200]);
    } finally {
      await other.end();
    }
  });

  test.skipIf(!isServer)(
    "what is read by a statement that took too long is null, the rest is not",
    async () => {
      const other = new pg.Client(server.database.connection);
      await other.connect();
      try {
        await other.query("begin; lock table production.events in access exclusive mode");
        const { data, errors } = await server.ask("operator", "{ __typename a: events { totalCount } }");
        expect(data).toEqual({ __typename: "Query", a: null });
        expect(errors).toMatchObject([{ path: ["a"], extensions: { code: "TIMEOUT" } }]);
      } finally {
        await other.end();
      }
    },
  );

  test("one caller cannot take all the places: beyond its share it is refused, others are not", async () => {
    const heavy = "{ users(first: 1000) { nodes { username transactions(first: 5) { nodes { amount } } } } }";
    const blocker = new pg.Client(server.database.connection);
    await blocker.connect();
    try {
      await blocker.query("begin; lock table production.transactions in access exclusive mode");
      const flood = Array.from({ length: 70 }, () => server.ask("reader", heavy));
      await Promise.any(flood.map(async (answer) => expect((await answer).status).toBe(503)));
      const other = await server.ask("operator", "{ users(first: 1) { nodes { username } } }");
      await blocker.query("rollback");
      const answers = await Promise.all(flood);
      expect(other.status).toBe(200);
      const refused = answers.filter(({ status }) => status === 503);
      // Half of the 24 places; how many more depends on how fast these are answered.
      expect(answers.filter(({ status }) => status === 200).length).toBeGreaterThanOrEqual(12);
      expect(refused[0]!.errors[0]!.extensions.code).toBe("SERVICE_UNAVAILABLE");
      expect(refused[0]!.headers["retry-after"]).toBe("1");
    } finally {
      await blocker.end();
    }
  });

  test("nothing is compiled: that cannot be interrupted", async () => {
    await server.database.pool.query(`
      create function production.tell_jit() returns trigger language plpgsql as $$
        begin new.is_holiday := current_setting('jit') <> 'off'; return new; end $$;
      create trigger tell_jit before update on production.dim_date for each row execute function production.tell_jit();
      grant execute on function production.tell_jit() to public`);
    try {
      const { data } = await server.ask(
        "operator",
        "mutation { updateDimDate(input: { dateId: 2, patch: { isHoliday: true } }) { dimDate { isHoliday } } }",
      );
      expect(data.updateDimDate.dimDate.isHoliday).toBe(false);
    } finally {
      await server.database.pool.query(
        "drop trigger tell_jit on production.dim_date; drop function production.tell_jit()",
      );
    }
  });

  describe("with statements that take long", () => {
    beforeAll(() =>
      server.database.pool.query(`
        create function production.sleepy() returns trigger language plpgsql as $$
          begin perform pg_sleep(2); return new; end $$;
        create trigger sleepy before update on production.dim_date for each row execute function production.sleepy();
        grant execute on function production.sleepy() to public`),
    );
    afterAll(() =>
      server.database.pool.query(
        "drop trigger sleepy on production.dim_date; drop function production.sleepy()",
      ),
    );
    const holiday = (name: string) =>
      `mutation { updateDimDate(input: { dateId: 1, patch: { isHoliday: ${name} } }) { dimDate { isHoliday } } }`;
    const isHoliday = async () =>
      (await server.database.pool.query("select is_holiday from production.dim_date where date_id = 1"))
        .rows[0].is_holiday;

    test("a mutation that timed out has not committed", async () => {
      const { errors, data } = await server.ask("operator", holiday("true"));
      expect(errors[0]?.extensions.code).toBe("TIMEOUT");
      expect(data.updateDimDate).toBeNull();
      const statements = async () =>
        (
          await server.database.pool.query(
            "select from pg_stat_activity where state = 'active' and query like '%dim_date%' and pid <> pg_backend_pid() and datname = current_database()",
          )
        ).rowCount;
      await expect.poll(statements, { timeout: 20_000 }).toBe(0);
      expect(await isHoliday()).toBe(false);
    });

    test("a pipeline mutation has the time that it needs", async () => {
      await server.database.pool.query(`
        create function production.sleepy_user() returns trigger language plpgsql as $$
          begin perform pg_sleep(1.5); return new; end $$;
        create trigger sleepy_user before insert on production.users for each row execute function production.sleepy_user();
        insert into staging.raw_users (user_id, username, email) values (900001, 'late', 'late@example.org')`);
      const { errors, data } = await server.ask(
        "operator",
        "mutation { transformStaging { run { status durationMs } } }",
      );
      expect(errors).toEqual([]);
      expect(data.transformStaging.run.status).toMatch(/^succeeded$/i);
      expect(Number(data.transformStaging.run.durationMs)).toBeGreaterThan(1_000);
      await server.database.pool.query(
        "drop trigger sleepy_user on production.users; drop function production.sleepy_user()",
      );
    });
  });
});
