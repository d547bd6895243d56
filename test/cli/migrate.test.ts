/** @module-tag long */
// strata migrate over files of datasets/: in order, each as a whole, and in words when one fails.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { strata } from "../support/cli.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
let folder: string;
beforeEach(async () => {
  database = await createDatabase();
  folder = mkdtempSync(join(tmpdir(), "strata-datasets-"));
});
afterEach(async () => {
  await database.drop();
  rmSync(folder, { recursive: true, force: true });
});

const write = (name: string, sql: string) => writeFileSync(join(folder, name), sql);
const migrate = (...args: string[]) =>
  strata(["migrate", ...args], { ...database.environment, DATASETS_DIR: folder });
const tables = async () =>
  (
    await database.pool.query<{ name: string }>(
      "select relname::text as name from pg_class where relnamespace = 'production'::regnamespace and relname like 't\\_%' and relkind = 'r' order by 1",
    )
  ).rows.map(({ name }) => name);

test("applies files in the order of their names, again without harm, and says which had changed", async () => {
  write("b.sql", "create table if not exists production.t_b (a_id int references production.t_a);");
  write("a.sql", "\uFEFFcreate table if not exists production.t_a (a_id int primary key); -- ü\n");
  write("notes.txt", "no SQL");
  write(".hidden.sql", "no SQL");
  const first = await migrate("--json");
  expect([first.code, first.stderr]).toEqual([0, ""]);
  const [a, b] = [join(folder, "a.sql"), join(folder, "b.sql")];
  const { migration } = JSON.parse(first.stdout);
  expect(migration).toMatchObject({
    from: migration.to,
    files: [
      { file: a, changed: true },
      { file: b, changed: true },
    ],
    failure: null,
  });
  expect(await tables()).toEqual(["t_a", "t_b"]);
  write("b.sql", "comment on table production.t_b is 'b';");
  const again = await migrate("--json");
  expect(JSON.parse(again.stdout).migration.files).toEqual([
    { file: a, changed: false, warnings: [] },
    { file: b, changed: true, warnings: [] },
  ]);
  expect((await migrate()).stdout).toMatch(
    /Applied schema version \d+ again\.\nApplied .*a\.sql again\.\nApplied .*b\.sql again\.\n$/,
  );
});

test("warnings are shown with their line, notices are not", async () => {
  write(
    "a.sql",
    "select 1;\n\ndo $$ begin raise notice 'nothing'; raise warning 'prices have no currency'; end $$;\n",
  );
  expect((await migrate()).stdout).toContain(
    `Applied ${join(folder, "a.sql")}.\n  Warning, ${join(folder, "a.sql")}:3: prices have no currency\n`,
  );
  const { stdout } = await migrate("--json");
  expect(JSON.parse(stdout).migration.files).toMatchObject([
    { warnings: [{ line: 3, message: "prices have no currency" }] },
  ]);
});

test("a folder that is not there holds no files", { tags: ["long"] }, async () => {
  rmSync(folder, { recursive: true });
  const { code, stdout } = await migrate("--json");
  expect([code, JSON.parse(stdout).migration.files]).toEqual([0, []]);
});

test("a file that fails is named with its line; nothing of it is applied, what came before it stays", async () => {
  write("1.sql", "create table production.t_one ();");
  write(
    "2.sql",
    "create table production.t_two (id int);\n-- 🙂\nselect 1,\n  '🙂', idd from production.t_two;\n",
  );
  write("3.sql", "create table production.t_three ();");
  const { code, stdout, stderr } = await migrate("--json");
  expect(code).toBe(1);
  const two = join(folder, "2.sql");
  expect(stderr).toBe(
    `strata: ${two}:4: column "idd" does not exist\n  Hint: Perhaps you meant to reference the column "t_two.id".\n` +
      "  Nothing of this file was applied; files before it were, those after it were not tried.\n",
  );
  expect(JSON.parse(stdout).migration).toMatchObject({
    files: [{ file: join(folder, "1.sql") }],
    failure: {
      file: two,
      line: 4,
      problem: 'column "idd" does not exist',
      hint: expect.stringContaining("t_two.id"),
    },
  });
  expect(await tables()).toEqual(["t_one"]);
});

