-- ======================================================================================================
-- Refresh: production to analytics, for any metric and materialized view
-- ======================================================================================================

-- Called by analytics.daily_user_metrics itself, so that a bare REFRESH in psql is noticed like any other.
create or replace function strata.note_refresh()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  state strata.refresh_state;
begin
  -- A refresh of everything says so once, at its end.
  if coalesce(current_setting('strata.refreshing', true), '') = '' then
    update strata.refresh_state
    set data_version = data_version + 1, refreshed_at = clock_timestamp(), run_id = nullif(current_setting('strata.run_id', true), '')::bigint
    returning * into state;
    perform pg_notify('strata:refresh', json_build_object('version', state.data_version, 'runId', state.run_id)::text);
  end if;
  return true;
end
$$;

comment on function strata.note_refresh() is 'Raises the data version and tells listeners on strata:refresh.';

-- Writes the rows of stale partitions (null: of all) and returns how many.
create or replace function strata.compute_metric(metric text, stale text[])
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set extra_float_digits = 1
set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  m strata.metrics;
  gone bigint := 0;
  come bigint := 0;
  written bigint;
  counted text;
begin
  select * into strict m from strata.metrics x where x.metric = compute_metric.metric;
  if to_regclass(strata.metric_query(m.metric)) is null then
    raise exception 'its query is gone, because something that it read was dropped: declare it again with strata.add_metric, or remove it with strata.remove_metric'
      using errcode = 'undefined_table';
  end if;
  counted := case when m.mode = 'partition' then format('count(distinct %1$I) + (count(*) filter (where %1$I is null) > 0)::integer', m.partition_column) else 'count(null)' end;
  if stale is null then
    execute format('delete from %s', strata.metric_table(m));
    execute format('insert into %s (%s) %s', strata.metric_table(m), strata.metric_columns(m), strata.metric_rows(m, 'true'));
    get diagnostics written = row_count;
    execute format('select %s from %s', counted, strata.metric_table(m)) into come;
    update strata.metrics x set partition_count = come where x.metric = m.metric;
    return written;
  end if;
  execute format('with gone as (delete from %s d where %s returning *) select %s from gone',
                 strata.metric_table(m), strata.partition_condition(m, 'd', stale), counted) into gone using stale;
  execute format('with come as (insert into %s (%s) %s returning *) select count(*), %s from come',
                 strata.metric_table(m), strata.metric_columns(m), strata.metric_rows(m, strata.partition_condition(m, 'd', stale)), counted)
  into written, come using stale;
  update strata.metrics x set partition_count = greatest(0, x.partition_count + come - gone) where x.metric = m.metric;
  return written;
end
$$;

comment on function strata.compute_metric(text, text[]) is 'Computes the given partitions of a metric, or all of them, and returns how many rows it wrote.';

-- While a view is refreshed concurrently it can be read. That takes a view that was filled once, and a unique index
-- on plain columns over all of its rows.
create or replace function strata.can_refresh_concurrently(view_name regclass)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select c.relispopulated and exists (
    select from pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
  )
  from pg_class c where c.oid = view_name;
end;

comment on function strata.can_refresh_concurrently(regclass) is 'Whether a materialized view can be refreshed while it is read.';

-- Writers go on meanwhile. What commits after the log was consumed stays logged, so that the live views take it from
-- production, whether the kept rows have it already or not. A metric or view that fails keeps its rows and is computed
-- as a whole next time; the others go on.
--
-- REFRESH … CONCURRENTLY compares all rows, however few have changed. What can be spared is sorting them on disk, and
-- sampling them for statistics that do not change how they are compared.
drop function if exists strata.refresh(boolean, bigint);
create or replace function strata.refresh(
  "full" boolean default false, run_id bigint default null, from_date date default null, to_date date default null
)
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set plan_cache_mode = force_custom_plan set jit = off set default_statistics_target = 1 as $$
declare
  m strata.metrics;
  step record;
  stale text[];
  failed jsonb := '{}';
  changed bigint;
  written bigint := 0;
  rows_of_metric bigint;
  dates record;
  memory text := current_setting('work_mem');
