/** @module-tag long */
// GET /export: what the API answers, as files, whole or not at all.
import { request as httpRequest, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { parse } from "csv-parse/sync";
import { parquetReadObjects, parquetMetadata } from "hyparquet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

let server: TestApp;
let port: number;

const OWN = `
  insert into production.users (user_id, username, email, created_at, country) values
    (1, 'ann', 'ann@example.com', '2026-01-31 12:30:00.25', 'DE'),
    (2, 'bob, "the" builder', 'bob@example.com', '2026-02-01', null),
    (3, E'=1+1\\tü\\\\\\n2', 'c@example.com', '2026-02-02', 'FR');
  insert into production.transactions (transaction_id, user_id, amount, status, transaction_date) values
    (1, 1, 10.50, 'completed', '2026-03-01 10:00'), (2, 1, 99999999.99, 'pending', '2026-03-02 10:00'),
    (3, 2, 0.01, 'completed', '2026-03-03 10:00');
  insert into production.events (event_id, user_id, event_type, event_data, event_time, position) values
    (1, 1, 'click', '{"a": [1, "x\\u0001"], "big": 12345678901234567890.125}', '2026-03-01 10:00', 'SRID=4326;POINT(13.4049540123 52.52)');
  create table production.wide (
    id bigint primary key, text text, exact numeric, money numeric(30, 4), small smallint, real real, double double precision,
    yes boolean, day date, at timestamp, zoned timestamptz, uuid uuid, raw json, list text[], numbers integer[], took interval);
  grant select on production.wide to strata_reader;
  insert into production.wide values
    (9007199254740993, '', 0.1234567890123456789012345, -12345678901234567890.1234, -1, 0.1, 0.1, true, '2026-01-31',
     '2026-01-31 12:30:00.000001', '2026-01-31 14:30:00+02', '11111111-2222-3333-4444-555555555555', E'{"b":1,\\n "a": 2}',
     array['a,b', null, 'c"d'], '{1,2}', '1 day 2 hours'),
    (1, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);
  create table production.many (id integer primary key, text text);
  insert into production.many select n, repeat('x', 200) from generate_series(1, 60000) n;
  grant select on production.many to strata_reader;
  create table production.owned (id integer primary key, owner text);
  insert into production.owned values (1, 'test-strata_reader'), (2, 'somebody');
  alter table production.owned enable row level security;
  create policy own on production.owned to strata_reader using (owner = current_setting('strata.sub'));
  grant select on production.owned to strata_reader, strata_operator;
  select strata.reconcile();
`;

beforeAll(async () => {
  server = await createTestApp({ EXPORT_TIMEOUT_MS: "60000 ingestor=300" }, {}, OWN);
  await server.app.listen({ port: 0, host: "127.0.0.1" });
  port = (server.app.server.address() as AddressInfo).port;
});
afterAll(() => server.close());

type Who = keyof TestApp["as"];
type Parameters = Record<string, string>;

const pathOf = (file: string, parameters: Parameters = {}): string =>
  `/export/${file}?${new URLSearchParams(parameters)}`;

async function get(file: string, parameters?: Parameters, who: Who = "operator") {
  const response = await fetch(`http://127.0.0.1:${port}${pathOf(file, parameters)}`, {
    headers: server.as[who],
  });
  return { response, bytes: Buffer.from(await response.arrayBuffer()) };
}
async function textOf(file: string, parameters?: Parameters, who?: Who): Promise<string> {
  const { response, bytes } = await get(file, parameters, who);
  expect(response.status, bytes.toString()).toBe(200);
  return bytes.toString();
}
async function errorOf(file: string, parameters?: Parameters, who?: Who) {
  const { response, bytes } = await get(file, parameters, who);
  const { errors } = JSON.parse(bytes.toString()) as { errors: any[] };
  const [{ message, extensions }] = errors as [{ message: string; extensions: { code: string } }];
  return { status: response.status, code: extensions.code, message };
}

describe("what is in a file", () => {
  test("CSV has the names of the API, the values of the database, and times in UTC", async () => {
    const { response, bytes } = await get("users.csv", {
      orderBy: "USER_ID_ASC",
      columns: "userId,username,createdAt,country",
    });
    expect(bytes.toString()).toBe(
      'userId,username,createdAt,country\n1,ann,2026-01-31 12:30:00.25+00,DE\n2,"bob, ""the"" builder",2026-02-01 00:00:00+00,\n' +
        '3,"=1+1\tü\\\n2",2026-02-02 00:00:00+00,FR\n',
    );
    expect(response.headers.get("content-type")).toBe("text/csv; charset=utf-8; header=present");
    expect(response.headers.get("content-disposition")).toBe('attachment; filename="users.csv"');
    expect(response.headers.get("cache-control")).toBe("no-store");
  });

  test("NDJSON has a row a line, with every digit", async () => {
    const [line, end] = (await textOf("events.ndjson")).split("\n");
    expect(end).toBe("");
    expect(line).toContain("12345678901234567890.125");
    expect(JSON.parse(line!)).toMatchObject({
      eventId: 1,
      eventTime: "2026-03-01T10:00:00+00:00",
      eventData: { a: [1, "x\u0001"] },
      position: { type: "Point", coordinates: [13.4049540123, 52.52] },
    });
    const csv = await textOf("events.csv", { columns: "position" });
    expect(csv).toContain("13.4049540123");
  });

  test("every type keeps its value", async () => {
    const rows = parse(await textOf("wide.csv", { orderBy: "ROW_ID_DESC" }), { columns: true });
    expect(rows).toEqual([
      {
        rowId: "9007199254740993",
        text: "",
        exact: "0.1234567890123456789012345",
        money: "-12345678901234567890.1234",
        small: "-1",
        real: "0.1",
        double: "0.1",
        yes: "true",
        day: "2026-01-31",
        at: "2026-01-31 12:30:00.000001+00",
        zoned: "2026-01-31 12:30:00+00",
        uuid: "11111111-2222-3333-4444-555555555555",
        raw: '{"b":1,\n "a": 2}',
        list: '["a,b", null, "c\\"d"]',
        numbers: "[1, 2]",
        took: "P1DT2H",
      },
      Object.fromEntries(Object.keys(rows[0] as object).map((name) => [name, name === "rowId" ? "1" : ""])),
    ]);
    const lines = (await textOf("wide.ndjson", { orderBy: "ROW_ID_DESC" })).trimEnd().split("\n");
    expect(lines).toHaveLength(2);
    expect(lines[0]).toContain('"rowId":9007199254740993,"text":"","exact":0.1234567890123456789012345,');
    expect(JSON.parse(lines[0]!)).toMatchObject({
      yes: true,
      raw: { a: 2, b: 1 },
      list: ["a,b", null, 'c"d'],
      numbers: [1, 2],
      took: "P1DT2H",
      zoned: "2026-01-31T12:30:00+00:00",
    });
    expect(JSON.parse(lines[1]!)).toMatchObject({ rowId: 1, text: null, at: null });
  });

  test("Parquet has types", async () => {
    const { bytes, response } = await get("wide.parquet", { orderBy: "ROW_ID_DESC" });
    expect(response.headers.get("content-type")).toBe("application/vnd.apache.parquet");
    const file = Uint8Array.from(bytes).buffer;
    const rows = await parquetReadObjects({ file });
    expect(rows).toHaveLength(2);
    expect(rows[1]).toMatchObject({ rowId: 1n, text: null, money: null, at: null });
    expect(rows[0]).toMatchObject({
      rowId: 9007199254740993n,
      text: "",
      exact: "0.1234567890123456789012345",
      small: -1,
      double: 0.1,
      yes: true,
      day: new Date("2026-01-31"),
      zoned: new Date("2026-01-31T12:30:00Z"),
      list: '["a,b", null, "c\\"d"]',
    });
    const types = parquetMetadata(file).schema.map(({ name, type, converted_type, precision, scale }) =>
      [name, type, converted_type, precision, scale].filter((part) => part !== undefined).join(" "),
    );
    expect(types).toContain("money FIXED_LEN_BYTE_ARRAY DECIMAL 30 4");
    expect(types).toContain("at INT64 TIMESTAMP_MICROS");
    const money = await get("transactions.parquet", { orderBy: "TRANSACTION_ID_ASC", columns: "amount" });
    expect(await parquetReadObjects({ file: Uint8Array.from(money.bytes).buffer })).toEqual([
      { amount: 10.5 },
      { amount: 99999999.99 },
      { amount: 0.01 },
    ]);
  });

  test("row groups are bounded, and no row is lost between them", async () => {
    const { bytes } = await get("many.parquet");
    const file = Uint8Array.from(bytes).buffer;
    expect(parquetMetadata(file).row_groups.map(({ num_rows }) => Number(num_rows))).toEqual(
      Array(6).fill(10_000),
    );
    const rows = await parquetReadObjects({ file, columns: ["rowId"] });
    expect(new Set(rows.map(({ rowId }) => rowId as number)).size).toBe(60_000);
  });

  test("no rows are a header, nothing, and a file of Parquet without rows", async () => {
    const none = { filter: '{"userId": {"equalTo": 77}}', columns: "userId" };
    expect(await textOf("users.csv", none)).toBe("userId\n");
    expect(await textOf("users.ndjson", none)).toBe("");
    const { bytes } = await get("users.parquet", none);
    expect(await parquetReadObjects({ file: Uint8Array.from(bytes).buffer })).toEqual([]);
  });
});

describe("which rows", () => {
  test.each([
    [{}, "orderBy: [TRANSACTION_ID_ASC]", { orderBy: "TRANSACTION_ID_ASC" }],
    [{ status: { equalTo: "completed" } }, "orderBy: [AMOUNT_DESC]", { orderBy: "AMOUNT_DESC" }],
    [
      { or: [{ amount: { lessThan: "1" } }, { transactionDate: { greaterThan: "2026-03-02T00:00:00Z" } }] },
      "orderBy: [AMOUNT_ASC, TRANSACTION_ID_DESC]",
      { orderBy: "AMOUNT_ASC,TRANSACTION_ID_DESC" },
    ],
    [
      { user: { username: { startsWith: 'bob, "the" b' } } },
      "orderBy: [TRANSACTION_ID_ASC]",
      { orderBy: "TRANSACTION_ID_ASC" },
    ],
    [
      { status: { in: ["completed", "failed"] } },
      "orderBy: [TRANSACTION_DATE_DESC]",
      { orderBy: "TRANSACTION_DATE_DESC" },
    ],
  ])("%j are those of the API", async (filter, order, parameters) => {
    const isEmpty = Object.keys(filter).length === 0;
    const { data, errors } = await server.ask(
      "operator",
      `query ${isEmpty ? "" : "($filter: TransactionFilter)"} { transactions(${isEmpty ? "" : "filter: $filter, "}${order}) { nodes { transactionId } } }`,
      { filter: isEmpty ? undefined : filter },
    );
    expect(errors).toEqual([]);
    const text = await textOf("transactions.ndjson", {
      ...parameters,
      columns: "transactionId",
      ...(!isEmpty && { filter: JSON.stringify(filter) }),
    });
    const nodes = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
    expect(nodes).toEqual(data.transactions.nodes);
    expect(nodes.length).toBeGreaterThan(0);
  });

  test.each([
    "'; drop table production.users; --",
    "$1",
    "\\",
    "\\'; select 1",
    "a''b",
    "\u{1F600} ' \" $$",
    "%_",
    "E'x'",
  ])("a value is never SQL: %s", async (value) => {
    await server.database.pool.query("update production.users set username = $1 where user_id = 2", [value]);
    const filter = JSON.stringify({ username: { equalTo: value }, country: { isNull: true } });
    expect(await textOf("users.ndjson", { filter, columns: "userId,username" })).toBe(
      `{"userId":2,"username":${JSON.stringify(value)}}\n`,
    );
    await server.database.pool.query(
      "update production.users set username = 'bob, \"the\" builder' where user_id = 2",
    );
  });

  test("limit, places and the names of tables work", async () => {
    expect(await textOf("users.csv", { orderBy: "USER_ID_DESC", limit: "1", columns: "userId" })).toBe(
      "userId\n3\n",
    );
    const box = { position: { withinBox: { west: 13, south: 52, east: 14, north: 53 } } };
    expect(await textOf("events.csv", { filter: JSON.stringify(box), columns: "eventId" })).toBe(
      "eventId\n1\n",
    );
    expect(await textOf("dim_date.csv", { limit: "0", columns: "year" })).toBe("year\n");
  });
});

describe("who", () => {
  test("columns that the role may not read are left out, and refused by name where they are asked for", async () => {
    const [header] = (await textOf("users.csv", {}, "reader")).split("\n");
    expect(header!.split(",")).not.toContain("email");
    expect((await textOf("users.csv")).split("\n")[0]!.split(",")).toContain("email");
    const cases: Parameters[] = [
      { columns: "userId,email" },
      { filter: '{"email": {"equalTo": "a"}}' },
      { filter: '{"or": [{"not": {"email": {"equalTo": "a"}}}]}' },
    ];
    for (const parameters of cases)
      expect(await errorOf("users.csv", parameters, "reader")).toEqual({
        status: 403,
        code: "FORBIDDEN",
        message: "Your role (strata_reader) may not read `email` of `users`",
      });
    expect(
      await errorOf("transactions.csv", { filter: '{"user": {"email": {"equalTo": "a"}}}' }, "reader"),
    ).toMatchObject({
      status: 403,
      code: "FORBIDDEN",
    });
    expect(await errorOf("users.csv", {}, "ingestor")).toMatchObject({
      status: 403,
      message: expect.stringContaining("users") as string,
    });
    expect(await errorOf("users.csv", {}, "nobody")).toMatchObject({ status: 401 });
  });

  test("policies hold", async () => {
    expect(await textOf("owned.csv", {}, "reader")).toBe("rowId,owner\n1,test-strata_reader\n");
    expect(await textOf("owned.csv", {}, "operator")).toBe("rowId,owner\n");
  });
});

test("errors before the first byte are those of the API", async () => {
  const cases: [string, Parameters, number, string, RegExp][] = [
    ["nothing.csv", {}, 404, "NOT_FOUND", /allowed: .*users/],
    ["users.xml", {}, 404, "NOT_FOUND", /parquet/],
    ["users.csv", { filter: "{" }, 400, "BAD_REQUEST", /filter is not JSON/],
    ["users.csv", { filter: "{}" }, 400, "BAD_USER_INPUT", /empty/],
    ["users.csv", { filter: '{"nope": 1}' }, 400, "BAD_USER_INPUT", /nope/],
    ["users.csv", { filter: '{"userId": {"equalTo": "x"}}' }, 400, "BAD_USER_INPUT", /Int cannot represent/],
    ["users.csv", { orderBy: "NOPE" }, 400, "BAD_USER_INPUT", /NOPE/],
    ["users.csv", { columns: "userId,nope" }, 400, "BAD_USER_INPUT", /`nope`; allowed: .*userId/],
    ["users.csv", { columns: "userId,userId" }, 400, "BAD_USER_INPUT", /twice/],
    ["users.csv", { limit: "-1" }, 400, "BAD_REQUEST", /limit/],
    ["users.csv", { first: "1" }, 400, "BAD_REQUEST", /allowed: filter, orderBy, columns, limit/],
    ["users.csv", { filter: '{"username": {"equalTo": "a\\u0000b"}}' }, 400, "BAD_USER_INPUT", /NUL/],
  ];
  for (const [file, parameters, status, code, message] of cases)
    expect(await errorOf(file, parameters)).toEqual({
      status,
      code,
      message: expect.stringMatching(message) as string,
    });
  const head = await fetch(`http://127.0.0.1:${port}/export/users.csv`, {
    method: "HEAD",
    headers: server.as.operator,
  });
  expect(head.status).toBe(405);
});

const backends = async (): Promise<number> =>
  (
    await server.database.pool.query<{ n: number }>(
      "select count(*)::int as n from pg_stat_activity where application_name = 'strata export' and state = 'active'",
    )
  ).rows[0]!.n;

/** Rows without end, of which PostgreSQL sends as many as somebody reads. */
async function withEndless(work: () => Promise<void>): Promise<void> {
  await server.database.pool.query(
    `create view production.endless as
       select a.id::bigint * 100000 + b.id as id, repeat('x', 1000) as text from production.many a, production.many b;
     grant select on production.endless to strata_reader;
     select strata.reconcile()`,
  );
  try {
    await expect
      .poll(async () => (await get("endless.csv", { limit: "1" })).response.status, { timeout: 20_000 })
      .toBe(200);
    await work();
  } finally {
    await server.database.pool.query("drop view production.endless; select strata.reconcile()");
  }
}

const open = (path: string, who: Who): Promise<IncomingMessage> =>
  new Promise((done, fail) => {
    const options = { port, host: "127.0.0.1", path, headers: server.as[who], agent: false };
    httpRequest(options, done).on("error", fail).end();
  });

test.runIf(isServer)(
  "a client that leaves or waits ends, or holds up, the query; there are bounds",
  { timeout: 60_000 },
  () =>
    withEndless(async () => {
      const response = await open(pathOf("endless.csv"), "operator");
      expect(response.statusCode).toBe(200);
      response.on("error", () => undefined);
      expect(await backends()).toBe(1);
      // Nobody reads: PostgreSQL waits, and what is in memory is what fits into sockets.
      const waits = async () =>
        (
          await server.database.pool.query<{ wait: string | null }>(
            "select wait_event as wait from pg_stat_activity where application_name = 'strata export' and state = 'active'",
          )
        ).rows[0]?.wait;
      await expect.poll(waits, { timeout: 20_000 }).toBe("ClientWrite");
      // The same caller has no second place; another one has.
      expect(await errorOf("users.csv")).toMatchObject({ status: 503, code: "SERVICE_UNAVAILABLE" });
      expect((await get("many.csv", { limit: "1" }, "reader")).response.status).toBe(200);
      response.destroy();
      await expect.poll(backends, { timeout: 20_000 }).toBe(0);
      expect((await get("users.csv")).response.status).toBe(200);
    }),
);

test.runIf(isServer)("an export that takes too long ends without an end", { timeout: 60_000 }, () =>
  withEndless(async () => {
    await server.database.pool.query(
      "grant usage on schema production to strata_ingestor; grant select on production.endless to strata_ingestor",
    );
    const response = await open(pathOf("endless.csv"), "ingestor");
    expect(response.statusCode).toBe(200);
    const end = new Promise((done) => {
      response.on("error", done).on("end", () => done("whole"));
    });
    response.resume();
    expect(await end).toMatchObject({ code: "ECONNRESET" });
    await expect.poll(backends, { timeout: 20_000 }).toBe(0);
    // Before the first byte there is still an answer.
    expect(
      await errorOf("endless.csv", { filter: '{"rowId": {"equalTo": "-1"}}' }, "ingestor"),
    ).toMatchObject({
      status: 400,
      code: "TIMEOUT",
    });
  }),
);

test.runIf(isServer)("an error after the first byte ends without an end", async () => {
  await server.database.pool.query(
    `create view production.broken as select n::integer as id, 1 / (n - 50000) as text from generate_series(1, 60000) n;
     grant select on production.broken to strata_reader; select strata.reconcile()`,
  );
  await expect
    .poll(async () => (await get("broken.csv", { limit: "1" })).response.status, { timeout: 20_000 })
    .toBe(200);
  for (const format of ["csv", "ndjson", "parquet"])
    await expect(get(`broken.${format}`)).rejects.toThrow(/terminated|fetch failed/);
  await server.database.pool.query("drop view production.broken; select strata.reconcile()");
});

test("without the right to read the schema no error lists names", async () => {
  const closed = await createTestApp({ INTROSPECTION_ROLES: "operator" });
  try {
    for (const path of [
      "nothing.csv",
      "users.csv?columns=nope",
      "users.csv?columns=",
      'users.csv?filter={"usernam":1}',
    ]) {
      const { body, statusCode } = await closed.inject({ url: `/export/${path}`, headers: closed.as.reader });
      expect(statusCode).toBeGreaterThanOrEqual(400);
      expect(body).not.toMatch(/transactions|country|username/);
    }
  } finally {
    await closed.close();
  }
});

test.runIf(isServer)("rows count against the caller's budget", async () => {
  const poor = await createTestApp({ RATE_LIMIT_COST: "reader=30000", MAX_QUERY_COST: "25000" }, {}, OWN);
  try {
    const ask = () => poor.inject({ url: "/export/many.csv", headers: poor.as.reader });
    expect((await ask()).statusCode).toBe(200);
    expect((await ask()).statusCode).toBe(429);
  } finally {
    await poor.close();
  }
});
