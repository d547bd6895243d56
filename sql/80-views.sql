-- ======================================================================================================
-- Views: the state of the pipeline, its datasets and their lineage, as readers and the API see them
-- ======================================================================================================

-- Readers and operators see every run; a source system sees the ingests that it requested through the API. The actors
-- of other runs are logins and users of machines, and the subject of a token may equal such a name.
create or replace view analytics.pipeline_runs as
select run_id, step, status, trigger, actor, dataset, arguments, parent_run_id, queued_at, started_at, finished_at, heartbeat_at,
       duration_ms, rows_read, rows_written, rows_rejected, rows_deleted, progress, error,
       rows_replaced, rows_replaced_from_other_source
from strata.runs
where pg_has_role(current_user, 'strata_reader', 'USAGE')
   or (step = 'ingest' and trigger = 'api' and actor = current_setting('strata.sub', true));

comment on view analytics.pipeline_runs is E'@builtin\n@primaryKey run_id\n@notNull step,status,trigger,arguments,queued_at,rows_read,rows_written,rows_rejected,rows_deleted,progress,rows_replaced,rows_replaced_from_other_source\n@foreignKey (parent_run_id) references analytics.pipeline_runs (run_id)|@fieldName parentRun|@foreignFieldName childRuns\nRuns of the pipeline, past, present and queued; one row per run of a step.';

do $$
declare
  col record;
begin
  for col in
    select a.attname as name, col_description('strata.runs'::regclass, a.attnum) as description
    from pg_catalog.pg_attribute a join pg_catalog.pg_attribute s on s.attrelid = 'analytics.pipeline_runs'::regclass and s.attname = a.attname
    where a.attrelid = 'strata.runs'::regclass and a.attnum > 0 and not a.attisdropped
  loop
    execute format('comment on column analytics.pipeline_runs.%I is %L', col.name, col.description);
  end loop;
end
$$;

create or replace view analytics.run_datasets as
select d.run_id, d.dataset, d.rows_read, d.rows_written, d.rows_rejected, d.rows_deleted, d.rows_replaced, d.rows_replaced_from_other_source
from strata.run_datasets d join analytics.pipeline_runs r on r.run_id = d.run_id;

comment on view analytics.run_datasets is E'@builtin\n@primaryKey run_id,dataset\n@notNull rows_read,rows_written,rows_rejected,rows_deleted,rows_replaced,rows_replaced_from_other_source\n@foreignKey (run_id) references analytics.pipeline_runs (run_id)|@fieldName run|@foreignFieldName datasets\nCounts of a run by dataset or metric; one row per run and dataset.';
comment on column analytics.run_datasets.run_id is 'Run that the counts belong to.';
comment on column analytics.run_datasets.dataset is 'Name of the dataset or metric.';
comment on column analytics.run_datasets.rows_read is 'Number of rows read.';
comment on column analytics.run_datasets.rows_written is 'Number of rows inserted or changed.';
comment on column analytics.run_datasets.rows_rejected is 'Number of rows put into quarantine.';
comment on column analytics.run_datasets.rows_deleted is 'Number of rows deleted.';
comment on column analytics.run_datasets.rows_replaced is 'Number of rows that replaced a row with the same key and other values.';
comment on column analytics.run_datasets.rows_replaced_from_other_source is 'Number of replaced rows that had come from another source system.';

create or replace view analytics.quarantine as
select quarantine_id, dataset, stage, reasons, detail, waiting, payload, raw_text, source_system, source_name,
       source_line, run_id, attempts, quarantined_at, last_attempt_at, source_format, waiting_for, retried_by, row_key, operation
from staging.quarantine
where retried_at is null;

comment on view analytics.quarantine is E'@builtin\n@name quarantined_row\n@primaryKey quarantine_id\n@indexed quarantine_id,dataset,reasons,run_id,retried_by\n@notNull dataset,stage,reasons,waiting,attempts,quarantined_at,last_attempt_at\n@foreignKey (run_id) references analytics.pipeline_runs (run_id)|@fieldName run|@foreignFieldName quarantinedRows\nRejected records with all reasons; one row per record.';

do $$
declare
  col record;
