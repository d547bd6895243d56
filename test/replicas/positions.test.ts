// Whoever sends back what an answer gave reads nothing older, however far the replicas are behind.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canReplicate, createSetup, type Setup } from "./setup.ts";

const PAIRS = Number(process.env.REPLICA_PAIRS ?? 150);
const WRITERS = 4;

describe.runIf(canReplicate)("positions", { tags: ["long"] }, () => {
  let setup: Setup;
  let second: { url: string };

  beforeAll(async () => {
    setup = await createSetup(2);
    second = await setup.startInstance();
  }, 240_000);
  afterAll(() => setup?.close());

  const write = (name: string) =>
    setup.ask(
      `mutation { createUser(input: { user: { username: "${name}", email: "${name}@example.org" } }) { user { userId } } }`,
    );
  const count = `{ users { totalCount } }`;
  const named = (name: string) =>
    `{ users(filter: { username: { equalTo: "${name}" } }) { nodes { username } } }`;

  /** Stops and goes on with replay on both, at random, until the work is done. */
  async function whilePausing<T>(work: () => Promise<T>): Promise<T> {
    let isDone = false;
    const pausing = [0, 1].map(async (replica) => {
      while (!isDone) {
        await setup.onReplica(replica, "select pg_wal_replay_pause()");
        await sleep(Math.random() * 300);
        await setup.onReplica(replica, "select pg_wal_replay_resume()");
        await sleep(Math.random() * 100);
      }
    });
    try {
      return await work();
    } finally {
      isDone = true;
      await Promise.all(pausing);
    }
  }

  test("reads go to the replicas, by turns, and writes to the primary", async () => {
    await setup.caughtUp();
    const nodes = new Set<string | undefined>();
    for (let i = 0; i < 4; i++) nodes.add((await setup.ask(count)).node);
    expect(nodes).toEqual(new Set(["replica-1", "replica-2"]));
    expect(await write("first")).toMatchObject({ node: "primary", status: 200 });
    expect((await setup.ask(count, { "strata-read": "primary" })).node).toBe("primary");
  });

  test("a position that no answer gave is rejected, with what is allowed", async () => {
    expect(await setup.ask(count, { "strata-position": "0/15" })).toMatchObject({
      status: 400,
      errors: [{ message: expect.stringMatching(/strata-position is "0\/15"; allowed/) }],
    });
    expect(await setup.ask(count, { "strata-read": "replica" })).toMatchObject({ status: 400 });
  });

  test("over HTTP, on two instances: nothing stale with a position", async () => {
    const stale = { with: 0, without: 0 };
    const nodes = new Map<string, number>();
    await whilePausing(() =>
      Promise.all(
        Array.from({ length: WRITERS }, async (_, writer) => {
          for (let i = 0; i < PAIRS / WRITERS; i++) {
            const name = `http-${writer}-${i}`;
            const written = await write(name);
            expect(written).toMatchObject({ status: 200, errors: undefined });
            expect(written.position).toMatch(/^\d+-[0-9A-F]{8}-[0-9A-F]{16}$/);
            const [url, other] = i % 2 === 0 ? [setup.url, second.url] : [second.url, setup.url];
            const without = await setup.ask(named(name), {}, url);
            if (without.data.users.nodes.length === 0) stale.without++;
            // Compiled into one statement, and planned.
            const aliases =
              i % 3 === 0
                ? `{ a: users { totalCount } users(filter: { username: { equalTo: "${name}" } }) { nodes { username } } }`
                : named(name);
            const found = await setup.ask(aliases, { "strata-position": written.position! }, other);
            expect(found.errors).toBeUndefined();
            if (found.data.users.nodes.length === 0) stale.with++;
            nodes.set(found.node!, (nodes.get(found.node!) ?? 0) + 1);
          }
        }),
      ),
    );
    console.log("stale reads over HTTP", stale, "of", PAIRS, "answered by", Object.fromEntries(nodes));
    expect(stale.with).toBe(0);
    // Or else the test does not show what positions are for.
    expect(stale.without).toBeGreaterThan(0);
  }, 600_000);

  test("over sockets: nothing stale with a position", async () => {
    const client = setup.connect();
    const run = async (query: string, extensions?: object): Promise<any> => {
      for await (const result of client.iterate({ query, extensions } as never)) return result;
    };
    let [stale, without] = [0, 0];
    await whilePausing(async () => {
      for (let i = 0; i < PAIRS / 2; i++) {
        const name = `socket-${i}`;
        const written = await run(
          `mutation { createUser(input: { user: { username: "${name}", email: "${name}@example.org" } }) { clientMutationId } }`,
        );
        expect(written.extensions.strata).toEqual({ node: "primary", position: expect.any(String) });
        if ((await run(named(name))).data.users.nodes.length === 0) without++;
        const found = await run(named(name), { strata: { position: written.extensions.strata.position } });
        if (found.data.users.nodes.length === 0) stale++;
      }
    });
    console.log("stale reads over sockets", { with: stale, without }, "of", PAIRS / 2);
    expect(stale).toBe(0);
    expect(without).toBeGreaterThan(0);
  }, 600_000);

  test("reading never goes back in time", async () => {
    let isDone = false;
    const writing = (async (): Promise<void> => {
      for (let i = 0; !isDone; i++) {
        await setup.pool.query(
          "insert into production.users (username, email) values ($1::text, $1::text || '@x.org')",
          [`time-${i}`],
        );
        await sleep(5);
      }
    })();
    let backwards = 0;
    await whilePausing(async () => {
      let seen = 0;
      let position: string | undefined;
      for (let i = 0; i < PAIRS * 2; i++) {
        const headers: Record<string, string> = position === undefined ? {} : { "strata-position": position };
        const answer = await setup.ask(count, headers);
        expect(answer.errors).toBeUndefined();
        if (answer.data.users.totalCount < seen) backwards++;
        seen = answer.data.users.totalCount;
        expect(answer.position! >= (position ?? "")).toBe(true);
        position = answer.position;
      }
    });
    isDone = true;
    await writing;
    expect(backwards).toBe(0);
  }, 600_000);

  test("an event's own data is not older than what it tells of", async () => {
    const events = setup.connect().iterate<any>({
      query: "subscription { pipelineRunUpdated { run { runId status } query { users { totalCount } } } }",
    });
    const seen: any[] = [];
    const following = (async () => {
      for await (const event of events) seen.push(event);
    })();
    await sleep(300);
    const expected: number[] = [];
    await whilePausing(async () => {
      for (let i = 0; i < 15; i++) {
        const { rows } = await setup.pool.query(
          `with added as (insert into production.users (username, email) values ('event-${i}', 'event-${i}@x.org'))
           insert into strata.runs (step, status, trigger, started_at, finished_at)
           values ('refresh', 'succeeded', 'api', clock_timestamp(), clock_timestamp()) returning run_id::text as id`,
        );
        const { rows: users } = await setup.pool.query(
          "select count(*)::integer as count from production.users",
        );
        expected[rows[0].id] = users[0].count;
        await expect
          .poll(() => seen.some((event) => event.data.pipelineRunUpdated.run.runId === rows[0].id), {
            timeout: 10_000,
          })
          .toBe(true);
      }
    });
    await events.return!();
    await following;
    for (const { data, errors, extensions } of seen) {
      expect(errors).toBeUndefined();
      expect(extensions.strata.position).toEqual(expect.any(String));
      const { run, query } = data.pipelineRunUpdated;
      expect(query.users.totalCount).toBeGreaterThanOrEqual(expected[run.runId]!);
    }
    expect(seen.length).toBeGreaterThanOrEqual(15);
  }, 120_000);

  test("a kept answer is of the node that has it, and never older than the position", async () => {
    const rows = "{ dailyUserMetrics { totalCount } }";
    await setup.caughtUp();
    for (let i = 0; i < 6; i++) await setup.ask(rows);
    await setup.onReplica(0, "select pg_wal_replay_pause()");
    try {
      await setup.pool.query(
        "insert into production.transactions (user_id, amount, status, transaction_date) select min(user_id), 1, 'completed', now() from production.users",
      );
      const refreshed = await setup.ask("mutation { refreshAnalytics { run { status } } }");
      expect(refreshed.errors).toBeUndefined();
      const newest = await setup.ask(rows, { "strata-read": "primary" });
      expect(newest.data.dailyUserMetrics.totalCount).toBeGreaterThan(0);
      let older = 0;
      for (let i = 0; i < 12; i++) {
        const fresh = await setup.ask(rows, { "strata-position": refreshed.position! });
        expect(fresh.data).toEqual(newest.data);
        expect(fresh.node).not.toBe("replica-1");
        const any = await setup.ask(rows);
        if (any.data.dailyUserMetrics.totalCount !== newest.data.dailyUserMetrics.totalCount) {
          expect(any.node).toBe("replica-1");
          older++;
        } else expect(any.node).toBe("replica-2");
      }
      expect(older).toBeGreaterThan(0);
    } finally {
      await setup.onReplica(0, "select pg_wal_replay_resume()");
    }
    await setup.caughtUp();
    for (let i = 0; i < 4; i++)
      expect((await setup.ask(rows)).data.dailyUserMetrics.totalCount).toBeGreaterThan(0);
  });
});
