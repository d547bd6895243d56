/** @module-tag long */
// Who are you, on a socket: connection_init carries the token, and the socket ends with it.
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { createToken } from "../../src/http/token.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";
import { initialise as initialiseAt, openSocket, socketOf } from "../support/socket.ts";

let server: TestApp;
let origin: string;

beforeAll(async () => {
  server = await createTestApp({ CORS_ORIGINS: "https://app.example" });
  origin = await server.listen();
});
afterAll(() => server.close());

const token = (ttl = "1h") => createToken(server.database.config, { role: "strata_reader", ttl });

const initialise = (payload: unknown, headers?: Record<string, string>) =>
  initialiseAt(origin, payload, headers);

test("a good token is acknowledged, and the socket acts under its role", async () => {
  const connection = await initialise({ Authorization: `Bearer ${await token()}` });
  await connection.next("connection_ack");
  connection.send({ type: "subscribe", id: "1", payload: { query: "{ users { totalCount } }" } });
  expect((await connection.next("next")).payload.data).toEqual({ users: { totalCount: 0 } });
  connection.socket.close();
});

test("errors on a socket have a code and the id of its request", async () => {
  const connection = await initialise({ authorization: `Bearer ${await token()}` });
  await connection.next("connection_ack");
  connection.send({ type: "subscribe", id: "1", payload: { query: "{ users { nodes { email } } }" } });
  expect((await connection.next("next")).payload.errors[0].extensions).toEqual({
    code: "FORBIDDEN",
    role: "strata_reader",
    type: "User",
    field: "email",
    requestId: expect.any(String),
  });
  connection.send({ type: "subscribe", id: "2", payload: { query: "{ nothing }" } });
  expect((await connection.next("error")).payload[0].extensions).toEqual({
    code: "GRAPHQL_VALIDATION_FAILED",
    requestId: expect.any(String),
  });
  connection.socket.close();
});

test("a token may come with the upgrade, for clients that are no browsers", async () => {
  const connection = await initialise(undefined, { authorization: `Bearer ${await token()}` });
  await connection.next("connection_ack");
  connection.socket.close();
});

test.each([
  ["no token", undefined],
  ["a wrong token", { authorization: "Bearer a.b.c" }],
  ["a token in a list", { authorization: ["Bearer a.b.c"] }],
])("%s closes with 4401", async (_name, payload) => {
  const connection = await initialise(payload);
  expect(await connection.closed).toMatchObject({ code: 4401 });
});

test("an expired token closes with 4403, after which clients come back with a new one", async () => {
  const connection = await initialise({ authorization: `Bearer ${await token("-1s")}` });
  expect(await connection.closed).toEqual({
    code: 4403,
    reason: expect.stringMatching(/^The token has expired\. /),
  });
});

test("the socket is closed when its token expires", async () => {
  const connection = await initialise({ authorization: `Bearer ${await token("2s")}` });
  await connection.next("connection_ack");
  expect(await connection.closed).toEqual({ code: 4403, reason: "The token has expired" });
});

test("subscribing before connection_init closes with 4401", async () => {
  const connection = await openSocket(origin);
  connection.send({ type: "subscribe", id: "1", payload: { query: "{ __typename }" } });
  expect(await connection.closed).toMatchObject({ code: 4401 });
});

test("what is not the protocol closes the socket, and the server goes on", async () => {
  for (const message of ["{", "[]", '{"type":"subscribe"}', "x".repeat(600_000)]) {
    const connection = await openSocket(origin);
    connection.socket.send(message);
    expect((await connection.closed).code, message.slice(0, 20)).toBeGreaterThan(1000);
  }
  expect((await server.ask("reader", "{ __typename }")).status).toBe(200);
});

test("pages of other origins may not open sockets, those of CORS_ORIGINS may", async () => {
  const refused = socketOf(origin, { origin: "https://evil.example" });
  const [, response] = (await once(refused.socket, "unexpected-response")) as [
    unknown,
    { statusCode: number },
  ];
  expect(response.statusCode).toBe(403);
  for (const page of ["https://app.example", origin]) {
    const connection = await initialise({ authorization: `Bearer ${await token()}` }, { origin: page });
    await connection.next("connection_ack");
    connection.socket.close();
  }
});

test("a request that only pretends to be a socket is not let in without a token", async () => {
  const response = await server.inject({
    method: "POST",
    url: "/graphql",
    headers: { upgrade: "websocket", connection: "upgrade" },
    payload: { query: "{ users { totalCount } }" },
  });
  expect(response.statusCode).toBe(401);
});

test.runIf(isServer)(
  "what the client completes is cancelled in the database, and the socket goes on",
  async () => {
    const waiting = async (): Promise<number> =>
      (
        await server.database.pool.query(
          "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
      ).rows[0].n;
    const connection = await initialise({ authorization: `Bearer ${await token()}` });
    await connection.next("connection_ack");
    const other = await server.database.pool.connect();
    try {
      await other.query("begin; lock table production.dim_date in access exclusive mode");
      const ids = ["1", "2", "3", "4", "5"];
      for (const id of ids)
        connection.send({
          type: "subscribe",
          id,
          payload: { query: `{ dimDates(first: ${id}) { nodes { year } } }` },
        });
      await expect.poll(waiting, { timeout: 20_000 }).toBeGreaterThan(0);
      for (const id of ids) connection.send({ type: "complete", id });
      // Long before the statements would have timed out by themselves.
      await expect.poll(waiting, { timeout: 5_000 }).toBe(0);
      expect(connection.socket.readyState).toBe(WebSocket.OPEN);
    } finally {
      await other.query("rollback");
      other.release();
    }
    connection.send({
      type: "subscribe",
      id: "6",
      payload: { query: "{ dimDates(first: 1) { totalCount } }" },
    });
    expect((await connection.next("next")).id).toBe("6");
    connection.socket.close();
  },
);

test("while a stopping server waits for its sockets, it answers requests", async () => {
  const leaving = await createTestApp();
  const address = await leaving.listen();
  const { socket: silent } = await openSocket(address);
  // It reads no goodbye, hence sends none.
  silent.pause();
  const gone = leaving.close();
  try {
    await sleep(200);
    const answer = await fetch(`${address}/graphql`, {
      method: "POST",
      headers: { ...leaving.as.reader, "content-type": "application/json" },
      body: JSON.stringify({ query: "{ users { totalCount } }" }),
    });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("connection")).toBe("close");
    expect(await answer.json()).toEqual({ data: { users: { totalCount: 0 } } });
  } finally {
    silent.terminate();
    await gone;
  }
});
