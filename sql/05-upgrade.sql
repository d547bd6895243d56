-- ======================================================================================================
-- Upgrade from schema version 11, the last one whose machinery was in staging, production and analytics, and from
-- later ones. Rows stay in place; the next refresh recomputes computed data (rollup, change log).
-- ======================================================================================================

do $upgrade$
declare
  object record;
begin
  if to_regprocedure('analytics.schema_version()') is null then
    return;
  end if;
  if analytics.schema_version() <> 11 then
    raise exception 'This database has schema version %; it can be upgraded from version 11 or later only.', analytics.schema_version();
  end if;

  drop view analytics.quarantine, analytics.freshness;
  drop policy readers_see_all on analytics.pipeline_runs;
  drop policy ingestors_see_their_own on analytics.pipeline_runs;
  drop trigger notify_run_queued on analytics.pipeline_runs;
  drop trigger notify_run_changed on analytics.pipeline_runs;
  alter table analytics.pipeline_runs disable row level security;
  revoke all on analytics.pipeline_runs from strata_reader, strata_ingestor, strata_operator;
  revoke select (run_id, step, status, trigger, actor, dataset, arguments, parent_run_id, queued_at, started_at, finished_at,
                 heartbeat_at, duration_ms, rows_read, rows_written, rows_rejected, rows_deleted, progress)
    on analytics.pipeline_runs from strata_reader;
  alter table analytics.pipeline_runs set schema strata;
  alter table strata.pipeline_runs rename to runs;
  alter table strata.runs drop constraint known_step, drop constraint known_dataset, drop column duration_ms;
  drop index strata.idx_pipeline_runs_one_running, strata.idx_pipeline_runs_one_queued;
  alter sequence strata.pipeline_runs_run_id_seq rename to runs_run_id_seq;
  for object in
    select indexrelid::regclass as name from pg_catalog.pg_index where indrelid = 'strata.runs'::regclass
  loop
    execute format('alter index %s rename to %I', object.name, replace(split_part(object.name::text, '.', 2), 'pipeline_runs', 'runs'));
  end loop;

  -- The table of watermarks becomes the registry of datasets.
  alter table staging.watermarks set schema strata;
  alter table strata.watermarks rename to datasets;
  alter table strata.datasets rename constraint watermarks_pkey to datasets_pkey;
  alter table strata.datasets drop constraint known_dataset;

  -- Quarantine: reasons become names of constraints, and the source format is stored.
  alter table staging.quarantine drop constraint known_dataset;
  alter table staging.quarantine add column source_format text, add column waiting_for jsonb;
  update staging.quarantine q
  set source_format = case when q.stage = 'ingest' then
        case when q.raw_text ~ '^\s*\{\s*"' then 'ndjson' else 'csv' end end,
      waiting_for = case when q.waiting then
        jsonb_build_object('fk_user', jsonb_build_object('user_id', q.payload ->> 'user_id')) end,
      reasons = case when q.stage = 'ingest' then q.reasons else array(
        select case r.reason
          when 'missing_username' then 'username_missing'
          when 'missing_email' then 'email_missing'
          when 'invalid_email' then 'valid_email'
          when 'username_taken' then 'users_username_key'
          when 'email_taken' then 'users_email_key'
          when 'missing_user' then 'user_id_missing'
          when 'unknown_user' then 'fk_user'
          when 'missing_amount' then 'amount_missing'
          when 'amount_not_positive' then 'positive_amount'
          when 'unknown_status' then 'valid_status'
          when 'missing_event_type' then 'event_type_missing'
          when 'missing_date' then case q.dataset when 'events' then 'event_time_missing' else 'transaction_date_missing' end
          else r.reason
        end
        from unnest(q.reasons) with ordinality r (reason, place) order by r.place
      ) end;

  -- The state of the refresh. The materialized view calls note_refresh(), so that function is moved, not dropped.
  revoke select (data_version, refreshed_at, run_id) on analytics.refresh_state from strata_reader;
  alter table analytics.refresh_state set schema strata;
  alter table strata.refresh_state drop column day_count;
  alter function analytics.note_refresh() set schema strata;
  create or replace view analytics.daily_user_metrics_live as
    select null::date as date, null::varchar(100) as country, null::bigint as active_users,
           null::numeric as total_revenue, null::numeric as avg_transaction
    where false;

  -- Drop triggers and functions in their old schemas; the files after this one create them in the new schema.
  for object in
    select tgname, tgrelid::regclass as relation from pg_catalog.pg_trigger
    where tgname in ('log_inserted', 'log_updated', 'log_deleted', 'log_truncated', 'updated_at_kept', 'note_calendar_change')
      and tgrelid in ('production.users'::regclass, 'production.transactions'::regclass, 'production.dim_date'::regclass)
  loop
    execute format('drop trigger %I on %s', object.tgname, object.relation);
  end loop;
  -- "if exists", because dropping one function with cascade may drop others of the list.
  for object in
    select p.oid::regprocedure::text as name from pg_catalog.pg_proc p
    where p.pronamespace::regnamespace::text in ('staging', 'production', 'analytics')
      and p.proname in (
        'typed_values', 'keep_updated_at', 'notify_run', 'log_transaction_changes', 'log_user_changes', 'log_truncation', 'dirty_days',
        'transactions_of_days', 'dirty_metrics', 'note_calendar_change', 'schema_version', 'close_dead_runs', 'start_run',
        'start_ingest_run', 'claim_run', 'heartbeat_run', 'finish_run', 'enter_batch', 'count_batch', 'is_possible_time', 'user_reasons',
        'transaction_reasons', 'event_reasons', 'describe_reasons', 'advance_sequence', 'cover_dates', 'highest_xid', 'first_unused_xid',
        'renumber_restored', 'transform_window', 'judged_users', 'judged_transactions', 'judged_events', 'reject',
        'apply_contested_users', 'transform_users', 'transform_transactions', 'transform_events', 'transform_batch', 'rebuild_rollup',
        'update_rollup', 'refresh', 'count_wrong_metrics', 'check_days_to_keep', 'cleanup_batch', 'cleanup_old_data', 'raw_fields', 'requeue',
        'type_payload', 'select_quarantined', 'retry_quarantined', 'discard_quarantined', 'requeue_waiting')
  loop
    execute format('drop function if exists %s cascade', object.name);
  end loop;
  drop table analytics.change_log, analytics.daily_rollup, analytics.users_without_transactions;
