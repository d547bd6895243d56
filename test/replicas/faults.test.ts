// Replicas go away, stop, fall behind, take writes, become another cluster's, cancel reads: readers get their answers.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "../../src/database/connect.ts";
import { createCluster } from "../support/cluster.ts";
import { runStrata, until } from "../support/process.ts";
import { canReplicate, createSetup, type Answer, type Setup } from "./setup.ts";

const PLAIN = "{ users { totalCount } }";
// Has several statements, for the planner.
const PLANNED =
  "{ a: users { totalCount } users(first: 1) { nodes { userId transactions { totalCount } } } }";

describe.runIf(canReplicate)("a replica", { tags: ["long"] }, () => {
  let setup: Setup;
  let watched: { url: string };
  const METRICS_TOKEN = "a token of the tests";

  beforeAll(async () => {
    setup = await createSetup(1, { METRICS_TOKEN }, "-c max_standby_streaming_delay=10ms");
    watched = setup;
  }, 240_000);
  afterAll(() => setup?.close());

  async function statusOf(at = watched): Promise<string> {
    const response = await fetch(`${at.url}/readyz`);
    const { checks } = (await response.json()) as { checks: Record<string, { detail: string }> };
    expect(response.status).toBe(200);
    return checks["replica-1"]!.detail;
  }
  const takesReads = (at?: { url: string }) =>
    until(async () => (await statusOf(at)).startsWith("takes reads"));
  afterEach(() => {
    if (!setup.replicas[0]!.isRunning()) setup.replicas[0]!.start("-c max_standby_streaming_delay=10ms");
  });

  /** Asks all the time, in several ways, until the work is done and for a while after it. */
  async function whileReading(work: () => Promise<unknown>): Promise<Answer[]> {
    const answers: Answer[] = [];
    let isDone = false;
    const reading = [PLAIN, PLANNED, PLAIN].map(async (query) => {
      while (!isDone) answers.push(await setup.ask(query));
    });
    try {
      await work();
    } finally {
      isDone = true;
      await Promise.all(reading);
    }
    for (const { status, errors } of answers)
      expect({ status, errors }).toEqual({ status: 200, errors: undefined });
    return answers;
  }
  const nodesOf = (answers: Answer[]) => new Set(answers.map(({ node }) => node));
  const answeredBy = (node: string) => until(async () => (await setup.ask(PLAIN)).node === node);

  test.each(["fast", "immediate"] as const)("that stops (%s) and comes back fails no read", async (mode) => {
    await takesReads();
    const answers = await whileReading(async () => {
      await answeredBy("replica-1");
      setup.replicas[0]!.stop(mode);
      await answeredBy("primary");
      await until(async () => (await statusOf()).startsWith("takes no reads: does not answer"));
      setup.replicas[0]!.start();
      await answeredBy("replica-1");
    });
    expect(nodesOf(answers)).toEqual(new Set(["primary", "replica-1"]));
  });

  test("that is away at the start is used once it is there", async () => {
    setup.replicas[0]!.stop();
    const late = await setup.startInstance();
    expect(await setup.ask(PLAIN, {}, late.url)).toMatchObject({ status: 200, node: "primary" });
    expect(await statusOf(late)).toMatch(/^takes no reads: does not answer/);
    setup.replicas[0]!.start();
    await takesReads(late);
    expect(await setup.ask(PLAIN, {}, late.url)).toMatchObject({ status: 200, node: "replica-1" });
    await late.close();
  });

  test("whose processes stand still fails no read", async () => {
    await takesReads();
    try {
      await whileReading(async () => {
        await answeredBy("replica-1");
        setup.replicas[0]!.freeze();
        await until(async () => (await statusOf()).startsWith("takes no reads"));
        await answeredBy("primary");
      });
    } finally {
      setup.replicas[0]!.thaw();
    }
    await takesReads();
  });

  test("that replays nothing gets no reads with a newer position, and says how far it is behind", async () => {
    await takesReads();
    await setup.onReplica(0, "select pg_wal_replay_pause()");
    try {
      const { position } = await setup.ask(
        `mutation { createUser(input: { user: { username: "lag", email: "lag@example.org" } }) { clientMutationId } }`,
      );
      for (let i = 0; i < 3; i++)
        expect(await setup.ask(PLAIN, { "strata-position": position! })).toMatchObject({
          status: 200,
          node: "primary",
        });
      expect((await setup.ask(PLAIN)).node).toBe("replica-1");
      await until(async () => / [1-9]\d* bytes behind/.test(await statusOf()));
      const metrics = await fetch(`${setup.url}/metrics`, {
        headers: { authorization: `Bearer ${METRICS_TOKEN}` },
      });
      const text = await metrics.text();
      expect(text).toMatch(/strata_replica_behind_bytes\{node="replica-1"\} [1-9]/);
      expect(text).toMatch(/strata_replica_up\{node="replica-1"\} 1/);
      expect(text).toMatch(/strata_node_operations_total\{node="primary",why="behind"\} [1-9]/);
    } finally {
      await setup.onReplica(0, "select pg_wal_replay_resume()");
    }
    await setup.caughtUp();
  });

  test("that cancels reads for its replay fails none", async () => {
    await takesReads();
    // So many that counting them takes longer than replay waits for readers.
    await setup.pool.query(
      "insert into production.users (username, email) select 'many' || n, 'many' || n || '@x.org' from generate_series(1, 200000) n",
    );
    await setup.caughtUp();
    // Somebody reads on the replica when a lock of the primary's is replayed: reads of the server's are cancelled.
    const cancelled = async () =>
      (
        await setup.onReplica(
          0,
          "select sum(confl_lock + confl_snapshot)::integer as n from pg_stat_database_conflicts",
        )
      )[0].n as number;
    const before = await cancelled();
    await whileReading(async () => {
      for (let i = 0; i < 200 && (i < 30 || (await cancelled()) === before); i++) {
        await setup.pool.query(
          "begin; lock table production.users in access exclusive mode; select pg_sleep(0.02); commit",
        );
      }
    });
    expect(await cancelled()).toBeGreaterThan(before);
  }, 120_000);

  test("doctor says what it is, and what to set", async () => {
    await takesReads();
    const { stdout } = await runStrata(["doctor", "--json"], setup.environment);
    const { checks } = JSON.parse(stdout) as {
      checks: { name: string; status: string; problems: string[] }[];
    };
    const found = checks.find(({ name }) => name.startsWith("replica-1"))!;
    expect(found.name).toMatch(/^replica-1: 127\.0\.0\.1:\d+, \d+ bytes behind$/);
    expect(found).toMatchObject({
      status: "warning",
      problems: [expect.stringMatching(/hot_standby_feedback is off/)],
    });
  }, 120_000);

  test("of another cluster gets no reads, though it is at the same address", async () => {
    await takesReads();
    const other = await createCluster();
    const pool = createPool({ connectionString: other.url("postgres") }, { max: 1 });
    await pool.query("create database shop");
    await pool.end();
    try {
      const answers = await whileReading(async () => {
        await answeredBy("replica-1");
        setup.replicas[0]!.replaceBy(other);
        await until(async () => (await statusOf()) === "takes no reads: belongs to another cluster");
        await answeredBy("primary");
      });
      expect(nodesOf(answers)).toEqual(new Set(["primary", "replica-1"]));
      const { stdout } = await runStrata(["doctor", "--json"], setup.environment);
      const { checks } = JSON.parse(stdout) as {
        checks: { name: string; status: string; problems: string[] }[];
      };
      const found = checks.find(({ name }) => name.startsWith("replica-1"))!;
      expect(found).toMatchObject({ status: "failure", problems: ["It belongs to another cluster"] });
      setup.replicas[0]!.replaceBy(setup.primary);
      await answeredBy("replica-1");
    } finally {
      other.remove();
    }
  }, 120_000);

  test("that was promoted gets no reads, whatever its position says", async () => {
    await takesReads();
    const { position } = await setup.ask(
      `mutation { createUser(input: { user: { username: "split", email: "split@example.org" } }) { clientMutationId } }`,
    );
    await setup.caughtUp();
    const answers = await whileReading(async () => {
      await answeredBy("replica-1");
      setup.replicas[0]!.promote();
      // It goes on by itself, and its log outgrows the primary's.
      await setup.onReplica(0, "create table lost as select generate_series(1, 100000)");
      await until(async () => (await statusOf()).includes("takes writes"));
      await answeredBy("primary");
    });
    expect(nodesOf(answers)).toEqual(new Set(["primary", "replica-1"]));
    const written = await setup.ask(
      `mutation { createUser(input: { user: { username: "kept", email: "kept@example.org" } }) { clientMutationId } }`,
      { "strata-position": position! },
    );
    for (let i = 0; i < 5; i++) {
      const found = await setup.ask(`{ userByUsername(username: "kept") { username } }`, {
        "strata-position": written.position!,
      });
      expect(found).toMatchObject({ node: "primary", data: { userByUsername: { username: "kept" } } });
    }
    // A client that has written to the other branch: no LSN of this one says anything about it.
    const branch = written.position!.replace(/-00000001-/, "-00000002-");
    expect(await setup.ask(PLAIN, { "strata-position": branch })).toMatchObject({
      status: 200,
      node: "primary",
    });
  }, 120_000);
});
