// What may you: every privilege of every role on every object, as a table to read, and the rules behind it.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const rows = async <T extends object>(text: string): Promise<T[]> =>
  (await database.pool.query<T>(text)).rows;

/** Everything granted to somebody else than its owner, in our schemas and on our functions elsewhere. */
const GRANTS = `
  with granted (object, acl) as (
    select 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) from pg_namespace
     where nspname in ('staging', 'production', 'analytics', 'strata', 'graphile_worker')
    union all
    select c.oid::regclass::text, coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
      from pg_class c join pg_namespace n on n.oid = relnamespace
     where nspname in ('staging', 'production', 'analytics', 'strata', 'graphile_worker') and relkind in ('r', 'v', 'm', 'S', 'p', 'f')
    union all
    select a.attrelid::regclass || '.' || attname, attacl
      from pg_attribute a join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
     where nspname in ('staging', 'production', 'analytics', 'strata', 'graphile_worker') and attacl is not null
    union all
    select p.oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where nspname in ('staging', 'production', 'analytics', 'strata') or p.oid = 'public.update_updated_at_column()'::regprocedure
  )
  select coalesce(pg_get_userbyid(nullif(grantee, 0)), 'PUBLIC') as grantee, lower(privilege_type) as privilege, object, is_grantable
    from granted, aclexplode(acl)
   where grantee <> grantor
   order by 1, 3, 2`;

interface Grant {
  grantee: string;
  privilege: string;
  object: string;
  is_grantable: boolean;
}

/** One line for each role, object and set of privileges; columns of a table in one line. */
function readable(grants: Grant[]): string {
  const lines = new Map<string, Set<string>>();
  for (const { grantee, privilege, object } of grants) {
    const [, table, column] = /^(\w+\.\w+)\.(\w+)$/.exec(object) ?? [];
    const who = grantee.replace("pg_database_owner", "the owner").replace("strata_", "");
    const key = column ? `${who}: ${privilege} on ${table}` : `${who}: ${object}`;
    if (!lines.has(key)) lines.set(key, new Set());
    lines.get(key)!.add(column ?? privilege);
  }
  return [...lines]
    .map(([key, values]) => {
      const [who, what] = key.split(": ");
      return / on /.test(what!)
        ? `${who}: ${what} (${[...values].join(", ")})`
        : `${who}: ${[...values].join(", ")} on ${what}`;
    })
    .sort()
    .join("\n");
}

/** Who may what. A line that is new here is a decision: change it with the grant, and say why there. */
const EXPECTED = `
ingestor: execute on strata.start_ingest_run(text,text,text,jsonb)
ingestor: insert on staging.raw_events
ingestor: insert on staging.raw_transactions
ingestor: insert on staging.raw_users
ingestor: select on analytics.pipeline_runs
ingestor: select on analytics.run_datasets
ingestor: usage on schema analytics
ingestor: usage on schema strata
operator: delete on production.events
operator: delete on production.transactions
operator: delete, select on production.users
operator: execute on analytics.discard_quarantined(bigint[],text,boolean,text)
operator: execute on strata.start_ingest_run(text,text,text,jsonb)
operator: execute on strata.start_run(text,text,text,jsonb,bigint)
operator: insert on production.events (event_data, event_id, event_time, event_type, position, user_id)
operator: insert on production.transactions (amount, status, transaction_date, transaction_id, user_id)
operator: insert on production.users (country, created_at, email, email_verified, user_id, username)
operator: select on analytics.pipeline_incidents
operator: select on analytics.pipeline_runs
operator: select on analytics.quarantine
operator: update on production.dim_date (is_holiday)
operator: update on production.events (event_data, event_time, event_type, position, user_id)
operator: update on production.transactions (amount, status, transaction_date, user_id)
operator: update on production.users (country, created_at, email, email_verified, username)
operator: usage on production.events_event_id_seq
operator: usage on production.transactions_transaction_id_seq
operator: usage on production.users_user_id_seq
operator: usage on schema strata
reader: execute on strata.dataset_rows()
reader: execute on strata.freshness_rows()
reader: execute on strata.idle_users_now()
reader: execute on strata.lineage_edges()
reader: execute on strata.stale_partitions(text,boolean)
reader: execute on strata.stale_rows(anyelement)
reader: select on analytics.daily_revenue
reader: select on analytics.daily_revenue_live
reader: select on analytics.daily_user_metrics
reader: select on analytics.daily_user_metrics_live
reader: select on analytics.datasets
reader: select on analytics.freshness
reader: select on analytics.lineage
reader: select on analytics.pipeline_runs (dataset, duration_ms, finished_at, heartbeat_at, parent_run_id, progress, queued_at, rows_deleted, rows_read, rows_rejected, rows_replaced, rows_replaced_from_other_source, rows_written, run_id, started_at, status, step, trigger)
reader: select on analytics.quarterly_revenue
reader: select on analytics.refresh_state
reader: select on analytics.run_datasets
reader: select on production.dim_date
reader: select on production.events
reader: select on production.transactions
reader: select on production.users (country, created_at, email_verified, source_seq, strata_source, updated_at, user_id, username)
reader: usage on schema analytics
reader: usage on schema production
`;