begin
  for col in
    select a.attname as name, col_description('staging.quarantine'::regclass, s.attnum) as description
    from pg_catalog.pg_attribute a join pg_catalog.pg_attribute s on s.attrelid = 'staging.quarantine'::regclass and s.attname = a.attname
    where a.attrelid = 'analytics.quarantine'::regclass and a.attnum > 0
  loop
    execute format('comment on column analytics.quarantine.%I is %L', col.name, col.description);
  end loop;
end
$$;

create or replace function strata.metric_lag(metrics text[])
returns table (row_count bigint, since timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(sum(c.row_count), 0)::bigint, min(c.logged_at)
  from strata.changes c
  where c.relation in (
    select s ->> 'relation' from strata.metrics m cross join lateral jsonb_array_elements(m.analysis -> 'sources') s where m.metric = any (metrics));
end;

comment on function strata.metric_lag(text[]) is 'Number of changed rows that these metrics do not contain yet, and when the oldest change was logged.';

-- A function with its owner's rights, because a view calls functions with the rights of its reader.
create or replace function strata.freshness_rows()
returns table (dataset text, refreshed_at timestamptz, run_id bigint, rows_behind bigint, lag_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  select d.dataset, d.updated_at as refreshed_at, d.run_id, b.row_count as rows_behind,
         coalesce(extract(epoch from current_timestamp at time zone 'UTC' - b.since), 0)::double precision as lag_seconds
  from strata.datasets d cross join lateral strata.rows_behind(d.dataset) b
  union all
  -- A failed refresh has consumed the changes: the metric lacks an unknown number of them, so at least 1 is shown.
  select m.metric, m.refreshed_at, m.run_id, greatest(b.row_count, m.rebuild::integer),
         coalesce(extract(epoch from current_timestamp - case when m.rebuild then coalesce(m.refreshed_at, b.since) else b.since end), 0)::double precision
  from strata.metrics m cross join lateral strata.metric_lag(array[m.metric]) b
  where m.schema_name = 'analytics'
  union all
  select c.relname::text, s.refreshed_at, s.run_id, b.row_count, coalesce(extract(epoch from current_timestamp - b.since), 0)::double precision
  from strata.refresh_state s
  cross join strata.refresh_order() v
  join pg_catalog.pg_class c on c.oid = v.relation and v.metric is null
  cross join lateral (
    select array(select m.metric from strata.base_tables(v.relation) t join strata.metrics m on to_regclass(strata.metric_table(m)) = t.relation
                 where m.schema_name = 'strata') as metrics
  ) k
  cross join lateral strata.metric_lag(k.metrics) b
  where k.metrics <> '{}'
  union all
  -- Other materialized views. Changes of tables that no metric reads are not logged, so the counts of runs are used.
  select c.relname::text, s.refreshed_at, s.run_id, greatest(l.row_count, w.row_count, k.has_failed::integer),
         coalesce(extract(epoch from current_timestamp - least(l.since, w.since, case when k.has_failed then s.refreshed_at end)), 0)::double precision
  from strata.refresh_state s
  cross join strata.refresh_order() v
  join pg_catalog.pg_class c on c.oid = v.relation and v.metric is null
  cross join lateral (
    select coalesce(array_agg(t.relation::text), '{}') as tables, s.view_errors ? v.relation::text as has_failed,
           coalesce(bool_or(exists (select from strata.metrics m where m.schema_name = 'strata' and to_regclass(strata.metric_table(m)) = t.relation)), false) as is_ours
    from strata.base_tables(v.relation) t
  ) k
  cross join lateral (
    select coalesce(sum(x.row_count), 0)::bigint as row_count, min(x.logged_at) as since from strata.changes x where x.relation = any (k.tables)
  ) l
  cross join lateral (
    select coalesce(sum(d.rows_written + d.rows_deleted), 0)::bigint as row_count, min(greatest(r.started_at, s.refreshed_at)) as since
    from strata.runs r join strata.run_datasets d on d.run_id = r.run_id join strata.datasets x on x.dataset = d.dataset
    -- A run that refreshed after it wrote left nothing behind.
    where r.run_id is distinct from s.run_id and coalesce(r.finished_at, 'infinity') > coalesce(s.refreshed_at, '-infinity')
      and d.rows_written + d.rows_deleted > 0 and strata.production_table(x.dataset)::text = any (k.tables)
  ) w
  where not k.is_ours;
end;

comment on function strata.freshness_rows() is 'Lag of each dataset, metric and materialized view behind its source.';

create or replace view analytics.freshness as
select f.dataset, f.refreshed_at, f.run_id, f.rows_behind, f.lag_seconds,
       extract(epoch from p.fresh_within)::double precision as promised_seconds,
       coalesce(make_interval(secs => f.lag_seconds) > p.fresh_within, false) as is_late
from strata.freshness_rows() f left join strata.promises p on p.dataset = f.dataset;

comment on view analytics.freshness is E'@builtin\n@primaryKey dataset\n@notNull rows_behind,lag_seconds,is_late\n@connectionName freshness\n@behavior -query:resource:single\nLag of each dataset, metric and materialized view behind its source; one row each.';
comment on column analytics.freshness.dataset is 'Name of the dataset, metric or materialized view.';
comment on column analytics.freshness.refreshed_at is 'When it was last brought up to date; null if it never was.';
comment on column analytics.freshness.run_id is 'Run that last updated it; null if that was done in SQL.';
comment on column analytics.freshness.rows_behind is 'Number of rows of its source that it does not contain yet; at least 1 if a metric has to be computed as a whole.';
comment on column analytics.freshness.lag_seconds is 'Age of the oldest of these rows in seconds; 0 if there are none.';
comment on column analytics.freshness.promised_seconds is 'Maximum age in seconds that strata.promise allows; null without a promise.';
comment on column analytics.freshness.is_late is 'Whether the age exceeds the promise; false without a promise.';

create or replace view analytics.pipeline_incidents as
select i.incident_id, i.kind, i.subject, i.detail, i.run_id, i.opened_at, i.resolved_at from strata.incidents i;

comment on view analytics.pipeline_incidents is E'@builtin\n@primaryKey incident_id\n@notNull kind,subject,detail,opened_at\nProblems that need or needed attention; one row per incident.';

do $$
declare
  col record;
begin
  for col in
    select a.attname as name, col_description('strata.incidents'::regclass, a.attnum) as description
    from pg_catalog.pg_attribute a where a.attrelid = 'strata.incidents'::regclass and a.attnum > 0 and not a.attisdropped
  loop
    execute format('comment on column analytics.pipeline_incidents.%I is %L', col.name, col.description);
  end loop;
end
$$;

-- Estimates are used because counting reads the whole table.
create or replace function strata.estimated_rows(relation regclass)
returns bigint
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0) from pg_class c where c.oid = relation;
end;

comment on function strata.estimated_rows(regclass) is 'Estimated number of rows of a table.';

-- PostGraphile requires smart tags to come first in a comment.
create or replace function strata.words_of(relation regclass)
returns text
language sql stable set search_path = pg_catalog, pg_temp
return coalesce(regexp_replace(obj_description(relation, 'pg_class'), '^(@[^\n]*(\n|$))+', ''), '');

comment on function strata.words_of(regclass) is 'Comment of a table or view without smart tags; empty if there is none.';

create or replace function strata.dataset_rows()
returns table (dataset text, kind text, description text, key_columns text[], parents text[], rows_estimated bigint, partition_column text, mode text, why text)
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  select d.dataset, 'dataset' as kind, strata.words_of(strata.production_table(d.dataset)) as description,
         strata.key_columns(strata.production_table(d.dataset)) as key_columns, strata.parents(d.dataset) as parents,
         strata.estimated_rows(strata.production_table(d.dataset)) as rows_estimated, null::text as partition_column, null::text as mode, null::text as why
  from strata.datasets d
  union all
  select m.metric, 'metric', strata.words_of(to_regclass(strata.metric_table(m))), m.key_columns,
         array(select distinct split_part(s ->> 'relation', '.', 2) from jsonb_array_elements(m.analysis -> 'sources') s order by 1),
         strata.estimated_rows(to_regclass(strata.metric_table(m))), m.partition_column, m.mode, m.why
  from strata.metrics m where m.schema_name = 'analytics'
  union all
  select c.relname::text, 'table', strata.words_of(c.oid::regclass), strata.key_columns(c.oid::regclass), '{}', strata.estimated_rows(c.oid::regclass), null, null, null
  from pg_catalog.pg_class c
  where c.relnamespace = 'production'::regnamespace and c.relkind in ('r', 'p')
    and not exists (select from strata.datasets d where d.dataset = c.relname)
  union all
  select c.relname::text, case c.relkind when 'm' then 'materialized view' else 'view' end, strata.words_of(c.oid::regclass), '{}',
         array(select distinct b.relname::text from strata.base_tables(c.oid::regclass) t join pg_catalog.pg_class b on b.oid = t.relation order by 1),
         case when c.relkind = 'm' then strata.estimated_rows(c.oid::regclass) end, null, null, null
  from pg_catalog.pg_class c
  where c.relnamespace in ('production'::regnamespace, 'analytics'::regnamespace) and c.relkind in ('v', 'm')
    -- If both schemas have the name, only the relation in analytics is listed.
    and not (c.relnamespace = 'production'::regnamespace and to_regclass(format('analytics.%I', c.relname)) is not null)
    -- Views on the machinery itself, and live views of metrics, are not data of their own.
    and c.relname not in ('pipeline_runs', 'pipeline_incidents', 'run_datasets', 'quarantine', 'freshness', 'datasets', 'lineage', 'refresh_state')
    and not exists (select from strata.metrics m where m.metric || '_live' = c.relname);
end;

comment on function strata.dataset_rows() is 'Datasets, other tables, metrics and views of this database.';

create or replace view analytics.datasets as
select d.dataset, d.kind, d.description, d.key_columns, d.parents, d.rows_estimated, d.partition_column, d.mode, d.why from strata.dataset_rows() d;

comment on view analytics.datasets is E'@builtin\n@primaryKey dataset\n@notNull kind,description,parents\nDatasets, other tables, metrics and views of this database; one row each.';
comment on column analytics.datasets.dataset is 'Name of the table, metric or view.';
comment on column analytics.datasets.kind is 'Kind of relation: dataset, table, metric, materialized view or view.';
comment on column analytics.datasets.description is 'Comment of the table, metric or view; empty if it has none.';
comment on column analytics.datasets.key_columns is 'Columns that identify a row; empty or null if no key is declared.';
comment on column analytics.datasets.parents is 'Datasets that it refers to, or tables that it is computed from.';
comment on column analytics.datasets.rows_estimated is 'Estimated number of rows; null for views.';
comment on column analytics.datasets.partition_column is 'Column of a metric by which stale parts are recomputed; null otherwise.';
comment on column analytics.datasets.mode is 'partition: a refresh computes only stale partitions; whole: it computes everything when something changed. Null for other kinds.';
comment on column analytics.datasets.why is 'Why a metric is computed as a whole; null otherwise.';

-- Subscriptions read this for refreshes that a subscriber missed; @behavior -* hides it from the API.
create or replace view analytics.refresh_state as
select s.data_version, s.refreshed_at, s.run_id from strata.refresh_state s;

comment on view analytics.refresh_state is E'@behavior -*\nState of the refresh; exactly one row.';
comment on column analytics.refresh_state.data_version is 'Grows with every refresh, direct change of a metric and change of the calendar; equal versions give equal responses.';
comment on column analytics.refresh_state.refreshed_at is 'When the last refresh ended; null before the first one.';
comment on column analytics.refresh_state.run_id is 'Run of the last refresh; null if it was done in SQL.';

-- ------------------------------------------------------------------------------------------------------
-- Lineage
-- ------------------------------------------------------------------------------------------------------

-- place is the number of an output column that is computed from the source column, or 0 if the source column decides
-- which rows there are: in conditions, groups and the like. Queries in FROM and in UNION are followed.
create or replace function strata.query_edges(query jsonb)
returns table (source oid, attnum integer, place integer)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  item record;
  entry jsonb;
begin
  -- Each part of a set operation gives the same columns. Except in UNION ALL, their values also decide which rows stay.
  if query #>> '{setOperations,0}' <> '<>' then
    for item in
      select (r #>> '{rtindex,0}')::integer as rtindex from jsonb_path_query(query -> 'setOperations', 'strict $.** ? (@._[0] == "RANGETBLREF")') r
    loop
      return query
        select e.source, e.attnum, p.place from strata.query_edges(query #> array['rtable', '0', (item.rtindex - 1)::text, 'subquery', '0']) e
        cross join unnest(case when jsonb_path_exists(query -> 'setOperations', 'strict $.** ? (@._[0] == "SETOPERATIONSTMT" && (@.op[0] != "1" || @.all[0] == "false"))')
                               then array[e.place, 0] else array[e.place] end) p (place);
    end loop;
    return;
  end if;
  for item in
    select distinct b.rtindex, b.attnum, x.place
    from (
      select t #> '{expr}' as expression, case when t #>> '{resjunk,0}' = 'false' then (t #>> '{resno,0}')::integer else 0 end as place
      from jsonb_array_elements(query #> '{targetList,0}') t where jsonb_typeof(t) = 'object'
      union all
      select t -> 'expr', 0 from jsonb_array_elements(query #> '{targetList,0}') t
      where jsonb_typeof(t) = 'object' and t #>> '{ressortgroupref,0}' <> '0'
        and (query #>> '{groupClause,0}' <> '<>' or query #>> '{distinctClause,0}' <> '<>' or query #>> '{hasWindowFuncs,0}' = 'true'
             or query #>> '{limitCount,0}' <> '<>' or query #>> '{limitOffset,0}' <> '<>')
      union all
      select jsonb_build_array(query -> 'jointree', query -> 'havingQual'), 0
    ) x
    cross join lateral strata.base_columns(query, x.expression) b
  loop
    entry := query #> array['rtable', '0', (item.rtindex - 1)::text];
    if entry #>> '{rtekind,0}' = '0' then
      return query select (entry #>> '{relid,0}')::oid, item.attnum, item.place;
    elsif entry #>> '{rtekind,0}' = '1' then
      return query select e.source, e.attnum, item.place from strata.query_edges(entry #> '{subquery,0}') e where e.place = item.attnum;
    end if;
  end loop;
  for entry in
    select e -> 'subquery' -> 0 from jsonb_array_elements(query #> '{rtable,0}') e where e #>> '{rtekind,0}' = '1'
  loop
    return query select e.source, e.attnum, 0 from strata.query_edges(entry) e where e.place = 0;
  end loop;
end
$$;

comment on function strata.query_edges(jsonb) is 'Columns that a parse tree reads, with the number of the output column computed from each; 0 if it decides which rows there are.';

-- A source column that only filters or joins belongs to the view as a whole (null). So does everything read in other
-- ways: in subqueries of expressions, WITH, functions in FROM, and functions that return rows.
create or replace function strata.view_edges(view_name regclass)
returns table (source regclass, source_column text, target_column text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with tree as materialized (
    select strata.node_tree(w.ev_action::text) #> '{0}' as query, w.ev_action::text ~ ':rtekind [3-8] |:hasTargetSRFs true'
           or jsonb_path_exists(strata.node_tree(w.ev_action::text), 'strict $.** ? (@._[0] == "SUBLINK").subselect[0].** ? (@.rtekind[0] == "0")') as is_odd
    from pg_rewrite w where w.ev_class = view_name and w.rulename = '_RETURN'
  ), found as materialized (
    select distinct e.source, e.attnum, a.attname::text as target_column
    from tree t cross join lateral strata.query_edges(t.query) e left join pg_attribute a on a.attrelid = view_name and a.attnum = nullif(e.place, 0)
  ), used as (
    select distinct d.refobjid as source, d.refobjsubid as attnum
    from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
    where w.ev_class = view_name and d.refclassid = 'pg_class'::regclass and d.refobjid <> view_name
  ), edges as (
    select f.source, f.attnum, f.target_column from found f
    union
    select u.source, u.attnum, null from used u
    where ((select t.is_odd from tree t) or not exists (select from found f where f.source = u.source and f.attnum = u.attnum))
      and (u.attnum > 0 or not exists (select from used o where o.source = u.source and o.attnum > 0))
    union
    -- A column whose expression has a subquery may be computed from anything that is read.
    select u.source, u.attnum, c #>> '{resname,0}'
    from tree t cross join lateral jsonb_array_elements(t.query #> '{targetList,0}') c cross join used u
    where jsonb_typeof(c) = 'object' and c #>> '{resjunk,0}' = 'false' and u.attnum > 0 and jsonb_path_exists(c, 'strict $.** ? (@._[0] == "SUBLINK")')
  )
  select e.source::regclass, a.attname::text, e.target_column
  from edges e left join pg_attribute a on a.attrelid = e.source and a.attnum = e.attnum and e.attnum > 0;
end;

comment on function strata.view_edges(regclass) is 'Columns that a view reads, with the output columns computed from each; null if it only filters or joins.';

create or replace function strata.lineage_edges()
returns table (source regclass, source_column text, target regclass, target_column text, kind text)
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  with recursive edges (source, source_column, target, target_column, kind) as (
    -- The lineage of a dataset follows its mapping view, or else equal names.
    select e.source::oid, e.source_column, strata.production_table(d.dataset)::oid, e.target_column, 'transform'
    from strata.datasets d cross join lateral strata.view_edges(to_regclass(format('staging.%I', d.dataset))) e
    where to_regclass(format('staging.%I', d.dataset)) is not null and e.target_column is distinct from 'ingest_xid' and e.target_column is distinct from 'ingest_seq'
      and e.target_column is distinct from 'reasons'
      and (e.target_column is distinct from 'source_system' or exists (
        select from strata.table_columns(strata.production_table(d.dataset)) c where c.name = 'source_system'))
    union all
    select strata.raw_table(d.dataset), c.name, strata.production_table(d.dataset), c.name, 'transform'
    from strata.datasets d cross join lateral strata.table_columns(strata.production_table(d.dataset)) c
    where to_regclass(format('staging.%I', d.dataset)) is null
      and exists (select from pg_attribute a where a.attrelid = strata.raw_table(d.dataset) and a.attname = c.name)
    union all
    select e.source, e.source_column, to_regclass(strata.metric_table(m)), e.target_column, 'metric'
    from strata.metrics m cross join lateral strata.view_edges(to_regclass(strata.metric_query(m.metric))) e
    union all
    -- A live view has the lineage of its metric.
    select e.source, e.source_column, to_regclass(format('%I.%I', m.schema_name, m.metric || '_live')), e.target_column, 'metric'
    from strata.metrics m cross join lateral strata.view_edges(to_regclass(strata.metric_query(m.metric))) e
    union all
    select e.source, e.source_column, c.oid, e.target_column, case c.relkind when 'm' then 'materialized view' else 'view' end
    from pg_class c cross join lateral strata.view_edges(c.oid::regclass) e
    where c.relkind in ('v', 'm') and c.relnamespace in ('production'::regnamespace, 'analytics'::regnamespace)
      and not exists (select from strata.metrics m where c.oid = to_regclass(format('%I.%I', m.schema_name, m.metric || '_live')))
      and c.relname not in ('pipeline_runs', 'pipeline_incidents', 'run_datasets', 'quarantine', 'freshness', 'datasets', 'lineage', 'refresh_state')
  ), visible (source, source_column, target, target_column, kind, depth) as (
    select e.source, e.source_column, e.target, e.target_column, e.kind, 0
    from edges e where (select c.relnamespace from pg_class c where c.oid = e.target) <> 'strata'::regnamespace
    union
    -- Relations of schema strata are replaced by their own sources.
    select e.source, e.source_column, v.target, case when e.target_column is null or v.target_column is null then null else v.target_column end, v.kind, v.depth + 1
    from visible v join edges e on e.target = v.source and (e.target_column = v.source_column or e.target_column is null)
    where (select c.relnamespace from pg_class c where c.oid = v.source) = 'strata'::regnamespace and v.depth < 20
  )
  select distinct v.source::regclass, v.source_column, v.target::regclass, v.target_column, v.kind
  from visible v where (select c.relnamespace from pg_class c where c.oid = v.source) in ('staging'::regnamespace, 'production'::regnamespace, 'analytics'::regnamespace);
end;

comment on function strata.lineage_edges() is 'For each column of production and analytics, the columns that it is computed from.';

create or replace view analytics.lineage as
select sn.nspname::text as source_schema, sc.relname::text as source_relation, e.source_column,
       tn.nspname::text as target_schema, tc.relname::text as target_relation, e.target_column, e.kind
from strata.lineage_edges() e
join pg_catalog.pg_class sc on sc.oid = e.source join pg_catalog.pg_namespace sn on sn.oid = sc.relnamespace
join pg_catalog.pg_class tc on tc.oid = e.target join pg_catalog.pg_namespace tn on tn.oid = tc.relnamespace;

comment on view analytics.lineage is E'@builtin\n@notNull source_schema,source_relation,target_schema,target_relation,kind\n@connectionName lineage\nSources of each column of production and analytics; one row per pair of columns.';
comment on column analytics.lineage.source_schema is 'Schema of the source.';
comment on column analytics.lineage.source_relation is 'Table or view that is read.';
comment on column analytics.lineage.source_column is 'Column that is read; null if the whole row is.';
comment on column analytics.lineage.target_schema is 'Schema of the target.';
comment on column analytics.lineage.target_relation is 'Table, metric or view that is computed from the source.';
comment on column analytics.lineage.target_column is 'Column that is computed from the source; null if the source only decides which rows there are.';
comment on column analytics.lineage.kind is 'Kind of computation: transform, metric, view or materialized view.';

-- ------------------------------------------------------------------------------------------------------
-- Columns with few values
-- ------------------------------------------------------------------------------------------------------

create or replace function strata.plain_columns(view_name oid)
returns table (attnum integer, source oid, source_attnum integer)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with tree as materialized (
    select strata.node_tree(w.ev_action::text) #> '{0}' as query from pg_rewrite w where w.ev_class = view_name and w.rulename = '_RETURN'
  )
  select (c #>> '{resno,0}')::integer, (entry #>> '{relid,0}')::oid, p.attnum
  from tree
  cross join lateral jsonb_array_elements(tree.query #> '{targetList,0}') c
  cross join lateral strata.plain_column(tree.query, c #> '{expr,0}') p
  cross join lateral (select tree.query #> array['rtable', '0', (p.rtindex - 1)::text] as entry) e
  where jsonb_typeof(c) = 'object' and c #>> '{resjunk,0}' = 'false' and entry #>> '{rtekind,0}' = '0' and tree.query #>> '{setOperations,0}' = '<>';
end;

comment on function strata.plain_columns(oid) is 'Output columns of a view that are plain columns of a table or view that it reads.';

create or replace function strata.are_names(names text[])
returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
return (select bool_and(n ~ '^[A-Za-z_][A-Za-z0-9_]*$' and n !~ '^__' and n not in ('true', 'false', 'null')) and count(distinct n) = count(*) from unnest(names) n);

comment on function strata.are_names(text[]) is 'Whether the names can be the values of one GraphQL enum: valid and distinct.';

-- Jumps from one dataset to the next by the index, instead of reading all entries.
create or replace function strata.quarantined_datasets()
returns table (dataset text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive found (dataset) as (
    select min(q.dataset) from staging.quarantine q
    union all
    select (select min(q.dataset) from staging.quarantine q where q.dataset > f.dataset) from found f where f.dataset is not null
  )
  select f.dataset from found f where f.dataset is not null;
end;

comment on function strata.quarantined_datasets() is 'Datasets that have records in quarantine.';

-- Reads the values from a CHECK such as `status in ('paid', 'open')`, if each is a valid GraphQL name. Views and
-- metrics that show such a column can show no other values.
create or replace view strata.known_values as
with recursive checks as (
  select k.oid, k.conrelid as relation, k.conkey[1]::integer as attnum,
         array(select v[1] from regexp_matches(substring(pg_catalog.pg_get_constraintdef(k.oid) from 'ARRAY\[(.*)\]'), '''((?:[^'']|'''')*)''::', 'g') v) as names
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1] and a.atttypid in ('text'::regtype, 'varchar'::regtype)
  where k.contype = 'c' and k.convalidated and cardinality(k.conkey) = 1
    and pg_catalog.pg_get_constraintdef(k.oid) ~
      '^CHECK \(\(+("[^"]+"|\w+)\)?(::text)? = ANY \(+ARRAY\[(''([^'']|'''')*''::(text|character varying)(\(\d+\))?(::text)?(, )?)+\](\)?::text\[\])?\)+$'
), allowed as (
  select distinct on (c.relation, c.attnum) c.relation, c.attnum, c.names
  from checks c
  where strata.are_names(c.names)
  order by c.relation, c.attnum, cardinality(c.names), c.oid
), plain as materialized (
  select c.oid as relation, p.attnum, p.source, p.source_attnum
  from pg_catalog.pg_class c cross join lateral strata.plain_columns(c.oid) p
  where c.relkind in ('v', 'm') and (c.relnamespace in ('production'::regnamespace, 'analytics'::regnamespace)
     or c.oid in (select to_regclass(strata.metric_query(m.metric)) from strata.metrics m))
  union all
  select t.attrelid, t.attnum::integer, q.attrelid, q.attnum::integer
  from strata.metrics m
  join pg_catalog.pg_attribute t on t.attrelid = to_regclass(strata.metric_table(m)) and t.attnum > 0
  join pg_catalog.pg_attribute q on q.attrelid = to_regclass(strata.metric_query(m.metric)) and q.attname = t.attname
), shown (relation, attnum, base, base_attnum, depth) as (
  select a.relation, a.attnum, a.relation, a.attnum, 0 from allowed a
  union
  select p.relation, p.attnum, s.base, s.base_attnum, s.depth + 1 from shown s join plain p on p.source = s.relation and p.source_attnum = s.attnum
  where s.depth < 20
)
select s.relation::regclass as relation, a.attname::text as column_name, s.base::regclass as base, b.attname::text as base_column, x.names
from shown s
join allowed x on x.relation = s.base and x.attnum = s.base_attnum
join pg_catalog.pg_attribute a on a.attrelid = s.relation and a.attnum = s.attnum
join pg_catalog.pg_attribute b on b.attrelid = s.base and b.attnum = s.base_attnum
union all
-- Removed datasets are included as long as runs or quarantined records of them exist.
select r.relation, 'dataset', 'strata.datasets'::regclass, 'dataset', n.names
from (values (to_regclass('analytics.pipeline_runs')), (to_regclass('analytics.quarantine'))) r (relation)
cross join (select array(select d.dataset from strata.datasets d union select r.dataset from strata.runs r where r.dataset is not null
                         union select q.dataset from strata.quarantined_datasets() q order by 1) as names) n
where r.relation is not null and n.names <> '{}' and strata.are_names(n.names);

comment on view strata.known_values is 'Columns that hold one of a few names, given by the CHECK of their table or by the registry of datasets.';
comment on column strata.known_values.relation is 'Table, view or metric with the column.';
comment on column strata.known_values.column_name is 'Name of the column.';
comment on column strata.known_values.base is 'Table whose CHECK or rows define the names.';
comment on column strata.known_values.base_column is 'Column of that table that has the CHECK or the names.';
comment on column strata.known_values.names is 'Allowed names, in the order of the CHECK.';

-- ------------------------------------------------------------------------------------------------------
-- Relations that only a refresh changes
-- ------------------------------------------------------------------------------------------------------

-- Responses computed from these relations alone stay the same until the data version grows, so they can be cached. A
-- view is left out if it reads any other table or depends on the time. Materialized views other than daily_user_metrics
-- are left out because a manual REFRESH does not raise the version.
create or replace view strata.refreshed_relations as
with kept as (
  select to_regclass(strata.metric_table(m))::oid as relation from strata.metrics m where m.schema_name = 'analytics' and to_regclass(strata.metric_table(m)) is not null
  union all
  select to_regclass('analytics.daily_user_metrics') where to_regclass('analytics.daily_user_metrics') is not null
  union all
  select to_regclass('production.dim_date') where to_regclass('production.dim_date') is not null
), reads as (
  select distinct w.ev_class as view_name, d.refobjid as relation, w.ev_action::text as tree
  from pg_catalog.pg_rewrite w join pg_catalog.pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
  where d.refclassid = 'pg_class'::regclass and d.refobjid <> w.ev_class
)
select k.relation::regclass as relation from kept k
union all
select r.view_name::regclass
from reads r join pg_catalog.pg_class c on c.oid = r.view_name
where c.relkind = 'v' and c.relnamespace = 'analytics'::regnamespace
group by r.view_name
having bool_and(r.relation in (select k.relation from kept k)) and bool_and(strata.unsteady_calls(r.tree) = '{}');

comment on view strata.refreshed_relations is 'Relations whose rows change only when the data version grows.';
comment on column strata.refreshed_relations.relation is 'Table, view or metric.';
