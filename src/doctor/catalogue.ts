// Compares the installed objects with those that sql/ and schema.sql make in an empty database.
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Pool } from "pg";
import { createPool, type Database } from "../database/connect.ts";
import { openEmbedded } from "../embedded/embedded.ts";
import { applySchema } from "../database/migrate.ts";
import { rolledBack } from "../database/transaction.ts";

// One row per object. The owner's own rights are left out: they are called differently everywhere.
const CATALOGUE = `
  with ours as (select oid, nspname from pg_namespace where nspname in ('staging', 'production', 'analytics', 'strata')),
  relations as (select c.*, ours.nspname from pg_class c join ours on ours.oid = c.relnamespace)
  select 'column' as kind, format('%s.%s.%s', r.nspname, r.relname, a.attname) as name,
         concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end, a.attidentity, a.attgenerated,
                   pg_get_expr(d.adbin, d.adrelid)) as definition
  from pg_attribute a join relations r on r.oid = a.attrelid left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
  where a.attnum > 0 and not a.attisdropped and r.relkind in ('r', 'p', 'v', 'm')
  union all
  select 'constraint', format('%s.%s.%s', r.nspname, r.relname, k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint k join relations r on r.oid = k.conrelid where k.contype <> 'n'
  union all
  select 'index', format('%s.%s', r.nspname, r.relname), pg_get_indexdef(r.oid) from relations r where r.relkind = 'i'
  union all
  select 'view', format('%s.%s', r.nspname, r.relname), pg_get_viewdef(r.oid) from relations r where r.relkind in ('v', 'm')
  union all
  select 'trigger', format('%s.%s.%s', r.nspname, r.relname, t.tgname), pg_get_triggerdef(t.oid)
  from pg_trigger t join relations r on r.oid = t.tgrelid
  -- Triggers of metrics depend on which metrics there are; a check of their own looks at them.
  where not t.tgisinternal and t.tgname not like 'strata\\_%'
  union all
  select 'policy', format('%s.%s.%s', p.schemaname, p.tablename, p.policyname), concat_ws(' ', p.cmd, p.roles, p.qual, p.with_check)
  from pg_policies p join ours on ours.nspname = p.schemaname
  union all
  select 'row security', format('%s.%s', r.nspname, r.relname), 'enabled' from relations r where r.relrowsecurity
  union all
  select 'function', format('%s.%s(%s)', ours.nspname, p.proname, oidvectortypes(p.proargtypes)), pg_get_functiondef(p.oid)
  from pg_proc p join ours on ours.oid = p.pronamespace
  union all
  select 'right', format('%s of %s on %s', a.privilege_type, coalesce(g.rolname, 'PUBLIC'), a.name), ''
  from (
    select format('schema %s', n.nspname) as name, n.nspowner as owner, (aclexplode(n.nspacl)).* from pg_namespace n join ours using (oid)
    union all
    select format('%s.%s', r.nspname, r.relname), r.relowner, (aclexplode(r.relacl)).* from relations r
    union all
    select format('%s.%s.%s', r.nspname, r.relname, t.attname), r.relowner, (aclexplode(t.attacl)).*
    from pg_attribute t join relations r on r.oid = t.attrelid
    union all
    select format('%s.%s(%s)', ours.nspname, p.proname, oidvectortypes(p.proargtypes)), p.proowner, (aclexplode(p.proacl)).*
    from pg_proc p join ours on ours.oid = p.pronamespace
  ) a left join pg_roles g on g.oid = a.grantee
  where a.grantee <> a.owner`;

// PostgreSQL prints `varchar in (…)` in another way once it was restored; reading the definition again makes both
// equal.
const REPEAT_CHECKS = `
  do $$
  declare
    statement text;
  begin
    for statement in
      select format('alter table %s drop constraint %I, add constraint %2$I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
      from pg_constraint k join pg_namespace n on n.oid = k.connamespace
      where k.contype = 'c' and k.conrelid <> 0 and n.nspname in ('staging', 'production', 'analytics', 'strata')
    loop
      execute statement;
    end loop;
  end $$`;

type Catalogue = Map<string, string>;

function list(pool: Pool): Promise<Catalogue> {
  return rolledBack(pool, async (client) => {
    // A fixed search path: definitions omit the schemas that are on it, and databases differ in it.
    await client.query("set local search_path = pg_catalog");
    const { rows } = await client.query<{ kind: string; name: string; definition: string }>(CATALOGUE);
    return new Map(rows.map(({ kind, name, definition }) => [`${kind} ${name}`, definition]));
  });
}

export interface Drift {
  missing: string[];
  changed: string[];
  /** Objects in the machinery that Strata does not make. Datasets, metrics and views of one's own are no drift. */
  unexpected: string[];
}

export async function findDrift(database: Database): Promise<Drift> {
  const installed = await list(database.pool);
  const [wanted, restored] = await withScratch(database, async (pool) => {
    const made = await list(pool);
    await pool.query(REPEAT_CHECKS);
    return [made, await list(pool)] as const;
  });
  return {
    missing: [...wanted.keys()].filter((name) => !installed.has(name)),
    changed: [...wanted]
      .filter(
        ([name, definition]) => ![undefined, definition, restored.get(name)].includes(installed.get(name)),
      )
      .map(([name]) => name),
    unexpected: [...installed.keys()].filter(
      (name) => /^\S+ (\S+ of \S+ on )?strata\.(?!metric_)/.test(name) && !wanted.has(name),
    ),
  };
}

/** The comparison database is on the same server, since versions of PostgreSQL print definitions differently. */
async function withScratch<T>(database: Database, work: (pool: Pool) => Promise<T>): Promise<T> {
  const scratch = database.embedded ? await createScratchFolder() : await createScratchDatabase(database);
  try {
    await applySchema(scratch.pool);
    return await work(scratch.pool);
  } finally {
    await scratch.remove();
  }
}

async function createScratchFolder() {
  const folder = mkdtempSync(join(tmpdir(), "strata-doctor-"));
  const engine = await openEmbedded(folder);
  const pool = createPool(engine.connection);
  const remove = async (): Promise<void> => {
    await pool.end();
    await engine.close();
    rmSync(folder, { recursive: true, force: true });
  };
  return { pool, remove };
}

async function createScratchDatabase({ pool: administrator, connection }: Database) {
  const name = `strata_doctor_${randomBytes(6).toString("hex")}`;
  await administrator.query(`create database ${name} template template0`);
  const url = new URL(connection.connectionString!);
  url.pathname = `/${name}`;
  const pool = createPool({ connectionString: url.href }, { max: 1 });
  const remove = async (): Promise<void> => {
    await pool.end();
    await administrator.query(`drop database if exists ${name} with (force)`);
  };
  return { pool, remove };
}