test("nobody has a privilege that is not in the table above", async () => {
  const grants = await rows<Grant>(GRANTS);
  expect(readable(grants)).toBe(EXPECTED.trim());
  expect(grants.filter(({ is_grantable }) => is_grantable)).toEqual([]);
});

test("the roles have no powers of their own, and the operator is the only member of others", async () => {
  expect(
    await rows(`
      select rolname, rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as powers,
             array(select pg_get_userbyid(roleid)::text from pg_auth_members where member = r.oid order by 1) as member_of
        from pg_roles r where rolname like 'strata\\_%' order by 1`),
  ).toEqual([
    { rolname: "strata_ingestor", powers: false, member_of: [] },
    { rolname: "strata_operator", powers: false, member_of: ["strata_ingestor", "strata_reader"] },
    { rolname: "strata_reader", powers: false, member_of: [] },
  ]);
});

// INSERT on a raw table says who may push; without USAGE on the schema nobody gets there by SQL.
test("no role reaches staging or the job queue, by whatever way a privilege may come", async () => {
  expect(
    await rows(`
      select r.rolname, c.oid::regclass::text as object
        from pg_roles r, pg_class c join pg_namespace n on n.oid = relnamespace
       where r.rolname like 'strata\\_%' and nspname in ('staging', 'graphile_worker')
         and (has_schema_privilege(r.oid, n.oid, 'usage, create')
              or case when relkind = 'S' then has_sequence_privilege(r.oid, c.oid, 'usage, select, update')
                      when relkind in ('r', 'v', 'm') then has_any_column_privilege(r.oid, c.oid, 'select, update')
                        or has_table_privilege(r.oid, c.oid, 'delete, truncate, trigger') end)`),
  ).toEqual([]);
});

test("no role may create objects, nor PUBLIC execute a function of ours", async () => {
  expect(
    await rows(`
      select rolname, nspname from pg_roles, pg_namespace
       where rolname like 'strata\\_%' and nspname !~ '^pg_' and has_schema_privilege(pg_roles.oid, pg_namespace.oid, 'create')`),
  ).toEqual([]);
  const grants = await rows<Grant>(GRANTS);
  expect(grants.filter(({ grantee }) => grantee === "PUBLIC")).toEqual([]);
});

test("functions that act as their owner look names up in no schema that a caller could fill", async () => {
  const functions = await rows<{ name: string; path: string | null }>(`
    select p.oid::regprocedure::text as name,
           (select split_part(setting, '=', 2) from unnest(proconfig) setting where setting like 'search_path=%') as path
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where prosecdef and nspname in ('staging', 'production', 'analytics', 'strata') order by 1`);
  expect(functions.length).toBeGreaterThan(0);
  for (const { name, path } of functions) expect(path, name).toBe("pg_catalog, pg_temp");
});

test("e-mail addresses, errors of runs and rejected rows are behind no readable column", async () => {
  expect(
    await rows(`
      select r.rolname, c.oid::regclass || '.' || attname as column
        from pg_roles r, pg_attribute a join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
       where rolname in ('strata_reader', 'strata_ingestor') and nspname in ('staging', 'production', 'analytics')
         and relkind in ('r', 'v', 'm') and attname in ('email', 'error', 'payload', 'raw_text', 'detail')
         and has_column_privilege(r.oid, c.oid, attnum, 'select') order by 1, 2`),
  ).toEqual([{ rolname: "strata_ingestor", column: "analytics.pipeline_runs.error" }]);
});

test("an ingestor sees the runs that it asked for and no others", async () => {
  const client = await database.pool.connect();
  try {
    await client.query("begin");
    await client.query(`
      insert into strata.runs (step, status, trigger, actor, dataset)
      values ('ingest', 'succeeded', 'api', 'crm', 'users'), ('ingest', 'succeeded', 'api', 'shop', 'users'),
             ('transform', 'succeeded', 'api', 'crm', null), ('ingest', 'succeeded', 'cli', 'crm', 'users'),
             ('ingest', 'succeeded', 'sql', 'crm', 'users')`);
    await client.query(
      "select set_config('strata.sub', 'crm', true), set_config('role', 'strata_ingestor', true)",
    );
    expect((await client.query("select step, trigger, actor from analytics.pipeline_runs")).rows).toEqual([
      { step: "ingest", trigger: "api", actor: "crm" },
    ]);
  } finally {
    await client.query("rollback");
    client.release();
  }
});
