-- ======================================================================================================
-- Runs: each run of a step of the pipeline, its caller and its progress
-- ======================================================================================================

create table if not exists strata.runs (
  run_id bigint generated always as identity constraint runs_pkey primary key,
  step text not null,
  status text not null default 'queued',
  trigger text not null default 'sql',
  actor text,
  dataset text,
  arguments jsonb not null default '{}',
  parent_run_id bigint,
  queued_at timestamptz not null default current_timestamp,
  started_at timestamptz,
  finished_at timestamptz,
  heartbeat_at timestamptz,
  rows_read bigint not null default 0,
  rows_written bigint not null default 0,
  rows_rejected bigint not null default 0,
  rows_deleted bigint not null default 0,
  progress real not null default 0,
  error text,
  constraint fk_parent_run foreign key (parent_run_id) references strata.runs (run_id) on delete cascade,
  constraint known_status check (status in ('queued', 'running', 'succeeded', 'failed')),
  constraint known_trigger check (trigger in ('cli', 'api', 'schedule', 'sample', 'sql')),
  constraint progress_is_a_share check (progress between 0 and 1)
);

alter table strata.runs add column if not exists duration_ms integer generated always as (
  case when started_at <= finished_at then least(extract(epoch from finished_at - started_at) * 1000, 2147483647)::integer end
) stored;

alter table strata.runs add column if not exists rows_replaced bigint not null default 0;
alter table strata.runs add column if not exists rows_replaced_from_other_source bigint not null default 0;
alter table strata.runs add column if not exists held_from xid8;
alter table strata.runs add column if not exists first_seq bigint;

do $$
begin
  if not exists (select from pg_catalog.pg_constraint where conrelid = 'strata.runs'::regclass and conname = 'known_step') then
    alter table strata.runs add constraint known_step check (step in ('ingest', 'transform', 'refresh', 'cleanup', 'pipeline', 'retry'));
  end if;
end
$$;

-- Allow one running and one queued run per step. Indexes enforce it where session locks do not: behind a transaction
-- pooler, and on the embedded engine, where all connections share one session.
create unique index if not exists idx_runs_one_running on strata.runs (step)
  where status = 'running' and step not in ('ingest', 'retry');
create unique index if not exists idx_runs_one_queued on strata.runs (step)
  where status = 'queued' and step not in ('ingest', 'retry');
create index if not exists idx_runs_parent on strata.runs (parent_run_id);
create index if not exists idx_runs_step on strata.runs (step, run_id);
create index if not exists idx_runs_status on strata.runs (status, run_id);
create index if not exists idx_runs_started_at on strata.runs (started_at);
create index if not exists idx_runs_actor on strata.runs (actor, run_id);
create index if not exists idx_runs_sha256 on strata.runs ((arguments ->> 'sha256')) where arguments ? 'sha256';
create index if not exists idx_runs_held on strata.runs (dataset) where held_from is not null;

comment on table strata.runs is 'Runs of the pipeline, past, present and queued; one row per run of a step.';
comment on column strata.runs.run_id is 'Identifier of the run.';
comment on column strata.runs.step is 'Step of the run: ingest, transform, refresh, cleanup, retry (of quarantined rows), or pipeline (transform, then refresh).';
comment on column strata.runs.status is 'State: queued, running, succeeded or failed.';
comment on column strata.runs.trigger is 'Origin of the request: cli, api, schedule, sample or sql.';
comment on column strata.runs.actor is 'Subject of the caller''s token, or else the user or the database role that requested the run.';
comment on column strata.runs.dataset is 'Dataset of an ingest; null for other steps.';
comment on column strata.runs.arguments is 'Arguments of the step as an object.';
comment on column strata.runs.parent_run_id is 'Pipeline run that this run is part of; null if it is none.';
comment on column strata.runs.queued_at is 'When the run was requested.';
comment on column strata.runs.started_at is 'When the run started; null while it is queued.';
comment on column strata.runs.finished_at is 'When the run ended; null until then.';
comment on column strata.runs.heartbeat_at is 'Time of the last heartbeat; a running run without one for 30 seconds is closed as failed. Null while the run is queued.';
comment on column strata.runs.duration_ms is 'Time from start to end in milliseconds; null until the end.';
comment on column strata.runs.rows_read is 'Number of rows read.';
comment on column strata.runs.rows_written is 'Number of rows inserted or changed.';
comment on column strata.runs.rows_rejected is 'Number of rows put into quarantine.';
comment on column strata.runs.rows_deleted is 'Number of rows deleted.';
comment on column strata.runs.rows_replaced is 'Number of rows that replaced a row with the same key and other values.';
comment on column strata.runs.rows_replaced_from_other_source is 'Number of replaced rows that had come from another source system.';
comment on column strata.runs.held_from is 'Transaction id from which the transform skips rows of the dataset, because the load is undecided or its rows are to be deleted; null if none are held back.';
comment on column strata.runs.first_seq is 'ingest_seq below that of all rows of a full snapshot; null for other runs.';
comment on column strata.runs.progress is 'Completed share of the work, 0 to 1.';
comment on column strata.runs.error is 'Why the run failed; null unless it did.';

