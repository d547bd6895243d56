// Behind PgBouncer in transaction mode: no session of its own from one transaction to the next.
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { createApp } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { freePort } from "../support/process.ts";

const isInstalled =
  spawnSync("pgbouncer", ["--version"], { env: { PATH: `${process.env.PATH}:/usr/sbin` } }).status === 0;

describe.skipIf(!isServer || !isInstalled)("behind PgBouncer", () => {
  let database: TestDatabase;
  let bouncer: ChildProcess;
  let folder: string;
  let app: Awaited<ReturnType<typeof createApp>>;
  let authorization: string;

  beforeAll(async () => {
    database = await createDatabase();
    const url = new URL(database.config.DATABASE_URL!);
    const port = await freePort();
    folder = mkdtempSync(join(tmpdir(), "strata-pgbouncer-"));
    chmodSync(folder, 0o755);
    const password = url.password ? ` password=${decodeURIComponent(url.password)}` : "";
    writeFileSync(
      join(folder, "pgbouncer.ini"),
      `[databases]
* = host=${url.hostname} port=${url.port || 5432} user=${decodeURIComponent(url.username)}${password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
`,
    );
    // It refuses to run as root.
    const user = process.getuid?.() === 0 ? { uid: idOf("-u"), gid: idOf("-g") } : {};
    bouncer = spawn("pgbouncer", ["-q", join(folder, "pgbouncer.ini")], {
      ...user,
      stdio: "ignore",
      env: { PATH: `${process.env.PATH}:/usr/sbin` },
    });
    url.host = `127.0.0.1:${port}`;
    const config = loadConfig({
      ...database.environment,
      POOLED_DATABASE_URL: url.href,
      MAX_CONCURRENT_OPERATIONS: "100",
    });
    authorization = `Bearer ${await createToken(config, { role: "strata_operator" })}`;
    await untilItAnswers(url.href);
    app = await createApp({ config, database });
  });
  afterAll(async () => {
    await app?.close();
    bouncer?.kill();
    await database?.drop();
    rmSync(folder, { recursive: true, force: true });
  });

  const ask = async (query: string): Promise<any> =>
    (
      await app.inject({ method: "POST", url: "/graphql", headers: { authorization }, payload: { query } })
    ).json();

  it("answers queries of one and of several statements, many at a time", async () => {
    const queries = [
      "{ users { nodes { userId } } }",
      "{ users { totalCount nodes { userId transactions { totalCount } } } dimDates(first: 1) { nodes { dateId } } }",
    ];
    const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(queries[i % 2]!)));
    for (const answer of answers) expect(answer.errors).toBeUndefined();
    expect(answers[1].data.dimDates.nodes).toEqual([{ dateId: 1 }]);
  });

  it("writes", async () => {
    const answer = await ask(
      `mutation { createUser(input: { user: { username: "ann", email: "ann@example.org" } }) { user { username } } }`,
    );
    expect(answer).toEqual({ data: { createUser: { user: { username: "ann" } } } });
  });
});

async function untilItAnswers(connectionString: string): Promise<void> {
  const ask = async () => {
    const client = new pg.Client({ connectionString });
    try {
      await client.connect();
      await client.query("select 1");
    } finally {
      await client.end().catch(() => undefined);
    }
  };
  await vi.waitFor(ask, { timeout: 20_000 });
}

const idOf = (flag: string): number => Number(spawnSync("id", [flag, "nobody"]).stdout.toString());
