// Checks of a database that answers. Each statement returns the problems that it finds, one per row.

export interface SqlCheck {
  name: string;
  /** A failure keeps Strata from working correctly; a warning needs attention. */
  severity: "failure" | "warning";
  sql: string;
  parameters?: () => unknown[];
  advice: string;
  /** Skipped on the embedded database. */
  serverOnly?: boolean;
}

const OURS = "('staging', 'production', 'analytics', 'strata')";

export const sqlChecks: SqlCheck[] = [
  {
    name: "extensions",
    severity: "failure",
    sql: `
      select format('%s is not installed', name) as problem
      from unnest(array['postgis', 'uuid-ossp']) name
      where not exists (select from pg_extension e where e.extname = name)`,
    advice: "Run: npx strata-graphql migrate",
  },
  {
    name: "extension versions",
    severity: "warning",
    sql: `
      select format('%s is at %s, the server has %s', name, installed_version, default_version) as problem
      from pg_available_extensions
      where name in ('postgis', 'uuid-ossp') and installed_version <> default_version`,
    advice: "As superuser: alter extension … update (PostGIS: select postgis_extensions_upgrade())",
  },
  {
    name: "roles",
    severity: "failure",
    sql: `
      with roles as (
        select name, r.oid, r.rolsuper or r.rolbypassrls or r.rolcreaterole as powerful, r.rolcanlogin
        from unnest(array['strata_reader', 'strata_ingestor', 'strata_operator']) name
        left join pg_roles r on r.rolname = name
      ), privilege (name) as (
        select case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end
      )
      select format('The role %s does not exist', name) as problem from roles where oid is null
      union all
      select format('%s may more than any token should give: superuser, bypassrls or createrole', name) from roles where powerful
      union all
      select format('%s can log in', name) from roles where rolcanlogin
      union all
      select format('The login %s may not switch to %s', current_user, roles.name) from roles, privilege
      where oid is not null and not pg_has_role(current_user, oid, privilege.name)
      union all
      select format('strata_operator is not a member of %s', name) from roles
      where oid is not null and name <> 'strata_operator'
        and not pg_has_role(coalesce((select oid from roles where name = 'strata_operator'), oid), oid, 'USAGE')`,
    advice: "Run: npx strata-graphql migrate; then alter role … nologin nosuperuser nobypassrls nocreaterole",
  },
  {
    name: "login",
    severity: "warning",
    serverOnly: true,
    sql: `
      select format('The login %s is a superuser', current_user) as problem
      from pg_roles where rolname = current_user and rolsuper`,
    advice: "Serve with an ordinary login that owns the schemas and is a member of the three roles",
  },
  {
    name: "rights of PUBLIC",
    severity: "failure",
    sql: `
      select format('Everybody has %s on schema %s', a.privilege_type, n.nspname) as problem
      from pg_namespace n, aclexplode(n.nspacl) a where n.nspname in ${OURS} and a.grantee = 0
      union all
      select format('Everybody has %s on %s.%s', a.privilege_type, n.nspname, c.relname)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a
      where n.nspname in ${OURS} and a.grantee = 0
      union all
      select format('Everybody has %s on column %s.%s.%s', a.privilege_type, n.nspname, c.relname, t.attname)
      from pg_attribute t join pg_class c on c.oid = t.attrelid join pg_namespace n on n.oid = c.relnamespace, aclexplode(t.attacl) a
      where n.nspname in ${OURS} and a.grantee = 0
      union all
      select format('Everybody may execute %s', p.oid::regprocedure)
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where n.nspname in ${OURS} and a.grantee = 0
      union all
      select 'Everybody may create objects in schema public' from pg_namespace n, aclexplode(n.nspacl) a
      where n.nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE'`,
    advice: "Run: npx strata-graphql migrate; then revoke … from public",
  },
  {
    name: "rights in staging",
    severity: "failure",
    sql: `
      select format('%s may use schema staging', r.rolname) as problem
      from pg_roles r join pg_namespace n on n.nspname = 'staging'
      where r.rolname in ('strata_reader', 'strata_ingestor', 'strata_operator') and has_schema_privilege(r.oid, n.oid, 'USAGE')
      order by r.rolname`,
    advice: "Run: revoke all on schema staging from strata_reader, strata_ingestor, strata_operator",
  },
  {
    name: "functions with their owner's rights",
    severity: "failure",
    sql: `
      select format('%s is security definer without a fixed search_path', p.oid::regprocedure) as problem
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ${OURS} and p.prosecdef
        and not exists (select from unnest(p.proconfig) setting where setting like 'search\\_path=%')`,
    advice: "Run: npx strata-graphql migrate",
  },
  {
    name: "triggers",
    severity: "failure",
    sql: `
      select format('The trigger %s on %s is switched off', t.tgname, t.tgrelid::regclass) as problem
      from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${OURS} and t.tgenabled not in ('O', 'A')`,
    advice:
      "Run: alter table … enable trigger all; then npx strata-graphql refresh --full, for what was not noticed meanwhile",
  },
  {
    name: "indexes",
    severity: "failure",
    sql: `
      select format('The index %s is not valid', i.indexrelid::regclass) as problem
      from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${OURS} and not i.indisvalid`,
    advice: "Run: reindex index …",
  },
  {
    name: "foreign keys without index",
    severity: "failure",
    sql: `
      select format('%s on %s has no index: deleting a row it refers to reads the whole table', k.conname, k.conrelid::regclass) as problem
      from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${OURS} and k.contype = 'f'
        and not exists (
          select from pg_index i
          where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null
            and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
        )`,
    advice: "Run: create index on the columns of the foreign key, or npx strata-graphql migrate",
  },
  {
    name: "materialized views",
    severity: "failure",
    sql: `
      select format('%s has no unique index on plain columns: it cannot be refreshed while it is read', c.oid::regclass) as problem
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${OURS} and c.relkind = 'm'
        and not exists (
          select from pg_index i
          where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
        )
      union all
      select format('%s was never filled', c.oid::regclass)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${OURS} and c.relkind = 'm' and not c.relispopulated`,
    advice: "Run: npx strata-graphql migrate; then npx strata-graphql refresh, which fills it",
  },
  {
    name: "sequences",
    severity: "failure",
    sql: `
      select format('%s has given out %s, %s holds %s', s.sequence, s.given, s.relation, s.used) as problem
      from (
        select c.sequence, d.relation,
               coalesce(pg_sequence_last_value(c.sequence), 0) as given,
               (xpath('/row/max/text()', query_to_xml(format('select max(%I) from %s', c.name, d.relation), false, true, '')))[1]::text::bigint as used
        from (select oid::regclass as relation from pg_class where relnamespace = 'production'::regnamespace and relkind in ('r', 'p')) d
        cross join lateral strata.table_columns(d.relation) c
        where c.sequence is not null
      ) s
      where s.used > s.given
      order by 1`,
    advice:
      "Run: select setval('<sequence>', <the greater number>); until then the next created row collides",
  },
  {
    name: "datasets",
    severity: "failure",
    sql: `
      select format('The dataset %s has no table %s', d.dataset, t.name) as problem
      from strata.datasets d
      cross join lateral (values ('production.' || d.dataset, strata.production_table(d.dataset)), ('staging.raw_' || d.dataset, strata.raw_table(d.dataset))) t (name, relation)
      where t.relation is null
      order by 1`,
    advice:
      "Create the table again and run: npx strata-graphql migrate; or forget the dataset: select strata.remove_dataset('…')",
  },
  {
    name: "metrics",
    severity: "failure",
    sql: `
      select format('%s failed in the last refresh: %s', metric, error) as problem from strata.metrics where error is not null
      union all
      select format('%s_live differs from its query in %s rows', m.metric, d.differences)
      from strata.metrics m
      cross join lateral (select case when m.error is null then strata.count_differences(m.metric) end as differences) d
      where d.differences > 0
      union all
      select format('daily_user_metrics lacks %s groups, although nothing has changed since its refresh', count(*))
      from (table analytics.daily_user_metrics_live except table analytics.daily_user_metrics) m
      where not exists (select from strata.changes) having count(*) > 0`,
    advice: "Run: npx strata-graphql refresh --full; it computes everything again",
  },
  {
    name: "triggers of metrics",
    severity: "failure",
    sql: `
      select distinct format('%s has no trigger %s: metrics do not notice its changes', s ->> 'relation', t.name) as problem
      from strata.metrics m
      cross join lateral jsonb_array_elements(m.analysis -> 'sources') s
      cross join (values ('strata_updated'), ('strata_deleted'), ('strata_truncated')) t (name)
      where to_regclass(s ->> 'relation') is not null
        and not exists (select from pg_trigger g where g.tgrelid = to_regclass(s ->> 'relation') and g.tgname = t.name)
      order by 1`,
    advice:
      "Run: npx strata-graphql migrate; then npx strata-graphql refresh --full, for what was not noticed meanwhile",
  },
  {
    name: "metrics computed as a whole",
    severity: "warning",
    sql: `
      select format('%s is computed as a whole by each refresh: %s', metric, why) as problem
      from strata.metrics where mode = 'whole' and partition_column is not null
      union all
      select format('%s is computed by reading all of %s: no index has %s first', metric, analysis ->> 'fact', analysis ->> 'partition')
      from strata.metrics m
      where mode = 'partition' and strata.estimated_rows(to_regclass(analysis ->> 'fact')) > 10000
        and not exists (
          select from pg_index i
          where i.indrelid = to_regclass(m.analysis ->> 'fact') and i.indisvalid and i.indpred is null
            and regexp_replace(pg_get_indexdef(i.indexrelid, 1, true), '[() ]', '', 'g')
              = regexp_replace(regexp_replace(m.analysis ->> 'partition', '\\m\\w+\\.(?=\\w)', '', 'g'), '[() ]', '', 'g')
        )
      order by 1`,
    advice: "Change the query so that the reason goes, or create the index; the results are exact either way",
  },
  {
    name: "runs",
    severity: "failure",
    sql: `
      select format('Run %s (%s) is running, but has sent no heartbeat since %s', run_id, step, heartbeat_at) as problem
      from strata.runs where status = 'running' and heartbeat_at < now() - interval '1 minute'`,
    advice: "Start the step again: that closes the dead run first",
  },
  {
    name: "waiting work",
    severity: "warning",
    sql: `
      select format('Run %s (%s) has waited since %s', run_id, step, queued_at) as problem
      from strata.runs where status = 'queued' and queued_at < now() - interval '10 minutes'
      union all
      select format('The last %s failed (run %s): %s', step, run_id, error)
      from (select distinct on (step) * from strata.runs where finished_at is not null order by step, run_id desc) last
      where status = 'failed'
      union all
      select format('%s is %s hours behind its source', dataset, round(lag_seconds / 3600)) from analytics.freshness where lag_seconds > 36 * 3600
      union all
      select format('A transaction of %s is open since %s: the transform cannot take what arrived meanwhile', coalesce(usename, 'somebody'), xact_start)
      from pg_stat_activity
      where backend_xid is not null and xact_start < now() - interval '1 hour' and pid <> pg_backend_pid()`,
    advice:
      "See that a worker runs (serve, or npx strata-graphql worker), and what npx strata-graphql status says",
  },
  {
    name: "incidents",
    severity: "warning",
    sql: `
      select format('%s Since %s.', detail, strata.iso_time(opened_at)) as problem
      from strata.incidents where resolved_at is null
      union all
      select format('%s is later than promised: rows of %s are missing', dataset, make_interval(secs => round(lag_seconds)))
      from analytics.freshness f where is_late
        and not exists (select from strata.incidents i where i.kind = 'freshness' and i.subject = f.dataset and i.resolved_at is null)`,
    advice: "See npx strata-graphql alerts, status and quarantine; over is what a later run puts right",
  },
  {
    name: "messages to receivers",
    severity: "warning",
    sql: `
      select format('%s messages for %s wait since %s', count(*), receiver, strata.iso_time(min(created_at))) as problem
      from strata.outbox where rejected is null and created_at < now() - interval '10 minutes' group by receiver
      union all
      select format('%s messages for %s were rejected, the last one because %s', count(*), receiver, (array_agg(rejected order by message_id desc))[1])
      from strata.outbox where rejected is not null group by receiver`,
    advice:
      "See that a worker runs, and that the receiver answers (npx strata-graphql alerts test); what waits is sent then",
  },
  {
    name: "watermarks",
    severity: "warning",
    sql: `
      select format('The watermark of %s is ahead of this server: the database was restored into another one', dataset) as problem
      from strata.datasets where xid >= pg_snapshot_xmax(pg_current_snapshot())`,
    advice: "Run: npx strata-graphql transform; it starts over from the rows in staging",
  },
  {
    name: "clock",
    severity: "warning",
    sql: `
      select format('The clocks of this machine and of the database differ by %s s', round(abs(difference)::numeric, 1)) as problem
      from (select extract(epoch from clock_timestamp() - $1::timestamptz)) clocks (difference) where abs(difference) > 5`,
    parameters: () => [new Date().toISOString()],
    advice: "Synchronize both with NTP; tokens and schedules go by the clock",
  },
  {
    name: "time zone",
    severity: "warning",
    serverOnly: true,
    sql: `
      select format('Sessions of other programs on %s do not start in UTC', current_database()) as problem
      where not exists (
        select from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) setting
        where d.datname = current_database() and s.setrole = 0 and lower(setting) in ('timezone=utc', 'timezone=etc/utc')
      )`,
    advice:
      "Run: alter database … set timezone = 'UTC'; columns without a zone hold UTC, whoever writes them",
  },
];
