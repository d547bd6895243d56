/** @module-tag long */
// How large may an answer be: MAX_RESPONSE_MB, whichever way it is made, and the process survives what is larger.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { connect } from "../support/socket.ts";
import { isServer } from "../support/database.ts";

let server: TestApp;
/** Of the value of one event in bytes. */
const SIZE = 20_000;

beforeAll(async () => {
  server = await createTestApp({ MAX_RESPONSE_MB: "1", STATEMENT_TIMEOUT_MS: "0" });
  await server.database.pool.query(
    "insert into production.users (user_id, username, email) select n, 'user' || n, n || '@example.org' from generate_series(1, 3) n",
  );
  await server.database.pool.query(
    `insert into production.events (event_id, user_id, event_type, event_data)
     select n, 1, 'large', jsonb_build_object('text', repeat('x', $1::integer)) from generate_series(1, 100) n`,
    [SIZE],
  );
});
afterAll(() => server.close());

const ten = Array.from({ length: 10 }, (_, i) => `a${i}: eventData`).join(" ");
const TOO_LARGE = {
  message: expect.stringMatching(/^The response is larger than 1 MB \(MAX_RESPONSE_MB\); ask for fewer rows/),
  extensions: { code: "RESPONSE_TOO_LARGE", limit: 1, requestId: expect.any(String) },
};
/** The planner's, by a directive. */
const planned = (query: string): string => query.replace("nodes {", "nodes @include(if: true) {");

const tooLarge: [name: string, query: string][] = [
  ["many rows", "{ events(first: 100) { nodes { eventData } } }"],
  ["one column by many names", `{ events(first: 10) { nodes { ${ten} } } }`],
  ["a relation", "{ users(first: 1) { nodes { events(first: 90) { nodes { eventData } } } } }"],
  [
    "the same rows in many parents",
    "{ events(first: 50) { nodes { user { events(first: 2) { nodes { eventData } } } } } }",
  ],
  ["keys", `{ events(first: 100) { nodes { ${"a".repeat(15_000)}: eventId } } }`],
];

describe.each([
  ["compiled", (query: string) => query],
  ["planned", planned],
] as const)("%s", (_name, as) => {
  test.each(tooLarge)("%s", async (_name, query) => {
    const { data, errors } = await server.ask("reader", as(query));
    expect({ data, errors }).toEqual({ data: null, errors: [expect.objectContaining(TOO_LARGE)] });
  });

  test("what is just within the bound is answered, as often as it is asked for", async () => {
    for (let i = 0; i < 3; i++) {
      const { data, errors } = await server.ask(
        "reader",
        as("{ events(first: 45) { nodes { eventData } } }"),
      );
      expect(errors).toEqual([]);
      expect(data.events.nodes).toHaveLength(45);
    }
  });

  test("others that are read at the same time have their answers", async () => {
    const ask = (query: string) => server.ask("reader", as(query));
    const small = "{ users(first: 1) { nodes { username } } }";
    const [first, large, last] = await Promise.all([small, tooLarge[0]![1], small].map(ask));
    expect(large!.errors).toMatchObject([TOO_LARGE]);
    for (const answer of [first, last])
      expect(answer).toMatchObject({ errors: [], data: { users: { nodes: [{ username: "user1" }] } } });
  });

  test.each(tooLarge)("over a socket: %s", async (_name, query) => {
    const client = connect(await server.listen(), server.as.reader);
    for await (const { data, errors } of client.iterate({ query: as(query) }))
      expect({ data, errors }).toMatchObject({ data: null, errors: [TOO_LARGE] });
    await client.dispose();
  });
});

test("a mutation whose answer is too large says what became of it", async () => {
  const mutation = (type: string, selection: string) =>
    `mutation { updateEvent(input: { eventId: 1, patch: { eventType: "${type}" } }) { event { ${selection} } } }`;
  const many = Array.from({ length: 30 }, (_, i) => `a${i}: eventData`).join(" ");
  const { errors } = await server.ask(
    "operator",
    mutation("changed", `user { events(first: 2) { nodes { ${many} } } }`),
  );
  expect(errors).toMatchObject([TOO_LARGE]);
  const { rows } = await server.database.pool.query(
    "select event_type from production.events where event_id = 1",
  );
  expect(rows[0].event_type).toBe("changed");
  expect(errors[0]!.message).toMatch(/the mutation was carried out$/);
});

test("an event of a subscription that is too large is an error, and the next one comes", async () => {
  const client = connect(await server.listen(), server.as.operator);
  const query = 'subscription { pipelineRunUpdated(since: "2020-01-01T00:00:00Z") { run { error } } }';
  const insert = (size: number) =>
    server.database.pool.query(
      `insert into strata.runs (step, status, trigger, queued_at, started_at, finished_at, error)
       values ('cleanup', 'failed', 'cli', now(), now(), now(), repeat('x', $1::integer))`,
      [size],
    );
  await insert(2_000_000);
  await insert(2);
  const events: unknown[] = [];
  for await (const event of client.iterate({ query })) {
    events.push(event);
    if (events.length === 2) break;
  }
  await client.dispose();
  expect(events).toMatchObject([
    { errors: [TOO_LARGE] },
    { data: { pipelineRunUpdated: { run: { error: "xx" } } } },
  ]);
});

test.runIf(isServer)("the process survives values of hundreds of megabytes", async () => {
  const { pool } = server.database;
  await pool.query("alter table strata.runs alter column error set storage external");
  await pool.query(
    `insert into strata.runs (run_id, step, status, trigger, queued_at, started_at, finished_at, error)
     overriding system value values (1000, 'cleanup', 'failed', 'cli', now(), now(), now(), repeat('x', 550000000))`,
  );
  const query = "{ pipelineRuns(filter: { runId: { equalTo: 1000 } }) { nodes { error } } }";
  const { errors } = await server.ask("operator", planned(query));
  expect(errors).toMatchObject([TOO_LARGE]);
});