create table if not exists strata.run_datasets (
  run_id bigint not null,
  dataset text not null,
  rows_read bigint not null default 0,
  rows_written bigint not null default 0,
  rows_rejected bigint not null default 0,
  rows_deleted bigint not null default 0,
  constraint run_datasets_pkey primary key (run_id, dataset),
  constraint fk_run foreign key (run_id) references strata.runs (run_id) on delete cascade
);

alter table strata.run_datasets add column if not exists rows_replaced bigint not null default 0;
alter table strata.run_datasets add column if not exists rows_replaced_from_other_source bigint not null default 0;

comment on table strata.run_datasets is 'Counts of a run by dataset or metric; one row per run and dataset.';
comment on column strata.run_datasets.run_id is 'Run that the counts belong to.';
comment on column strata.run_datasets.dataset is 'Name of the dataset or metric.';
comment on column strata.run_datasets.rows_read is 'Number of rows read.';
comment on column strata.run_datasets.rows_written is 'Number of rows inserted or changed.';
comment on column strata.run_datasets.rows_rejected is 'Number of rows put into quarantine.';
comment on column strata.run_datasets.rows_deleted is 'Number of rows deleted.';
comment on column strata.run_datasets.rows_replaced is 'Number of rows that replaced a row with the same key and other values.';
comment on column strata.run_datasets.rows_replaced_from_other_source is 'Number of replaced rows that had come from another source system.';

-- A heartbeat changes none of the columns of the trigger's condition, so it is not announced.
create or replace function strata.notify_run()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('strata:run', json_build_object('runId', new.run_id, 'step', new.step, 'status', new.status)::text);
  return null;
end
$$;

comment on function strata.notify_run() is 'Trigger function: notifies listeners on strata:run that a run changed.';

create or replace trigger notify_run_queued
after insert on strata.runs
for each row execute function strata.notify_run();

create or replace trigger notify_run_changed
after update on strata.runs
for each row
when (row(old.status, old.progress, old.rows_read, old.rows_written, old.rows_deleted)
      is distinct from row(new.status, new.progress, new.rows_read, new.rows_written, new.rows_deleted))
execute function strata.notify_run();

comment on trigger notify_run_queued on strata.runs is 'Announces a new run.';
comment on trigger notify_run_changed on strata.runs is 'Announces changes of a run''s status, progress and counts.';

-- start_run requests a run under the caller's role, whose right to execute that function is all it needs. The server's
-- login then claims the run, executes it in batches and finishes it.
--
-- Three parties write a run's row: its batches, its heartbeat, and whoever closes it because it seems dead. A batch
-- holds FOR KEY SHARE, which lets the heartbeat pass but not the closing (FOR UPDATE). So a closed run never writes,
-- and a run in the middle of a batch is never closed.

create or replace function strata.close_dead_runs()
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  closed integer;
begin
  with dead as (
    select run_id from strata.runs
    where status = 'running' and heartbeat_at < clock_timestamp() - interval '30 seconds'
    for update skip locked
  )
  update strata.runs r
  set status = 'failed', finished_at = r.heartbeat_at,
      error = 'The process that executed this run sent no heartbeat for 30 seconds.'
  from dead where r.run_id = dead.run_id;
  get diagnostics closed = row_count;
  return closed;
end
$$;

comment on function strata.close_dead_runs() is 'Marks running runs as failed that have had no heartbeat for 30 seconds; returns their number.';

