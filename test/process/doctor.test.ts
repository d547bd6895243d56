/** @module-tag long */
// Every check of `strata doctor` finds what it is there for, and finds nothing where nothing is wrong.
import { createServer } from "node:http";
import { once } from "node:events";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createDatabase, isServer, type TestDatabase } from "../support/database.ts";
import { runStrata } from "../support/process.ts";

// To compare the schema, an embedded engine is made from nothing.
const PATIENCE_MS = 240_000;
const NOWHERE = "postgres://postgres:hunter2@127.0.0.1:1/x";

let database: TestDatabase;
beforeEach(async () => void (database = await createDatabase()));
afterEach(() => database.drop());

interface Finding {
  name: string;
  status: string;
  problems: string[];
  advice: string;
}

async function examine(environment: Record<string, string> = {}) {
  const { code, stdout, stderr } = await runStrata(["doctor", "--json"], {
    ...database.environment,
    ...environment,
  });
  expect(stderr).toBe("");
  const { ok, checks } = JSON.parse(stdout) as { ok: boolean; checks: Finding[] };
  const found = checks.filter(({ status }) => status !== "ok");
  return { code, ok, checks, found: Object.fromEntries(found.map((one) => [one.name, one])) };
}

test(
  "a database as `strata migrate` leaves it has no failure, nor has what was restored from its dump",
  async () => {
    // A restore makes constraints from their printed form, which is then printed in another way.
    await database.pool.query(
      `do $$ begin
         execute (select 'alter table production.transactions drop constraint valid_status, add constraint valid_status '
                         || pg_get_constraintdef(oid) from pg_constraint where conname = 'valid_status');
       end $$`,
    );
    await database.pool.query("select strata.refresh()");
    const { code, ok, checks, found } = await examine();
    expect({ code, ok }).toEqual({ code: 0, ok: true });
    expect(checks.length).toBeGreaterThan(18);
    // Tests log in as the superuser of a server whose other databases are none of theirs.
    expect(Object.keys(found)).toEqual(isServer ? ["login", "time zone"] : []);
  },
  PATIENCE_MS,
);

test(
  "what is wrong is found, with what to do about it",
  { timeout: PATIENCE_MS, tags: ["long"] },
  async () => {
    for (const statement of [
      "insert into production.users (username, email) values ('ann', 'ann@example.com')",
      "select strata.refresh()",
      "alter table production.transactions disable trigger strata_inserted",
      "insert into production.transactions (user_id, amount, transaction_date) values (1, 5, '2025-01-01')",
      "insert into production.users (user_id, username, email) values (500, 'bob', 'bob@example.com')",
      "grant select on production.users to public",
      "grant usage on schema staging to strata_reader",
      "alter function strata.idle_users_now() reset search_path",
      "create table production.orders (user_id integer references production.users)",
      "create table strata.stray (id integer)",
      "create view analytics.broken as select 1 as a",
      "grant select on analytics.broken to strata_reader",
      "comment on view analytics.broken is '@primaryKey no_such_column'",
      "drop index analytics.idx_daily_user_metrics_key",
      "alter table production.transactions drop constraint positive_amount",
      `alter table production.transactions drop constraint valid_status,
         add constraint valid_status check (status in ('pending', 'completed', 'failed', 'refunded', 'lost'))`,
      "alter table production.transactions alter column status set default 'completed'",
      `insert into strata.runs (step, status, heartbeat_at) values ('refresh', 'running', now() - interval '2 minutes')`,
      `insert into strata.runs (step, status, queued_at) values ('cleanup', 'queued', now() - interval '1 hour')`,
      `insert into strata.runs (step, status, finished_at, error) values ('transform', 'failed', now(), 'out of luck')`,
      "update strata.datasets set xid = '99999999999' where dataset = 'events'",
    ])
      await database.pool.query(statement);
    const { code, ok, found } = await examine();
    expect({ code, ok }).toEqual({ code: 1, ok: false });
    const problems = Object.fromEntries(Object.entries(found).map(([name, one]) => [name, one.problems]));
    expect(problems).toMatchObject({
      triggers: ["The trigger strata_inserted on production.transactions is switched off"],
      sequences: ["production.users_user_id_seq has given out 1, production.users holds 500"],
      "rights of PUBLIC": ["Everybody has SELECT on production.users"],
      "rights in staging": ["strata_operator may use schema staging", "strata_reader may use schema staging"],
      "functions with their owner's rights": [
        "strata.idle_users_now() is security definer without a fixed search_path",
      ],
      "foreign keys without index": [
        expect.stringMatching(/^orders_user_id_fkey on production\.orders has no index/),
      ],
      "materialized views": [expect.stringMatching(/^analytics\.daily_user_metrics has no unique index/)],
      runs: [expect.stringMatching(/^Run \d+ \(refresh\) is running, but has sent no heartbeat since/)],
      API: [expect.stringMatching(/analytics\.broken.*no_such_column/)],
      watermarks: [expect.stringMatching(/^The watermark of events is ahead of this server/)],
      "additions to the machinery": expect.arrayContaining(["column strata.stray.id"]),
    });
    expect(problems.metrics).toEqual([
      expect.stringMatching(/^daily_rollup_live differs from its query in \d rows/),
      expect.stringMatching(/^daily_revenue_live differs from its query in \d rows/),
    ]);
    expect(problems["waiting work"]).toEqual([
      expect.stringMatching(/^Run \d+ \(cleanup\) has waited since/),
      expect.stringMatching(/^The last transform failed \(run \d+\): out of luck$/),
    ]);
    expect(problems["schema against its files"]).toEqual([
      "missing: constraint production.transactions.positive_amount",
      "missing: index analytics.idx_daily_user_metrics_key",
      "changed: column production.transactions.status",
      "changed: constraint production.transactions.valid_status",
      "changed: function strata.idle_users_now()",
    ]);
    for (const { advice } of Object.values(found)) expect(advice).not.toBe("");
  },
);

