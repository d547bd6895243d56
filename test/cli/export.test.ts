/** @module-tag long */
// strata export: a file that is whole or not there, and exit codes.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, expect, test } from "vitest";
import { strata } from "../support/cli.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), "strata-test-"));
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`
    insert into production.users (user_id, username, email, created_at) values
      (1, 'ann', 'ann@example.com', '2026-01-31 12:30'), (2, 'bob', 'bob@example.com', '2026-02-01');
    create view production.broken as select n::integer as id, 1 / (n - 50000) as ratio from generate_series(1, 60000) n;
    grant select on production.broken to strata_operator;`);
});
afterAll(async () => {
  await database.drop();
  rmSync(folder, { recursive: true });
});

const run = (...args: string[]) => strata(["export", ...args], database.environment);

test("rows go to standard output, with filter, order, columns and limit", async () => {
  const { stdout, stderr, code } = await run(
    ...["users", "--filter", '{"username": {"in": ["ann", "bob"]}}', "--order-by", "USER_ID_DESC"],
    ...["--columns", "userId,email", "--limit", "1"],
  );
  expect({ stdout, stderr, code }).toEqual({
    stdout: "userId,email\n2,bob@example.com\n",
    stderr: "",
    code: 0,
  });
});

test("a file's name says its format, and the role what is in it", async () => {
  const file = join(folder, "users.parquet");
  const result = await run("users", "-o", file, "--role", "reader", "--json");
  expect(result.stderr).toBe("");
  expect(JSON.parse(result.stdout)).toEqual({ file, format: "parquet", rows: 2 });
  const rows = await parquetReadObjects({ file: Uint8Array.from(readFileSync(file)).buffer });
  expect(rows.map(({ username, email }) => [username, email])).toEqual([
    ["ann", undefined],
    ["bob", undefined],
  ]);
});

test.each([
  [["nothing"], 2, /There is no table or metric "nothing"; allowed: /],
  [["users", "--columns", "nope"], 2, /`nope`; allowed: /],
  [["users", "--filter", '{"nope": 1}'], 2, /nope/],
  [["users", "--filter", "[]"], 2, /Allowed: a JSON object/],
  [["users", "--format", "xlsx"], 2, /Allowed choices are csv, ndjson, parquet/],
  [["users", "--role", "postgres"], 2, /--role is "postgres"; allowed: /],
  [["users", "--json"], 2, /--output/],
  [
    ["users", "--role", "reader", "--columns", "email"],
    1,
    /\(strata_reader\) may not read `email` of `users`/,
  ],
  [["users", "-o", "/nowhere/users.csv"], 1, /Cannot write "\/nowhere\/users.csv" \(ENOENT\)/],
])("%j ends with %i", async (args, code, message) => {
  const result = await run(...args);
  expect(result.stderr).toMatch(message);
  expect([result.code, result.stdout]).toEqual([code, ""]);
});

// The embedded engine says so before the first row.
test.runIf(isServer)("a file that does not become whole is not there", async () => {
  const file = join(folder, "broken.csv");
  const { code, stderr } = await run("broken", "-o", file);
  expect(code).toBe(1);
  expect(stderr).toMatch(/division by zero/);
  expect(readdirSync(folder).filter((name) => name.startsWith("broken"))).toEqual([]);
});
