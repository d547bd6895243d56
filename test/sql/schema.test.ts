import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { applySchema } from "../../src/database/migrate.ts";
import { useDatabase } from "../support/use-database.ts";

const { database, sql } = useDatabase();
const names = async (text: string) => (await sql<{ name: string }>(text)).map(({ name }) => name);

const OURS = "('staging', 'production', 'analytics', 'strata')";

/** Every definition, comment, right and row that schema.sql makes. */
const CATALOGUE = `
  select 'column' as kind, attrelid::regclass || '.' || attname as name,
         concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attacl) as definition
  from pg_attribute join pg_class c on c.oid = attrelid left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where relnamespace::regnamespace::text in ${OURS} and attnum > 0
  union all
  select 'relation', oid::regclass::text, concat_ws(' ', relkind, relacl, relrowsecurity, pg_get_viewdef(oid))
  from pg_class where relnamespace::regnamespace::text in ${OURS} and relkind in ('r', 'v', 'm', 'S')
  union all
  select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
  from pg_index join pg_class c on c.oid = indrelid where relnamespace::regnamespace::text in ${OURS}
  union all
  select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
  where connamespace::regnamespace::text in ${OURS}
  union all
  select 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) from pg_trigger
  where not tgisinternal and tgrelid::regclass::text not like 'graphile%'
  union all
  select 'function', oid::regprocedure::text, concat_ws(' ', proacl, prosecdef, pg_get_functiondef(oid)) from pg_proc
  where pronamespace::regnamespace::text in ${OURS} or proname = 'update_updated_at_column'
  union all
  select 'policy', polrelid::regclass || '.' || polname, concat_ws(' ', polcmd, polroles, pg_get_expr(polqual, polrelid)) from pg_policy
  where polrelid::regclass::text not like 'graphile%'
  union all
  select 'comment', concat_ws(' ', classoid::regclass, objoid, objsubid), description from pg_description
  where objoid >= 16384
  union all
  select 'schema', nspname, nspacl::text from pg_namespace where nspname in ${OURS}
  union all
  select 'rows', 'dim_date', concat_ws(' ', count(*), max(date_id), (select last_value from production.dim_date_date_id_seq)) from production.dim_date
  union all
  select 'rows', 'state', concat_ws(' ', to_jsonb(s), (select count(*) from strata.changes), (select count(*) from strata.datasets), (select count(*) from strata.metrics))
  from strata.refresh_state s
  order by 1, 2, 3`;

test("applying the file again changes nothing", async () => {
  const before = await sql(CATALOGUE);
  expect(before.length).toBeGreaterThan(300);
  await applySchema(database().pool);
  expect(await sql(CATALOGUE)).toEqual(before);
});

test("everything has a comment", async () => {
  expect(
    await names(`
      select n.nspname as name from pg_namespace n
      where n.nspname in ${OURS} and obj_description(n.oid, 'pg_namespace') is null
      union all
      select c.oid::regclass::text from pg_class c
      where c.relnamespace::regnamespace::text in ${OURS} and c.relkind in ('r', 'v', 'm') and obj_description(c.oid, 'pg_class') is null
      union all
      select c.oid::regclass || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
      where c.relnamespace::regnamespace::text in ${OURS} and c.relkind in ('r', 'v', 'm') and a.attnum > 0 and not a.attisdropped
        -- Columns of mapping views and of metrics' queries are those of the tables that they fill.
        and not (c.relkind = 'v' and (c.relnamespace = 'staging'::regnamespace or c.relname like 'metric\\_%'))
        and col_description(c.oid, a.attnum) is null
      union all
      select p.oid::regprocedure::text from pg_proc p
      where (p.pronamespace::regnamespace::text in ${OURS} or p.proname = 'update_updated_at_column') and obj_description(p.oid, 'pg_proc') is null
      union all
      select t.tgrelid::regclass || '.' || t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid
      where c.relnamespace::regnamespace::text in ${OURS} and not t.tgisinternal and obj_description(t.oid, 'pg_trigger') is null
      union all
      select p.polrelid::regclass || '.' || p.polname from pg_policy p join pg_class c on c.oid = p.polrelid
      where c.relnamespace::regnamespace::text in ${OURS} and obj_description(p.oid, 'pg_policy') is null
      order by 1`),
  ).toEqual([]);
});

