/** @module-tag long */
// Pushing rows over HTTP and by mutation: who may, what is taken, and what stays when the client goes away.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import type { FastifyInstance } from "fastify";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Role } from "../../src/config.ts";
import { createApp } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
let app: FastifyInstance;
let url: string;
const stop = new AbortController();
const tokens = {} as Record<Role, string>;
beforeAll(async () => {
  database = await createDatabase();
  app = await createApp({
    config: database.config,
    database,
    lifecycle: { stopping: stop.signal, hurry: stop.signal },
  });
  await app.listen({ host: "127.0.0.1", port: 0 });
  url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  for (const role of ["strata_reader", "strata_ingestor", "strata_operator"] as const)
    tokens[role] = await createToken(database.config, { role, subject: `the ${role}` });
});
afterAll(async () => {
  await app.close();
  await database.drop();
});
beforeEach(() => database.pool.query("truncate staging.raw_users, staging.raw_events, staging.quarantine"));

const landed = async () =>
  (
    await database.pool.query(
      "select user_id, username, source_system from staging.raw_users order by ingest_seq",
    )
  ).rows as unknown[];

async function push(
  path: string,
  body: string | Buffer,
  { role = "strata_ingestor", ...headers }: { role?: Role } & Record<string, string> = {},
) {
  const response = await fetch(`${url}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${tokens[role]}`, "content-type": "text/csv", ...headers },
    body,
  });
  return { status: response.status, body: (await response.json()) as any };
}

