/** @module-tag long */
import { describe, expect, test } from "vitest";
import { executeRun, queueStep, type Run, type RunRequest, type Step } from "../../src/pipeline/runs.ts";
import { isServer } from "../support/database.ts";
import { until } from "../support/process.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, rawUsers, rawTransactions } = usePipeline();

const started = async (step: string, heartbeat = "0 seconds"): Promise<string> => {
  const [row] = await sql<{ run_id: string }>(
    `insert into strata.runs (step, status, started_at, heartbeat_at)
     values ($1, 'running', now(), clock_timestamp() - $2::interval) returning run_id`,
    [step, heartbeat],
  );
  return row!.run_id;
};
const statusOf = async (runId: string) =>
  (await sql("select status, error from strata.runs where run_id = $1", [runId]))[0];

/** A request, and when it has been made. */
const ask = (step: Step, request: Partial<RunRequest> = {}) => {
  let asked!: () => void;
  const isAsked = new Promise<void>((resolve) => (asked = resolve));
  return { isAsked, done: run(step, { ...request, onProgress: asked }) };
};
const start = async (step: string, args: object = {}): Promise<string> =>
  (
    await sql<{ id: string }>("select run_id as id from strata.start_run($1, arguments => $2)", [step, args])
  )[0]!.id;

test("two that ask for a step before it begins share one run", async () => {
  const running = await started("transform");
  await rawUsers({ user_id: 1 });
  const asks = [ask("transform"), ask("transform")];
  await Promise.all(asks.map(({ isAsked }) => isAsked));
  await sql("select strata.finish_run($1)", [running]);
  const [first, second] = await Promise.all(asks.map(({ done }) => done));
  expect(second!.id).toBe(first!.id);
  expect(await sql("select status, rows_read from strata.runs where run_id <> $1", [running])).toEqual([
    { status: "succeeded", rows_read: "1" },
  ]);
});

test("a step that is running is followed by another: it began before what the caller wants to see", async () => {
  const running = await started("refresh");
  const { isAsked, done } = ask("refresh", { full: true });
  await isAsked;
  expect(await statusOf(running)).toMatchObject({ status: "running" });
  await sql("select strata.finish_run($1, 'it broke')", [running]);
  const next = await done;
  expect(next).toMatchObject({ status: "succeeded", error: null });
  expect(next.id).not.toBe(running);
});

test("a run that waits does what all want who share it", async () => {
  for (const [step, first, second, both] of [
    ["refresh", { full: true }, { full: false }, { full: true }],
    ["refresh", {}, { full: true }, { full: true }],
    ["cleanup", { daysToKeep: 0 }, { daysToKeep: 365 }, { daysToKeep: 0 }],
    ["cleanup", { daysToKeep: 365 }, {}, { daysToKeep: 30 }],
  ] as const) {
    const id = await start(step, first);
    expect(await start(step, second)).toBe(id);
    expect(await sql("select arguments from strata.claim_run($1)", [id])).toEqual([{ arguments: both }]);
    await sql("select strata.finish_run($1)", [id]);
  }
});

test.runIf(isServer)("two that ask while the waiting run is being claimed share the next one", async () => {
  const id = await start("transform");
  const claiming = await pool().connect();
  await claiming.query("begin");
  await claiming.query("select from strata.claim_run($1)", [id]);
  const joining = [start("transform"), start("transform")];
  const held = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
  await until(async () => (await sql(held)).length === 2);
  await claiming.query("commit");
  claiming.release();
  const [first, second] = await Promise.all(joining);
  expect(first).toBe(second);
  expect(first).not.toBe(id);
});

test("closes a run that died long ago, when it was last alive", async () => {
  const dead = await started("transform", "40 days");
  await sql("update strata.runs set started_at = heartbeat_at - interval '1 second' where run_id = $1", [
    dead,
  ]);
  await run("transform");
  expect(await sql("select status, duration_ms from strata.runs where run_id = $1", [dead])).toEqual([
    { status: "failed", duration_ms: 1000 },
  ]);
});

test("a run of more than 24 days ends like any other", async () => {
  const long = await started("transform");
  await sql("update strata.runs set started_at = now() - interval '26 days' where run_id = $1", [long]);
  expect(await sql("select status, duration_ms from strata.finish_run($1)", [long])).toEqual([
    { status: "succeeded", duration_ms: 2147483647 },
  ]);
});

