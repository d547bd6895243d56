-- ======================================================================================================
-- Run events for receivers of lineage
--
-- strata.run_event returns the facts of one event, which the worker composes when it first sends the event: the
-- relations that the step reads and writes, their columns and the sources of these, and the counts of the run.
-- src/worker/open-lineage.ts turns them into the OpenLineage format.
-- ======================================================================================================

-- Caching the edges avoids reading all parse trees for each event, which would take longer than a small run. Relations
-- are stored by name, because a restore changes their oids.
create table if not exists strata.kept_edges (
  singleton boolean constraint kept_edges_pkey primary key default true,
  catalogue_version bigint not null,
  edges jsonb not null,
  constraint one_row check (singleton)
);

comment on table strata.kept_edges is 'Cached result of strata.table_edges; at most one row.';
comment on column strata.kept_edges.singleton is 'Always true: allows only one row.';
comment on column strata.kept_edges.catalogue_version is 'Version of the catalogue for which the edges were read.';
comment on column strata.kept_edges.edges is 'Rows of strata.table_edges as an array of objects.';

-- queued_at is part of the identifier because run_id alone would repeat after a restore.
create or replace function strata.run_uuid(r strata.runs)
returns uuid
language sql stable set search_path = pg_catalog, pg_temp
return public.uuid_generate_v5(public.uuid_ns_url(),
  format('strata:%s:%s:%s', current_database(), r.run_id, extract(epoch from r.queued_at)));

comment on function strata.run_uuid(strata.runs) is 'Globally unique identifier of a run; always the same for the same run.';

-- Error messages may contain values: literals, keys, e-mail addresses.
create or replace function strata.redacted(message text)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
return left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(message,
  '[^\s@"''(<]+@[^\s@"'')>]+', '…', 'g'),
  '''([^'']|'''')*''', '''…''', 'g'),
  '=\([^)]*\)', '=(…)', 'g'),
  ': "[^"]*"', ': "…"', 'g'), 1000);

comment on function strata.redacted(text) is 'Error message without literals, values of keys and e-mail addresses; at most 1000 characters.';

-- Views are followed to the tables that they read, because no run writes a view.
create or replace function strata.table_edges()
returns table (source oid, source_column text, target oid, target_column text, kind text)
language sql stable set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  with recursive edges as materialized (
    select e.source::oid as source, e.source_column, e.target::oid as target, e.target_column, e.kind, s.relkind as source_kind, t.relkind as target_kind
    from strata.lineage_edges() e join pg_class s on s.oid = e.source join pg_class t on t.oid = e.target
  ), found (source, source_column, target, target_column, kind, source_kind, depth) as (
    select e.source, e.source_column, e.target, e.target_column, e.kind, e.source_kind, 0 from edges e where e.target_kind <> 'v'
    union
    select e.source, e.source_column, f.target, case when e.target_column is not null then f.target_column end, f.kind, e.source_kind, f.depth + 1
    from found f join edges e on e.target = f.source and (e.target_column = f.source_column or e.target_column is null or f.source_column is null)
    where f.source_kind = 'v' and f.depth < 20
  )
  select distinct f.source, f.source_column, f.target, f.target_column, f.kind from found f where f.source_kind <> 'v';
end;

comment on function strata.table_edges() is 'For each column of a table, metric or materialized view, the table columns that it is computed from.';

create or replace function strata.known_edges()
returns table (source regclass, source_column text, target regclass, target_column text, kind text)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  current bigint := (select s.catalogue_version from strata.refresh_state s);
begin
  if not exists (select from strata.kept_edges k where k.catalogue_version = current) then
    insert into strata.kept_edges as k (catalogue_version, edges)
    select current, coalesce(jsonb_agg(jsonb_build_object(
             'source', e.source::regclass::text, 'source_column', e.source_column,
             'target', e.target::regclass::text, 'target_column', e.target_column, 'kind', e.kind)), '[]')
    from strata.table_edges() e
    on conflict on constraint kept_edges_pkey do update set catalogue_version = excluded.catalogue_version, edges = excluded.edges;
  end if;
  return query
    select to_regclass(e.source), e.source_column, to_regclass(e.target), e.target_column, e.kind
    from strata.kept_edges k
    cross join lateral jsonb_to_recordset(k.edges) e (source text, source_column text, target text, target_column text, kind text)
    where to_regclass(e.source) is not null and to_regclass(e.target) is not null;
