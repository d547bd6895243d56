// What an operator sees when a start goes wrong: one clear sentence, the right exit code, no stack trace.
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createCluster, canStartCluster, type Cluster } from "../support/cluster.ts";
import { createPlace } from "../support/database.ts";
import { runStrata, startStrata } from "../support/process.ts";
import { createPool } from "../../src/database/connect.ts";

const JWT_SECRET = "a secret of the tests, long enough for HS256";
let folder: string;

beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), "strata-start-"))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const isClean = (stderr: string): void => {
  expect(stderr).not.toMatch(/\n\s+at |node_modules|\.ts:\d/);
};

test("every fault of the configuration is listed at once, without secrets", async () => {
  const { code, stderr, stdout } = await runStrata(["serve"], {
    PORT: "99999",
    JWT_SECRET: "too short",
    ANONYMOUS_ROLE: "king",
    LOG_LEVEL: "loud",
    DATABASE_URL: "mysql://root:hunter2@localhost/x",
  });
  expect(code).toBe(1);
  expect(stdout).toBe("");
  expect(stderr).toMatch(/faults/);
  for (const name of ["PORT", "JWT_SECRET", "ANONYMOUS_ROLE", "LOG_LEVEL", "DATABASE_URL"])
    expect(stderr).toMatch(new RegExp(`^ +${name}: `, "m"));
  expect(stderr).toContain('given "99999"');
  expect(stderr).not.toMatch(/too short|hunter2/);
  isClean(stderr);
});

test.each([
  [["--help"], 0],
  [["serve", "--help"], 0],
  [["no-such-command"], 2],
  [["serve", "--no-such-option"], 2],
  [["token"], 2],
  [["token", "--role", "king"], 2],
  [["cleanup", "--days", "-1"], 2],
])("exit code of strata %j is %i", async (args, expected) => {
  expect((await runStrata(args)).code).toBe(expected);
});

test("every command has --help and --json", { timeout: 240_000, tags: ["long"] }, async () => {
  const { stdout } = await runStrata(["--help"]);
  const commands = [...stdout.matchAll(/^ {2}(\w+) /gm)]
    .map(([, name]) => name!)
    .filter((name) => name !== "help");
  expect(commands.length).toBeGreaterThan(12);
  for (const command of commands) {
    const help = await runStrata([command, "--help"]);
    expect([command, help.code]).toEqual([command, 0]);
    expect(help.stdout).toContain("--json");
  }
});

test("a clone started with a Node that runs no TypeScript", async () => {
  const program = fileURLToPath(new URL("../../bin/cli.js", import.meta.url));
  const start = (...flags: string[]) =>
    promisify(execFile)(process.execPath, [...flags, program, "--help"]).catch(
      (error: { code: number; stderr: string }) => error,
    );
  expect((await start()).stderr).toBe("");
  expect(await start("--no-experimental-strip-types")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(
      /^strata: Node v\S+ does not run the TypeScript of a clone; start it with .*\n$/,
    ),
  });
});

test("a port in use", async () => {
  const other = createServer().listen(0, "127.0.0.1");
  await once(other, "listening");
  const { port } = other.address() as { port: number };
  const { code, stderr } = await runStrata(["serve"], {
    PORT: String(port),
    DATA_DIR: join(folder, "unused"),
  });
  other.close();
  expect(code).toBe(1);
  expect(stderr).toBe(`strata: Port ${port} on 127.0.0.1 is in use; set PORT to a free one\n`);
});

test("a data folder that cannot be written", async () => {
  const file = join(folder, "a-file");
  writeFileSync(file, "");
  const { code, stderr } = await runStrata(["status"], { DATA_DIR: join(file, "data") });
  expect(code).toBe(1);
  expect(stderr).toBe(
    `strata: Cannot write to the data folder "${file}/data" (ENOTDIR); set DATA_DIR to a folder you own\n`,
  );
});

test("a command, unlike a server, does not wait for a database that is away", async () => {
  const { code, stderr } = await runStrata(["status"], {
    DATABASE_URL: "postgres://postgres:hunter2@127.0.0.1:1/x",
    JWT_SECRET,
  });
  expect(code).toBe(1);
  expect(stderr).toBe("strata: Nothing answers at 127.0.0.1:1; is PostgreSQL running there?\n");
});

