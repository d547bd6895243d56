/** @module-tag long */
// POST /propose: what `strata add` says of a file, over HTTP; nothing is changed by it.
import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp({}, { maxProposedBytes: 100_000 });
});
afterAll(async () => {
  // What was sent is gone from the disk, whatever became of it.
  expect(left()).toEqual(before);
  await server.close();
});
const left = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith("strata-propose-"));
const before = left();

const CSV = `user_id,Unit Price,sold at\n${Array.from(
  { length: 30 },
  (_, n) => `${n},${n}.50,2026-01-${String((n % 28) + 1).padStart(2, "0")}`,
).join("\n")}\n`;

async function propose(
  path: string,
  payload: string | Buffer,
  { who = "operator", ...headers }: { who?: keyof TestApp["as"] } & Record<string, string> = {},
) {
  const response = await server.inject({
    method: "POST",
    url: path,
    headers: { "content-type": "text/csv", ...server.as[who], ...headers },
    payload,
  });
  const body: any = response.json();
  return { status: response.statusCode, body, code: body.errors?.[0].extensions.code as unknown };
}

it("answers with SQL that makes the dataset, and with what was found", async () => {
  const { status, body } = await propose("/propose/sales?name=sales.csv", CSV);
  expect(status).toBe(200);
  expect(body.proposal).toMatchObject({ dataset: "sales", rows: 30, file: "sales.sql", key: ["user_id"] });
  expect(
    body.proposal.columns.map(({ header, name, type }: any) => [header, name, type.replace(/\(.*/, "")]),
  ).toEqual([
    ["user_id", "user_id", "integer"],
    ["Unit Price", "unit_price", "numeric"],
    ["sold at", "sold_at", "date"],
  ]);
  expect(body.proposal.ingest).toBe(
    "npx strata-graphql ingest sales sales.csv --map 'Unit Price=unit_price' --map 'sold at=sold_at'",
  );
  const { pool } = server.database;
  expect((await pool.query("select to_regclass('production.sales') as it")).rows).toEqual([{ it: null }]);
  // It is SQL that the database takes.
  const client = await pool.connect();
  try {
    await client.query("begin");
    await client.query(body.proposal.sql);
    expect((await client.query("select to_regclass('staging.raw_sales') is not null as ok")).rows).toEqual([
      { ok: true },
    ]);
  } finally {
    await client.query("rollback");
    client.release();
  }
});

it("takes NDJSON, gzip and a key of the caller's", async () => {
  const rows = Array.from({ length: 30 }, (_, n) => JSON.stringify({ shop: n % 5, day: n })).join("\n");
  const { body } = await propose("/propose/visits?key=shop,day", gzipSync(rows), {
    "content-type": "application/x-ndjson",
    "content-encoding": "gzip",
  });
  expect(body.proposal).toMatchObject({ key: ["shop", "day"], rows: 30 });
});

it("lets no line of the file become SQL", async () => {
  const { body } = await propose(
    `/propose/traps?name=${encodeURIComponent("x\rdrop table b;\ny.csv")}`,
    'trap_id,"a\ndrop table production.users; --"\n1,2\n3,4\n',
  );
  const lines: string[] = body.proposal.sql.split(/[\r\n]/);
  expect(lines.filter((line) => /drop table/.test(line))).not.toEqual([]);
  // Words of the file stand in comments and in literals; a literal may have more than one line.
  const client = await server.database.pool.connect();
  try {
    await client.query("begin");
    await client.query(body.proposal.sql);
    expect((await client.query("select to_regclass('production.users') is not null as ok")).rows).toEqual([
      { ok: true },
    ]);
  } finally {
    await client.query("rollback");
    client.release();
  }
});

it.each([
  ["reader", 403, "FORBIDDEN"],
  ["ingestor", 403, "FORBIDDEN"],
  ["nobody", 401, "UNAUTHENTICATED"],
] as const)("is not for %s", async (who, status, code) => {
  expect(await propose("/propose/sales", CSV, { who })).toMatchObject({ status, code });
});

it.each([
  ["a name that cannot be", "/propose/No-Name", CSV, {}, 400, "BAD_REQUEST", /allowed: up to 50 of a-z/],
  [
    "a dataset that is there",
    "/propose/users",
    CSV,
    {},
    400,
    "BAD_REQUEST",
    /production.users exists already/,
  ],
  ["another parameter", "/propose/sales?kye=a", CSV, {}, 400, "BAD_REQUEST", /allowed: name, key/],
  [
    "a key that the file has not",
    "/propose/sales?key=x",
    CSV,
    {},
    400,
    "BAD_REQUEST",
    /the file has: "user_id"/,
  ],
  ["an empty file", "/propose/sales", "", {}, 400, "BAD_REQUEST", /is empty/],
  ["no header", "/propose/sales", "a,,b\n1,2,3\n", {}, 400, "BAD_REQUEST", /Column 2 has no name/],
  [
    "another type",
    "/propose/sales",
    "{}",
    { "content-type": "application/json" },
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    /allowed: text\/csv/,
  ],
  [
    "a file above the limit",
    "/propose/sales",
    `a\n${"1\n".repeat(60_000)}`,
    {},
    413,
    "PAYLOAD_TOO_LARGE",
    /more than 100000 bytes/,
  ],
] as const)("refuses %s", async (_what, path, body, headers, status, code, message) => {
  const answer = await propose(path, body, headers);
  expect(answer).toMatchObject({ status, code });
  expect(answer.body.errors[0].message).toMatch(message);
  expect(answer.body.errors[0].message).not.toContain(tmpdir());
});
