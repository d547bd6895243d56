/** @module-tag long */
// Incidents are told once, and once more when they are over, whatever the receiver does; no run waits for it.
import { createHmac } from "node:crypto";
import type { Runner } from "graphile-worker";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadConfig, type Config } from "../../src/config.ts";
import { executeRun, queueStep, runStep } from "../../src/pipeline/runs.ts";
import { sendTestAlert } from "../../src/worker/alerts.ts";
import { lookForWorker } from "../../src/worker/watch-worker.ts";
import { startWorker } from "../../src/worker/worker.ts";
import { until } from "../support/process.ts";
import { createReceiver, type Receiver } from "../support/receiver.ts";
import { useDatabase } from "../support/use-database.ts";

const KEY = Buffer.from("a key of the tests, of 32 bytes!");
const SECRET = `whsec_${KEY.toString("base64")}`;

const { database, sql } = useDatabase();
let receiver: Receiver;
let config: Config;
let runner: Runner | undefined;
const logged: string[] = [];
const log = (_level: string, message: string): void => void logged.push(message);

beforeEach(async () => {
  receiver = await createReceiver();
  config = loadConfig({
    ...database().environment,
    ALERT_WEBHOOK_URL: `${receiver.url}/secret-path`,
    ALERT_WEBHOOK_SECRET: SECRET,
  });
  await sql(
    "truncate strata.outbox, strata.incidents, strata.promises, staging.quarantine, staging.raw_users",
  );
  await sql("truncate production.users cascade");
  await sql("delete from strata.runs");
  await sql("delete from graphile_worker._private_jobs");
  logged.length = 0;
});
afterEach(async () => {
  await runner?.stop();
  runner = undefined;
  await receiver.down();
});

const work = async (): Promise<void> => {
  runner = await startWorker({ config, pool: database().pool, log });
};
/** A run that fails with this error, as the process that executes it ends it. */
const fail = async (step: string, error: string): Promise<string> => {
  const [run] = await sql<{ id: string }>("select run_id as id from strata.start_run($1)", [step]);
  await sql("select strata.claim_run($1)", [run!.id]);
  await sql("select strata.finish_run($1, $2)", [run!.id, error]);
  return run!.id;
};
const types = () =>
  receiver.received.map(({ body }) => `${body.type} ${body.data.kind} ${body.data.subject}`);
const isEmpty = async () => (await sql("select from strata.outbox")).length === 0;
/** What waits for its next attempt is due now: as after the queue's own pause. */
const dueNow = () =>
  sql(`select graphile_worker.reschedule_jobs(array_agg(id), run_at => now()) from graphile_worker.jobs
       where task_identifier like 'deliver_%' and locked_at is null`);

test("a failed run is told once, signed, without its error's text; a later success says that it is over", async () => {
  await work();
  const runId = await fail(
    "transform",
    `duplicate key: Key (email)=(bob@example.com), in select * from users, ${"x".repeat(5_000)}`,
  );
  await fail("transform", "again");
  await runStep(database().pool, { step: "transform", trigger: "cli" });
  await until(() => Promise.resolve(receiver.received.length === 2));
  expect(types()).toEqual(["incident.opened run_failed transform", "incident.resolved run_failed transform"]);
  const [{ headers, text, body, path }] = receiver.received as [Receiver["received"][0]];
  expect(body).toMatchObject({
    type: "incident.opened",
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]{12}Z$/),
    data: { detail: `The transform failed (run ${runId}).`, runId, resolvedAt: null },
  });
  expect(receiver.received[1]!.body.data).toMatchObject({
    incidentId: body.data.incidentId,
    openedAt: body.data.openedAt,
    resolvedAt: expect.any(String),
  });
  expect(text).not.toMatch(/bob|example|select|xxx/);
  expect(text.length).toBeLessThan(2_000);
  expect(path).toBe("/secret-path");
  for (const { headers, text } of receiver.received) {
    const signed = `${String(headers["webhook-id"])}.${String(headers["webhook-timestamp"])}.${text}`;
    const signature = createHmac("sha256", KEY).update(signed).digest("base64");
    expect(headers["webhook-signature"]).toBe(`v1,${signature}`);
    expect(Math.abs(Date.now() / 1000 - Number(headers["webhook-timestamp"]))).toBeLessThan(300);
  }
  expect(headers["webhook-id"]).toMatch(/^msg_[0-9a-f-]{36}$/);
  expect(headers["webhook-id"]).not.toBe(receiver.received[1]!.headers["webhook-id"]);
  await until(isEmpty);
});

