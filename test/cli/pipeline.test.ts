// The steps as commands: what cron and CI rely on.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { strata } from "../support/cli.ts";
import { startStrata, until } from "../support/process.ts";

// Several batches: a signal that comes while one is written finds the next.
const ROWS = isServer ? 100_000 : 60_000;

describe("the pipeline's commands", () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await database.pool.query(
      `insert into staging.raw_users (user_id, username, email, country)
       values (1, 'ann', 'ann@example.com', 'Norway'), (2, 'bob', 'not an address', 'Chile')`,
    );
    await database.pool.query(
      `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       values (1, 1, 10.50, 'completed', '2026-03-01 10:00'), (2, 1, 4.50, 'completed', '2026-03-01 12:00')`,
    );
  });
  afterAll(() => database.drop());

  const run = async (...args: string[]) => {
    const result = await strata([...args, "--json"], database.environment);
    expect(result.stderr).toBe("");
    return { ...result, run: JSON.parse(result.stdout).run };
  };

  it("lists datasets although somebody has dropped a table", async () => {
    await database.pool.query(
      "create table production.gone (n int primary key); select strata.add_dataset('gone'); drop table production.gone",
    );
    expect(await strata(["datasets"], database.environment)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/'gone' .*'users' /s) as string,
    });
    await database.pool.query("select strata.remove_dataset('gone')");
  });

  it("moves rows through the layers and prints the run and nothing else", async () => {
    const { code, run: done } = await run("run");
    expect(code).toBe(0);
    expect(Object.keys(done)).toEqual([
      ...["id", "step", "status", "trigger", "startedAt", "finishedAt", "durationMs"],
      ...["rowsRead", "rowsWritten", "rowsReplaced", "rowsReplacedFromOtherSource"],
      ...["rowsRejected", "rowsDeleted", "error", "reasons"],
    ]);
    expect(done).toMatchObject({
      step: "pipeline",
      status: "succeeded",
      trigger: "cli",
      rowsRejected: 1,
      error: null,
    });
    const { rows } = await database.pool.query(
      `select date::text, country, active_users::int, total_revenue::text from analytics.daily_user_metrics where date is not null`,
    );
    expect(rows).toEqual([
      { date: "2026-03-01", country: "Norway", active_users: 1, total_revenue: "15.00" },
    ]);
  });

  it("lists what was rejected, gives it back corrected, and takes it then", async () => {
    const listed = await strata(["quarantine", "--json"], database.environment);
    const { reasons, rows } = JSON.parse(listed.stdout);
    expect(reasons).toEqual([{ dataset: "users", reason: "valid_email", rows: 1, waiting: 0 }]);
    const patch = JSON.stringify({ email: "bob@example.com" });
    const retried = await strata(
      ["quarantine", "retry", rows[0].id, "--patch", patch, "--json"],
      database.environment,
    );
    expect(JSON.parse(retried.stdout)).toMatchObject({
      run: { step: "retry", status: "succeeded", rowsRead: 1, rowsRejected: 0 },
    });
    expect((await run("transform")).run).toMatchObject({ rowsWritten: 1, rowsRejected: 0 });
    const users = await database.pool.query("select username, email from production.users order by 1");
    expect(users.rows).toEqual([
      { username: "ann", email: "ann@example.com" },
      { username: "bob", email: "bob@example.com" },
    ]);
  });

  it("takes numbers of a patch with every digit", async () => {
    await database.pool.query(
      `insert into staging.quarantine (dataset, stage, reasons, payload, ingest_seq)
       values ('events', 'ingest', '{invalid_integer}', '{"event_id": "x"}', 1)`,
    );
    const patch = '{"event_id": 9007199254740993, "event_data": {"n": 0.12345678901234567890}}';
    await strata(["quarantine", "retry", "--all", "--patch", patch], database.environment);
    const { rows } = await database.pool.query(
      "select event_id, event_data::text as data from staging.raw_events",
    );
    expect(rows).toEqual([{ event_id: "9007199254740993", data: '{"n": 0.12345678901234567890}' }]);
    await database.pool.query("delete from staging.raw_events");
    await database.pool.query("delete from staging.quarantine");
  });

  it("deletes what the transform has taken and is older than the retention", async () => {
    await database.pool.query(
      "update staging.raw_users set ingested_at = now() - interval '10 days' where user_id = 1",
    );
    expect((await run("cleanup", "--days", "30")).run).toMatchObject({ step: "cleanup", rowsDeleted: 0 });
    expect((await run("cleanup", "--days", "7")).run).toMatchObject({ status: "succeeded", rowsDeleted: 1 });
  });

  it.each([
    [["users", "--since", "2026-01-01"], /are for --replay/],
    [["--replay"], /Say which dataset to replay/],
    [
      ["users", "--replay", "--since", "2026-01-02", "--until", "2026-01-01T23:00Z"],
      /--since \(2026-01-02T00:00Z\) must be earlier than --until/,
    ],
  ])("rejects transform %j", { tags: ["long"] }, async (words, message) => {
    const { code, stderr } = await strata(["transform", ...words], database.environment);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  });

  it(
    "stops in order on a signal: the run is closed and says why",
    { timeout: 240_000, tags: ["long"] },
    async () => {
      await database.pool.query(
        `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       select 1000 + n, 1, 1, 'completed', '2026-03-02' from generate_series(1, ${ROWS}) n`,
      );
      const transform = startStrata(["transform", "--json"], database.environment);
      await until(async () => {
        const { rows } = await database.pool.query("select from strata.runs where status = 'running'");
        return rows.length > 0;
      });
      expect(await transform.stop("SIGINT")).toBe(1);
      expect(JSON.parse(transform.output.stdout).run).toMatchObject({
        status: "failed",
        error: "Stopped: The run was cancelled",
      });
      expect((await run("transform")).run).toMatchObject({ status: "succeeded" });
      const { rows } = await database.pool.query(
        "select count(*)::int as count from production.transactions where transaction_id > 1000",
      );
      expect(rows).toEqual([{ count: ROWS }]);
    },
  );

  it("shows runs and freshness", async () => {
    await strata(["transform"], database.environment);
    const { stdout } = await strata(["status", "--json"], database.environment);
    const { freshness, runs } = JSON.parse(stdout);
    expect(freshness.map((row: { dataset: string }) => row.dataset)).toEqual(
      expect.arrayContaining(["daily_user_metrics", "events", "transactions", "users"]),
    );
    const lag = { runId: expect.any(String), rowsBehind: expect.any(Number), lagSeconds: expect.any(Number) };
    expect(freshness).toContainEqual({ dataset: "users", refreshedAt: expect.stringMatching(/^20/), ...lag });
    expect(runs[0]).toMatchObject({
      ...{ step: "transform", status: "succeeded", trigger: "cli", startedAt: expect.stringMatching(/^20/) },
      rowsWritten: expect.any(Number),
    });
  });

  it("says which rows replaced those of another source", async () => {
    await database.pool.query(
      `insert into staging.raw_users (user_id, username, email, country, source_system)
       values (1, 'ann', 'ann@example.com', 'Peru', 'shop')`,
    );
    const { stdout } = await strata(["transform"], database.environment);
    expect(stdout).toMatch(/: rows read 1, written 1, replaced 1 \(1 from another source\) \(run \d+\)\n$/);
  });

  // Only a server shows what another process asks it.
  it.runIf(isServer)(
    "stops waiting for the run of another process, and says what becomes of its own",
    async () => {
      const { rows } = await database.pool.query(
        "insert into strata.runs (step, status, started_at, heartbeat_at) values ('refresh', 'running', now(), now()) returning run_id as id",
      );
      const { id } = rows[0];
      const refresh = startStrata(["refresh", "--json"], database.environment);
      await until(async () => {
        const { rowCount } = await database.pool.query(
          "select from pg_stat_activity where datname = current_database() and query like '%claim\\_run(%' and pid <> pg_backend_pid()",
        );
        return rowCount! > 0;
      });
      expect(await refresh.stop("SIGINT")).toBe(1);
      const left = JSON.parse(refresh.output.stdout).run;
      expect(left).toMatchObject({ step: "refresh", status: "queued" });
      expect(refresh.output.stderr).toBe(
        `strata: Waiting was interrupted; run ${left.id} (refresh) is left to whoever asks for the step next\n`,
      );
      await database.pool.query("select strata.finish_run($1)", [id]);
    },
  );
});
