/** @module-tag long */
// One operation, one transaction: what an answer shows, and what becomes of the connection.
import { setTimeout as sleep } from "node:timers/promises";
import { execute, hookArgs } from "grafast";
import pg from "pg";
import { pino } from "pino";
import { createBoundedMap } from "../../src/bounded-map.ts";
import { createDocumentCheck } from "../../src/guard/document.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createOperation } from "../../src/database/adaptor.ts";
import { createOperationPool } from "../../src/database/connect.ts";
import { createGraphql } from "../../src/graphql/graphql.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
let operations: ReturnType<typeof createOperationPool>;
beforeAll(async () => {
  database = await createDatabase();
  operations = createOperationPool(database.config, database);
  await database.pool.query(
    "create table public.items (item integer); grant all on public.items to strata_operator",
  );
});
afterAll(async () => {
  await operations.pool.end();
  await database.drop();
});

const settings = { role: "strata_operator", statement_timeout: "10000" };
type Operation = ReturnType<typeof createOperation>;
const query = (operation: Operation, text: string, values: unknown[] = []): Promise<readonly any[]> =>
  operation.withPgClient(
    settings,
    async (client) => (await client.query({ text, values: values as any })).rows,
  );
const begin = (kind: "query" | "mutation" | "subscription", statements = Infinity, signal?: AbortSignal) => {
  const operation = createOperation({ ...operations, signal });
  operation.describe(kind, statements);
  return operation;
};
const idle = async (): Promise<void> => {
  await expect
    .poll(() => operations.pool.totalCount - operations.pool.idleCount, { timeout: 20_000 })
    .toBe(0);
  expect(operations.pool.idleCount).toBe(operations.pool.totalCount);
  const { rows } = await database.pool.query(
    "select count(*)::int as open from pg_stat_activity where datname = current_database() and state like 'idle in transaction%' and pid <> pg_backend_pid()",
  );
  expect(rows).toEqual([{ open: 0 }]);
};

describe("a query", () => {
  it.each([1, 2, 3, Infinity])(
    "runs as the request's role, read-only, in UTC (%s statements known)",
    async (known) => {
      const operation = begin("query", known);
      const seen = "select current_user::text as who, current_setting('transaction_read_only') as read_only";
      expect(await query(operation, seen)).toEqual([{ who: "strata_operator", read_only: "on" }]);
      if (known > 1) {
        await expect(query(operation, "insert into public.items values (1)")).rejects.toThrow(/read-only/);
      }
      operation.end();
      await idle();
      expect((await database.pool.query("select current_user::text as who")).rows[0].who).not.toBe(
        "strata_operator",
      );
    },
  );

  it("is refused without a role", async () => {
    for (const role of [undefined, "none", ""]) {
      const operation = begin("query");
      await expect(
        operation.withPgClient({ role }, (client) => client.query({ text: "select 1" })),
      ).rejects.toThrow(/needs a role/);
      operation.end();
    }
    await idle();
  });

  it("never runs a statement outside of its role, even if the role cannot be taken", async () => {
    const operation = begin("query", 3);
    const attempt = () =>
      operation.withPgClient({ role: "nobody" }, (client) => client.query({ text: "select current_user" }));
    const results = await Promise.allSettled([attempt(), attempt(), attempt()]);
    expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    operation.end();
    await idle();
  });

  it("goes on after a statement that failed, in the same snapshot", async () => {
    const operation = begin("query", 4);
    const results = await Promise.allSettled([
      query(operation, "select pg_current_snapshot()::text as snapshot, 1 / (random() * 0)::int"),
      query(operation, "select txid_current_if_assigned(), pg_backend_pid() as pid"),
      query(operation, "select nothing"),
      query(operation, "select pg_backend_pid() as pid"),
    ]);
    expect(results.map(({ status }) => status)).toEqual(["rejected", "fulfilled", "rejected", "fulfilled"]);
    operation.end();
    await idle();
  });

  it("prepares each statement once per connection, and again after it was forgotten", async () => {
    const named = (operation: Operation) =>
      operation.withPgClient(settings, (client) =>
        client.query({ text: "select $1::int as n", values: ["1"], name: "n" }),
      );
    const onTwoConnections = async (): Promise<unknown[]> => {
      const pair = [begin("query", 1), begin("query", 1)];
      const answers = await Promise.all(pair.map(async (each) => (await named(each)).rows));
      for (const each of pair) each.end();
      await idle();
      return answers;
    };
    for (let i = 0; i < 3; i++) expect(await onTwoConnections()).toEqual([[{ n: 1 }], [{ n: 1 }]]);
    const clients = await Promise.all([operations.pool.connect(), operations.pool.connect()]);
    for (const client of clients) {
      await client.query("deallocate all");
      client.release();
    }
    const failing = begin("query", 1);
    await expect(named(failing)).rejects.toThrow(/does not exist/);
    failing.end();
    expect(await onTwoConnections()).toEqual([[{ n: 1 }], [{ n: 1 }]]);
  });

  it("keeps a bounded number of statements prepared", async () => {
    const operation = begin("query");
    for (let i = 0; i < 250; i++) {
      await operation.withPgClient(settings, (client) =>
        client.query({ text: `select ${i}`, name: `numbered_${i}` }),
      );
    }
    const [{ count }] = (await query(operation, "select count(*)::int from pg_prepared_statements")) as [
      { count: number },
    ];
    expect(count).toBeLessThanOrEqual(isServer ? 200 : 260);
    operation.end();
    await idle();
  });
});