end
$upgrade$;

-- From schema versions 12 to 14. Up to 13, rows had no source system, and runs did not count replaced rows. Functions
-- whose result type or arguments change are dropped, because "create or replace" cannot change these.
do $upgrade$
declare
  relation text;
begin
  if not exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = 'strata'::regnamespace and p.proname = 'merge_range' and p.pronargs = 7
  ) then
    return;
  end if;
  drop function if exists strata.count_batch(bigint, bigint, bigint, bigint, bigint, real, text);
  drop function strata.transform_batch(bigint, text, xid8, integer, real);
  drop function strata.take_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer);
  drop function strata.merge_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer);
  drop function strata.merge_range(bigint, text, strata.merge_statements, jsonb, bigint, bigint, bigint[]);
  drop function strata.merge_statements(text);
  drop type strata.merge_statements;
  for relation in
    select format('production.%I', d.dataset) from strata.datasets d where to_regclass(format('production.%I', d.dataset)) is not null
  loop
    execute format('alter table %s add column if not exists strata_source text', relation);
    execute format('comment on column %s.strata_source is %L', relation, 'Source system of the record that the row came from; null if the row was created directly.');
  end loop;
end
$upgrade$;

-- From schema versions up to 15, in which raw rows had no run, line and operation.
do $upgrade$
begin
  if not exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = 'strata'::regnamespace and p.proname = 'merge_window' and p.proargnames @> '{batch_size}' and not p.proargnames @> '{operation}'
  ) then
    return;
  end if;
  drop function strata.transform_batch(bigint, text, xid8, integer, real);
  drop function strata.take_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer);
  drop function strata.merge_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer);
end
$upgrade$;

-- Add columns that raw tables lack. The index finds deletions quickly, since most raw rows are none.
do $upgrade$
declare
  raw record;
begin
  if to_regclass('strata.datasets') is null then
    return;
  end if;
  for raw in
    select d.dataset, c.oid::regclass as name from strata.datasets d join pg_catalog.pg_class c on c.oid = to_regclass(format('staging.%I', 'raw_' || d.dataset))
    where not exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'ingest_operation')
  loop
    execute format('alter table %s add column if not exists ingest_run bigint, add column if not exists ingest_line integer, '
                   'add column if not exists ingest_operation text', raw.name);
    execute format('comment on column %s.ingest_run is %L', raw.name, 'Run that landed the record; null if it was written in SQL.');
    execute format('comment on column %s.ingest_line is %L', raw.name, 'Line of the file at which the record begins; null without a file.');
    execute format('comment on column %s.ingest_operation is %L', raw.name, 'What to do with the row that the record names: null writes it, delete deletes it.');
    execute format('create index if not exists %I on %s (ingest_xid, ingest_seq) where ingest_operation is not null', 'idx_raw_' || raw.dataset || '_operation', raw.name);
  end loop;
end
$upgrade$;
