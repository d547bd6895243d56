/** @module-tag long */
// Roles of one's own, row-level security by claims, and what is kept of answers when rights change.
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

const suffix = randomBytes(4).toString("hex");
const roles = { tenant: `tenant_${suffix}`, writer: `writer_${suffix}`, stranger: `stranger_${suffix}` };

let server: TestApp;
const sql = (text: string) => server.database.pool.query(text);

beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create role ${roles.tenant} in role strata_reader;
    create role ${roles.writer} in role strata_operator;
    create role ${roles.stranger};
    grant ${roles.tenant}, ${roles.writer}, ${roles.stranger} to current_user;
    create table production.contracts (
      contract_id integer primary key,
      tenant text not null,
      terms text,
      signed date,
      wage integer
    );
    alter table production.contracts enable row level security;
    create policy own_tenant on production.contracts for all
      using (tenant = current_setting('request.jwt.claims', true)::jsonb ->> 'tenant');
    grant select (contract_id, tenant, terms, signed) on production.contracts to strata_reader;
    grant select (wage) on production.contracts to ${roles.tenant};
    grant insert, update, delete on production.contracts to ${roles.writer};
    create view analytics.my_metrics with (security_invoker = true) as
      select contract_id, tenant from production.contracts;
    grant select on analytics.my_metrics to strata_reader;
    insert into production.contracts values (1, 'red', 'a', '2025-01-04', 10), (2, 'blue', 'b', '2025-01-05', 20), (3, 'red', 'c', null, 30)`,
  );
});
afterAll(async () => {
  await server.app.close();
  await sql(
    `drop owned by ${roles.tenant}, ${roles.writer}, ${roles.stranger}; drop role ${roles.tenant}, ${roles.writer}, ${roles.stranger}`,
  );
  await server.database.drop();
});

const ask = (claims: Record<string, unknown>, query: string) => server.askWith(claims, query);

/** Compiled as one statement, and planned: an alias of a function of the server is not compiled. */
const PATHS = [
  "{ contracts { nodes { contractId } } }",
  "{ contracts { nodes { contractId } } query { __typename } }",
  "{ myMetrics { nodes { contractId } } }",
];

test.each(PATHS)("rows are those of the claims: %s", async (query) => {
  const idsOf = async (claims: Record<string, unknown>) => {
    const { data, errors } = await ask(claims, query);
    expect(errors).toEqual([]);
    return (data.contracts ?? data.myMetrics).nodes.map((row: { contractId: number }) => row.contractId);
  };
  // At the same moment, and again, when answers might have been kept.
  for (let i = 0; i < 3; i++)
    expect(
      await Promise.all([
        idsOf({ role: roles.tenant, tenant: "red" }),
        idsOf({ role: roles.tenant, tenant: "blue" }),
        idsOf({ role: "reader", tenant: "red" }),
        idsOf({ role: "reader" }),
      ]),
    ).toEqual([[1, 3], [2], [1, 3], []]);
});

test("a role of one's own has its rights and those of its parent, and no others", async () => {
  const query = "{ contract(contractId: 1) { wage } users { totalCount } }";
  expect((await ask({ role: roles.tenant, tenant: "red" }, query)).data.contract).toEqual({ wage: 10 });
  expect((await ask({ role: "reader", tenant: "red" }, query)).errors).toMatchObject([
    { extensions: { code: "FORBIDDEN" } },
  ]);
  const create = `mutation { createContract(input: { contract: { contractId: 4, tenant: "red" } }) { contract { contractId } } }`;
  expect((await ask({ role: roles.tenant, tenant: "red" }, create)).errors).toMatchObject([
    { extensions: { code: "FORBIDDEN" } },
  ]);
  expect((await ask({ role: roles.writer, tenant: "red" }, create)).errors).toEqual([]);
  // The policy is for what is written, too.
  const update = `mutation { updateContract(input: { contractId: 2, patch: { terms: "x" } }) { contract { contractId } } }`;
  expect((await ask({ role: roles.writer, tenant: "red" }, update)).errors).toMatchObject([
    { extensions: { code: "NOT_FOUND" } },
  ]);
});

test("a role that is no member of Strata's, the server's own, and a superuser are not accepted", async () => {
  const { rows } = await sql("select current_user as name");
  for (const role of [roles.stranger, rows[0].name, "postgres", "pg_read_all_data", "no_such_role", ""])
    expect(await ask({ role }, "{ __typename }"), role).toMatchObject({
      status: 401,
      errors: [{ extensions: { code: "UNAUTHENTICATED" } }],
    });
});

test.each([
  ["of a table", "revoke select on analytics.daily_user_metrics from strata_reader"],
  ["of a column", "revoke select (total_revenue) on analytics.daily_user_metrics from strata_reader"],
  ["of the schema", "revoke usage on schema analytics from strata_reader"],
])("kept answers do not outlive the revoke %s", async (_, revoke) => {
  const restore = `grant usage on schema analytics to strata_reader; grant select on analytics.daily_user_metrics to strata_reader`;
  await sql(restore);
  if (revoke.includes("("))
    await sql(`revoke select on analytics.daily_user_metrics from strata_reader;
      grant select (date, country, active_users, total_revenue, avg_transaction) on analytics.daily_user_metrics to strata_reader`);
  const query = "{ dailyUserMetrics { nodes { totalRevenue } } }";
  for (let i = 0; i < 3; i++) expect((await ask({ role: "reader" }, query)).errors).toEqual([]);
  await sql(revoke);
  expect((await ask({ role: "reader" }, query)).errors).toMatchObject([
    { extensions: { code: "FORBIDDEN" } },
  ]);
  await sql(restore);
  expect((await ask({ role: "reader" }, query)).errors).toEqual([]);
});
