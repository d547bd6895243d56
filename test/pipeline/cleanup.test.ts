/** @module-tag long */
import { expect, test } from "vitest";
import { usePipeline } from "./fixture.ts";

const { sql, run, retry, rawUsers, rawTransactions, rawEvents } = usePipeline();
const old = { ingested_at: "2020-01-01" };
const left = () =>
  sql(
    `select (select count(*) from staging.raw_users)::integer as users,
            (select count(*) from staging.raw_transactions)::integer as transactions,
            (select count(*) from staging.raw_events)::integer as events`,
  );

test("deletes old rows that the transform has taken, from all raw tables, and no others", async () => {
  await rawUsers({ user_id: 1, ...old }, { user_id: 2, ingested_at: new Date().toISOString() });
  await rawTransactions({ transaction_id: 1, ...old });
  await rawEvents({ event_id: 1, ...old });
  expect(await sql("select staging.cleanup_old_data(7)")).toEqual([{ cleanup_old_data: 0 }]);
  await run("transform");
  await rawUsers({ user_id: 3, ...old });
  expect(await run("cleanup", { retention: { daysToKeep: 7 } })).toMatchObject({
    status: "succeeded",
    rowsDeleted: 3,
  });
  expect(await left()).toEqual([{ users: 2, transactions: 0, events: 0 }]);
  expect(await sql("select user_id from staging.raw_users order by 1")).toEqual([
    { user_id: 2 },
    { user_id: 3 },
  ]);
});

test("keeps a row that was given back to the transform", async () => {
  await rawTransactions({ transaction_id: 1, status: "typo", ...old });
  await run("transform");
  await retry({ everything: true });
  expect(await sql("select staging.cleanup_old_data(0)")).toEqual([{ cleanup_old_data: 0 }]);
  await run("transform");
  expect(await sql("select staging.cleanup_old_data(0)")).toEqual([{ cleanup_old_data: 1 }]);
});

test("a record cleaned up can be retried still", async () => {
  await rawUsers({ user_id: 1 });
  await rawTransactions({ transaction_id: 1, status: "typo", ...old });
  await run("transform");
  await sql("select staging.cleanup_old_data(30)");
  expect(await left()).toMatchObject([{ transactions: 0 }]);
  await retry({ everything: true }, { status: "failed" });
  expect(await run("transform")).toMatchObject({ rowsRead: 1, rowsWritten: 1 });
  expect(await sql("select status from production.transactions")).toEqual([{ status: "failed" }]);
});

test("works in batches", async () => {
  await sql(
    `insert into staging.raw_users (user_id, username, email, ingested_at)
     select i, 'user' || i, 'user' || i || '@example.org', '2020-01-01' from generate_series(1, 21000) i`,
  );
  await run("transform");
  expect(await sql("select strata.cleanup_batch(null, 30, 500) as deleted")).toEqual([{ deleted: 500 }]);
  expect(await run("cleanup")).toMatchObject({ status: "succeeded", rowsDeleted: 20_500 });
}, 60_000);

test("forgets old runs and rejected rows, but not the last run of a step", async () => {
  await rawUsers({ user_id: 1, email: "bad" }, { user_id: 2, email: "bad" });
  await run("transform");
  await run("transform");
  await run("refresh");
  await sql(
    "update strata.runs set finished_at = now() - interval '100 days', started_at = now() - interval '100 days'",
  );
  await sql(
    "update staging.quarantine set last_attempt_at = now() - interval '400 days' where payload ->> 'user_id' = '1'",
  );
  expect(await run("cleanup", { retention: { runDaysToKeep: 90 } })).toMatchObject({ rowsDeleted: 2 });
  expect(await sql("select step, count(*)::integer as runs from strata.runs group by 1 order by 1")).toEqual([
    { step: "cleanup", runs: 1 },
    { step: "refresh", runs: 1 },
    { step: "transform", runs: 1 },
  ]);
  expect(await sql("select payload ->> 'user_id' as id from staging.quarantine")).toEqual([{ id: "2" }]);
});

test.each([-1, 36_501])("refuses to keep %i days", async (daysToKeep) => {
  const message = `days_to_keep must be from 0 to 36500, not ${daysToKeep}.`;
  await expect(run("cleanup", { retention: { daysToKeep } })).rejects.toThrow(message);
  await expect(sql("select staging.cleanup_old_data($1)", [daysToKeep])).rejects.toThrow(message);
  expect(await sql("select from strata.runs")).toEqual([]);
});

test("refuses to keep null days", async () => {
  await expect(sql("select staging.cleanup_old_data(null)")).rejects.toThrow("from 0 to 36500, not null");
});