test("every foreign key has an index and says what a delete does", async () => {
  expect(
    await names(`
      select k.conrelid::regclass || '.' || k.conname as name from pg_constraint k
      where k.contype = 'f' and k.connamespace::regnamespace::text in ${OURS}
        and (k.confdeltype = 'a' or not exists (
          select from pg_index i
          where i.indrelid = k.conrelid and i.indpred is null and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
        ))`),
  ).toEqual([]);
  expect(
    await names(
      `select conname as name from pg_constraint where contype = 'f' and connamespace::regnamespace::text in ${OURS}`,
    ),
  ).toHaveLength(6);
});

test("PUBLIC may do nothing with what is ours", async () => {
  expect(
    await names(`
      select p.oid::regprocedure::text as name from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where (p.pronamespace::regnamespace::text in ${OURS} or p.proname = 'update_updated_at_column') and a.grantee = 0
      union all
      select c.oid::regclass::text from pg_class c, aclexplode(c.relacl) a
      where c.relnamespace::regnamespace::text in ${OURS} and a.grantee = 0
      union all
      select n.nspname from pg_namespace n, aclexplode(n.nspacl) a where n.nspname in ${OURS} and a.grantee = 0`),
  ).toEqual([]);
});

test("functions that run with their owner's rights have a fixed search path", async () => {
  expect(
    await names(`
      select p.oid::regprocedure::text as name from pg_proc p
      where p.pronamespace::regnamespace::text in ${OURS} and p.prosecdef
        and not coalesce(p.proconfig::text like '%search_path=pg\\_catalog, pg\\_temp%', false)`),
  ).toEqual([]);
});

test("the roles may execute these functions and no others", async () => {
  expect(
    await sql(`
      select r.rolname as role, array_agg(p.pronamespace::regnamespace || '.' || p.proname order by p.proname) as functions
      from pg_proc p, aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
      where p.pronamespace::regnamespace::text in ${OURS} and a.grantee <> p.proowner
      group by 1 order by 1`),
  ).toEqual([
    { role: "strata_ingestor", functions: ["strata.start_ingest_run"] },
    {
      role: "strata_operator",
      functions: ["analytics.discard_quarantined", "strata.start_ingest_run", "strata.start_run"],
    },
    {
      role: "strata_reader",
      functions: [
        "strata.dataset_rows",
        "strata.freshness_rows",
        "strata.idle_users_now",
        "strata.lineage_edges",
        "strata.stale_partitions",
        "strata.stale_rows",
      ],
    },
  ]);
});

test.each(["strata_reader", "strata_ingestor", "strata_operator"])(
  "%s has no way into staging",
  async (role) => {
    expect(await sql("select has_schema_privilege($1, 'staging', 'usage') as usage", [role])).toEqual([
      { usage: false },
    ]);
  },
);

test("a reader sees the live view, but no address and no error of a run", async () => {
  const client = await database().pool.connect();
  const as = async (text: string) => {
    await client.query("begin");
    try {
      await client.query("select set_config('role', 'strata_reader', true)");
      return (await client.query(text)).rows as unknown[];
    } finally {
      await client.query("rollback");
    }
  };
  try {
    for (const view of ["daily_user_metrics", "daily_user_metrics_live", "quarterly_revenue", "freshness"])
      await expect(as(`select * from analytics.${view}`)).resolves.toBeInstanceOf(Array);
    await expect(as("select username, country from production.users")).resolves.toEqual([]);
    for (const forbidden of [
      "select email from production.users",
      "select error from analytics.pipeline_runs",
      "select from strata.changes",
      "select from strata.daily_rollup",
      "select from strata.runs",
      "select strata.refresh()",
      "select strata.note_refresh()",
    ])
      await expect(as(forbidden), forbidden).rejects.toMatchObject({ code: "42501" });
  } finally {
    client.release();
  }
});

test("init.sql applies the same files as `strata migrate`, in the same order", () => {
  const root = new URL("../../", import.meta.url);
  const listed = [...readFileSync(new URL("init.sql", root), "utf8").matchAll(/^\\ir (\S+)$/gm)].map(
    ([, name]) => name,
  );
  const files = readdirSync(new URL("sql/", root)).sort();
  expect(listed).toEqual([...files.map((name) => `sql/${name}`), "schema.sql"]);
});
