-- ======================================================================================================
-- Refresh: production to analytics, for any metric and materialized view
-- ======================================================================================================

-- analytics.daily_user_metrics calls this, so that a plain REFRESH in psql raises the data version too.
create or replace function strata.note_refresh()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  state strata.refresh_state;
begin
  -- strata.refresh sets strata.refreshing and calls this once at its end.
  if coalesce(current_setting('strata.refreshing', true), '') = '' then
    update strata.refresh_state
    set data_version = data_version + 1, refreshed_at = clock_timestamp(), run_id = nullif(current_setting('strata.run_id', true), '')::bigint
    returning * into state;
    perform pg_notify('strata:refresh', json_build_object('version', state.data_version, 'runId', state.run_id)::text);
  end if;
  return true;
end
$$;

comment on function strata.note_refresh() is 'Raises the data version and notifies listeners on strata:refresh; always true.';

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
    raise exception 'its query no longer exists, because something that it reads was dropped; declare it again with strata.add_metric, or remove it with strata.remove_metric'
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

comment on function strata.compute_metric(text, text[]) is 'Recomputes the given partitions of a metric, or all of them if null; returns the number of rows written.';

-- A concurrent refresh lets others read the view meanwhile. PostgreSQL requires that the view was filled once and has a
-- unique index on plain columns over all rows.
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

-- Writers are not blocked. Changes that commit after the log was consumed stay logged, so the live views compute them
-- from production whether or not the stored rows have them already. A metric or view that fails keeps its rows and is
-- computed as a whole next time; the others are refreshed.
--
-- REFRESH … CONCURRENTLY compares all rows, however few changed. More work_mem avoids sorting them on disk, and a
-- statistics target of 1 avoids sampling, which would not change the plan.
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
    raise exception 'A range of days needs both dates, in order and at most 36600 days apart; given: % to %.', coalesce(from_date::text, 'null'), coalesce(to_date::text, 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  -- Only one refresh runs at a time; readers do not wait for it.
  perform pg_advisory_xact_lock(hashtextextended('strata:refresh', 0));
  perform set_config('strata.refreshing', 'yes', true);
  create temporary table if not exists strata_consumed (like strata.changes) on commit drop;
  with consumed as (delete from strata.changes returning *) insert into pg_temp.strata_consumed select * from consumed;

  -- Metrics of schema strata come first: idle_users_now() reads them, a dependency that the catalogue does not record.
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
      -- Days that the caller gave are recomputed whether or not anything in them changed.
      if from_date is not null and exists (select from pg_attribute a where a.attrelid = strata.metric_table(m)::regclass and m.mode = 'partition'
                                           and a.attname = m.partition_column and a.atttypid = 'date'::regtype) then
        select array_agg(distinct x.day) into stale
        from (select unnest(stale) as day union all select to_char(d, 'YYYY-MM-DD') from generate_series(from_date, to_date, interval '1 day') d) x
        where stale is not null;
      end if;
      rows_of_metric := 0;
      if stale is null or stale <> '{}' then
        rows_of_metric := strata.compute_metric(m.metric, stale);
        -- Computing a metric changes its table and so logs changes, which other metrics need in this refresh.
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
    -- The API joins dates of a metric with the calendar, so the calendar must have them.
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
  'Updates metrics and materialized views and returns the number of rows computed. With full, computes everything; with two dates, also recomputes those days in metrics by day.';
