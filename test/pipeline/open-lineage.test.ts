/** @module-tag long */
// Events of runs for OpenLineage: valid, complete, in order, and none is lost while their receiver is away.
import type { Runner } from "graphile-worker";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadConfig, type Config } from "../../src/config.ts";
import { isLineageOn } from "../../src/worker/open-lineage.ts";
import { startWorker } from "../../src/worker/worker.ts";
import { findEventFaults } from "../support/open-lineage.ts";
import { until } from "../support/process.ts";
import { createReceiver, type Receiver } from "../support/receiver.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, rawUsers, rawTransactions } = usePipeline();

let receiver: Receiver;
let config: Config;
let runner: Runner | undefined;
let database: string;

beforeEach(async () => {
  receiver = await createReceiver();
  config = loadConfig({
    DATABASE_URL: "postgres://bob:a-password@db.example:6432/shop",
    OPENLINEAGE_URL: `${receiver.url}/base/`,
    OPENLINEAGE_API_KEY: "a key",
    OPENLINEAGE_NAMESPACE: "shop",
  });
  database = (await sql<{ name: string }>("select current_database() as name"))[0]!.name;
  await sql("truncate strata.outbox, strata.incidents");
  await sql("delete from graphile_worker._private_jobs");
});
afterEach(async () => {
  await runner?.stop();
  runner = undefined;
  await receiver.down();
});

const work = async (): Promise<void> => {
  runner = await startWorker({ config, pool: pool(), log: () => undefined });
};
const isEmpty = async () => (await sql("select from strata.outbox")).length === 0;
const events = () => receiver.received.map(({ body }) => body);
const named = (list: any[], name: string) => list.find((one) => one.name === `${database}.${name}`);
const jobs = () => events().map(({ eventType, job }) => `${eventType} ${job.name.split(".").at(-1)}`);

test("a pipeline is three runs, each with its start and its end, its tables, columns and counts", async () => {
  await work();
  await rawUsers({ user_id: 1 }, { user_id: 2, email: "no address" });
  await rawTransactions(
    { transaction_id: 1, user_id: 1, amount: 5 },
    { transaction_id: 2, user_id: 1, amount: -5 },
    { transaction_id: 3, user_id: 99 },
  );
  const pipeline = await run("pipeline");
  expect(pipeline).toMatchObject({ status: "succeeded" });
  await until(isEmpty);
  expect(jobs()).toEqual([
    "START pipeline",
    "START transform",
    "COMPLETE transform",
    "START refresh",
    "COMPLETE refresh",
    "COMPLETE pipeline",
  ]);
  for (const event of events()) expect(findEventFaults(event)).toEqual([]);
  for (const { headers, path } of receiver.received)
    expect([path, headers.authorization]).toEqual(["/base/api/v1/lineage", "Bearer a key"]);
  const [startOfAll, start, transform, , refresh, endOfAll] = events();
  expect(endOfAll.run.runId).toBe(startOfAll.run.runId);
  expect(transform.run.runId).toBe(start.run.runId);
  expect(transform.run.facets.parent).toMatchObject({
    run: { runId: startOfAll.run.runId },
    job: { namespace: "shop", name: `${database}.pipeline` },
  });

  // Both ends tell the tables; the end tells the counts.
  const tables = ({ inputs, outputs }: any) =>
    [inputs, outputs].map((list) => list.map((one: any) => one.name));
  expect(tables(start)).toEqual(tables(transform));
  expect(start.outputs.some(({ outputFacets }: any) => outputFacets)).toBe(false);
  const users = named(transform.outputs, "production.users");
  expect(users.namespace).toBe("postgres://db.example:6432");
  expect(users.outputFacets.outputStatistics.rowCount).toBe(1);
  expect(users.facets.schema.fields).toContainEqual({
    name: "email",
    type: "character varying(255)",
    description: expect.any(String),
  });
  expect(users.facets.columnLineage.fields.email.inputFields).toContainEqual({
    namespace: "postgres://db.example:6432",
    name: `${database}.staging.raw_users`,
    field: "email",
    transformations: [{ type: "DIRECT" }],
  });
  const { inputFacets } = named(transform.inputs, "staging.raw_transactions");
  expect(inputFacets.dataQualityMetrics.rowCount).toBe(3);
  expect(inputFacets.dataQualityAssertions.assertions).toEqual(
    expect.arrayContaining([
      { assertion: "positive_amount", success: false },
      { assertion: "fk_user", success: false },
    ]),
  );
  expect(transform.run.facets.strata_run.rejected).toEqual({
    users: { valid_email: 1 },
    transactions: { fk_user: 1, positive_amount: 1 },
  });

  // Views in between are looked through: what no job writes would be an end of the graph.
  const metrics = named(refresh.outputs, "analytics.daily_user_metrics").facets.columnLineage;
  expect(metrics.fields.country.inputFields.map(({ name, field }: any) => [name, field])).toContainEqual([
    `${database}.production.users`,
    "country",
  ]);
  expect(named(refresh.outputs, "analytics.daily_revenue").outputFacets.outputStatistics.rowCount).toBe(1);
  const written = [...transform.outputs, ...refresh.outputs].map(({ name }: any) => name);
  for (const { name } of refresh.inputs) expect(written).toContain(name);
});

