/** @module-tag long */
// A running server follows the database's catalogue: no request is rejected, and subscriptions stay open.
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";
import { connect } from "../support/socket.ts";

let server: TestApp;

beforeAll(async () => {
  server = await createTestApp({ RATE_LIMIT_COST: "0" });
});
afterAll(() => server.close());

const sql = (text: string) => server.database.pool.query(text);

/** What `strata migrate` says when the catalogue has changed. */
const announce = () =>
  sql(`update strata.refresh_state set catalogue_version = catalogue_version + 1;
       select pg_notify('strata:schema', catalogue_version::text) from strata.refresh_state`);

async function checks(): Promise<Record<string, { ok: boolean; detail: string }>> {
  return (await server.inject({ url: "/readyz" })).json().checks;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  await vi.waitFor(async () => expect(await condition()).toBe(true), { timeout: 50_000, interval: 50 });
}

const hasField = async (name: string) => {
  const { data } = await server.ask("operator", `{ __type(name: "Query") { fields { name } } }`);
  return data.__type.fields.some((field: { name: string }) => field.name === name);
};

test("a table that a migration adds appears under load, with no request lost and a subscription open", async () => {
  const client = connect(await server.listen(), server.as.reader);
  const events = client.iterate({ query: "subscription { analyticsRefreshed { version } }" });
  const event = events.next();

  let isOver = false;
  const failures: unknown[] = [];
  let answers = 0;
  const work = [
    `{ users(first: 5) { nodes { userId transactions { totalCount } } } }`,
    `{ dailyUserMetrics { nodes { date activeUsers } } }`,
    `query ($first: Int) { dimDates(first: $first) { nodes { fullDate } aggregates { max { fullDate } } } }`,
    `{ a: users { totalCount } b: __typename }`,
  ].map(async (query) => {
    while (!isOver) {
      const { status, errors } = await server.ask("reader", query);
      answers++;
      if (status !== 200 || errors.length > 0) failures.push({ status, errors });
    }
  });

  await sql(`create table production.gadgets (gadget_id integer primary key, made date);
    grant select on production.gadgets to strata_reader;
    insert into production.gadgets values (1, '2025-01-04')`);
  expect(await hasField("gadgets")).toBe(false);
  await announce();
  await until(() => hasField("gadgets"));
  const { data } = await server.ask("reader", "{ gadgets { nodes { gadgetId dimDate { isWeekend } } } }");
  expect(data.gadgets.nodes).toEqual([{ gadgetId: 1, dimDate: { isWeekend: true } }]);
  expect((await server.inject({ url: "/schema.graphql", headers: server.as.operator })).body).toContain(
    "type Gadget implements Node",
  );
  isOver = true;
  await Promise.all(work);
  expect(failures).toEqual([]);
  expect(answers).toBeGreaterThan(10);

  await sql("refresh materialized view analytics.daily_user_metrics");
  expect(await event).toMatchObject({
    value: { data: { analyticsRefreshed: { version: expect.any(String) } } },
  });
  await events.return!();
  await client.dispose();
});

test("what was compiled and kept for the old schema is not used on the new one", async () => {
  await sql(`create table production.things (thing_id integer primary key, note text);
    grant select on production.things to strata_reader; insert into production.things values (1, 'a')`);
  await announce();
  await until(() => hasField("things"));
  const query = "{ things { nodes { thingId note } } }";
  for (let i = 0; i < 2; i++)
    expect((await server.ask("reader", query)).data.things.nodes).toEqual([{ thingId: 1, note: "a" }]);
  await sql(
    `alter table production.things drop column note; alter table production.things add column kind text`,
  );
  await announce();
  await until(async () => (await server.ask("reader", "{ things { nodes { kind } } }")).status === 200);
  const { status, errors } = await server.ask("reader", query);
  expect(status).toBe(400);
  expect(errors).toMatchObject([{ message: expect.stringMatching(/Cannot query field "note"/) }]);
});

test("an enum has what its CHECK has, and the datasets that there are", async () => {
  const values = async (type: string): Promise<string[]> => {
    const { data } = await server.ask("operator", `{ __type(name: "${type}") { enumValues { name } } }`);
    return data.__type?.enumValues.map(({ name }: { name: string }) => name) ?? [];
  };
  const allow = (list: string) => `alter table production.cases drop constraint if exists known_state,
    add constraint known_state check (state in (${list}))`;
  await sql(`create table production.cases (case_id integer primary key, state text not null);
    comment on column production.cases.state is '@enumerated';
    create index on production.cases (state);
    create table staging.raw_cases (case_id integer, state text);
    grant select on production.cases to strata_reader; insert into production.cases values (1, 'open');
    ${allow("'open', 'closed'")}; select strata.add_dataset('cases'); select strata.reconcile()`);
  await until(async () => (await values("CaseState")).length > 0);
  expect(await values("CaseState")).toEqual(["open", "closed"]);
  expect(await values("DatasetName")).toEqual(["cases", "events", "transactions", "users"]);
  await sql(`${allow("'open', 'lost'")}; select strata.reconcile()`);
  await until(async () => (await values("CaseState")).includes("lost"));
  const query = "{ cases(filter: { state: { in: [open, lost] } }) { nodes { state } } }";
  expect((await server.ask("reader", query)).data.cases.nodes).toEqual([{ state: "open" }]);
  // With a value that is no name, the column is text again.
  await sql(`${allow("'open', 'in court'")}; select strata.reconcile()`);
  await until(async () => (await values("CaseState")).length === 0);
  const text = `{ cases(filter: { state: { in: ["open", "in court"] } }) { nodes { state } } }`;
  expect((await server.ask("reader", text)).data.cases.nodes).toEqual([{ state: "open" }]);
});

test("a catalogue that no schema can be built from leaves the old one, and readiness and metrics tell", async () => {
  await sql(`create view analytics.broken as select 1 as a; grant select on analytics.broken to strata_reader;
    comment on view analytics.broken is E'@primaryKey no_such_column'`);
  await announce();
  await until(async () => /no schema can be built/.test((await checks()).api!.detail));
  expect((await checks()).api!.ok).toBe(true);
  expect((await server.ask("reader", "{ users { totalCount } }")).errors).toEqual([]);
  await sql("comment on view analytics.broken is null");
  await announce();
  await until(() => hasField("brokens"));
  expect((await checks()).api!.detail).toMatch(/^catalogue \d+$/);
});

// The embedded engine has one session, which nobody can end.
test.runIf(isServer)(
  "an announcement that nobody heard is found out when the connection is back",
  async () => {
    await sql(`create view analytics.unheard as select 1 as a; grant select on analytics.unheard to strata_reader;
    update strata.refresh_state set catalogue_version = catalogue_version + 1`);
    await sql(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'strata listen' and datname = current_database()",
    );
    await until(() => hasField("unheards"));
  },
);

test("a view that is replaced in SQL is kept answers of again, as it is now", async () => {
  const query = "{ quarterlyRevenues { nodes { year activeDays } } }";
  const isKept = async () => (await server.ask("reader", query)).headers.etag !== undefined;
  await server.ask("reader", query);
  expect(await isKept()).toBe(true);
  await sql(`do $$ begin execute 'create or replace view analytics.quarterly_revenue as '
    || replace(pg_get_viewdef('analytics.quarterly_revenue'), 'count(DISTINCT m.date)', '7::bigint'); end $$`);
  expect(await isKept()).toBe(false);
  await until(isKept);
});