describe.runIf(canStartCluster)("on a server", () => {
  let cluster: Cluster;
  beforeAll(async () => void (cluster = await createCluster()));
  afterAll(() => cluster?.remove());

  const serve = (url: string) => runStrata(["serve"], { DATABASE_URL: url, JWT_SECRET, PORT: "0" });
  async function execute(database: string, sql: string): Promise<void> {
    const pool = createPool({ connectionString: cluster.url(database) }, { max: 1 });
    try {
      await pool.query(sql);
    } finally {
      await pool.end();
    }
  }

  test("a wrong password is refused with a sentence that does not repeat it", async () => {
    const { code, stderr } = await serve(cluster.url("postgres", "postgres", "hunter2"));
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^strata: 127\.0\.0\.1:\d+ refused the login of "postgres"; check DATABASE_URL\n$/,
    );
  });

  test("a database that does not exist", async () => {
    const { code, stderr } = await serve(cluster.url("nowhere"));
    expect(code).toBe(1);
    expect(stderr).toMatch(/database "nowhere" does not exist .*; create it or check DATABASE_URL\n$/);
  });

  test("no secret to check tokens with", async () => {
    const { code, stderr } = await runStrata(["serve"], { DATABASE_URL: cluster.url("postgres"), PORT: "0" });
    expect(code).toBe(1);
    expect(stderr).toMatch(/JWT_SECRET/);
    isClean(stderr);
  });

  test("a server without PostGIS", async () => {
    await execute("postgres", "create database bare");
    // The package cannot be removed for one test, so this database does not see it.
    await execute(
      "bare",
      `set allow_system_table_mods = on;
       create or replace view pg_catalog.pg_available_extensions as
         select e.name, e.default_version, x.extversion as installed_version, e.comment
         from pg_available_extensions() e left join pg_extension x on e.name = x.extname where e.name <> 'postgis'`,
    );
    for (const command of ["serve", "migrate"]) {
      const { code, stderr } = await runStrata([command], {
        DATABASE_URL: cluster.url("bare"),
        JWT_SECRET,
        PORT: "0",
      });
      expect(code).toBe(1);
      expect(stderr).toMatch(/^strata: The server lacks postgis; install it there \(.*\)\n$/);
    }
  });

  test("the schema: none, older, newer", async () => {
    await execute("postgres", "create database versions");
    const url = cluster.url("versions");
    expect(await serve(url)).toMatchObject({
      code: 1,
      stderr: "strata: The database does not have Strata's schema; run: npx strata-graphql migrate\n",
    });
    expect(await runStrata(["migrate"], { DATABASE_URL: url })).toMatchObject({ code: 0, stderr: "" });
    // As after a restore of the schema without its rows.
    await execute("versions", "create table kept as table graphile_worker.migrations");
    await execute("versions", "truncate graphile_worker.migrations");
    const restored = await runStrata(["migrate"], { DATABASE_URL: url });
    expect(restored.code).toBe(1);
    expect(restored.stderr).toMatch(
      /^strata: The schema graphile_worker .*; run: drop schema graphile_worker/,
    );
    await execute("versions", "insert into graphile_worker.migrations table kept");
    const pretend = (version: number) =>
      execute(
        "versions",
        `create or replace function strata.schema_version() returns integer language sql as 'select ${version}'`,
      );
    await pretend(0);
    const older = await serve(url);
    expect(older.code).toBe(1);
    expect(older.stderr).toMatch(
      /schema version 0, this Strata needs \d+; run: npx strata-graphql migrate\n$/,
    );
    await pretend(9999);
    const newer = await serve(url);
    expect(newer.code).toBe(1);
    expect(newer.stderr).toMatch(/schema version 9999, newer than this Strata's \d+; update Strata/);
    expect((await runStrata(["migrate"], { DATABASE_URL: url })).stderr).toMatch(/nothing was changed/);
  });
});

// Both were said, and then the process stayed: what it had opened by then held it.
test.each([
  [
    "PERSISTED_OPERATIONS_DIR",
    "/no/such/folder",
    /PERSISTED_OPERATIONS_DIR "\/no\/such\/folder" is not a folder/,
  ],
  ["TRUSTED_PROXIES", "nonsense", /TRUSTED_PROXIES: expected addresses, networks .*given "nonsense"/],
])("a wrong %s ends the process", async (name, value, message) => {
  const place = await createPlace();
  try {
    const { code, stderr } = await runStrata(["serve"], { ...place.environment, [name]: value });
    expect([code, stderr]).toEqual([1, expect.stringMatching(message)]);
    isClean(stderr);
  } finally {
    await place.remove();
  }
});

test("a command loads what it needs: neither GraphQL nor the worker for --help and token", async () => {
  const loaded = async (args: string[]) => {
    const strata = startStrata(args, {
      JWT_SECRET,
      DATABASE_URL: "postgres://x@localhost/x",
      NODE_DEBUG: "esm",
    });
    expect(await strata.exit).toBe(0);
    return strata.output.stderr;
  };
  for (const args of [["--help"], ["token", "--role", "reader"]])
    expect(await loaded(args)).not.toMatch(/node_modules\/(graphile-worker|graphql|grafast|pg)\//);
});