test(
  "a materialized view that was never filled, as after a restore without data",
  { timeout: PATIENCE_MS, tags: ["long"] },
  async () => {
    await database.pool.query("refresh materialized view analytics.daily_user_metrics with no data");
    const { code, found } = await examine();
    expect(code).toBe(1);
    expect(found).toMatchObject({
      "materialized views": {
        status: "failure",
        problems: ["analytics.daily_user_metrics was never filled"],
        advice: expect.stringContaining("strata-graphql refresh"),
      },
      metrics: {
        problems: ['materialized view "daily_user_metrics" has not been populated'],
        status: "skipped",
      },
    });
  },
);

test(
  "a metric that cannot be computed is a finding, and keeps none of the other checks from being made",
  { timeout: PATIENCE_MS },
  async () => {
    for (const statement of [
      "create table production.parts (part_id integer primary key, weight integer, note text)",
      "insert into production.parts values (1, 0, 'a')",
      "select strata.add_metric('inverse', 'select sum(1 / weight) as sum from production.parts where weight > -1')",
      "select strata.add_metric('notes', 'select note, count(*) as parts from production.parts group by note')",
      "alter table production.parts drop column note cascade",
    ])
      await database.pool.query(statement);
    const before = await examine();
    expect(before.found.metrics).toMatchObject({
      status: "failure",
      problems: [expect.stringMatching(/^It cannot be checked: /)],
    });
    await database.pool.query("select strata.reconcile(), strata.refresh()");
    const after = await examine();
    expect(after.found.metrics?.problems.toSorted()).toEqual([
      "inverse failed in the last refresh: division by zero",
      expect.stringMatching(/^notes failed in the last refresh: its query no longer exists/),
    ]);
    for (const { checks } of [before, after])
      expect(checks.map(({ name }) => name)).toContain("additions to the machinery");
  },
);

test("token settings that are valid, and unwise", async () => {
  const server = createServer((_request, response) => response.end('{"keys": []}')).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const JWKS_URL = `http://127.0.0.1:${port}/`;
  const { code, found } = await examine({
    DATABASE_URL: NOWHERE,
    ANONYMOUS_ROLE: "operator",
    JWKS_URL,
    JWT_SECRET: "",
  });
  server.close();
  expect(code).toBe(1);
  expect(found.tokens!.problems).toEqual(["JWKS_URL answers 200, without keys"]);
  expect(found["token settings"]!.problems).toEqual([
    "ANONYMOUS_ROLE is operator: everybody who reaches the port may change everything",
    "JWKS_URL without JWT_AUDIENCE and JWT_ISSUER: tokens made for other services are accepted",
  ]);
});

test("a database that does not answer is a finding, too", async () => {
  const environment = { ...database.environment, DATABASE_URL: NOWHERE };
  const { code, stdout } = await runStrata(["doctor"], environment);
  expect(code).toBe(1);
  expect(stdout).toBe(
    "✓ tokens\n✓ token settings\n✗ database\n" +
      "    Nothing answers at 127.0.0.1:1; is PostgreSQL running there?\n" +
      "    → Nothing else can be checked before that\n\n1 of 3 checks failed.\n",
  );
});