end
$$;

comment on function strata.known_edges() is 'Rows of strata.table_edges, cached until the version of the catalogue changes.';

create or replace function strata.describe_relation(relation oid)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select jsonb_build_object('name', n.nspname || '.' || c.relname, 'fields', (
    select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
             'description', nullif(regexp_replace(coalesce(col_description(a.attrelid, a.attnum), ''), '^(@[^\n]*(\n|$))+', ''), ''))) order by a.attnum)
    from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped))
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
end;

comment on function strata.describe_relation(oid) is 'Name and columns of a relation, with types and descriptions, as a JSON object.';

create or replace function strata.run_event(run_id bigint)
returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  with run as materialized (
    select r as self, r.* from strata.runs r where r.run_id = run_event.run_id
  ), edges as materialized (
    select e.source, e.source_column, e.target, e.target_column, c.relname::text as dataset
    from (select run.step from run where run.step in ('transform', 'refresh')) run cross join lateral strata.known_edges() e join pg_class c on c.oid = e.target
    where run.step = case e.kind when 'transform' then 'transform' else 'refresh' end
  ), origins as materialized (
    select e.target, e.target_column, e.source_column, n.nspname || '.' || c.relname as source
    from edges e join pg_class c on c.oid = e.source join pg_namespace n on n.oid = c.relnamespace where e.source_column is not null
  ), targets as materialized (
    select distinct e.target::oid as target, e.dataset from edges e
    union all
    select strata.raw_table(d.dataset)::oid, d.dataset from run join strata.datasets d on d.dataset = run.dataset where run.step in ('ingest', 'retry')
  ), rejected as materialized (
    select q.dataset, t.reason, count(*) as row_count
    from staging.quarantine q cross join lateral unnest(q.reasons) t (reason)
    where q.run_id = run_event.run_id group by 1, 2
  )
  select jsonb_build_object(
    'runId', strata.run_uuid(run.self), 'database', current_database(), 'step', run.step, 'dataset', run.dataset, 'trigger', run.trigger,
    'number', run.run_id::text, 'serverVersion', current_setting('server_version'), 'error', strata.redacted(run.error),
    'parent', (select jsonb_build_object('runId', strata.run_uuid(p), 'step', p.step) from strata.runs p where p.run_id = run.parent_run_id),
    'inputs', (
      select coalesce(jsonb_agg(strata.describe_relation(s.source)
                                || jsonb_build_object('rowsRead', d.rows_read, 'rejected', coalesce(j.reasons, '{}')) order by s.source::regclass::text), '[]')
      from (select e.source, min(e.dataset) as dataset from edges e group by e.source) s
      left join strata.run_datasets d on d.run_id = run.run_id and d.dataset = s.dataset and run.step = 'transform'
      left join lateral (
        select jsonb_object_agg(q.reason, q.row_count) as reasons from rejected q where q.dataset = s.dataset and run.step = 'transform') j on true),
    'outputs', (
      select coalesce(jsonb_agg(strata.describe_relation(t.target) || jsonb_build_object(
          'rowsWritten', coalesce(d.rows_written, 0),
          -- "columns" has the sources of each column; "rows" has the columns that decide which rows there are.
          'columns', (
            select coalesce(jsonb_object_agg(x.target_column, x.sources), '{}') from (
              select o.target_column, jsonb_agg(jsonb_build_object('name', o.source, 'field', o.source_column) order by o.source, o.source_column) as sources
              from origins o where o.target = t.target and o.target_column is not null group by o.target_column) x),
          'rows', (
            select coalesce(jsonb_agg(jsonb_build_object('name', o.source, 'field', o.source_column) order by o.source, o.source_column), '[]')
            from origins o where o.target = t.target and o.target_column is null)) order by t.target::regclass::text), '[]')
      from targets t
      left join strata.run_datasets d on d.run_id = run.run_id and d.dataset = t.dataset),
    'rejected', (
      select coalesce(jsonb_object_agg(q.dataset, q.reasons), '{}')
      from (select r.dataset, jsonb_object_agg(r.reason, r.row_count) as reasons from rejected r group by r.dataset) q))
  from run;
end;

comment on function strata.run_event(bigint) is 'Everything that a lineage event says about a run, as a JSON object; null if the run does not exist.';
