/** @module-tag long */
// A database of schema version 11 with rows in every layer becomes what a fresh one is, and loses nothing.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { applySchema, currentVersion, installedVersion } from "../../src/database/migrate.ts";
import { findDrift } from "../../src/doctor/catalogue.ts";
import { runStep } from "../../src/pipeline/runs.ts";
import { createEmptyDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;

const rows = async <T extends object = Record<string, any>>(text: string): Promise<T[]> =>
  (await database.pool.query<T>(text)).rows;

const COUNTS = `
  select (select count(*) from staging.raw_users) as raw_users, (select count(*) from staging.raw_transactions) as raw_transactions,
         (select count(*) from staging.raw_events) as raw_events, (select count(*) from production.users) as users,
         (select count(*) from production.transactions) as transactions, (select count(*) from production.events) as events,
         (select count(*) from staging.quarantine) as quarantine, (select sum(amount) from production.transactions) as amount`;

let before: Record<string, unknown>;
let runs: Record<string, unknown>[];

beforeAll(async () => {
  database = await createEmptyDatabase();
  const dump = gunzipSync(readFileSync(new URL("version-11.sql.gz", import.meta.url))).toString();
  const client = await database.pool.connect();
  for (const role of ["strata_reader", "strata_ingestor", "strata_operator"])
    await client.query(
      `do $$ begin create role ${role} nologin; exception when duplicate_object or unique_violation then null; end $$`,
    );
  // Lines of psql, and extensions whose comments belong to somebody else.
  await client.query(dump.replace(/^\\(un)?restrict.*$/gm, "").replace(/^COMMENT ON EXTENSION.*$/gm, ""));
  client.release(true);
  before = (await rows(COUNTS))[0]!;
  runs = await rows("select run_id, step, status, rows_written from analytics.pipeline_runs order by run_id");
  await applySchema(database.pool);
}, 240_000);
afterAll(() => database.drop());

test("the catalogue is that of a fresh database", async () => {
  expect(await installedVersion(database.pool)).toBe(currentVersion());
  expect(await findDrift(database)).toEqual({ missing: [], changed: [], unexpected: [] });
}, 240_000);

test("no row is lost, nor a run", async () => {
  expect((await rows(COUNTS))[0]).toEqual(before);
  expect(before).toMatchObject({ users: expect.not.stringMatching(/^0$/) as string });
  expect(
    await rows("select run_id, step, status, rows_written from analytics.pipeline_runs order by run_id"),
  ).toEqual(runs);
});

test("what was rejected has the new reasons, and what waits still follows its parent", async () => {
  const reasons = await rows<{ reason: string }>(
    "select distinct unnest(reasons) as reason from staging.quarantine where stage = 'transform' order by 1",
  );
  expect(reasons.map(({ reason }) => reason)).toEqual([
    "amount_out_of_range",
    "event_type_missing",
    "fk_user",
    "impossible_date",
    "invalid_position",
    "positive_amount",
    "user_id_missing",
    "valid_email",
    "valid_status",
  ]);
  const [waiting] = await rows<{ user_id: number }>(
    "select (waiting_for #>> '{fk_user,user_id}')::integer as user_id from staging.quarantine where waiting and dataset = 'transactions' order by 1 limit 1",
  );
  await rows(
    `insert into production.users (user_id, username, email) values (${waiting!.user_id}, 'late', 'late@example.org')`,
  );
  const { rowsRejected } = await runStep(database.pool, { step: "transform", trigger: "cli" });
  expect(rowsRejected).toBeLessThan(3);
  expect(
    await rows(
      `select count(*)::integer as taken from production.transactions where user_id = ${waiting!.user_id}`,
    ),
  ).toEqual([{ taken: expect.any(Number) as number }]);
  expect(
    await rows(
      `select from staging.quarantine where waiting_for #>> '{fk_user,user_id}' = '${waiting!.user_id}' and retried_at is null`,
    ),
  ).toEqual([]);
});

test("the pipeline goes on where it was, and the metrics are exact", async () => {
  const run = await runStep(database.pool, { step: "pipeline", trigger: "cli" });
  expect(run).toMatchObject({ status: "succeeded", error: null });
  expect(await rows("select from production.users where user_id = 9001")).toHaveLength(1);
  expect(
    await rows(`
      select count(*)::integer as wrong from (
        select date(t.transaction_date), u.country, count(distinct u.user_id), sum(t.amount), avg(t.amount)
        from production.users u left join production.transactions t on u.user_id = t.user_id group by 1, 2
        except select date, country, active_users, total_revenue, avg_transaction from analytics.daily_user_metrics) d`),
  ).toEqual([{ wrong: 0 }]);
  expect(await rows("select dataset from analytics.freshness where rows_behind > 0")).toEqual([]);
});
