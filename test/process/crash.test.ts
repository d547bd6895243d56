/** @module-tag long */
// The pipeline is killed at random points: its process, its connections, its database. What was lost or doubled
// would show as a difference between production and a replay of the input, or between the metrics and the truth.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createPool } from "../../src/database/connect.ts";
import { canStartCluster, createCluster, type Cluster } from "../support/cluster.ts";
import { runStrata, startStrata, until } from "../support/process.ts";

const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 54);
const TRANSACTIONS = 6000;
const SECRET = "a secret of the tests, long enough for HS256";

// Seeded, so that a failing series can be looked at again; when the blow falls is up to the machine.
let seed = 20260501;
const random = (): number => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32;

let cluster: Cluster;
let pool: pg.Pool;
let environment: Record<string, string>;

function useCluster(): void {
  beforeAll(async () => {
    cluster = await createCluster();
    const server = createPool({ connectionString: cluster.url("postgres") }, { max: 1 });
    await server.query("create database strata");
    await server.end();
    environment = { DATABASE_URL: cluster.url("strata"), JWT_SECRET: SECRET, LOG_LEVEL: "silent" };
    expect(await runStrata(["migrate"], environment)).toMatchObject({ code: 0 });
    pool = createPool({ connectionString: cluster.url("strata") }, { max: 2 });
  });
  afterAll(async () => {
    await pool?.end();
    cluster?.remove();
  });
}

const blows: Record<string, (child: ReturnType<typeof startStrata>) => Promise<unknown>> = {
  "kill -9": ({ child }) => Promise.resolve(child.kill("SIGKILL")),
  pg_terminate_backend: () =>
    pool.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'bystander'`,
    ),
  "server stopped hard": async () => {
    cluster.stop("immediate");
    cluster.start();
    await until(async () => (await pool.query("select 1")).rows.length === 1);
  },
};

/** What the server still does for a dead process has ended, and its runs are seen to be dead. */
async function settle(): Promise<void> {
  await until(async () => {
    const { rows } = await pool.query(
      `select from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' and backend_type = 'client backend'`,
    );
    return rows.length === 0;
  });
  // A run without a heartbeat is closed after half a minute; here that time is passed by.
  await pool.query(
    "update strata.runs set heartbeat_at = now() - interval '1 hour' where status = 'running'",
  );
}