test("who stops waiting is told what becomes of the run", async () => {
  const running = await started("refresh");
  const controller = new AbortController();
  const waiting = run("refresh", { signal: controller.signal, onProgress: () => controller.abort() });
  const { run: left, message } = (await waiting.catch((error: unknown) => error)) as Error & { run: Run };
  expect(left).toMatchObject({ step: "refresh", status: "queued" });
  expect(message).toBe(
    `Waiting was interrupted; run ${left.id} (refresh) is left to whoever asks for the step next`,
  );
  expect(await statusOf(running)).toEqual({ status: "running", error: null });
  await sql("select strata.finish_run($1)", [running]);
  expect(await run("refresh")).toMatchObject({ id: left.id, status: "succeeded" });
});

test("closes a run whose process died, and goes on", async () => {
  const dead = await started("transform", "31 seconds");
  const next = await run("transform");
  expect(next).toMatchObject({ status: "succeeded" });
  expect(next.id).not.toBe(dead);
  expect(await statusOf(dead)).toMatchObject({
    status: "failed",
    error: expect.stringContaining("no heartbeat") as string,
  });
});

test("leaves a run alone that sent a heartbeat", async () => {
  const runId = await started("transform", "20 seconds");
  expect(await sql("select strata.close_dead_runs() as closed")).toEqual([{ closed: 0 }]);
  expect(await sql("select strata.heartbeat_run($1) as alive", [runId])).toEqual([{ alive: true }]);
});

test("a closed run can never write", async () => {
  await rawUsers({ user_id: 1 });
  const closed = await started("transform");
  await sql("select strata.finish_run($1, 'closed')", [closed]);
  for (const batch of [
    "strata.transform_batch($1, 'users', (select upper_xid from strata.transform_window()))",
    "strata.requeue_waiting($1, 'users', 10)",
    "strata.cleanup_batch($1, 0)",
    "strata.refresh(false, $1)",
  ])
    await expect(sql(`select ${batch}`, [closed])).rejects.toMatchObject({ code: "ST001" });
  expect(await sql("select from production.users")).toEqual([]);
  expect(await sql("select strata.heartbeat_run($1) as alive", [closed])).toEqual([{ alive: false }]);
});

test("a run that another process closed stops at its next batch", async () => {
  await rawUsers(...Array.from({ length: 3 }, (_, i) => ({ user_id: i + 1 })));
  const onProgress = ({ id, status }: Run) =>
    void (
      status === "running" &&
      sql("update strata.runs set status = 'failed', error = 'closed' where run_id = $1", [id])
    );
  // The first report comes after the first batch, so the second one is refused.
  const done = await run("transform", { onProgress });
  expect(done).toMatchObject({ status: "failed", error: "closed" });
});

test("shows progress while it runs", async () => {
  await rawUsers({ user_id: 1 });
  const reports: Run[] = [];
  await run("transform", { onProgress: (report) => reports.push(report) });
  expect(reports.map(({ status }) => status)).toEqual(
    expect.arrayContaining(["queued", "running", "succeeded"]),
  );
  expect(reports.at(-1)).toMatchObject({ status: "succeeded", rowsRead: 1 });
});

test("is closed as failed, with the reason, when it is stopped", async () => {
  await rawUsers({ user_id: 1 });
  const controller = new AbortController();
  const done = await run("transform", {
    signal: controller.signal,
    onProgress: ({ status }) => status === "running" && controller.abort(),
  });
  expect(done).toMatchObject({ status: "failed", error: "Stopped: the process is shutting down" });
  expect(await run("transform")).toMatchObject({ status: "succeeded" });
});