describe("POST /ingest", () => {
  it("fails above the limit of rejected rows, and leaves none", async () => {
    const { status, body } = await push("/ingest/users?maxRejected=0", "user_id,username\n1,ann\nx,bob\n");
    expect(status).toBe(422);
    expect(body.run).toMatchObject({ status: "failed", rowsWritten: 0, rowsRejected: 1 });
    expect(await landed()).toEqual([]);
    expect((await push("/ingest/users?maxRejected=50%25", "user_id,username\n1,ann\nx,bob\n")).status).toBe(
      200,
    );
    const wrong = await push("/ingest/users?maxRejected=all", "user_id\n1\n");
    expect([wrong.status, wrong.body.errors[0].message]).toEqual([
      400,
      expect.stringMatching(/"all" is not a limit/),
    ]);
  });

  it("takes deletions and snapshots of those who may delete", async () => {
    const operator = { role: "strata_operator" } as const;
    const operations = async () =>
      (await database.pool.query("select user_id, ingest_operation from staging.raw_users order by 1")).rows;
    const denied = await push("/ingest/users?operation=delete", "user_id\n5\n");
    expect([denied.status, denied.body.errors[0].extensions.code]).toEqual([403, "FORBIDDEN"]);
    expect((await push("/ingest/users?operation=replace&dryRun=true", "user_id\n5\n")).status).toBe(403);
    expect(await operations()).toEqual([]);
    expect((await push("/ingest/users?operation=delete", "user_id\n5\n", operator)).status).toBe(200);
    expect(await operations()).toEqual([{ user_id: 5, ingest_operation: "delete" }]);
    const empty = await push("/ingest/users?operation=replace", "user_id,username\n", operator);
    expect([empty.status, empty.body.run.error]).toEqual([422, "The snapshot is empty: it deletes nothing"]);
    const wrong = await push("/ingest/users?operation=drop", "user_id\n5\n", operator);
    expect([wrong.status, wrong.body.errors[0].message]).toEqual([
      400,
      '"drop" is not an operation; allowed: delete, replace, or none',
    ]);
  });

  it("makes the keys of deletions and snapshots by expressions, once, and tries them", async () => {
    const operator = { role: "strata_operator" } as const;
    const set = `set=${encodeURIComponent("user_id=nr*10")}&source=set`;
    const body = "nr\n7\nx\n";
    const digest = createHash("sha256").update(body).digest("hex");
    const tried = await push(`/ingest/users?${set}&operation=delete&dryRun=true`, body, operator);
    expect([tried.status, tried.body.dryRun]).toMatchObject([
      200,
      {
        rowsLanding: 1,
        rowsRejected: 1,
        reasons: { invalid_expression: 1 },
        landing: [{ line: 2, row: { user_id: "70" } }],
        transform: { rowsRead: 1, rowsDeleted: 0, rowsRejected: 0 },
      },
    ]);
    const path = `/ingest/users?${set}&operation=delete&sha256=${digest}`;
    const { run } = (await push(path, body, operator)).body;
    expect(run).toMatchObject({ rowsWritten: 1, rowsRejected: 1, reasons: { invalid_expression: 1 } });
    expect((await push(path, body, operator)).body.run).toMatchObject({ id: run.id, skipped: true });
    const others = (await push(path.replace("*10", "*20"), body, operator)).body;
    expect(others.run.skipped).toBeUndefined();
    expect(await landed()).toMatchObject([{ user_id: 70 }, { user_id: 140 }]);
    const snapshot = await push(`/ingest/users?${set}&operation=replace`, body, operator);
    expect([snapshot.status, snapshot.body.run.error]).toEqual([
      422,
      expect.stringMatching(
        /^1 of 2 rows were rejected \(invalid_expression 1\), so the snapshot deletes nothing/,
      ),
    ]);
  });

  it("tries a body, and shows production only to those who may read it", async () => {
    const path = "/ingest/users?dryRun=true";
    const body = "user_id,username,email\n77,ann,ann77@example.org\nx,bob,\n";
    const ingestor = await push(path, body);
    expect([ingestor.status, ingestor.body.dryRun]).toMatchObject([
      200,
      { rowsLanding: 1, rowsRejected: 1, transform: null },
    ]);
    const operator = await push(path, body, { role: "strata_operator" });
    expect(operator.body.dryRun).toMatchObject({ rowsLanding: 1, transform: { rowsWritten: 1 } });
    expect((await push(path, body, { role: "strata_reader" })).status).toBe(403);
    expect((await push(`${path}&maxRejected=0`, body)).status).toBe(422);
    expect((await push("/ingest/users?dryRun=yes", body)).status).toBe(400);
    expect(await landed()).toEqual([]);
  });

  it("takes the same content once, and only from those who may ingest", async () => {
    const body = "user_id,username\n81,ann\n82,bob\n";
    const digest = createHash("sha256").update(body).digest("hex");
    const path = `/ingest/users?source=once&sha256=${digest.toUpperCase()}`;
    const first = await push(path, body);
    expect([first.status, first.body.run.skipped]).toEqual([200, undefined]);
    // The name of the file and the limit say nothing about what lands.
    const again = await push(`${path}&name=again.csv&maxRejected=0`, body);
    expect([again.status, again.body.run]).toMatchObject([200, { id: first.body.run.id, skipped: true }]);
    expect(await landed()).toHaveLength(2);
    expect((await push(path, body, { role: "strata_reader" })).status).toBe(403);
    const tried = await push(`${path}&dryRun=true`, body);
    expect(tried.body.dryRun).toMatchObject({ rowsLanding: 2, sameAs: first.body.run.id });

    expect((await push(`${path}&operation=replace`, body)).status).toBe(403);
    const other = await push(`/ingest/users?source=other&sha256=${digest}`, body);
    expect(other.body.run.skipped).toBeUndefined();
    expect(await landed()).toHaveLength(4);
  });

  it("answers a body that it does not take again when all of it has arrived", async () => {
    const body = `user_id,username\n${"83,carl\n".repeat(1_000_000)}`;
    const path = `/ingest/users?sha256=${createHash("sha256").update(body).digest("hex")}`;
    await database.pool.query(
      `insert into strata.runs (step, status, dataset, arguments)
       values ('ingest', 'succeeded', 'users', jsonb_build_object('sourceSystem', 'api', 'map', '[]'::jsonb, 'sha256', $1::text))`,
      [path.split("=")[1]],
    );
    for (let sent = 0; sent < 3; sent++)
      expect(await push(path, body)).toMatchObject({ status: 200, body: { run: { skipped: true } } });
    expect(await landed()).toEqual([]);
  });

  it("fails a body that is not what its digest says", async () => {
    const body = "user_id,username\n84,dan\n";
    const digest = createHash("sha256").update("something else").digest("hex");
    const { status, body: answer } = await push(`/ingest/users?maxRejected=0&sha256=${digest}`, body);
    expect([status, answer.run.status, answer.run.error]).toEqual([
      400,
      "failed",
      expect.stringMatching(/^The SHA-256 of the body is [0-9a-f]{64}; given: [0-9a-f]{64}$/),
    ]);
    expect(await landed()).toEqual([]);
    const wrong = await push("/ingest/users?sha256=abc", body);
    expect([wrong.status, wrong.body.errors[0].message]).toEqual([
      400,
      '"abc" is not a SHA-256; allowed: 64 hexadecimal digits',
    ]);
  });

  it("refuses content that is being ingested", async () => {
    const digest = "b".repeat(64);
    await database.pool.query(
      `insert into strata.runs (step, status, dataset, arguments, heartbeat_at)
       values ('ingest', 'running', 'users', jsonb_build_object('sourceSystem', 'api', 'map', '[]'::jsonb, 'sha256', $1::text), now())`,
      [digest],
    );
    const { status, body } = await push(`/ingest/users?sha256=${digest}`, "user_id\n1\n");
    expect([status, body.errors[0].extensions.code, body.errors[0].message]).toEqual([
      400,
      "CONFLICT",
      expect.stringMatching(/^Run \d+ is ingesting the same input; wait for it to end\.$/),
    ]);
    await database.pool.query("update strata.runs set status = 'failed' where status = 'running'");
  });

  it("lands a CSV body and answers with the run", async () => {
    const { status, body } = await push(
      "/ingest/users?source=crm&name=may.csv&map=id=user_id",
      "id,username\n1,a\nx,b\n",
    );
    expect(status).toBe(200);
    expect(body).toEqual({
      run: expect.objectContaining({
        step: "ingest",
        status: "succeeded",
        trigger: "api",
        rowsRead: 2,
        rowsWritten: 1,
        rowsRejected: 1,
      }),
    });
    expect(await landed()).toEqual([{ user_id: 1, username: "a", source_system: "crm" }]);
    const { rows } = await database.pool.query(
      "select actor, dataset, arguments from strata.runs where run_id = $1",
      [body.run.id],
    );
    expect(rows).toEqual([
      {
        actor: "the strata_ingestor",
        dataset: "users",
        arguments: { sourceSystem: "crm", sourceName: "may.csv", map: ["id=user_id"] },
      },
    ]);
  });

  it("takes NDJSON, gzip, operators, and bodies far beyond the limit of other requests", async () => {
    const lines = Array.from({ length: 60_000 }, (_, i) =>
      JSON.stringify({ user_id: i, username: "u".repeat(60) }),
    );
    const headers = { "content-type": "application/x-ndjson; charset=utf-8" };
    const options = { role: "strata_operator" as const, ...headers };
    expect((await push("/ingest/users", lines.join("\n"), options)).body.run.rowsWritten).toBe(60_000);
    const zipped = gzipSync(lines.slice(0, 10).join("\n"));
    const answer = await push("/ingest/users", zipped, { ...options, "content-encoding": "gzip" });
    expect(answer.body.run.rowsWritten).toBe(10);
    const unpacked = await push("/ingest/users", lines[0]!, { ...options, "content-encoding": "gzip" });
    expect(unpacked.body.run.rowsWritten).toBe(1);
  });

  it.each([
    ["no token", "/ingest/users", { authorization: "" }, 401, /token/],
    ["a reader", "/ingest/users", { role: "strata_reader" }, 403, /Your role may not do this/],
    [
      "JSON",
      "/ingest/users",
      { "content-type": "application/json" },
      415,
      /"application\/json" is not taken; allowed: text\/csv/,
    ],
    ["brotli", "/ingest/users", { "content-encoding": "br" }, 415, /"br" is not taken; allowed: gzip/],
    ["an unknown column", "/ingest/users", {}, 400, /Unknown column "colour"; allowed for users: "user_id"/],
    [
      "an unknown parameter",
      "/ingest/users?sauce=x",
      {},
      400,
      /Unknown parameter "sauce"; allowed: source, name, map, set, delimiter, encoding, decimal, dateFormat, timezone, null, maxRejected, operation, dryRun, sha256/,
    ],
    ["an unknown dataset", "/ingest/orders", {}, 404, /There is no dataset "orders"; there are: users, /],
    [
      "a date format that is none",
      "/ingest/users?dateFormat=D/M/Y",
      {},
      400,
      /"D\/M\/Y" is not a date format/,
    ],
    [
      "a delimiter that is none",
      "/ingest/users?delimiter=;;",
      {},
      400,
      /";;" cannot separate fields; allowed: one/,
    ],
    [
      "an encoding",
      "/ingest/users?encoding=x",
      {},
      400,
      /"x" is not an encoding that is read; allowed: "utf-8"/,
    ],
    [
      "a charset",
      "/ingest/users",
      { "content-type": "text/csv; charset=x" },
      400,
      /"x" is not an encoding that/,
    ],
    [
      "a decimal separator",
      "/ingest/users?decimal=x",
      {},
      400,
      /"x" is not a decimal separator; allowed: "\."/,
    ],
    [
      "a time zone",
      "/ingest/users?timezone=x",
      {},
      400,
      /"x" is not a time zone; allowed: names of the IANA/,
    ],
    [
      "a parameter given twice",
      "/ingest/users?decimal=,&decimal=.",
      {},
      400,
      /"decimal" is given more than once/,
    ],
  ] as [string, string, Record<string, string>, number, RegExp][])(
    "refuses %s",
    async (_name, path, options, status, message) => {
      const answer = await push(path, "user_id,colour\n1,red\n", options);
      expect(answer.status).toBe(status);
      expect(answer.body.errors?.[0].message ?? answer.body.message).toMatch(message);
      expect(await landed()).toEqual([]);
    },
  );

  it.each([
    ["encoding=latin-1&", "text/csv"],
    ["", "text/csv; charset=ISO-8859-1"],
  ])("reads a body as the parameters and the content type say: %s%s", async (encoding, type) => {
    const { status, body } = await push(
      `/ingest/events?${encoding}delimiter=;&decimal=,&dateFormat=DD.MM.YYYY&timezone=Europe/Berlin&null=NA&null=-`,
      Buffer.from(
        "event_id;event_time;latitude;event_type\n1;1.7.2024 12:00;48,2082;M\xfcll\n2;-;NA;NA\n3;;1.5;\n",
        "latin1",
      ),
      { "content-type": type },
    );
    expect([status, body.run.reasons]).toEqual([200, { invalid_number: 1 }]);
    const { rows } = await database.pool.query(
      "select event_time::text, latitude, event_type from staging.raw_events order by event_id",
    );
    expect(rows).toEqual([
      { event_time: "2024-07-01 10:00:00", latitude: 48.2082, event_type: "Müll" },
      { event_time: null, latitude: null, event_type: null },
    ]);
  });

  it("outlives numbers that PostgreSQL would write out, sent twice", async () => {
    const line = `{"event_id": 1, "a": [${"1e131071,".repeat(7000)}0]}\n`;
    const headers = { "content-type": "application/x-ndjson" };
    for (let sent = 0; sent < 2; sent++) {
      const { body } = await push("/ingest/events", line, headers);
      expect(body.run).toMatchObject({ rowsRead: 1, rowsRejected: 1 });
    }
    const { rows } = await database.pool.query("select reasons, payload from staging.quarantine");
    expect(rows).toEqual(Array(2).fill({ reasons: ["out_of_range"], payload: null }));
  });

  it("does not ask for a fault to be sent again", async () => {
    await database.pool.query(`
      create function public.break() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$;
      create trigger break before insert on staging.raw_users for each row execute function public.break()`);
    try {
      const { status, body } = await push("/ingest/users", "user_id,username\n1,a\n");
      expect(status).toBe(500);
      expect(body.run).toMatchObject({
        status: "failed",
        error: "The rows could not be taken, and would not be if sent again",
      });
    } finally {
      await database.pool.query("drop function public.break() cascade");
    }
  });

  it("says so if no row was good", async () => {
    const { status, body } = await push("/ingest/users", "user_id,created_at\n1,06/10/2011\n");
    expect(status).toBe(422);
    expect(body.run).toMatchObject({
      status: "failed",
      rowsRejected: 1,
      error: "The only row was rejected: ambiguous_date 1",
      reasons: { ambiguous_date: 1 },
    });
    const again = await push("/ingest/users?dateFormat=DD/MM/YYYY", "user_id,created_at\n1,06/10/2011\n");
    expect(again).toMatchObject({ status: 200, body: { run: { rowsWritten: 1 } } });
  });

  it("refuses a JSON array", async () => {
    const headers = { "content-type": "application/x-ndjson" };
    const { status, body } = await push("/ingest/users", '[{"user_id": 1}, {"user_id": 2}]', headers);
    expect(status).toBe(400);
    expect(body.errors[0].message).toMatch(/is a JSON array; NDJSON has one object a line/);
    expect(await landed()).toEqual([]);
  });

  it("keeps the rows of a client that went away, and the run says so", async () => {
    const sending = request(`${url}/ingest/users`, {
      method: "POST",
      headers: { authorization: `Bearer ${tokens.strata_ingestor}`, "content-type": "text/csv" },
    });
    sending.on("error", () => undefined);
    sending.write("user_id,username\n1,one\n2,tw");
    await expect.poll(landed, { timeout: 30_000 }).toHaveLength(1);
    sending.destroy();
    const { pool } = database;
    await expect
      .poll(
        async () =>
          (await pool.query("select status, error from strata.runs order by run_id desc limit 1")).rows,
        { timeout: 30_000 },
      )
      .toEqual([{ status: "failed", error: "The connection ended before the body did" }]);
    expect(await landed()).toMatchObject([{ user_id: 1 }]);
  });

  it.skipIf(!isServer)("holds back a client that sends faster than rows land", async () => {
    const blocker = await database.pool.connect();
    await blocker.query("begin; lock table staging.raw_users in access exclusive mode");
    const sending = request(`${url}/ingest/users`, {
      method: "POST",
      headers: { authorization: `Bearer ${tokens.strata_ingestor}`, "content-type": "text/csv" },
    });
    sending.setMaxListeners(0);
    const lines = `1,${"x".repeat(90)}\n`.repeat(1000);
    const most = 40_000_000;
    let sent = 0;
    sending.write("user_id,username\n");
    let stalled = false;
    while (!stalled && sent < most) {
      sent += lines.length;
      if (!sending.write(lines))
        stalled = await Promise.race([
          once(sending, "drain").then(() => false),
          sleep(2000).then(() => true),
        ]);
    }
    await blocker.query("rollback");
    blocker.release();
    // A batch on its way, a batch in waiting, and what sockets hold.
    expect(stalled).toBe(true);
    expect(sent).toBeLessThan(most);
    sending.end();
    const [response] = (await once(sending, "response")) as [IncomingMessage];
    expect(response.statusCode).toBe(200);
    expect(await landed()).toHaveLength((sent / lines.length) * 1000);
  });
});

