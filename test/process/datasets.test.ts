/** @module-tag long */
// A server that follows the files of datasets/ while it runs, and goes on without one that is broken.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { loadConfig } from "../../src/config.ts";
import { createToken } from "../../src/http/token.ts";
import { graphql, startReadyServer, until, type Server } from "../support/process.ts";

let database: TestDatabase;
let folder: string;
let server: Server;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "strata-datasets-"));
  database = await createDatabase();
  // On a server the schema is changed on purpose only: --watch asks for it.
  if (!isServer) await database.close();
  const environment = { ...database.environment, DATASETS_DIR: join(folder, "datasets"), LOG_LEVEL: "info" };
  server = await startReadyServer(environment, isServer ? ["--watch"] : []);
  if (!isServer)
    Object.assign(
      database,
      await import("../../src/database/connect.ts").then((it) => it.openDatabase(database.config)),
    );
});
afterAll(async () => {
  await database?.close();
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const write = (name: string, sql: string) => writeFileSync(join(folder, "datasets", name), sql);
const hasTable = async (name: string) => {
  const { rows } = await database.pool.query<{ found: boolean }>(
    "select to_regclass($1) is not null as found",
    [`production.${name}`],
  );
  return rows[0]!.found;
};
const messages = () =>
  server.output.stdout
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => (JSON.parse(line) as { msg: string }).msg);

test(
  "applies a file that comes, one that changes, and those after a broken one once it is mended",
  { timeout: 240_000 },
  async () => {
    // The folder itself may come later, too.
    mkdirSync(join(folder, "datasets"));
    write("a.sql", "create table if not exists production.t_a (id int primary key);");
    await until(() => hasTable("t_a"));
    write("a.sql", "create table if not exists production.t_a2 (id int primary key);");
    await until(() => hasTable("t_a2"));

    // Smart tags, too, which the server reads itself.
    const token = await createToken(loadConfig(database.environment), { role: "strata_operator" });
    const description = async (): Promise<string | undefined> =>
      (await graphql(server, token, '{ __type(name: "User") { description } }')).data?.__type.description;
    const tags = (text: string) =>
      `{ version: 1, config: { class: { "production.users": { description: "${text}" } } } }`;
    for (const text of ["A customer.", "A person."]) {
      write("tags.json5", tags(text));
      await until(async () => (await description()) === text);
    }

    write("b.sql", "create table production.t_b (id int);\nselect nonsense;");
    write("c.sql", "create table if not exists production.t_c (id int);");
    await until(() =>
      Promise.resolve(
        messages().some((message) => message.includes('b.sql:2: column "nonsense" does not exist')),
      ),
    );
    expect(await hasTable("t_b")).toBe(false);
    expect(await hasTable("t_c")).toBe(false);
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);

    write("b.sql", "create table production.t_b (id int);");
    await until(() => hasTable("t_c"));
    expect(await hasTable("t_b")).toBe(true);
    // A fault is told once, not at each look, and what is applied is not applied again.
    const told = messages();
    expect(told.filter((message) => message.includes("nonsense"))).toHaveLength(1);
    expect(told.filter((message) => message.endsWith("a.sql"))).toHaveLength(2);
  },
);