describe.runIf(canStartCluster)("killed at random points", () => {
  useCluster();

  /** New versions of known records and new ones, some invalid, some of users that come later. */
  async function ingest(round: number): Promise<void> {
    await pool.query(
      `insert into staging.raw_users (user_id, username, email, country)
       select n, 'user' || n, case when n % 50 = 7 then 'broken' else 'user' || n || '@example.org' end,
              (array['DE', 'FR', 'IT'])[1 + (n + $1) % 3]
       from generate_series($1 * 10 + 1, $1 * 10 + 60) n`,
      [round],
    );
    await pool.query(
      `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       select $1 * ${TRANSACTIONS / 2} + n, 1 + (n * 7 + $1) % ($1 * 10 + 90), (n + $1) % 40 - 1 + 0.25, 'completed',
              timestamp '2025-01-01' + (n % 90) * interval '1 day'
       from generate_series(1, ${TRANSACTIONS}) n`,
      [round],
    );
  }

  it(`loses nothing and doubles nothing in ${ROUNDS} blows`, async () => {
    const hits: Record<string, number> = {};
    for (let round = 0; round < ROUNDS; round++) {
      await ingest(round);
      const strata = startStrata(["run", "--json"], environment);
      await Promise.race([sleep(350 + random() * 1100), strata.exit]);
      const name =
        round % 9 === 8 ? "server stopped hard" : round % 3 === 1 ? "pg_terminate_backend" : "kill -9";
      const { rows } = await pool.query("select from strata.runs where status = 'running'");
      if (rows.length > 0) hits[name] = (hits[name] ?? 0) + 1;
      await blows[name]!(strata);
      await Promise.race([sleep(300), strata.exit]);
      await strata.stop("SIGKILL");
      await settle();
    }
    // Blows that fell on an idle database would prove nothing.
    for (const name of Object.keys(blows)) expect(hits[name] ?? 0, name).toBeGreaterThan(0);

    for (let again = 0; again < 2; again++) {
      const last = await runStrata(["run", "--json"], environment);
      expect(last.stderr).toBe("");
      expect(JSON.parse(last.stdout).run).toMatchObject({ status: "succeeded" });
    }
    const sql = async (text: string): Promise<unknown[]> => (await pool.query(text)).rows;
    expect(await sql("select * from strata.runs where status in ('running', 'queued')")).toEqual([]);

    const replay = `
      select distinct on (transaction_id) transaction_id, user_id, amount, status, transaction_date, ingest_seq
      from staging.raw_transactions where amount > 0 and user_id in (select user_id from production.users)
      order by transaction_id, ingest_seq desc`;
    const kept =
      "select transaction_id, user_id, amount, status, transaction_date, source_seq from production.transactions";
    expect(await sql(`(${replay}) except (${kept})`)).toEqual([]);
    expect(await sql(`(${kept}) except (${replay})`)).toEqual([]);
    expect(
      await sql(
        `(select distinct on (user_id) user_id, country, ingest_seq from staging.raw_users where email <> 'broken'
          order by user_id, ingest_seq desc) except (select user_id, country, source_seq from production.users)`,
      ),
    ).toEqual([]);
    expect(
      await sql(
        `select (select count(*) from staging.raw_users where email = 'broken')
              + (select count(*) from staging.raw_transactions
                 where amount <= 0 or user_id not in (select user_id from production.users))
              - (select count(*) from staging.quarantine) as difference`,
      ),
    ).toEqual([{ difference: "0" }]);
    expect(
      await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
    ).toEqual([{ wrong: 0 }]);
  }, 900_000);
});

