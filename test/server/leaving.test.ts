// A client that leaves is no time-out, in the metrics and in the log.
import { request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

let server: TestApp;
const METRICS_TOKEN = "a token of the tests";

beforeAll(async () => {
  server = await createTestApp({ METRICS_TOKEN });
  await server.app.listen({ port: 0, host: "127.0.0.1" });
});
afterAll(() => server.close());

async function outcomes(name: string): Promise<string[]> {
  const headers = { authorization: `Bearer ${METRICS_TOKEN}` };
  const { body } = await server.inject({ url: "/metrics", headers });
  const lines = body.matchAll(
    new RegExp(`^strata_operations_total\\{type="\\w+",name="${name}",outcome="(\\w+)"`, "gm"),
  );
  return [...lines].map(([, outcome]) => outcome!);
}

const HELD_UP = "select count(*)::int as n from pg_locks where not granted";

/** Sends an operation that a lock holds up, and goes away; `after` is called when the server has noticed. */
async function leave(
  query: string,
  locked: string,
  after: (other: pg.Client) => Promise<void>,
  heldUp = HELD_UP,
): Promise<void> {
  const other = new pg.Client(server.database.connection);
  await other.connect();
  try {
    await other.query(`begin; lock table ${locked} in access exclusive mode`);
    const { port } = server.app.server.address() as AddressInfo;
    const headers = { ...server.as.operator, "content-type": "application/json" };
    const options = { port, host: "127.0.0.1", path: "/graphql", method: "POST", headers };
    const request = httpRequest(options).on("error", () => undefined);
    request.end(JSON.stringify({ query }));
    const waiting = async () => (await server.database.pool.query<{ n: number }>(heldUp)).rows[0]!.n;
    await expect.poll(waiting, { timeout: 20_000 }).toBeGreaterThan(0);
    request.destroy();
    const connections = () =>
      new Promise((done) => server.app.server.getConnections((_, count) => done(count)));
    await expect.poll(connections, { timeout: 20_000 }).toBe(0);
    await after(other);
  } finally {
    await other.end();
  }
}

test.runIf(isServer).each([
  ["Compiled", "query Compiled { events { nodes { eventId } } }"],
  ["Planned", "query Planned { events @include(if: true) { nodes { eventId } } }"],
  [
    "Changes",
    'mutation Changes { updateEvent(input: { eventId: 1, patch: { eventType: "a" } }) { event { eventId } } }',
  ],
])("%s: who goes away has the outcome CANCELLED", (name, query) =>
  leave(query, "production.events", () =>
    expect.poll(() => outcomes(name), { timeout: 9_000 }).toEqual(["CANCELLED"]),
  ),
);

test.runIf(isServer)("a run goes on without the one who asked for it, whose outcome is CANCELLED", () =>
  leave("mutation Runs { runPipeline { run { status } } }", "strata.datasets", async (other) => {
    expect(await outcomes("Runs")).toEqual([]);
    await other.query("rollback");
    await expect.poll(() => outcomes("Runs"), { timeout: 20_000 }).toEqual(["CANCELLED"]);
    const { rows } = await other.query("select step, status from strata.runs order by run_id");
    expect(rows).toEqual(["pipeline", "transform", "refresh"].map((step) => ({ step, status: "succeeded" })));
  }),
);

test.runIf(isServer)("what it wrote is not kept", async () => {
  await server.database.pool.query(`
    insert into production.users (user_id, username, email, country) values (1, 'ann', 'ann@example.org', 'Peru');
    create function production.sleepy() returns trigger language plpgsql as $$
      begin perform pg_sleep(600); return null; end $$;
    create trigger sleepy after update on production.users for each row execute function production.sleepy();
    grant execute on function production.sleepy() to public`);
  await leave(
    'mutation Written { updateUser(input: { userId: 1, patch: { country: "Chile" } }) { user { country } } }',
    "production.events",
    async (other) => {
      await expect.poll(() => outcomes("Written"), { timeout: 9_000 }).toEqual(["CANCELLED"]);
      expect((await other.query("select country from production.users")).rows).toEqual([{ country: "Peru" }]);
    },
    "select count(*)::int as n from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
  );
});