describe("ingest mutations", () => {
  async function mutate(query: string, variables: object, role: Role = "strata_ingestor") {
    const response = await fetch(`${url}/graphql`, {
      method: "POST",
      headers: { authorization: `Bearer ${tokens[role]}`, "content-type": "application/json" },
      body: JSON.stringify({ query, variables }),
    });
    return (await response.json()) as any;
  }
  const INGEST_USERS = `mutation ($rows: [IngestUsersRow!]!, $background: Boolean) {
    ingestUsers(input: { rows: $rows, sourceSystem: "crm", background: $background, clientMutationId: "m" }) {
      rowsIngested rowsRejected clientMutationId run { step status rowsRead actor }
    }
  }`;

  it("lands rows and quarantines those that do not fit", async () => {
    const rows = [
      { userId: 1, username: "a" },
      { userId: "many" },
      { username: "nobody" },
      { userId: "2", email: 5 },
    ];
    expect(await mutate(INGEST_USERS, { rows })).toEqual({
      data: {
        ingestUsers: {
          rowsIngested: 2,
          rowsRejected: 2,
          clientMutationId: "m",
          run: { step: "ingest", status: "succeeded", rowsRead: "4", actor: "the strata_ingestor" },
        },
      },
    });
    expect(await landed()).toMatchObject([{ user_id: 1, source_system: "crm" }, { user_id: 2 }]);
    const { rows: reasons } = await database.pool.query(
      "select reasons from staging.quarantine order by source_line",
    );
    expect(reasons).toEqual([{ reasons: ["invalid_integer"] }, { reasons: ["missing_key"] }]);
  });

  it("takes deletions and snapshots of those who may delete", async () => {
    const load = (operation: string, rows: object[], role: Role) =>
      mutate(
        `mutation ($rows: [IngestUsersRow!]!, $operation: IngestOperation) {
          ingestUsers(input: { rows: $rows, operation: $operation, sourceSystem: "crm" }) { rowsIngested run { status error } }
        }`,
        { rows, operation },
        role,
      );
    for (const operation of ["delete", "replace"]) {
      const denied = await load(operation, [{ userId: 5 }], "strata_ingestor");
      expect(denied.errors).toMatchObject([{ extensions: { code: "FORBIDDEN" } }]);
    }
    expect(await landed()).toEqual([]);
    const deleted = await load("delete", [{ userId: 5 }, { userId: "x" }], "strata_operator");
    expect(deleted.data.ingestUsers).toEqual({
      rowsIngested: 1,
      run: { status: "succeeded", error: null },
    });
    const { rows } = await database.pool.query(
      `select user_id, ingest_operation as operation from staging.raw_users
       union all select null, operation from staging.quarantine`,
    );
    expect(rows).toEqual([
      { user_id: 5, operation: "delete" },
      { user_id: null, operation: "delete" },
    ]);
    const empty = await load("replace", [], "strata_operator");
    expect(empty.data.ingestUsers.run).toEqual({
      status: "failed",
      error: "The snapshot is empty: it deletes nothing",
    });
    const wrong = await load("drop", [{ userId: 5 }], "strata_operator");
    expect(wrong.errors[0].message).toMatch(/Value "drop" does not exist in "IngestOperation" enum/);
  });

  it("tries rows, as over HTTP", async () => {
    const query = `mutation ($rows: [IngestUsersRow!]!, $limit: String, $background: Boolean) {
      ingestUsers(input: { rows: $rows, maxRejected: $limit, dryRun: true, background: $background }) {
        rowsIngested rowsRejected skipped run { status }
        dryRun {
          rowsRead rowsLanding rowsRejected reasons error sameAs
          landing { line row } rejected { line reasons detail text }
          transform { rowsRead rowsWritten rowsReplaced rowsDeleted rowsRejected reasons replaced { key } problem waiting }
        }
      }
    }`;
    const rows = [{ userId: 77, username: "ann", email: "ann77@example.org" }, { userId: "x" }];
    const runs = async () => (await database.pool.query("select run_id from strata.runs")).rowCount;
    const before = await runs();
    const { data } = await mutate(query, { rows }, "strata_operator");
    expect(data.ingestUsers).toEqual({
      rowsIngested: null,
      rowsRejected: null,
      skipped: false,
      run: null,
      dryRun: {
        rowsRead: 2,
        rowsLanding: 1,
        rowsRejected: 1,
        reasons: { invalid_integer: 1 },
        error: null,
        sameAs: null,
        landing: [{ line: 1, row: { user_id: "77", username: "ann", email: "ann77@example.org" } }],
        rejected: [
          {
            line: 2,
            reasons: ["invalid_integer"],
            detail: expect.stringMatching(/user_id/),
            text: '{"user_id":"x"}',
          },
        ],
        transform: {
          rowsRead: 1,
          rowsWritten: 1,
          rowsReplaced: 0,
          rowsDeleted: 0,
          rowsRejected: 0,
          reasons: {},
          replaced: [],
          problem: null,
          waiting: {},
        },
      },
    });
    // Who may not read production is not told of it.
    expect((await mutate(query, { rows })).data.ingestUsers.dryRun).toMatchObject({
      rowsLanding: 1,
      transform: null,
    });
    const limited = await mutate(query, { rows, limit: "0" });
    expect(limited.data.ingestUsers.dryRun.error).toMatch(/allowed: 0\./);
    const both = await mutate(query, { rows, background: true });
    expect(both.errors).toMatchObject([{ extensions: { code: "BAD_USER_INPUT" } }]);
    expect((await mutate(query, { rows }, "strata_reader")).errors).toMatchObject([
      { extensions: { code: "FORBIDDEN" } },
    ]);
    expect(await runs()).toBe(before);
    expect(await landed()).toEqual([]);
  });

  it("takes the same rows once", async () => {
    const query = `mutation ($rows: [IngestUsersRow!]!, $background: Boolean) {
      ingestUsers(input: { rows: $rows, once: true, background: $background }) {
        rowsIngested rowsRejected skipped run { runId status }
      }
    }`;
    const rows = [{ userId: 91, username: "ann" }, { userId: "x" }];
    const first = (await mutate(query, { rows })).data.ingestUsers;
    expect(first).toMatchObject({ rowsIngested: 1, rowsRejected: 1, skipped: false });
    // In whatever order a row's fields are given.
    const again = [{ username: "ann", userId: 91 }, { userId: "x" }];
    for (const background of [false, true])
      expect((await mutate(query, { rows: again, background })).data.ingestUsers).toEqual({
        rowsIngested: 0,
        rowsRejected: 0,
        skipped: true,
        run: first.run,
      });
    expect((await mutate(query, { rows: rows.toReversed() })).data.ingestUsers.skipped).toBe(false);
    expect(await landed()).toHaveLength(2);
  });

  it("makes fields by expressions, over HTTP and by mutation", async () => {
    const set = encodeURIComponent("username=lower(first) || '.' || lower(last)");
    const { status } = await push(`/ingest/users?set=${set}&set=user_id=nr*10`, "nr,first,last\n1,Ann,Lee\n");
    expect(status).toBe(200);
    const { data } = await mutate(
      `mutation ($set: [String!]) { ingestUsers(input: { rows: [{ userId: 7, username: " Bob " }], set: $set }) { rowsIngested } }`,
      { set: ["username=trim(username)", "user_id=user_id + 13"] },
    );
    expect(data.ingestUsers).toEqual({ rowsIngested: 1 });
    expect(await landed()).toMatchObject([
      { user_id: 10, username: "ann.lee" },
      { user_id: 20, username: "Bob" },
    ]);
    const wrong = await mutate(
      `mutation { ingestUsers(input: { rows: [{ userId: 7 }], set: ["username=(select 1)"] }) { rowsIngested } }`,
      {},
    );
    expect(wrong.errors).toMatchObject([{ extensions: { code: "BAD_USER_INPUT" } }]);
  });

  it("reads numbers, times and absent values as the caller says they are written", async () => {
    const query = `mutation {
      ingestEvents(input: { rows: [
        { eventId: 1, eventTime: "2024-07-01 12:00", latitude: "48,2", eventType: "NA" }, { eventId: 2, latitude: 48.2 }
      ], decimal: ",", timezone: "Europe/Berlin", null: ["NA"] }) { rowsIngested }
    }`;
    expect((await mutate(query, {})).data.ingestEvents).toEqual({ rowsIngested: 2 });
    const { rows } = await database.pool.query(
      "select event_time::text, latitude, event_type from staging.raw_events order by event_id",
    );
    expect(rows).toEqual([
      { event_time: "2024-07-01 10:00:00", latitude: 48.2, event_type: null },
      { event_time: null, latitude: 48.2, event_type: null },
    ]);
  });

  it("reads dates as the caller says they are written", async () => {
    const query = `mutation ($format: String) {
      ingestUsers(input: { rows: [{ userId: 1, createdAt: "06/10/2011" }, { userId: 2 }], dateFormat: $format }) { rowsIngested rowsRejected }
    }`;
    expect((await mutate(query, {})).data.ingestUsers).toEqual({ rowsIngested: 1, rowsRejected: 1 });
    await database.pool.query("truncate staging.raw_users, staging.quarantine");
    expect((await mutate(query, { format: "DD/MM/YYYY" })).data.ingestUsers).toEqual({
      rowsIngested: 2,
      rowsRejected: 0,
    });
    const { rows } = await database.pool.query(
      "select created_at::text from staging.raw_users where user_id = 1",
    );
    expect(rows).toEqual([{ created_at: "2011-10-06 00:00:00" }]);
    expect((await mutate(query, { format: "D/M/Y" })).errors).toMatchObject([
      {
        message: expect.stringContaining('"D/M/Y" is not a date format; allowed: '),
        extensions: { code: "BAD_USER_INPUT" },
      },
    ]);
  });

  it("keeps nested event data and every digit", async () => {
    const { data } = await mutate(
      `mutation { ingestEvents(input: { rows: [{ eventId: "9007199254740993", eventType: "view", eventTime: "2025-06-01T00:00:00+02:00",
         eventData: { page: "/", tags: [1, null] }, latitude: 48.2, longitude: "16.37" }] }) { rowsIngested } }`,
      {},
    );
    expect(data.ingestEvents.rowsIngested).toBe(1);
    const { rows } = await database.pool.query(
      "select event_id::text, event_time::text, event_data, latitude, longitude, source_system from staging.raw_events",
    );
    expect(rows).toEqual([
      {
        event_id: "9007199254740993",
        event_time: "2025-05-31 22:00:00",
        event_data: { page: "/", tags: [1, null] },
        latitude: 48.2,
        longitude: 16.37,
        source_system: "api",
      },
    ]);
  });

  it("refuses numbers that JSON has rounded, as variables and as literals", async () => {
    const withVariable = `mutation ($data: JSON) { ingestEvents(input: { rows: [{ eventId: 1, eventData: $data }] }) { rowsIngested } }`;
    const withLiteral = (data: string) => withVariable.replace("($data: JSON)", "").replace("$data", data);
    const refusals = [
      await mutate(withVariable, { data: { a: [2 ** 53] } }),
      await mutate(withLiteral("{ a: [9007199254740993] }"), {}),
      await mutate(withLiteral("0.12345678901234567891"), {}),
      await mutate(withLiteral("1e400"), {}),
    ];
    for (const { data, errors } of refusals) {
      expect(data?.ingestEvents ?? null).toBeNull();
      expect(errors).toMatchObject([
        {
          message: expect.stringMatching(/give it as a string/),
          extensions: { code: expect.stringMatching(/^(BAD_USER_INPUT|GRAPHQL_VALIDATION_FAILED)$/) },
        },
      ]);
    }
    const taken = await mutate(
      withLiteral('{ a: [9007199254740991, 0.1, 1.50e3, -0.0, "9007199254740993"] }'),
      {},
    );
    expect(taken.data.ingestEvents.rowsIngested).toBe(1);
    const { rows } = await database.pool.query("select event_data::text from staging.raw_events");
    expect(rows).toEqual([{ event_data: '{"a": [9007199254740991, 0.1, 1500, 0, "9007199254740993"]}' }]);
  });

  it("goes on in the background", async () => {
    const { data } = await mutate(INGEST_USERS, { rows: [{ userId: 1 }], background: true });
    expect(data.ingestUsers).toMatchObject({ rowsIngested: null, run: { step: "ingest" } });
    await expect.poll(landed, { timeout: 30_000 }).toHaveLength(1);
  });

  it("is refused to readers", async () => {
    const { data, errors } = await mutate(INGEST_USERS, { rows: [{ userId: 1 }] }, "strata_reader");
    expect(data?.ingestUsers ?? null).toBeNull();
    expect(errors).toHaveLength(1);
    expect(await landed()).toEqual([]);
  });

  it("shows its run to a caller without a token as well", async () => {
    const open = await createApp({
      config: { ...database.config, ANONYMOUS_ROLE: "strata_ingestor" },
      database,
    });
    const payload = { query: INGEST_USERS, variables: { rows: [{ userId: 1 }] } };
    const response = await open.inject({ method: "POST", url: "/graphql", payload });
    await open.close();
    expect(response.json().data?.ingestUsers.run).toMatchObject({ actor: "anonymous" });
  });

  it("by mutation fails above the limit of rejected rows", async () => {
    const query = `mutation ($limit: String) {
      ingestUsers(input: { rows: [{ userId: 1 }, { userId: "x" }], maxRejected: $limit }) { rowsIngested rowsRejected run { status } }
    }`;
    expect((await mutate(query, { limit: "0" })).data.ingestUsers).toEqual({
      rowsIngested: 0,
      rowsRejected: 1,
      run: { status: "failed" },
    });
    expect(await landed()).toEqual([]);
    expect((await mutate(query, { limit: "50%" })).data.ingestUsers).toMatchObject({
      rowsIngested: 1,
      run: { status: "succeeded" },
    });
    expect((await mutate(query, { limit: "x" })).errors[0].extensions.code).toBe("BAD_USER_INPUT");
  });

  it("says what is wrong with the source system", async () => {
    const query = `mutation ($name: String) { ingestUsers(input: { rows: [], sourceSystem: $name }) { rowsIngested } }`;
    const { errors } = await mutate(query, { name: "s".repeat(51) });
    expect(errors).toMatchObject([
      { message: expect.stringContaining("allowed: 1 to 50"), extensions: { code: "BAD_USER_INPUT" } },
    ]);
  });
});

describe("a stopping server", () => {
  it("ends the ingest, keeps its rows and says when to come again", async () => {
    const sending = request(`${url}/ingest/users`, {
      method: "POST",
      headers: { authorization: `Bearer ${tokens.strata_ingestor}`, "content-type": "text/csv" },
    });
    sending.on("error", () => undefined);
    sending.write("user_id\n1\n2\n");
    await expect.poll(landed, { timeout: 30_000 }).toHaveLength(2);
    stop.abort(new Error("The server is stopping"));
    const [response] = (await once(sending, "response")) as [IncomingMessage];
    expect([response.statusCode, response.headers["retry-after"]]).toEqual([503, "5"]);
    const { run } = JSON.parse(Buffer.concat(await response.toArray()).toString());
    expect(run).toMatchObject({ status: "failed", rowsWritten: 2, error: "The server is stopping" });
    expect(await landed()).toHaveLength(2);
  });
});