describe("a mutation", () => {
  it("commits each step before its answer, and rolls back one that fails", async () => {
    const operation = begin("mutation");
    await query(operation, "insert into public.items values (1)");
    expect((await database.pool.query("select count(*)::int from public.items")).rows).toEqual([
      { count: 1 },
    ]);
    await expect(
      operation.withPgClient(settings, async (client) => {
        await client.query({ text: "insert into public.items values (2)" });
        await client.query({ text: "select 1 / (random() * 0)::int" });
      }),
    ).rejects.toThrow(/division by zero/);
    expect(await query(operation, "select count(*)::int from public.items")).toEqual([{ count: 1 }]);
    operation.end();
    await idle();
  });

  it("does not report as done what was rolled back", async () => {
    const operation = begin("mutation");
    await expect(
      operation.withPgClient(settings, async (client) => {
        await client.query({ text: "insert into public.items values (3)" });
        await client.query({ text: "select nothing" }).catch(() => undefined);
      }),
    ).rejects.toThrow(/rolled back/);
    operation.end();
    await idle();
  });
});

describe("a subscription", () => {
  it("reads the state of each event, and holds no connection between them", async () => {
    const operation = begin("subscription");
    const count = () => query(operation, "select count(*)::int from public.items");
    const before = (await count())[0].count as number;
    await idle();
    await database.pool.query("insert into public.items values (4)");
    expect(await count()).toEqual([{ count: before + 1 }]);
    await idle();
    operation.end();
  });
});

describe.skipIf(!isServer)("an operation that nobody waits for", () => {
  const running = async (): Promise<number> =>
    (
      await database.pool.query<{ count: number }>(
        "select count(*)::int from pg_stat_activity where datname = current_database() and state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()",
      )
    ).rows[0]!.count;
  const until = (expected: number) => expect.poll(running, { timeout: 20_000 }).toBe(expected);

  it.each(["query", "mutation"] as const)("is cancelled on the server: %s", async (kind) => {
    const controller = new AbortController();
    const operation = begin(kind, Infinity, controller.signal);
    const answer = query(operation, "select pg_sleep(30), count(*) from public.items");
    const outcome = expect(answer).rejects.toThrow();
    await until(1);
    controller.abort();
    await outcome;
    await until(0);
    await expect(query(operation, "select 1")).rejects.toThrow(/cancelled/);
    await idle();
  });

  it("does not wait for a connection any more, and does not keep one that comes later", async () => {
    const held = await Promise.all(Array.from({ length: 10 }, () => operations.pool.connect()));
    const controller = new AbortController();
    const operation = begin("query", 1, controller.signal);
    const outcome = expect(query(operation, "select 1")).rejects.toThrow(/cancelled/);
    controller.abort();
    for (const client of held) client.release();
    await outcome;
    await idle();
  });
});

describe("an answer", () => {
  let graphql: ReturnType<typeof createGraphql>;
  beforeAll(() => {
    graphql = createGraphql({
      config: database.config,
      database,
    });
  });
  afterAll(() => graphql.release());

  async function ask(source: string): Promise<any> {
    const { schema, resolvedPreset } = await graphql.instance.getSchemaResult();
    const check = createDocumentCheck(
      schema,
      { maxDepth: 12, defaultPageSize: 100, maxPageSize: 1000 },
      createBoundedMap(1_000_000),
    );
    const args = {
      schema,
      document: check(source, () => undefined).document!,
      resolvedPreset,
      contextValue: {},
      requestContext: {
        fastifyv5: {
          request: {
            claims: { role: "strata_operator", databaseRole: "strata_operator", subject: "test", json: "{}" },
            log: pino({ level: "silent" }),
          },
        },
      } as never,
    };
    await hookArgs(args);
    const { data, errors } = (await execute(args)) as { data?: string; errors?: unknown };
    return { data: data && JSON.parse(data), errors };
  }

  // Every user's name is its generation; each generation replaces all of the one before in one transaction.
  it("shows one state of the database, whatever commits meanwhile", async () => {
    let stopped = false;
    let generation = 0;
    const writer = new pg.Client(database.connection);
    await writer.connect();
    const writing = (async () => {
      while (!stopped) {
        generation++;
        await writer.query("begin");
        await writer.query("delete from production.users");
        await writer.query(
          `insert into production.users (user_id, username, email, country)
           select n, 'g' || $1::int || '-' || n, 'g' || $1::int || '-' || n || '@example.com', 'g' || $1::int
           from generate_series(1, 1 + $1::int % 7) n`,
          [generation],
        );
        await writer.query("commit");
        await sleep(1);
      }
    })();
    const source = `{
      a: users(orderBy: USER_ID_ASC) { totalCount nodes { userId country transactions { totalCount } } }
      b: users { totalCount aggregates { distinctCount { userId } } }
      c: users(first: 1) { nodes { country } }
    }`;
    const seen = new Set<string>();
    try {
      for (let i = 0; i < 100; i++) {
        const { data, errors } = await ask(source);
        expect(errors).toBeUndefined();
        const { a, b, c } = data;
        expect(a.totalCount).toBe(a.nodes.length);
        expect(b.totalCount).toBe(a.totalCount);
        expect(Number(b.aggregates.distinctCount.userId)).toBe(a.totalCount);
        for (const node of [...a.nodes, ...c.nodes]) expect(node.country).toBe(a.nodes[0].country);
        if (a.nodes[0]) seen.add(a.nodes[0].country);
      }
    } finally {
      stopped = true;
      await writing;
      await writer.end();
    }
    // Otherwise nothing changed under the queries, and nothing is shown.
    expect(seen.size).toBeGreaterThan(5);
  });

  it("keeps what did not fail", async () => {
    const { data, errors } = await ask(`{ users { totalCount } runs: pipelineRuns { nodes { error } } }`);
    expect(errors).toBeUndefined();
    expect(data.users.totalCount).toBeGreaterThanOrEqual(0);
  });
});
