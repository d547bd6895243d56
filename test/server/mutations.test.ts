// The pipeline's mutations over HTTP, as the people who call them see them.
import type { FastifyInstance } from "fastify";
import request from "supertest";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createApp } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import type { Role } from "../../src/config.ts";
import { startWorker } from "../../src/worker/worker.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

describe("pipeline mutations", () => {
  let database: TestDatabase;
  let app: FastifyInstance;

  beforeAll(async () => {
    database = await createDatabase();
    app = await createApp({ config: database.config, database });
    await app.ready();
    await database.pool.query(
      `insert into staging.raw_users (user_id, username, email, country)
       values (1, 'ann', 'ann@example.com', 'Norway'), (2, 'bob', 'nobody', 'Chile')`,
    );
    await database.pool.query(
      `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       values (1, 1, 10.50, 'completed', '2026-03-01 10:00')`,
    );
  });
  afterAll(async () => {
    await app.close();
    await database.drop();
  });

  const RETRY = `mutation ($input: RetryQuarantinedInput!) {
    retryQuarantined(input: $input) { rowsRetried rowsRejected clientMutationId run { step status error } }
  }`;

  async function ask(query: string, role?: Role, variables?: object) {
    const post = request(app.server).post("/graphql").set("content-type", "application/json");
    if (role)
      post.set("authorization", `Bearer ${await createToken(database.config, { role, subject: "tester" })}`);
    return post.send({ query, variables });
  }

  it("refuses who has no token with 401, and says what to send", async () => {
    const response = await ask("mutation { refreshAnalytics { run { status } } }");
    expect(response.status).toBe(401);
    expect(response.headers["www-authenticate"]).toMatch(/^Bearer/);
    expect(response.body.errors[0].extensions.code).toBe("UNAUTHENTICATED");
    expect(response.body.errors[0].message).toMatch(/Authorization: Bearer/);
  });

  it.each(["transformStaging", "refreshAnalytics", "runPipeline", "cleanupOldData"])(
    "refuses %s to readers and ingestors with FORBIDDEN, and leaves no run",
    async (field) => {
      for (const role of ["strata_reader", "strata_ingestor"] as const) {
        const response = await ask(`mutation { ${field} { run { status } } }`, role);
        expect(response.body.errors[0].extensions.code).toBe("FORBIDDEN");
        expect(response.body.errors[0].message).not.toMatch(/select|analytics\.start_run\(/);
      }
      const { rows } = await database.pool.query("select count(*)::int as runs from strata.runs");
      expect(rows[0].runs).toBe(0);
    },
  );

  it("moves rows through the layers and answers with the finished run and the fresh figures", async () => {
    const response = await ask(
      `mutation { runPipeline(input: { clientMutationId: "x" }) {
         clientMutationId
         run { step status trigger actor rowsRejected }
         query { dailyUserMetrics(filter: { date: { isNull: false } }) { nodes { date country totalRevenue } } }
       } }`,
      "strata_operator",
    );
    expect(response.body).toEqual({
      data: {
        runPipeline: {
          clientMutationId: "x",
          run: { step: "pipeline", status: "succeeded", trigger: "api", actor: "tester", rowsRejected: "1" },
          query: {
            dailyUserMetrics: { nodes: [{ date: "2026-03-01", country: "Norway", totalRevenue: "10.50" }] },
          },
        },
      },
    });
  });

  it("cleans up only what is older than asked, and says how much", async () => {
    await database.pool.query(
      "update staging.raw_users set ingested_at = now() - interval '10 days' where user_id = 1",
    );
    const keep = await ask(
      "mutation { cleanupOldData(input: { daysToKeep: 30 }) { rowsDeleted } }",
      "strata_operator",
    );
    expect(keep.body.data.cleanupOldData.rowsDeleted).toBe(0);
    const drop = await ask(
      "mutation { cleanupOldData(input: { daysToKeep: 7 }) { rowsDeleted run { step rowsDeleted } } }",
      "strata_operator",
    );
    expect(drop.body.data.cleanupOldData).toEqual({
      rowsDeleted: 1,
      run: { step: "cleanup", rowsDeleted: "1" },
    });
  });

  it("says which retention is allowed, and deletes nothing", async () => {
    const response = await ask(
      "mutation { cleanupOldData(input: { daysToKeep: -1 }) { rowsDeleted } }",
      "strata_operator",
    );
    expect(response.body.errors[0].message).toMatch(/-1/);
    expect(response.body.errors[0].extensions.code).toBe("BAD_USER_INPUT");
  });

  it("gives quarantined rows back corrected, and discards them, for operators only", async () => {
    const { rows } = await database.pool.query("select quarantine_id as id from analytics.quarantine");
    expect(rows).toHaveLength(1);
    const retry = (input: object, role = "strata_operator" as Role) =>
      ask(RETRY, role, { input: { ids: [rows[0].id], ...input } });
    const refused = await retry({ patch: { email: "bob@example.com" } }, "strata_reader");
    expect(refused.body.errors[0].extensions.code).toBe("FORBIDDEN");

    const both = await retry({ everything: true });
    expect(both.body.errors[0]).toMatchObject({
      message: expect.stringMatching(/exactly one/),
      extensions: { code: "BAD_USER_INPUT" },
    });
    const unknown = await retry({ patch: { nope: 1 } });
    expect(unknown.body.data.retryQuarantined).toMatchObject({
      rowsRetried: 0,
      rowsRejected: 0,
      run: {
        status: "failed",
        error: expect.stringMatching(/users do not have; allowed: user_id, username, email/),
      },
    });
    const again = await retry({ patch: { created_at: "today" } });
    expect(again.body.data.retryQuarantined).toMatchObject({ rowsRetried: 0, rowsRejected: 1 });
    const retried = await retry({
      patch: { email: "bob@example.com", created_at: "06/10/2011" },
      dateFormat: "MM/DD/YYYY",
      clientMutationId: "m",
    });
    expect(retried.body.data).toEqual({
      retryQuarantined: {
        rowsRetried: 1,
        rowsRejected: 0,
        clientMutationId: "m",
        run: { step: "retry", status: "succeeded", error: null },
      },
    });
    const moved = await ask("mutation { transformStaging { run { rowsWritten } } }", "strata_operator");
    expect(moved.body.data.transformStaging.run.rowsWritten).toBe("1");

    await database.pool.query(
      "insert into staging.raw_users (user_id, username, email) values (3, 'cy', 'nobody')",
    );
    await ask("mutation { transformStaging { run { status } } }", "strata_operator");
    const discarded = await ask(
      'mutation { discardQuarantined(input: { reason: "valid_email" }) { result } }',
      "strata_operator",
    );
    expect(discarded.body.data).toEqual({ discardQuarantined: { result: 1 } });
    expect((await database.pool.query("select from staging.quarantine")).rows).toEqual([]);
  });

  it("retries in the background, with the corrections", async () => {
    await database.pool.query(
      "insert into staging.raw_users (user_id, username, email) values (4, 'dy', 'nobody')",
    );
    await ask("mutation { transformStaging { run { status } } }", "strata_operator");
    const { body } = await ask(RETRY, "strata_operator", {
      input: { dataset: "users", patch: { email: "dy@example.com" }, background: true },
    });
    expect(body.data.retryQuarantined).toMatchObject({
      rowsRetried: null,
      rowsRejected: null,
      run: { step: "retry", status: "queued" },
    });
    const worker = await startWorker({ config: database.config, pool: database.pool, log: () => undefined });
    const row = () =>
      database.pool.query(
        "select email from staging.raw_users where user_id = 4 order by ingest_xid desc limit 1",
      );
    await expect
      .poll(async () => (await row()).rows, { timeout: 20_000 })
      .toEqual([{ email: "dy@example.com" }]);
    await worker.stop();
  });

  it("leaves work in the background queued and returns at once", async () => {
    const response = await ask(
      "mutation { refreshAnalytics(input: { background: true, full: true }) { run { status step } } }",
      "strata_operator",
    );
    expect(response.body.data.refreshAnalytics.run).toEqual({ status: "queued", step: "refresh" });
    const { rows } = await database.pool.query("select task_identifier from graphile_worker.jobs");
    expect(rows).toEqual([{ task_identifier: "run_step" }]);
  });
});
