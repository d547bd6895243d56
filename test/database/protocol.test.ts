/** @module-tag long */
// The embedded engine behind its protocol server must look like PostgreSQL to ordinary clients.
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import pg from "pg";
import { from as copyFrom } from "pg-copy-streams";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openEmbedded } from "../../src/embedded/embedded.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

describe.skipIf(isServer)("the embedded engine's protocol server", () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await database.pool.query("create table public.numbers (number integer)");
  });
  afterAll(() => database.drop());

  const count = async (): Promise<number> =>
    (await database.pool.query<{ count: number }>("select count(*)::int from public.numbers")).rows[0]!.count;

  it("keeps prepared statements of the same name apart", async () => {
    const texts = ["select $1::int + 1 as n", "select $1::int + 2 as n"];
    const answers = await Promise.all(
      texts.flatMap((text, i) =>
        Array.from({ length: 20 }, async () => {
          const client = await database.pool.connect();
          try {
            const { rows } = await client.query<{ n: number }>({ text, values: [1] });
            return rows[0]!.n === 2 + i;
          } finally {
            client.release();
          }
        }),
      ),
    );
    expect(answers).not.toContain(false);
    const [one, two] = [new pg.Client(database.connection), new pg.Client(database.connection)];
    await one.connect();
    await two.connect();
    expect((await one.query({ name: "same", text: "select 1 as n" })).rows).toEqual([{ n: 1 }]);
    expect((await two.query({ name: "same", text: "select 2 as n" })).rows).toEqual([{ n: 2 }]);
    expect((await one.query({ name: "same", text: "select 1 as n" })).rows).toEqual([{ n: 1 }]);
    await one.end();
    await two.end();
  });

  it("keeps transactions of concurrent clients apart", async () => {
    await database.pool.query("truncate public.numbers");
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const client = await database.pool.connect();
        await client.query("begin");
        await client.query("insert into public.numbers values ($1)", [i]);
        await new Promise((done) => setTimeout(done, 2));
        await client.query(i % 2 === 0 ? "commit" : "rollback");
        client.release();
      }),
    );
    expect(await count()).toBe(10);
  });

  it("rolls back what a client that vanished had open, and serves the others", async () => {
    const before = await count();
    const client = new pg.Client(database.connection);
    client.on("error", () => undefined);
    await client.connect();
    await client.query("begin");
    await client.query("insert into public.numbers values (-1)");
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    expect(await count()).toBe(before);
  });

  it("answers pipelined statements one by one, also after one that failed", async () => {
    const client = new pg.Client({ ...database.connection, pipeline: true });
    await client.connect();
    const texts = ["select $1::int as n", "select 1 / ($1::int - 2) as n", "select nothing, $1::int as n"];
    const answers = await Promise.allSettled(
      [1, 2, 3, 4, 5, 6].map((i) => client.query<{ n: number }>(texts[(i - 1) % 3]!, [i])),
    );
    expect(
      answers.map((answer) => (answer.status === "fulfilled" ? answer.value.rows[0]!.n : "failed")),
    ).toEqual([1, "failed", "failed", 4, 0, "failed"]);
    await client.end();
  });

  it("takes COPY FROM STDIN, and a refused COPY leaves the connection usable", async () => {
    await database.pool.query("truncate public.numbers");
    const client = await database.pool.connect();
    const lines = Array.from({ length: 50_000 }, (_, i) => `${i}\n`);
    await pipeline(Readable.from(lines), client.query(copyFrom("copy public.numbers from stdin csv")));
    expect(await count()).toBe(50_000);
    await expect(
      pipeline(Readable.from(["1\nnone\n"]), client.query(copyFrom("copy public.numbers from stdin csv"))),
    ).rejects.toThrow(/invalid input syntax for type integer/);
    await expect(
      pipeline(Readable.from(["1\n"]), client.query(copyFrom("copy public.nowhere from stdin csv"))),
    ).rejects.toThrow(/does not exist/);
    expect((await client.query("select 1 as n")).rows).toEqual([{ n: 1 }]);
    client.release();
  });

  it("delivers notifications to listening clients", async () => {
    const client = new pg.Client(database.connection);
    await client.connect();
    await client.query("listen news");
    const heard = new Promise((done) => client.on("notification", (message) => done(message.payload)));
    await database.pool.query("select pg_notify('news', 'hello')");
    expect(await heard).toBe("hello");
    await client.end();
  });
});

describe.skipIf(isServer)("opening the embedded engine", () => {
  it("takes an engine that closes at that moment for none", async () => {
    const dataDir = mkdtempSync(join(tmpdir(), "strata-test-"));
    const closing = createServer((socket) => socket.destroy()).listen(join(dataDir, ".s.PGSQL.5432"));
    await once(closing, "listening");
    const engine = await openEmbedded(dataDir);
    expect(engine.ours).toBe(true);
    await engine.close();
    closing.close();
    rmSync(dataDir, { recursive: true });
  }, 240_000);
});