describe.runIf(canStartCluster)("loads that delete, killed half way", () => {
  useCluster();

  const ids = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const lines = (of: number[]) => of.map((id) => `${id},user${id},user${id}@example.org\n`).join("");
  const userIds = async () =>
    (await pool.query<{ id: number }>("select user_id as id from production.users order by 1")).rows.map(
      ({ id }) => id,
    );
  const start = (...args: string[]) => startStrata(args, environment);
  const run = async () => {
    const { stdout } = await runStrata(["run", "--json"], environment);
    return JSON.parse(stdout).run;
  };
  const ingest = async (text: string, ...options: string[]) => {
    const strata = start("ingest", "users", "-", "--format", "csv", ...options);
    strata.child.stdin.end(text);
    expect(await strata.exit, strata.output.stderr).toBe(0);
  };

  /** A session that holds a lock until it is told; a server that is stopped takes the lock with it. */
  async function hold(statement: string): Promise<() => Promise<void>> {
    const client = new pg.Client({ connectionString: cluster.url("strata"), application_name: "bystander" });
    client.on("error", () => undefined);
    await client.connect();
    await client.query(`begin; ${statement}`);
    return () => client.end().catch(() => undefined);
  }
  const isWaiting = async () => (await pool.query("select from pg_locks where not granted")).rows.length > 0;

  const HEAD = "user_id,username,email\n";
  const everybody = [...ids(1, 40), 1000];
  // User 7 has a transaction.
  const left = [7, ...ids(21, 40), 1000];
  const loads: Record<string, { options: string[]; text: string }> = {
    deletion: {
      options: ["--source", "crm", "--delete", "--max-rejected", "0"],
      text: HEAD + lines(ids(1, 20)),
    },
    snapshot: { options: ["--source", "crm", "--replace"], text: HEAD + lines(ids(21, 40)) },
  };

  beforeEach(async () => {
    await pool.query(`
      truncate production.users cascade;
      truncate staging.raw_users, staging.raw_transactions, staging.quarantine, strata.deletions, strata.snapshots;
      delete from strata.runs`);
    await ingest(HEAD + lines(ids(1, 40)), "--source", "crm");
    await ingest(HEAD + lines([1000]), "--source", "shop");
    await pool.query(
      `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       values (1, 7, 5, 'completed', '2025-01-01')`,
    );
    expect(await run()).toMatchObject({ status: "succeeded" });
    expect(await userIds()).toEqual(everybody);
  });

  const cases = Object.keys(loads).flatMap((load) => Object.keys(blows).map((blow) => [load, blow] as const));

  it.each(cases)(
    "a %s that is cut off while it lands deletes nothing: %s",
    async (load, blow) => {
      const { options, text } = loads[load]!;
      const half = text.indexOf("\n", text.length / 2) + 1;
      const strata = start("ingest", "users", "-", "--format", "csv", ...options);
      strata.child.stdin.on("error", () => undefined);
      strata.child.stdin.write(text.slice(0, half));
      const loaded = async () =>
        (
          await pool.query(
            `select r.status, (select count(*)::integer from staging.raw_users w where w.ingest_run = r.run_id) as rows
           from strata.runs r where r.step = 'ingest' order by r.run_id desc limit 1`,
          )
        ).rows[0] as { status: string; rows: number };
      await until(async () => {
        const { status, rows } = await loaded();
        return status === "running" && rows > 0;
      });
      const release = await hold("lock table staging.raw_users in share mode");
      strata.child.stdin.end(text.slice(half));
      await until(isWaiting);
      await blows[blow]!(strata);
      await release();
      await strata.exit;
      await settle();

      expect(await run()).toMatchObject({ status: "succeeded", rowsDeleted: 0 });
      expect(await userIds()).toEqual(everybody);
      // A snapshot's rows are good ones; those of a load with a limit go with it.
      const { status, rows } = await loaded();
      expect(status).toBe("failed");
      if (load === "deletion") expect(rows).toBe(0);
      else expect(rows).toBeGreaterThan(0);

      // Sent again, it does what it should.
      await ingest(text, ...options);
      expect(await run()).toMatchObject({ status: "succeeded" });
      expect(await userIds()).toEqual(left);
    },
    60_000,
  );

  it.each(cases)(
    "a %s is taken as a whole or not at all: %s",
    async (load, blow) => {
      const { options, text } = loads[load]!;
      await ingest(text, ...options);
      await pool.query(`
      create or replace function public.pause() returns trigger language plpgsql as $$
      begin if old.user_id = 13 then perform pg_advisory_xact_lock(13); end if; return old; end $$;
      create or replace trigger pause before delete on production.users for each row execute function public.pause()`);
      try {
        const release = await hold("select pg_advisory_xact_lock(13)");
        const strata = start("run", "--json");
        await until(isWaiting);
        await blows[blow]!(strata);
        await release();
        await strata.exit;
        await settle();
        // A statement that the server has in hand goes on without its client.
        expect([everybody, left]).toContainEqual(await userIds());

        const done = [await run(), await run()];
        for (const one of done) expect(one).toMatchObject({ status: "succeeded" });
        expect(await userIds()).toEqual(left);
        const { rows: entries } = await pool.query(
          "select row_key as key, reasons, operation, retried_at from staging.quarantine",
        );
        expect(entries).toEqual([
          { key: "7", reasons: ["referenced_by_transactions"], operation: "delete", retried_at: null },
        ]);
        const { rows } = await pool.query(
          "select sum(strata.count_differences(metric))::integer as wrong from strata.metrics",
        );
        expect(rows).toEqual([{ wrong: 0 }]);
      } finally {
        await pool.query("drop trigger pause on production.users");
      }
    },
    60_000,
  );
});