-- A queued run of the step takes over the arguments of both callers. A running one began earlier: it need not see what
-- the caller has just written, nor do all that the caller requests.
create or replace function strata.start_run(
  step text,
  trigger text default 'sql',
  actor text default null,
  arguments jsonb default '{}',
  parent_run_id bigint default null
)
returns strata.runs
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  run strata.runs;
begin
  if start_run.step is null or start_run.step not in ('transform', 'refresh', 'cleanup', 'pipeline', 'retry') then
    raise exception 'Unknown step %; allowed: transform, refresh, cleanup, pipeline, retry.', coalesce(quote_literal(start_run.step), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  if start_run.step = 'cleanup' then
    perform strata.check_days_to_keep(coalesce((start_run.arguments ->> 'daysToKeep')::integer, 30));
  end if;
  perform strata.close_dead_runs();
  insert into strata.runs as r (step, trigger, actor, arguments, parent_run_id)
  values (start_run.step, start_run.trigger, coalesce(nullif(current_setting('strata.sub', true), ''), start_run.actor, session_user),
          coalesce(start_run.arguments, '{}'), start_run.parent_run_id)
  on conflict (step) where status = 'queued' and step not in ('ingest', 'retry')
  do update set
    arguments = r.arguments || excluded.arguments || jsonb_strip_nulls(jsonb_build_object(
      'from', least(r.arguments ->> 'from', excluded.arguments ->> 'from'),
      'to', greatest(r.arguments ->> 'to', excluded.arguments ->> 'to'),
      'replays', nullif(coalesce(r.arguments -> 'replays', '[]') || coalesce(excluded.arguments -> 'replays', '[]'), '[]'),
      'full', nullif(coalesce((r.arguments ->> 'full')::boolean, false) or coalesce((excluded.arguments ->> 'full')::boolean, false), false),
      'daysToKeep', case when r.step = 'cleanup' then
        least(coalesce((r.arguments ->> 'daysToKeep')::integer, 30), coalesce((excluded.arguments ->> 'daysToKeep')::integer, 30)) end
    )),
    parent_run_id = coalesce(r.parent_run_id, excluded.parent_run_id)
  returning * into run;
  return run;
end
$$;

comment on function strata.start_run(text, text, text, jsonb, bigint) is 'Requests a run of a step, and returns the queued run of that step if there is one, else a new run.';

create or replace function strata.check_may_load(role_name text, dataset text, operation text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  perform strata.check_dataset(dataset);
  if not has_table_privilege(role_name, strata.raw_table(dataset), 'INSERT') then
    raise exception 'permission denied for dataset %', dataset using errcode = 'insufficient_privilege',
      hint = format('Allow it: grant insert on %s to %I.', strata.raw_table(dataset), role_name);
  end if;
  if operation is not null and not has_table_privilege(role_name, strata.production_table(dataset), 'DELETE') then
    raise exception 'permission denied to delete rows of dataset %', dataset using errcode = 'insufficient_privilege',
      hint = format('Allow it: grant delete on %s to %I.', strata.production_table(dataset), role_name);
  end if;
end
$$;

comment on function strata.check_may_load(text, text, text) is 'Raises an error if a role may not load a dataset or, with an operation, not delete its rows.';

-- Ingests may run at the same time, because each only adds rows.
create or replace function strata.start_ingest_run(dataset text, run_trigger text, actor text, arguments jsonb default '{}')
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  started bigint;
begin
  -- The current user is the function's owner. The caller is the role that the request switched to, or else the login.
  perform strata.check_may_load(coalesce(nullif(current_setting('role', true), 'none'), session_user),
                                start_ingest_run.dataset, start_ingest_run.arguments ->> 'operation');
  perform strata.close_dead_runs();
  insert into strata.runs (step, status, trigger, actor, dataset, arguments, started_at, heartbeat_at, held_from, first_seq)
  values ('ingest', 'running', start_ingest_run.run_trigger,
          coalesce(nullif(current_setting('strata.sub', true), ''), start_ingest_run.actor, session_user),
          start_ingest_run.dataset, start_ingest_run.arguments, clock_timestamp(), clock_timestamp(),
          -- All rows of the run get later transaction ids than this one.
          case when start_ingest_run.arguments ? 'maxRejected' then pg_current_xact_id() end,
          case when start_ingest_run.arguments ->> 'operation' = 'replace' then
            nextval(pg_get_serial_sequence(strata.raw_table(start_ingest_run.dataset)::text, 'ingest_seq')) end)
  returning run_id into started;
  return started;
end
$$;

comment on function strata.start_ingest_run(text, text, text, jsonb) is 'Starts an ingest run of a dataset and returns its identifier.';

-- The arguments sourceName and maxRejected are ignored: they do not affect which rows land.
create or replace function strata.find_same_load(dataset text, arguments jsonb, role_name text default null)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  same strata.runs;
begin
  -- A role that may not load the dataset must not learn what was loaded.
  perform strata.check_may_load(coalesce(role_name, session_user), find_same_load.dataset, find_same_load.arguments ->> 'operation');
  -- Of two callers at the same time, the second waits here and then finds the first.
  perform pg_advisory_xact_lock(hashtextextended('strata:load:' || (find_same_load.arguments ->> 'sha256'), 0));
  perform strata.close_dead_runs();
  select * into same from strata.runs r
  where r.step = 'ingest' and r.dataset = find_same_load.dataset and r.status in ('running', 'succeeded')
    and r.arguments ->> 'sha256' = find_same_load.arguments ->> 'sha256'
    and r.arguments - '{sourceName,maxRejected}'::text[] = find_same_load.arguments - '{sourceName,maxRejected}'::text[]
  order by r.status desc, r.run_id desc limit 1;
  if same.status = 'running' then
    raise exception 'Run % is ingesting the same input; wait for it to end.', same.run_id using errcode = 'object_in_use';
  end if;
  -- If its source has loaded something since, loading the same full snapshot again is a change, not a repetition.
  if same.arguments ->> 'operation' = 'replace' and exists (
    select from strata.runs r
    where r.step = 'ingest' and r.dataset = same.dataset and r.run_id > same.run_id and r.rows_written > 0
      and r.arguments ->> 'sourceSystem' = same.arguments ->> 'sourceSystem'
  ) then
    return null;
  end if;
  return same.run_id;
end
$$;

comment on function strata.find_same_load(text, jsonb, text) is 'Successful ingest run of the same input (equal sha256 and options) for a dataset; null if there is none. Raises an error if one is running.';

create or replace function strata.claim_run(run_id bigint)
returns setof strata.runs
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform strata.close_dead_runs();
  return query
    update strata.runs r
    set status = 'running', started_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    where r.run_id = claim_run.run_id and r.status = 'queued'
    returning r.*;
exception when unique_violation then
  return;
end
$$;

comment on function strata.claim_run(bigint) is 'Marks a queued run as running and returns it; returns no row if the run is not queued or another run of its step is running.';

create or replace function strata.heartbeat_run(run_id bigint)
returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  with alive as (
    update strata.runs r set heartbeat_at = clock_timestamp()
    where r.run_id = heartbeat_run.run_id and r.status = 'running'
    returning 1
  )
  select exists (select from alive);
end;

comment on function strata.heartbeat_run(bigint) is 'Records a heartbeat of a run; returns false if the run is no longer running.';

-- The counts of a part are added to its pipeline run. A run that has been closed stays unchanged.
create or replace function strata.finish_run(run_id bigint, error text default null)
returns strata.runs
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  run strata.runs;
begin
  update strata.runs r
  set status = case when finish_run.error is null then 'succeeded' else 'failed' end,
      finished_at = clock_timestamp(), heartbeat_at = clock_timestamp(), error = finish_run.error,
      progress = case when finish_run.error is null then 1 else r.progress end,
      held_from = case when finish_run.error is null then null else r.held_from end
  where r.run_id = finish_run.run_id and r.status in ('running', 'queued')
  returning * into run;
  if found and run.status = 'succeeded' and run.first_seq is not null and run.rows_written > 0 and run.rows_rejected = 0 then
    -- The snapshot ends after all rows of the run in the order of arrival, in the transaction that completes the run.
    insert into strata.snapshots (dataset, source_system, first_seq, ingest_seq, run_id)
    values (run.dataset, run.arguments ->> 'sourceSystem', run.first_seq,
            nextval(pg_get_serial_sequence(strata.raw_table(run.dataset)::text, 'ingest_seq')), run.run_id);
  end if;
  if run.run_id is null then
    select * into run from strata.runs r where r.run_id = finish_run.run_id;
  elsif run.parent_run_id is not null then
    update strata.runs r
    set rows_read = r.rows_read + run.rows_read, rows_written = r.rows_written + run.rows_written,
        rows_rejected = r.rows_rejected + run.rows_rejected, rows_deleted = r.rows_deleted + run.rows_deleted,
        rows_replaced = r.rows_replaced + run.rows_replaced,
        rows_replaced_from_other_source = r.rows_replaced_from_other_source + run.rows_replaced_from_other_source,
        progress = least(1, r.progress + 0.5)
    where r.run_id = run.parent_run_id and r.status = 'running';
  end if;
  return run;
end
$$;

comment on function strata.finish_run(bigint, text) is 'Ends a run as succeeded, or as failed if an error is given, and returns it.';

-- A failed load with a limit of rejected rows must leave none of its rows. Its own process deletes them, or the next
-- transform if that process died.
create or replace function strata.drop_failed_load(batch_size integer default 20000)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  run strata.runs;
  deleted bigint;
begin
  select * into run from strata.runs r
  where r.held_from is not null and r.status = 'failed' order by r.run_id limit 1 for update skip locked;
  if not found then
    return 0;
  end if;
  if strata.raw_table(run.dataset) is null then
    update strata.runs r set held_from = null where r.run_id = run.run_id;
    return 0;
  end if;
  -- No row beyond the watermark was transformed; comparing places works whatever ids a restored database has.
  execute format($sql$
    delete from %1$s where %2$I in (
      select r.%2$I from %1$s r, strata.datasets d
      where d.dataset = $1 and (r.ingest_xid, r.ingest_seq) > (d.xid, d.seq) and r.ingest_run = $2 limit $3)
  $sql$, strata.raw_table(run.dataset), strata.raw_id_column(run.dataset))
  using run.dataset, run.run_id, batch_size;
  get diagnostics deleted = row_count;
  perform strata.count_batch(run.run_id, rows_written => -deleted, dataset => run.dataset);
  if deleted < batch_size then
    update strata.runs r set held_from = null where r.run_id = run.run_id;
  end if;
  return deleted;
end
$$;

comment on function strata.drop_failed_load(integer) is 'Deletes a batch of raw rows of one failed load that were held back; returns their number, 0 if there are none.';

create or replace function strata.enter_batch(run_id bigint)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if enter_batch.run_id is null then
    return;
  end if;
  perform from strata.runs r where r.run_id = enter_batch.run_id and r.status = 'running' for key share;
  if not found then
    raise exception 'Run % is not running.', enter_batch.run_id using errcode = 'ST001';
  end if;
end
$$;

comment on function strata.enter_batch(bigint) is 'Raises an error (ST001) if a run is no longer running; otherwise prevents it from being closed until the transaction ends.';

create or replace function strata.count_batch(
  run_id bigint,
  rows_read bigint default 0,
  rows_written bigint default 0,
  rows_rejected bigint default 0,
  rows_deleted bigint default 0,
  progress real default null,
  dataset text default null,
  rows_replaced bigint default 0,
  rows_replaced_from_other_source bigint default 0
)
returns void
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  insert into strata.run_datasets as d (run_id, dataset, rows_read, rows_written, rows_rejected, rows_deleted,
                                        rows_replaced, rows_replaced_from_other_source)
  select r.run_id, coalesce(count_batch.dataset, r.dataset), count_batch.rows_read, count_batch.rows_written,
         count_batch.rows_rejected, count_batch.rows_deleted, count_batch.rows_replaced, count_batch.rows_replaced_from_other_source
  from strata.runs r
  where r.run_id = count_batch.run_id and coalesce(count_batch.dataset, r.dataset) is not null
    and (count_batch.rows_read, count_batch.rows_written, count_batch.rows_rejected, count_batch.rows_deleted) <> (0, 0, 0, 0)
  on conflict on constraint run_datasets_pkey do update
    set rows_read = d.rows_read + excluded.rows_read, rows_written = d.rows_written + excluded.rows_written,
        rows_rejected = d.rows_rejected + excluded.rows_rejected, rows_deleted = d.rows_deleted + excluded.rows_deleted,
        rows_replaced = d.rows_replaced + excluded.rows_replaced,
        rows_replaced_from_other_source = d.rows_replaced_from_other_source + excluded.rows_replaced_from_other_source;
  update strata.runs r
  set rows_read = r.rows_read + count_batch.rows_read,
      rows_written = r.rows_written + count_batch.rows_written,
      rows_rejected = r.rows_rejected + count_batch.rows_rejected,
      rows_deleted = r.rows_deleted + count_batch.rows_deleted,
      rows_replaced = r.rows_replaced + count_batch.rows_replaced,
      rows_replaced_from_other_source = r.rows_replaced_from_other_source + count_batch.rows_replaced_from_other_source,
      progress = greatest(r.progress, least(1, coalesce(count_batch.progress, r.progress))),
      heartbeat_at = clock_timestamp()
  where r.run_id = count_batch.run_id;
end;

comment on function strata.count_batch(bigint, bigint, bigint, bigint, bigint, real, text, bigint, bigint) is 'Adds the counts of a batch to its run, and to the run''s counts for a dataset.';