test.each([
  [
    "an error without a position",
    "select 1;\n\nselect strata_no.f();",
    3,
    /schema "strata_no" does not exist/,
  ],
  [
    "a function that raises",
    "\ndo $$ begin\n raise exception 'no' using hint = 'do', detail = 'because'; end $$",
    2,
    /no\n {2}Detail: because\n {2}Hint: do/,
  ],
  [
    "begin",
    "begin;\nselect 1;\ncommit;",
    1,
    /"begin" is not allowed: each file is applied in a transaction of its own/,
  ],
  ["commit", "select 1;\n  COMMIT;", 2, /"COMMIT" is not allowed/],
  ["start transaction", "start  transaction read only;", 1, /"start {2}transaction" is not allowed/],
  ["a command of psql", "select 1;\n\\copy t from x", 2, /"\\copy" is a command of psql/],
  [
    "rows for psql",
    "copy production.users from stdin;\n1\tx",
    1,
    /COPY … FROM STDIN is for psql; .*strata-graphql ingest/,
  ],
  ["what a transaction cannot hold", "\nvacuum;", 2, /VACUUM cannot run inside a transaction block/],
])("%s is explained", { tags: ["long"] }, async (_what, sql, line, message) => {
  write("x.sql", `create table production.t_x ();${sql}`);
  const { code, stderr } = await migrate();
  expect(stderr).toMatch(message);
  expect(stderr).toContain(`${join(folder, "x.sql")}:${line}: `);
  expect(code).toBe(1);
  expect(await tables()).toEqual([]);
});

test(
  "a constraint that speaks at the end of the transaction is of the file",
  { tags: ["long"] },
  async () => {
    write(
      "x.sql",
      `create table production.t_x (id int primary key, up int references production.t_x deferrable initially deferred);
     insert into production.t_x values (1, 2);`,
    );
    const { code, stderr } = await migrate();
    expect(stderr).toMatch(
      /x\.sql: insert or update on table "t_x" violates foreign key .*\n {2}Detail: Key \(up\)=\(2\)/,
    );
    expect(code).toBe(1);
    expect(await tables()).toEqual([]);
  },
);

test("a setting of one file does not reach the next", { tags: ["long"] }, async () => {
  write(
    "1.sql",
    "set search_path = production; set timezone = 'Asia/Tokyo'; create table t_one (); set role strata_reader;",
  );
  write(
    "2.sql",
    "create table production.t_two as select current_setting('timezone') as zone, current_setting('search_path') as path;",
  );
  expect(await migrate()).toMatchObject({ code: 0, stderr: "" });
  const { rows } = await database.pool.query("select zone, path from production.t_two");
  expect(rows).toEqual([{ zone: "UTC", path: expect.stringContaining("public") }]);
});

test.runIf(isServer)("does not wait long for a lock, and says so", async () => {
  write("1.sql", "create table if not exists production.t_one ();");
  await migrate();
  write("2.sql", "\nalter table production.t_one add column id int;");
  const client = await database.pool.connect();
  await client.query("begin; lock table production.t_one in access share mode");
  const { code, stderr } = await migrate();
  await client.query("rollback");
  client.release();
  expect(stderr).toMatch(
    /:2: canceling statement due to lock timeout\n {2}Hint: Another session holds a lock/,
  );
  expect(code).toBe(1);
});

test("a DATASETS_DIR that is no folder is a fault", { tags: ["long"] }, async () => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
  write("file", "");
  const { code, stderr } = await strata(["migrate"], {
    ...database.environment,
    DATASETS_DIR: join(folder, "file"),
  });
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/DATASETS_DIR ".*file" is not a folder that can be read \(ENOTDIR\)/),
  ]);
});