test("a run that fails says why without the values, also if it never began", async () => {
  await work();
  const failing = async (claim: boolean): Promise<void> => {
    const [run] = await sql<{ id: string }>("select run_id as id from strata.start_run('transform')");
    if (claim) await sql("select strata.claim_run($1)", [run!.id]);
    await sql("select strata.finish_run($1, $2)", [
      run!.id,
      `value "bob" of bob@example.com: Key (email)=(bob@example.com) is 'bob', not: "bob"`.replace(
        '"bob"',
        "…",
      ),
    ]);
  };
  await failing(true);
  await failing(false);
  await until(isEmpty);
  expect(jobs()).toEqual(["START transform", "FAIL transform", "START transform", "FAIL transform"]);
  for (const event of events()) expect(findEventFaults(event)).toEqual([]);
  expect(events()[1].run.facets.errorMessage.message).toBe("value … of … Key (email)=(…) is '…', not: \"…\"");
  expect(receiver.received.map(({ text }) => text).join()).not.toMatch(/bob|a-password/);
});

test("an ingest tells the table that it fills", async () => {
  await work();
  const [{ id }] = (await sql("select strata.start_ingest_run('users', 'cli', 'ann') as id")) as [
    { id: string },
  ];
  await sql("select strata.count_batch($1, 5, 4, 1)", [id]);
  await sql("select strata.finish_run($1)", [id]);
  await until(isEmpty);
  for (const event of events()) expect(findEventFaults(event)).toEqual([]);
  const [, { job, outputs, inputs }] = events();
  expect(job.name).toBe(`${database}.ingest.users`);
  expect(inputs).toEqual([]);
  expect(named(outputs, "staging.raw_users").outputFacets.outputStatistics.rowCount).toBe(4);
});

test("while the receiver is down runs go on, and nothing of them is lost, doubled or out of order", async () => {
  await receiver.down();
  await work();
  for (let i = 1; i <= 4; i++) {
    await rawUsers({ user_id: i });
    expect(await run("pipeline")).toMatchObject({ status: "succeeded" });
  }
  const isTried = async () =>
    (await sql("select from graphile_worker.jobs where attempts > 0 and locked_at is null")).length > 0;
  await until(isTried);
  expect(await sql("select count(*)::integer as events from strata.outbox")).toEqual([{ events: 24 }]);
  const [{ body }] = (await sql("select body from strata.outbox order by message_id limit 1")) as [
    { body: any },
  ];

  // Back, but out of order at first: what is not taken comes again, as it was.
  let failures = 3;
  receiver.answer = () => ({ status: failures-- > 0 ? 500 : 201 });
  await receiver.up();
  await until(async () => {
    // As after the queue's own pause.
    await sql(
      `select graphile_worker.reschedule_jobs(array_agg(id), run_at => now()) from graphile_worker.jobs
       where task_identifier = 'deliver_lineage' and locked_at is null`,
    );
    return isEmpty();
  });
  expect(events()).toHaveLength(24);
  expect(events()[0]).toEqual(body);
  const byRun = Map.groupBy(events(), ({ run }) => run.runId as string);
  expect(byRun.size).toBe(12);
  for (const ofRun of byRun.values())
    expect(ofRun.map(({ eventType }) => eventType)).toEqual(["START", "COMPLETE"]);
  await until(async () => (await sql("select from graphile_worker.jobs")).length === 0);
});

test("events that nobody asked for are not written, and those of a deleted run go with it", async () => {
  expect(isLineageOn(loadConfig({ OPENLINEAGE_URL: "http://localhost:5000" }))).toBe(true);
  expect(
    isLineageOn(loadConfig({ OPENLINEAGE_URL: "http://localhost:5000", OPENLINEAGE_DISABLED: "true" })),
  ).toBe(false);
  config = loadConfig({});
  await work();
  await run("refresh");
  expect(await isEmpty()).toBe(true);
  await sql("select strata.set_receiver('lineage', true)");
  await runner!.stop();
  runner = undefined;
  await run("refresh");
  expect(await isEmpty()).toBe(false);
  await sql("delete from strata.runs");
  expect(await isEmpty()).toBe(true);
});

test("the check finds what is not of the form", () => {
  expect(findEventFaults({}).join("\n")).toMatch(/must have required property 'eventType'/);
  const faults = findEventFaults({ eventType: "START", eventTime: "yesterday", run: { runId: "1" }, odd: 1 });
  for (const part of ["/eventTime must match format", "/run/runId must match format", '"odd"'])
    expect(faults.join("\n")).toContain(part);
});