test("what fails in a part of a pipeline is one incident, not two", async () => {
  const [parent] = await sql<{ id: string }>("select run_id as id from strata.start_run('pipeline')");
  await sql("select strata.claim_run($1)", [parent!.id]);
  const [child] = await sql<{ id: string }>(
    "select run_id as id from strata.start_run('transform', parent_run_id => $1)",
    [parent!.id],
  );
  await sql("select strata.claim_run($1)", [child!.id]);
  await sql("select strata.finish_run($1, 'it broke')", [child!.id]);
  await sql("select strata.finish_run($1, 'The transform failed')", [parent!.id]);
  expect(await sql("select kind, subject from strata.incidents")).toEqual([
    { kind: "run_failed", subject: "transform" },
  ]);
});

test("a failed load of a dataset that was removed is over", async () => {
  await sql(
    `create table production.parts (part text primary key);
     select strata.add_dataset('parts');
     insert into strata.runs (step, status, dataset) values ('ingest', 'running', 'parts'), ('ingest', 'running', 'users');
     update strata.runs set status = 'failed'`,
  );
  const open = async () =>
    (
      await sql<{ subject: string }>(
        "select subject from strata.incidents where resolved_at is null order by 1",
      )
    ).map(({ subject }) => subject);
  await sql("select strata.check_incidents()");
  expect(await open()).toEqual(["ingest parts", "ingest users"]);
  await sql("select strata.remove_dataset('parts'); drop table production.parts, staging.raw_parts");
  await sql("select strata.check_incidents()");
  expect(await open()).toEqual(["ingest users"]);
});

test("a dead run is an incident although nobody starts another one", async () => {
  await sql(
    `insert into strata.runs (step, status, started_at, heartbeat_at) values ('refresh', 'running', now(), now() - interval '1 hour')`,
  );
  expect(await sql("select kind, subject from strata.check_incidents()")).toEqual([
    { kind: "run_failed", subject: "refresh" },
  ]);
  expect(await sql("select kind from strata.check_incidents()")).toEqual([]);
});

test("while the receiver is down runs go on, and when it is back it hears everything once, in order", async () => {
  await receiver.down();
  await work();
  await fail("transform", "it broke");
  const isTried = async () =>
    (await sql("select from graphile_worker.jobs where attempts > 0 and locked_at is null")).length > 0;
  await until(isTried);
  const queued = await queueStep(database().pool, { step: "transform", trigger: "api" });
  expect(await executeRun(database().pool, queued.id)).toMatchObject({ status: "succeeded" });
  await fail("refresh", "it broke, too");
  expect(receiver.received).toEqual([]);
  expect(await sql("select count(*)::integer as messages from strata.outbox")).toEqual([{ messages: 3 }]);
  // The log and the queue say what is wrong, and nothing of the URL's path.
  const errors = await sql<{ last_error: string }>(
    "select last_error from graphile_worker.jobs where last_error is not null",
  );
  expect(errors[0]!.last_error).toMatch(/^127\.0\.0\.1:\d+ cannot be reached \(ECONNREFUSED\)/);
  expect(JSON.stringify([errors, logged])).not.toContain("secret-path");
  await receiver.up();
  await until(async () => {
    await dueNow();
    return isEmpty();
  });
  expect(types()).toEqual([
    "incident.opened run_failed transform",
    "incident.resolved run_failed transform",
    "incident.opened run_failed refresh",
  ]);
});

test("a receiver that is slow, or answers with an error, slows no run", async () => {
  let answer!: () => void;
  receiver.patience = new Promise((resolve) => (answer = resolve));
  receiver.answer = () => ({ status: receiver.asked === 1 ? 503 : 204 });
  await work();
  await fail("transform", "it broke");
  await until(() => Promise.resolve(receiver.asked === 1));
  // The one who waits for the answer is not the one who works.
  for (let i = 0; i < 3; i++) {
    const queued = await queueStep(database().pool, { step: "transform", trigger: "api" });
    expect(await executeRun(database().pool, queued.id)).toMatchObject({ status: "succeeded" });
  }
  expect(receiver.received).toEqual([]);
  answer();
  await until(async () => {
    await dueNow();
    return isEmpty();
  });
  expect(types()).toEqual(["incident.opened run_failed transform", "incident.resolved run_failed transform"]);
});

