// strata login: what a BI tool gets, and what it does not.
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isPasswordOf, keysOf, verifierOf } from "../../src/database/scram.ts";
import { strata } from "../support/cli.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), "strata-test-"));
// Logins belong to all databases of a server.
const LOGIN = `bi_${process.pid}`;
const other = `${LOGIN}_other`;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`
    insert into production.users (user_id, username, email, created_at) values (1, 'ann', 'ann@example.com', '2026-01-31');
    insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
      values (1, 1, 1, 'completed', '2026-01-31');`);
});
afterAll(async () => {
  for (const login of [LOGIN, other])
    await database.pool.query(
      "select strata.drop_login(l.login) from strata.login_rows() l where l.login = $1",
      [login],
    );
  await database.drop();
  rmSync(folder, { recursive: true });
});

const run = (...args: string[]) => strata(["login", ...args], database.environment);

async function as<T>(login: string, password: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const url = new URL(database.environment.DATABASE_URL!);
  const client = new pg.Client({
    host: url.hostname,
    port: Number(url.port),
    database: url.pathname.slice(1),
    user: login,
    password,
  });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

test("a password is kept as PostgreSQL keeps it: the example of RFC 7677", () => {
  const { server } = keysOf("pencil", Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64"), 4096);
  const message =
    "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
  expect(createHmac("sha256", server).update(message).digest("base64")).toBe(
    "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
  );
  const verifier = verifierOf("a password of tests");
  expect(isPasswordOf("a password of tests", verifier)).toBe(true);
  expect(isPasswordOf("a password of test", verifier)).toBe(false);
});

test.runIf(isServer)(
  "a reader's login selects *, writes nothing, and has bounds",
  { timeout: 120_000 },
  async () => {
    const result = await run("create", LOGIN, "--role", "reader", "--json");
    expect(result.stderr).toBe("");
    const { password, ...facts } = JSON.parse(result.stdout) as { password: string };
    expect(facts).toEqual({
      login: LOGIN,
      role: "strata_reader",
      searchPath: ["bi_reader", "analytics", "production", "public"],
    });
    const { rows: kept } = await database.pool.query<{ password: string }>(
      "select rolpassword as password from pg_authid where rolname = $1",
      [LOGIN],
    );
    expect(isPasswordOf(password, kept[0]!.password)).toBe(true);

    await as(LOGIN, password, async (client) => {
      const { rows } = await client.query<object>("select * from users");
      expect(rows).toMatchObject([{ user_id: 1, username: "ann" }]);
      expect(Object.keys(rows[0]!)).not.toContain("email");
      // Every relation that it sees by a name without a schema.
      const { rows: seen } = await client.query<{ name: string }>(
        `select quote_ident(c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname in ('bi_reader', 'analytics', 'production') and c.relkind in ('r', 'v', 'm', 'p') and pg_table_is_visible(c.oid)
         and has_any_column_privilege(c.oid, 'select')`,
      );
      expect(seen.length).toBeGreaterThan(8);
      for (const { name } of seen) await client.query(`select * from ${name} limit 1`);
      await expect(client.query("select email from production.users")).rejects.toThrow("permission denied");
      await expect(client.query("select * from staging.raw_users")).rejects.toThrow("permission denied");
      await expect(client.query("create temporary table mine ()")).rejects.toThrow(/read-only transaction/);
      const { rows: plan } = await client.query<Record<string, string>>(
        "explain select username from users where user_id = 1",
      );
      expect(plan.map((row) => row["QUERY PLAN"]).join("\n")).toMatch(/Index.*users_pkey/);
      const { rows: settings } = await client.query(
        "select current_setting('statement_timeout') as timeout, current_setting('timezone') as zone",
      );
      expect(settings).toEqual([{ timeout: "1min", zone: "UTC" }]);
      const { rows: described } = await client.query(
        "select obj_description('bi_reader.users'::regclass) as table, col_description('bi_reader.users'::regclass, 2) as column",
      );
      expect(described).toEqual([
        { table: expect.stringMatching(/./) as string, column: expect.stringMatching(/./) as string },
      ]);

      const list = await run("list", "--json");
      expect(JSON.parse(list.stdout)).toContainEqual({
        login: LOGIN,
        role: "strata_reader",
        connections: 1,
        connectionLimit: 10,
        statementTimeout: "60s",
        readOnly: true,
      });

      // A migration drops a column that the view shows, and grants another.
      await database.pool.query(
        "alter table production.users add column note text default 'x'; alter table production.users add column hidden text; grant select (note) on production.users to strata_reader; select strata.reconcile()",
      );
      expect(Object.keys((await client.query<object>("select * from users")).rows[0]!)).toContain("note");
      await database.pool.query("alter table production.users drop column note; select strata.reconcile()");
      expect(Object.keys((await client.query<object>("select * from users")).rows[0]!)).not.toContain("note");

      expect(await run("drop", LOGIN)).toMatchObject({
        code: 0,
        stdout: `The login "${LOGIN}" is dropped.\n`,
      });
      await expect(client.query("select 1")).rejects.toThrow();
    });
    await expect(as(LOGIN, password, () => Promise.resolve())).rejects.toThrow(
      /does not exist|authentication failed/,
    );
  },
);

test.runIf(isServer)(
  "an operator's login sees all, a password may be brought",
  { timeout: 120_000 },
  async () => {
    const file = join(folder, "password");
    writeFileSync(file, "a password of tests\n");
    const { code, stdout, stderr } = await run(
      "create",
      other,
      "--role",
      "operator",
      "--password-file",
      file,
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).not.toContain("a password of tests");
    await as(other, "a password of tests", async (client) => {
      expect((await client.query("select * from users")).rows).toMatchObject([{ email: "ann@example.com" }]);
      await client.query("update users set country = 'DE' where user_id = 1");
    });
  },
);

test.each([
  [["create", "x", "--role", "king"], /"king"; allowed: reader, ingestor, operator/],
  [["create", "x", "--role", "postgres"], /"postgres"; allowed: reader/],
  [["create", "X y", "--role", "reader"], /Allowed: small letters/],
  [["create", "strata_reader", "--role", "reader"], /Allowed: small letters/],
  [["create", "postgres", "--role", "reader"], /The role "postgres" already exists/],
  [["create", "x"], /required option '--role/],
  [
    ["create", "x", "--role", "reader", "--statement-timeout", "long"],
    /Allowed: a number and ms, s, min or h/,
  ],
  [["create", "x", "--role", "reader", "--password-file", "-"], /at least 12 printable characters/],
  [["drop", "postgres"], /There is no login "postgres"/],
])("%j is wrong usage", async (args, message) => {
  const result = await run(...args);
  expect(result.stderr).toMatch(message);
  expect([result.code, result.stdout]).toEqual([2, ""]);
});
