-- ======================================================================================================
-- Rights, and following changes of the catalogue
-- ======================================================================================================

create or replace function strata.catalogue_digest()
returns text
language sql stable set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  with relations as (
    select c.* from pg_class c
    where c.relnamespace in ('production'::regnamespace, 'analytics'::regnamespace) and c.relkind in ('r', 'v', 'm', 'p', 'f')
  )
  select md5(coalesce(string_agg(x.item, E'\n' order by x.item), '')) from (
    select concat_ws(' ', 'relation', r.oid, r.relname, r.relkind, r.relacl, r.relrowsecurity, r.reloptions, obj_description(r.oid, 'pg_class'),
                     case when r.relkind in ('v', 'm') then md5(pg_get_viewdef(r.oid)) end) from relations r
    union all
    select concat_ws(' ', 'policy', p.polrelid, p.polname, pg_get_expr(p.polqual, p.polrelid)) from pg_policy p where p.polrelid in (select r.oid from relations r)
    union all
    select concat_ws(' ', 'member', m.roleid::regrole, m.member::regrole) from pg_auth_members m
    where m.roleid::regrole::text in ('strata_reader', 'strata_ingestor', 'strata_operator')
    union all
    select concat_ws(' ', 'column', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated, a.attidentity, a.atthasdef, a.attacl,
                     col_description(a.attrelid, a.attnum))
    from pg_attribute a where a.attrelid in (select r.oid from relations r) and a.attnum > 0 and not a.attisdropped
    union all
    select concat_ws(' ', 'constraint', k.conrelid, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
    from pg_constraint k where k.conrelid in (select r.oid from relations r)
    union all
    select concat_ws(' ', 'index', i.indrelid, pg_get_indexdef(i.indexrelid)) from pg_index i where i.indrelid in (select r.oid from relations r)
    union all
    select concat_ws(' ', 'function', p.oid::regprocedure, p.proacl, md5(p.prosrc), p.prorettype, p.provolatile, obj_description(p.oid, 'pg_proc'))
    from pg_proc p where p.pronamespace in ('production'::regnamespace, 'analytics'::regnamespace)
    union all
    select concat_ws(' ', 'type', t.oid, t.typname, obj_description(t.oid, 'pg_type'),
                     array(select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder))
    from pg_type t where t.typtype in ('e', 'd', 'c') and t.typnamespace in ('production'::regnamespace, 'analytics'::regnamespace)
    union all
    select concat_ws(' ', 'schema', n.nspname, n.nspacl) from pg_namespace n where n.nspname in ('production', 'analytics')
    union all
    select concat_ws(' ', 'dataset', d.dataset, d.extras_column, array(select f::text from strata.fields(d.dataset) f)) from strata.datasets d
    union all
    select concat_ws(' ', 'metric', m.metric, m.partition_column, m.key_columns, m.mode, md5(m.query)) from strata.metrics m
    union all
    select concat_ws(' ', 'announced', a.relation, strata.key_columns(a.relation)) from strata.announced_tables a
    union all
    select concat_ws(' ', 'tags', f.file, f.hash) from strata.applied_files f where f.file like '%.json5'
  ) x (item);
end;

comment on function strata.catalogue_digest() is 'Digest of everything in the catalogue that a server builds its API from.';

-- Call this after a change of tables, comments or grants; `strata migrate` does so. Running servers are notified of a
-- changed catalogue and reload their schema.
create or replace function strata.reconcile()
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  m strata.metrics;
  object record;
  digest text;
  version bigint;
begin
  -- PostgreSQL lets everyone execute a new function. Where nobody has granted or revoked anything, only the owner may.
  for object in
    select p.oid::regprocedure as name, p.prokind from pg_proc p
    where p.pronamespace::regnamespace::text in ('staging', 'production', 'analytics', 'strata') and p.proacl is null
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  loop
    execute format('revoke execute on %s %s from public', case object.prokind when 'p' then 'procedure' else 'function' end, object.name);
  end loop;
  perform strata.order_datasets();
  for m in select * from strata.metrics order by place, metric loop
    if exists (select from pg_rewrite w where w.ev_class = to_regclass(strata.metric_query(m.metric))) then
      perform strata.put_metric(m.schema_name, m.metric, m.query, m.partition_column);
      perform strata.copy_comments(m);
    else
      -- DROP … CASCADE of a source dropped the query too. The next refresh reports that, even if nothing changes.
      update strata.metrics x set rebuild = true where x.metric = m.metric;
    end if;
  end loop;
  perform strata.follow_login_views();
  digest := strata.catalogue_digest();
  update strata.refresh_state s set catalogue_version = s.catalogue_version + 1, catalogue_digest = digest
  where s.catalogue_digest is distinct from digest returning s.catalogue_version into version;
  if version is not null then
    perform pg_notify('strata:schema', version::text);
  end if;
  return (select s.catalogue_version from strata.refresh_state s);
end
$$;

comment on function strata.reconcile() is 'Updates everything that depends on the catalogue, notifies running servers of a changed one, and returns the catalogue''s version.';

revoke execute on all functions in schema staging, production, analytics, strata from public;

grant usage on schema production to strata_reader;
grant usage on schema analytics to strata_reader, strata_ingestor;
-- Ingestors and operators call functions of schema strata, but no role may read its tables. Readers get no USAGE: they
-- could call the functions behind the views and so see rows of metrics that they may not read.
grant usage on schema strata to strata_ingestor, strata_operator;

-- Subscriptions read it for refreshes that a subscriber missed.
grant select on analytics.refresh_state to strata_reader;

grant select on analytics.freshness, analytics.datasets, analytics.lineage to strata_reader;
-- Readers get neither actor, which may be an e-mail address, nor arguments, which name files.
grant select (run_id, step, status, trigger, dataset, parent_run_id, queued_at, started_at, finished_at,
              heartbeat_at, duration_ms, rows_read, rows_written, rows_rejected, rows_deleted, progress,
              rows_replaced, rows_replaced_from_other_source)
  on analytics.pipeline_runs to strata_reader;
grant select on analytics.run_datasets to strata_reader, strata_ingestor;
-- A source system may see why its own loads failed.
grant select on analytics.pipeline_runs to strata_ingestor, strata_operator;
grant select on analytics.quarantine, analytics.pipeline_incidents to strata_operator;

-- A view reads relations with the rights of its owner, but calls functions with those of its reader.
grant execute on function strata.stale_partitions(text, boolean), strata.stale_rows(anyelement), strata.idle_users_now(),
  strata.freshness_rows(), strata.dataset_rows(), strata.lineage_edges()
  to strata_reader;

grant execute on function strata.start_run(text, text, text, jsonb, bigint) to strata_operator;
grant execute on function analytics.discard_quarantined(bigint[], text, boolean, text) to strata_operator;
grant execute on function strata.start_ingest_run(text, text, text, jsonb) to strata_ingestor, strata_operator;