test("a redirect is not followed, and a message that is rejected does not hold up the next ones", async () => {
  receiver.answer = ({ path }) =>
    path === "/secret-path" ? { status: 302, headers: { location: "/elsewhere" } } : { status: 204 };
  await work();
  await fail("transform", "it broke");
  const lastError = async () =>
    (
      await sql<{ last_error: string }>(
        "select last_error from graphile_worker.jobs where last_error is not null",
      )
    )[0]?.last_error ?? "";
  await until(async () => (await lastError()).includes("redirects are not followed"));
  expect(receiver.received).toEqual([]);
  receiver.answer = ({ body }) => ({ status: body.data.subject === "transform" ? 400 : 204 });
  await fail("refresh", "it broke");
  await until(() => Promise.resolve(receiver.received.length === 1));
  expect(types()).toEqual(["incident.opened run_failed refresh"]);
  expect(await sql("select event, rejected from strata.outbox")).toEqual([
    { event: "incident.opened", rejected: expect.stringMatching(/^127\.0\.0\.1:\d+ answered 400$/) },
  ]);
});

test("a broken promise of freshness is an incident until the rows are there", async () => {
  await expect(sql("select strata.promise('nothing', '1 hour')")).rejects.toThrow(
    /There is no dataset or metric 'nothing'; there are: .*users/,
  );
  await expect(sql("select strata.promise('users', '-1 hour')")).rejects.toThrow("longer than 0");
  await sql("select strata.promise('users', '1 hour')");
  await sql(
    `insert into staging.raw_users (user_id, username, email, ingested_at)
     values (1, 'ann', 'ann@example.com', (now() at time zone 'UTC') - interval '30 minutes')`,
  );
  expect(await sql("select kind from strata.check_incidents()")).toEqual([]);
  await sql("update staging.raw_users set ingested_at = ingested_at - interval '1 hour'");
  expect(
    await sql("select promised_seconds, is_late from analytics.freshness where dataset = 'users'"),
  ).toEqual([{ promised_seconds: 3600, is_late: true }]);
  expect(await sql("select kind, subject, detail from strata.check_incidents()")).toEqual([
    {
      kind: "freshness",
      subject: "users",
      detail: expect.stringMatching(
        /^users lacks source rows that are 01:30:\d\d old; the promise is at most 01:00:00\.$/,
      ),
    },
  ]);
  expect(await sql("select from strata.check_incidents()")).toEqual([]);
  await runStep(database().pool, { step: "transform", trigger: "cli" });
  expect(await sql("select subject, resolved_at is not null as over from strata.check_incidents()")).toEqual([
    { subject: "users", over: true },
  ]);
  await sql("select strata.promise('users', null)");
  expect(await sql("select from strata.promises")).toEqual([]);
});

test("a growing quarantine is an incident beyond the limit, and over when the rows are gone or old", async () => {
  const reject = (rows: number) =>
    sql(
      `insert into staging.quarantine (dataset, stage, reasons) select 'users', 'transform', '{valid_email}' from generate_series(1, $1)`,
      [rows],
    );
  await reject(3);
  expect(await sql("select from strata.check_incidents(3)")).toEqual([]);
  expect(await sql("select from strata.check_incidents(0)")).toEqual([]);
  await reject(1);
  expect(await sql("select kind, subject, detail from strata.check_incidents(3)")).toEqual([
    {
      kind: "quarantine",
      subject: "users",
      detail: "users has more than 3 rows in quarantine that were rejected within a day.",
    },
  ]);
  expect(await sql("select from strata.check_incidents(3)")).toEqual([]);
  await sql("update staging.quarantine set quarantined_at = now() - interval '2 days'");
  expect(await sql("select resolved_at is not null as over from strata.check_incidents(3)")).toEqual([
    { over: true },
  ]);
  await reject(4);
  expect(await sql("select kind from strata.check_incidents(3)")).toEqual([{ kind: "quarantine" }]);
  await sql("select analytics.discard_quarantined(everything => true)");
  expect(await sql("select resolved_at is not null as over from strata.check_incidents(3)")).toEqual([
    { over: true },
  ]);
});