begin
  perform strata.enter_batch(refresh.run_id);
  if num_nulls(from_date, to_date) = 1 or from_date > to_date or not isfinite(from_date) or not isfinite(to_date) or to_date - from_date > 36600 then
    raise exception 'A range of days has a first and a last one, and a hundred years at most; given: % to %.', coalesce(from_date::text, 'nothing'), coalesce(to_date::text, 'nothing')
      using errcode = 'invalid_parameter_value';
  end if;
  -- One refresh at a time; whoever reads is not kept waiting.
  perform pg_advisory_xact_lock(hashtextextended('strata:refresh', 0));
  perform set_config('strata.refreshing', 'yes', true);
  create temporary table if not exists strata_consumed (like strata.changes) on commit drop;
  with consumed as (delete from strata.changes returning *) insert into pg_temp.strata_consumed select * from consumed;

  -- The machinery's own metrics come first: a function of its own reads them, which no catalogue tells.
  for step in
    select o.relation, o.metric from strata.refresh_order() o order by o.relation::text not like 'strata.%', o.place, o.metric is null, o.relation::text
  loop
    begin
      if step.metric is null then
        perform set_config('work_mem', greatest(pg_size_bytes(memory) / 1024, 65536) || 'kB', true);
        execute format('refresh materialized view %s %s', case when strata.can_refresh_concurrently(step.relation) then 'concurrently' else '' end, step.relation);
        perform set_config('work_mem', memory, true);
        continue;
      end if;
      select * into strict m from strata.metrics x where x.metric = step.metric;
      stale := case when "full" then null else strata.stale_partitions(m.metric, true) end;
      -- Days that were asked for, whether anything of them changed or not.
      if from_date is not null and exists (select from pg_attribute a where a.attrelid = strata.metric_table(m)::regclass and m.mode = 'partition'
                                           and a.attname = m.partition_column and a.atttypid = 'date'::regtype) then
        select array_agg(distinct x.day) into stale
        from (select unnest(stale) as day union all select to_char(d, 'YYYY-MM-DD') from generate_series(from_date, to_date, interval '1 day') d) x
        where stale is not null;
      end if;
      rows_of_metric := 0;
      if stale is null or stale <> '{}' then
        rows_of_metric := strata.compute_metric(m.metric, stale);
        -- Computing a metric changes its table, which other metrics may read.
        with consumed as (delete from strata.changes c where c.relation = strata.metric_table(m) returning *)
        insert into pg_temp.strata_consumed select * from consumed;
      end if;
      update strata.metrics x set rebuild = false, error = null, refreshed_at = clock_timestamp(), run_id = refresh.run_id where x.metric = m.metric;
    exception when others then
      if not strata.is_fault_of_row(sqlstate) and sqlstate !~ '^(42|0A|55000)' then
        raise;
      end if;
      if step.metric is null then
        failed := failed || jsonb_build_object(step.relation::text, sqlerrm);
      else
        update strata.metrics x set rebuild = true, error = sqlerrm where x.metric = m.metric;
      end if;
      continue;
    end;
    perform strata.count_batch(refresh.run_id, 0, rows_of_metric, 0, 0, null, m.metric) where m.schema_name = 'analytics';
    written := written + rows_of_metric;
    -- Dates of a metric must be in the calendar, which the API joins.
    if rows_of_metric > 0 and exists (select from pg_attribute a where a.attrelid = strata.metric_table(m)::regclass
                                      and a.attname = m.partition_column and a.atttypid = 'date'::regtype) then
      execute format('select min(%1$I) as first, max(%1$I) as last from %2$s where %1$I between %3$L and %4$L',
                     m.partition_column, strata.metric_table(m), '1900-01-01', '2199-12-31') into dates;
      perform strata.cover_dates(dates.first, dates.last) where dates.first is not null;
    end if;
  end loop;

  select coalesce(sum(c.row_count), 0) into changed from pg_temp.strata_consumed c;
  drop table pg_temp.strata_consumed;
  update strata.refresh_state set view_errors = failed where view_errors <> failed;
  perform set_config('strata.refreshing', '', true);
  perform set_config('strata.run_id', coalesce(refresh.run_id::text, ''), true);
  perform strata.note_refresh();
  perform set_config('strata.run_id', '', true);
  perform strata.count_batch(refresh.run_id, changed, written, 0, 0, 1);
  return written;
end
$$;

comment on function strata.refresh(boolean, bigint, date, date) is
  'Brings metrics and materialized views up to date and returns how many rows were computed; full computes all of them, two dates the days between them of metrics by day.';