test("the pipeline runs the transform, then the refresh, as runs of its own", async () => {
  await rawUsers({ user_id: 1 });
  await rawTransactions({ transaction_id: 1 });
  const parent = await run("pipeline");
  const [children] = await sql(
    "select sum(rows_read)::integer as read, sum(rows_written)::integer as written from strata.runs where parent_run_id = $1",
    [parent.id],
  );
  expect(children!.read).toBeGreaterThan(3);
  expect(parent).toMatchObject({
    step: "pipeline",
    status: "succeeded",
    rowsRead: children!.read as number,
    rowsWritten: children!.written as number,
  });
  expect(
    await sql(
      "select step, status, trigger, actor, progress from strata.runs where parent_run_id = $1 order by run_id",
      [parent.id],
    ),
  ).toEqual([
    { step: "transform", status: "succeeded", trigger: "cli", actor: "test", progress: 1 },
    { step: "refresh", status: "succeeded", trigger: "cli", actor: "test", progress: 1 },
  ]);
  expect(await sql("select date::text, total_revenue from analytics.daily_user_metrics")).toEqual([
    { date: "2024-05-01", total_revenue: "10.00" },
  ]);
});

test("a failed step fails the pipeline, and says why", async () => {
  await sql("alter table strata.refresh_state rename to refresh_state_away");
  try {
    const parent = await run("pipeline");
    expect(parent).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/^The refresh failed \(run \d+\): .*refresh_state/) as string,
    });
    expect(
      await sql("select step, status from strata.runs where parent_run_id = $1 order by run_id", [parent.id]),
    ).toEqual([
      { step: "transform", status: "succeeded" },
      { step: "refresh", status: "failed" },
    ]);
  } finally {
    await sql("alter table strata.refresh_state_away rename to refresh_state");
  }
});

test("queues a step for a worker, once", async () => {
  const request = { step: "refresh", trigger: "api", actor: "ops", full: true } as const;
  const queued = await queueStep(pool(), request);
  expect(queued).toMatchObject({ status: "queued", trigger: "api" });
  expect((await queueStep(pool(), request)).id).toBe(queued.id);
  const jobs = await sql(
    "select task_identifier, key from graphile_worker.jobs where key = 'run_step:' || $1",
    [queued.id],
  );
  expect(jobs).toEqual([{ task_identifier: "run_step", key: `run_step:${queued.id}` }]);
  expect(await executeRun(pool(), queued.id)).toMatchObject({ id: queued.id, status: "succeeded" });
  expect(await sql("select actor, arguments from strata.runs")).toEqual([
    { actor: "ops", arguments: { full: true } },
  ]);
});

test.each(["strata_reader", "strata_ingestor"])("%s may not run steps", async (role) => {
  await expect(run("transform", { role })).rejects.toMatchObject({ code: "42501" });
  expect(await sql("select from strata.runs")).toEqual([]);
  expect(await run("transform", { role: "strata_operator" })).toMatchObject({ status: "succeeded" });
});

test("an unknown step is refused with what is allowed", async () => {
  await expect(sql("select strata.start_run('ingest')")).rejects.toThrow(
    "Unknown step 'ingest'; allowed: transform, refresh, cleanup, pipeline, retry.",
  );
});

describe.runIf(isServer)("with other sessions", () => {
  test("a run in the middle of a batch is not closed, and its heartbeat passes", async () => {
    const runId = await started("transform", "60 seconds");
    const batch = await pool().connect();
    try {
      await batch.query("begin");
      await batch.query("select strata.enter_batch($1)", [runId]);
      expect(await sql("select strata.close_dead_runs() as closed")).toEqual([{ closed: 0 }]);
      expect(await sql("select strata.heartbeat_run($1) as alive", [runId])).toEqual([{ alive: true }]);
      await batch.query("commit");
    } finally {
      batch.release();
    }
    expect(await statusOf(runId)).toMatchObject({ status: "running" });
  });

  test("a batch whose connection is cut is done again", async () => {
    await sql(
      `insert into staging.raw_users (user_id, username, email)
       select i, 'user' || i, 'user' || i || '@example.org' from generate_series(1, 50000) i`,
    );
    let cuts = 0;
    const done = await run("transform", {
      onProgress: () => {
        if (cuts++ < 3)
          void sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like '%transform_batch%' and pid <> pg_backend_pid()",
          ).catch(() => undefined);
      },
    });
    expect(done).toMatchObject({ status: "succeeded", rowsRead: 50_000, rowsWritten: 50_000 });
    expect(await sql("select count(*)::integer as users from production.users")).toEqual([{ users: 50_000 }]);
  }, 60_000);
});