test("where no worker works, a serving process notices it and delivers the alert itself", async () => {
  const options = { config, pool: database().pool, log };
  await work();
  await lookForWorker(options);
  expect(await sql("select from strata.incidents")).toEqual([]);
  await runner!.stop();
  runner = undefined;
  await sql("update strata.worker_state set seen_at = now() - interval '10 minutes'");
  await lookForWorker(options);
  await lookForWorker(options);
  expect(types()).toEqual(["incident.opened worker worker"]);
  expect(receiver.received[0]!.body.data.detail).toMatch(/^No worker has sent a heartbeat since 20.*Z\.$/);
  await work();
  await until(() => Promise.resolve(receiver.received.length === 2));
  expect(types()[1]).toBe("incident.resolved worker worker");
});

test("where no worker was ever seen, only work that waits says that one is missing", async () => {
  await sql("update strata.worker_state set seen_at = null");
  const check = async () =>
    (await sql<{ works: boolean }>("select strata.check_worker() as works"))[0]!.works;
  expect(await check()).toBe(true);
  await queueStep(database().pool, { step: "transform", trigger: "api" });
  expect(await check()).toBe(true);
  await sql("update graphile_worker._private_jobs set run_at = now() - interval '10 minutes'");
  expect(await check()).toBe(false);
  expect(await sql("select detail from strata.incidents")).toEqual([
    { detail: "Jobs wait in the queue, but no worker has ever sent a heartbeat." },
  ]);
});

test("a delivery that a worker died in is given back to the queue after minutes, not hours", async () => {
  await sql("select strata.set_receiver('alerts', true)");
  await fail("transform", "it broke");
  const lock = (since: string) =>
    sql(
      `with queue as (update graphile_worker._private_job_queues set locked_at = now() - $1::interval, locked_by = 'dead' where queue_name = 'outbox:alerts')
       update graphile_worker._private_jobs set locked_at = now() - $1::interval, locked_by = 'dead', attempts = 1`,
      [since],
    );
  const locked = async () =>
    (await sql("select from graphile_worker.jobs where locked_by is not null")).length +
    (await sql("select from graphile_worker._private_job_queues where locked_by is not null")).length;
  await lock("1 minute");
  await sql("select strata.check_incidents()");
  expect(await locked()).toBe(2);
  await lock("4 minutes");
  await sql("select strata.check_incidents()");
  expect(await locked()).toBe(0);
});

test("nothing is written for receivers that are off", async () => {
  config = loadConfig(database().environment);
  await work();
  await fail("transform", "it broke");
  expect(await sql("select kind, resolved_at from strata.incidents")).toEqual([
    { kind: "run_failed", resolved_at: null },
  ]);
  expect(await isEmpty()).toBe(true);
});

test("Slack gets its own form, by its host or by the setting", async () => {
  config = loadConfig({
    ...database().environment,
    ALERT_WEBHOOK_URL: receiver.url,
    ALERT_WEBHOOK_FORMAT: "slack",
  });
  await work();
  const runId = await fail("transform", "it broke");
  await runStep(database().pool, { step: "transform", trigger: "cli" });
  await until(() => Promise.resolve(receiver.received.length === 2));
  const [{ current }] = (await sql("select current_database() as current")) as [{ current: string }];
  expect(receiver.received.map(({ body }) => body)).toEqual([
    { text: `:red_circle: The transform failed (run ${runId}). (Strata on ${current})` },
    { text: `:large_green_circle: Over: The transform failed (run ${runId}). (Strata on ${current})` },
  ]);
  expect(receiver.received[0]!.headers).not.toHaveProperty("webhook-signature");
});

test("a test message is answered, or says why not", async () => {
  expect(await sendTestAlert(config)).toMatchObject({ status: 204 });
  expect(receiver.received[0]!.body).toMatchObject({ type: "test" });
  await receiver.down();
  await expect(sendTestAlert(config)).rejects.toThrow(/cannot be reached \(ECONNREFUSED\)$/);
});
