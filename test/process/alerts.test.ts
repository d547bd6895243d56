/** @module-tag long */
// Alerts as their users have them: settings of processes, commands, the API, and a worker that is gone.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/database/connect.ts";
import { createTestApp } from "../support/app.ts";
import { createPlace, isServer, type Place } from "../support/database.ts";
import {
  runStrata,
  startReadyServer,
  startStrata,
  until,
  type Server,
  type Strata,
} from "../support/process.ts";
import { createReceiver, type Receiver } from "../support/receiver.ts";

let place: Place;
let receiver: Receiver;
let server: Server | undefined;
let worker: Strata | undefined;

beforeAll(async () => {
  place = await createPlace();
});
afterAll(() => place?.remove());
beforeEach(async () => {
  receiver = await createReceiver();
});
afterEach(async () => {
  await worker?.stop("SIGKILL");
  await server?.stop();
  server = worker = undefined;
  await receiver.down();
});

const environment = () => ({ ...place.environment, ALERT_WEBHOOK_URL: `${receiver.url}/secret-path` });
const sql = async (text: string): Promise<any[]> => {
  const database = await openDatabase(loadConfig(place.environment));
  try {
    return (await database.pool.query<Record<string, unknown>>(text)).rows;
  } finally {
    await database.close();
  }
};

test("alerts test says what the receiver answers, or that it does not", async () => {
  const ask = (settings: Record<string, string>, ...args: string[]) =>
    runStrata(["alerts", "test", ...args], settings);
  const good = await ask(environment());
  expect(good.stdout).toMatch(/^127\.0\.0\.1:\d+ answered 204 after \d+ ms\.\n$/);
  expect(JSON.parse((await ask(environment(), "--json")).stdout)).toMatchObject({ status: 204 });
  expect(receiver.received.map(({ body }) => body.type)).toEqual(["test", "test"]);
  receiver.answer = () => ({ status: 404 });
  const bad = await ask(environment());
  expect([bad.code, bad.stdout]).toEqual([1, ""]);
  expect(bad.stderr).toMatch(/^strata: 127\.0\.0\.1:\d+ answered 404\n$/);
  const unset = await ask(place.environment);
  expect([unset.code, unset.stderr]).toEqual([
    1,
    expect.stringMatching(/^strata: ALERT_WEBHOOK_URL is not set/),
  ]);
});

test("a setting that is no secret of Standard Webhooks is refused, and not repeated", () => {
  const faulty = (secret: string) => () => loadConfig({ ALERT_WEBHOOK_SECRET: secret });
  for (const secret of ["hunter2", "whsec_c2hvcnQ=", "whsec_!!!"]) {
    expect(faulty(secret)).toThrow(/ALERT_WEBHOOK_SECRET: expected whsec_ and 24 to 64 bytes in base64/);
    expect(faulty(secret)).not.toThrow(new RegExp(secret.replace("whsec_", "")));
  }
  expect(() => loadConfig({ ALERT_WEBHOOK_URL: "ftp://example.com" })).toThrow(/expected a URL/);
});

test(
  "a run that fails on the command line is told by the next worker; alerts and doctor name it",
  { timeout: 300_000 },
  async () => {
    await sql("select strata.set_receiver('alerts', true)");
    await sql("alter table strata.refresh_state add constraint broken check (data_version < 0) not valid");
    expect((await runStrata(["refresh"], environment())).code).toBe(1);
    worker = startStrata(["worker"], environment());
    await until(() => Promise.resolve(receiver.received.length > 0));
    await worker.stop();
    expect(receiver.received.map(({ body }) => [body.type, body.data.kind, body.data.subject])).toEqual([
      ["incident.opened", "run_failed", "refresh"],
    ]);
    const listed = await runStrata(["alerts"], environment());
    expect(listed.stdout).toMatch(/^20\S+Z {2}open {2}The refresh failed \(run \d+\)\.\n$/);
    // On the embedded engine it takes minutes, comparing the schema with that of another engine.
    if (isServer) {
      const examined = JSON.parse((await runStrata(["doctor", "--json"], environment())).stdout);
      expect(examined.checks.find(({ name }: any) => name === "incidents")).toMatchObject({
        status: "warning",
        problems: [expect.stringMatching(/^The refresh failed \(run \d+\)\. Since 20\S+Z\.$/)],
      });
    }
    await sql("alter table strata.refresh_state drop constraint broken");
    expect((await runStrata(["refresh"], environment())).code).toBe(0);
    const over = JSON.parse((await runStrata(["alerts", "--json"], environment())).stdout);
    expect(over.incidents).toMatchObject([{ kind: "run_failed", resolvedAt: expect.any(String) }]);
  },
);

test.runIf(isServer)(
  "a server without a worker notices that none works, and tells it",
  { timeout: 300_000 },
  async () => {
    await sql("update strata.worker_state set seen_at = now() - interval '10 minutes'");
    await sql("select strata.set_receiver('alerts', true)");
    server = await startReadyServer(environment(), ["--no-worker"]);
    // It looks each minute; on a busy machine one look may fail.
    await until(
      () => Promise.resolve(receiver.received.some(({ body }) => body.data.kind === "worker")),
      200,
    ).catch(async ({ message }: Error) => {
      const states = await sql(
        `select (select seen_at from strata.worker_state), (select json_agg(i) from strata.incidents i) as incidents,
           (select json_agg(j) from graphile_worker.jobs j) as jobs`,
      );
      const { stdout, stderr } = server!.output;
      throw new Error([message, JSON.stringify(states), stdout, stderr].join("\n"));
    });
    worker = startStrata(["worker"], environment());
    await until(() =>
      Promise.resolve(
        receiver.received.some(
          ({ body }) => body.type === "incident.resolved" && body.data.kind === "worker",
        ),
      ),
    );
  },
);

test("operators read incidents in the API, and nobody else", async () => {
  const app = await createTestApp();
  try {
    await app.database.pool.query(
      "select strata.open_incident('run_failed', 'ingest users', 'It failed.', 7)",
    );
    const query = "{ pipelineIncidents { nodes { kind subject detail runId resolvedAt } } }";
    expect((await app.ask("operator", query)).data).toEqual({
      pipelineIncidents: {
        nodes: [
          { kind: "run_failed", subject: "ingest users", detail: "It failed.", runId: "7", resolvedAt: null },
        ],
      },
    });
    for (const who of ["reader", "ingestor"] as const) {
      const answer = await app.ask(who, query);
      expect(answer.data?.pipelineIncidents ?? null, who).toBeNull();
      expect(answer.errors[0]?.extensions.code, who).toBe("FORBIDDEN");
    }
  } finally {
    await app.close();
  }
});
