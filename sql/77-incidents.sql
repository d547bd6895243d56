-- ======================================================================================================
-- Incidents: problems that need attention; receivers are told once when one begins and once when it ends
--
-- run_failed   a run failed; ends when a later run of the step (and dataset) succeeds
-- freshness    a dataset or metric is older than strata.promise allows
-- quarantine   more than ALERT_QUARANTINE_ROWS records of a dataset were rejected within a day
-- worker       no worker executes scheduled and queued work
--
-- run_failed is opened in the transaction that ends the run, and worker by strata.check_worker, which every serving
-- process calls; the others by strata.check_incidents, which a worker calls each minute.
-- ======================================================================================================

create table if not exists strata.promises (
  dataset text constraint promises_pkey primary key,
  fresh_within interval not null,
  constraint positive_interval check (fresh_within > interval '0')
);

comment on table strata.promises is 'Promised freshness; one row per dataset, metric or materialized view.';
comment on column strata.promises.dataset is 'Name of the dataset, metric or materialized view.';
comment on column strata.promises.fresh_within is 'Maximum age of a source row that the dataset does not contain yet.';

create table if not exists strata.incidents (
  incident_id bigint generated always as identity constraint incidents_pkey primary key,
  kind text not null,
  subject text not null,
  detail text not null,
  run_id bigint,
  opened_at timestamptz not null default clock_timestamp(),
  resolved_at timestamptz,
  constraint known_kind check (kind in ('run_failed', 'freshness', 'quarantine', 'worker'))
);

create unique index if not exists idx_incidents_open on strata.incidents (kind, subject) where resolved_at is null;
create index if not exists idx_incidents_opened_at on strata.incidents (opened_at);

comment on table strata.incidents is 'Problems that need or needed attention; one row per incident.';
comment on column strata.incidents.incident_id is 'Identifier of the incident.';
comment on column strata.incidents.kind is 'Kind of problem: run_failed, freshness, quarantine or worker.';
comment on column strata.incidents.subject is 'Subject of the incident: a step (with its dataset), a dataset, a metric, or the worker.';
comment on column strata.incidents.detail is 'What happened, in a sentence without values or SQL.';
comment on column strata.incidents.run_id is 'Run that failed; null for other kinds.';
comment on column strata.incidents.opened_at is 'When the incident was detected.';
comment on column strata.incidents.resolved_at is 'When the incident ended; null while it lasts.';

create table if not exists strata.worker_state (
  singleton boolean constraint worker_state_pkey primary key default true,
  seen_at timestamptz,
  constraint one_row check (singleton)
);

comment on table strata.worker_state is 'Last heartbeat of the workers; exactly one row.';
comment on column strata.worker_state.singleton is 'Always true: allows only one row.';
comment on column strata.worker_state.seen_at is 'When any worker last sent a heartbeat; null if none ever did.';

insert into strata.worker_state default values on conflict do nothing;

create or replace function strata.promise(dataset text, fresh_within interval)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if promise.fresh_within is null then
    delete from strata.promises p where p.dataset = promise.dataset;
    return;
  end if;
  if not exists (select from strata.freshness_rows() f where f.dataset = promise.dataset) then
    raise exception 'There is no dataset or metric %; there are: %.', coalesce(quote_literal(promise.dataset), 'null'),
        (select string_agg(f.dataset, ', ' order by f.dataset) from strata.freshness_rows() f)
      using errcode = 'undefined_object';
  end if;
  if promise.fresh_within <= interval '0' then
    raise exception 'fresh_within must be longer than 0, not %.', promise.fresh_within using errcode = 'invalid_parameter_value';
  end if;
  insert into strata.promises as p (dataset, fresh_within) values (promise.dataset, promise.fresh_within)
  on conflict on constraint promises_pkey do update set fresh_within = excluded.fresh_within
  where p.fresh_within is distinct from excluded.fresh_within;
end
$$;

comment on function strata.promise(text, interval) is 'Promises that a dataset or metric contains each source row within this time; null withdraws the promise.';

-- The format does not depend on the session's settings.
create or replace function strata.iso_time(given timestamptz)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
return to_char(given at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

comment on function strata.iso_time(timestamptz) is 'A time as ISO 8601 in UTC, with milliseconds.';

create or replace function strata.tell_of_incident(i strata.incidents, event text)
returns void
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  select strata.tell('alerts', tell_of_incident.event, null, jsonb_build_object(
    'type', tell_of_incident.event,
    'timestamp', strata.iso_time(coalesce(i.resolved_at, i.opened_at)),
    'data', jsonb_build_object(
      'incidentId', i.incident_id::text, 'kind', i.kind, 'subject', i.subject, 'detail', i.detail, 'runId', i.run_id::text,
      'database', current_database(), 'openedAt', strata.iso_time(i.opened_at), 'resolvedAt', strata.iso_time(i.resolved_at))));
end;

comment on function strata.tell_of_incident(strata.incidents, text) is 'Sends the receiver of alerts the message that an incident was opened or resolved.';

create or replace function strata.open_incident(kind text, subject text, detail text, run_id bigint default null)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  opened strata.incidents;
begin
  insert into strata.incidents (kind, subject, detail, run_id)
  values (open_incident.kind, left(open_incident.subject, 200), left(open_incident.detail, 500), open_incident.run_id)
  on conflict do nothing
  returning * into opened;
  if found then
    perform strata.tell_of_incident(opened, 'incident.opened');
  end if;
end
$$;

comment on function strata.open_incident(text, text, text, bigint) is 'Opens an incident, unless one of the same kind and subject is open.';

create or replace function strata.resolve_incident(kind text, subject text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  resolved strata.incidents;
begin
  update strata.incidents i set resolved_at = clock_timestamp()
  where i.kind = resolve_incident.kind and i.subject = left(resolve_incident.subject, 200) and i.resolved_at is null
  returning * into resolved;
  if found then
    perform strata.tell_of_incident(resolved, 'incident.resolved');
  end if;
end
$$;

comment on function strata.resolve_incident(text, text) is 'Ends the open incident of a kind and subject, if there is one.';

-- The error message stays in the run and is not sent, as it may contain values and SQL.
create or replace function strata.tell_of_run()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  subject text := concat_ws(' ', new.step, new.dataset);
begin
  if tg_op = 'UPDATE' and old.status = 'queued' and new.status <> 'running' then
    perform strata.tell('lineage', 'START', new.run_id);
  end if;
  perform strata.tell('lineage', case new.status when 'running' then 'START' when 'succeeded' then 'COMPLETE' else 'FAIL' end, new.run_id);
  if new.status = 'succeeded' then
    perform strata.resolve_incident('run_failed', subject);
  -- If a part of the run failed, the part is the incident.
  elsif new.status = 'failed' and not exists (select from strata.runs r where r.parent_run_id = new.run_id and r.status = 'failed') then
    perform strata.open_incident('run_failed', subject,
      format('The %s failed (run %s).', new.step || coalesce(' of ' || new.dataset, ''), new.run_id), new.run_id);
  end if;
  return null;
end
$$;

comment on function strata.tell_of_run() is 'Trigger function: reports the start and end of a run to receivers; a failed run opens an incident.';

create or replace trigger tell_of_start
after insert on strata.runs
for each row when (new.status <> 'queued') execute function strata.tell_of_run();

create or replace trigger tell_of_change
after update of status on strata.runs
for each row when (old.status is distinct from new.status and new.status <> 'queued') execute function strata.tell_of_run();

comment on trigger tell_of_start on strata.runs is 'Reports a run that starts at once, without being queued.';
comment on trigger tell_of_change on strata.runs is 'Reports the start and end of a run.';

-- For speed, lags are read only for promised datasets, and at most as many rejected records as the limit.
create or replace function strata.find_problems(quarantine_rows bigint)
returns table (kind text, subject text, detail text)
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set intervalstyle = 'postgres' as $$
begin
  if exists (select from strata.promises) then
    return query
      select 'freshness', f.dataset, format('%s lacks source rows that are %s old; the promise is at most %s.', f.dataset, make_interval(secs => round(f.lag_seconds)), p.fresh_within)
      from strata.freshness_rows() f join strata.promises p on p.dataset = f.dataset
      where make_interval(secs => f.lag_seconds) > p.fresh_within;
  end if;
  if quarantine_rows > 0 then
    return query
      select 'quarantine', d.dataset, format('%s has more than %s rows in quarantine that were rejected within a day.', d.dataset, quarantine_rows)
      from strata.datasets d
      cross join lateral (
        select q.quarantined_at from staging.quarantine q
        where q.dataset = d.dataset and q.retried_at is null
        order by q.quarantine_id desc offset quarantine_rows limit 1
      ) q
      where q.quarantined_at > clock_timestamp() - interval '1 day';
  end if;
end
$$;

comment on function strata.find_problems(bigint) is 'Current problems of the kinds that no transaction reports: freshness and quarantine.';

create or replace function strata.check_incidents(quarantine_rows bigint default 1000)
returns setof strata.incidents
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  problems jsonb;
begin
  -- Another process is checking at this moment.
  if not pg_try_advisory_xact_lock(hashtextextended('strata:incidents', 0)) then
    return;
  end if;
  perform strata.close_dead_runs();
  perform strata.free_deliveries();
  problems := (select coalesce(jsonb_agg(p), '[]') from strata.find_problems(check_incidents.quarantine_rows) p);
  perform strata.open_incident(p ->> 'kind', p ->> 'subject', p ->> 'detail') from jsonb_array_elements(problems) p;
  perform strata.resolve_incident(i.kind, i.subject)
  from strata.incidents i
  where i.resolved_at is null and i.kind in ('freshness', 'quarantine')
    and not exists (select from jsonb_array_elements(problems) p where p ->> 'kind' = i.kind and left(p ->> 'subject', 200) = i.subject);
  -- No run of a removed dataset will ever succeed.
  perform strata.resolve_incident(i.kind, i.subject)
  from strata.incidents i join strata.runs r on r.run_id = i.run_id
  where i.resolved_at is null and i.kind = 'run_failed'
    and r.dataset is not null and not exists (select from strata.datasets d where d.dataset = r.dataset);
  delete from strata.incidents i where i.resolved_at < clock_timestamp() - interval '90 days';
  delete from strata.outbox o where o.created_at < clock_timestamp() - interval '90 days';
  return query select * from strata.incidents i where i.opened_at >= began or i.resolved_at >= began order by i.incident_id;
end
$$;

comment on function strata.check_incidents(bigint) is 'Opens and resolves incidents, and returns those that changed.';

create or replace function strata.note_worker()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  update strata.worker_state s set seen_at = clock_timestamp();
  perform strata.resolve_incident('worker', 'worker');
end
$$;

comment on function strata.note_worker() is 'Records the heartbeat of a worker, which ends the incident worker.';

-- If no worker was ever seen, something else may run the steps; then only overdue jobs show that a worker is missing.
create or replace function strata.check_worker(patience interval default interval '5 minutes')
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  seen timestamptz := (select s.seen_at from strata.worker_state s);
  waits boolean := false;
begin
  if seen is null and to_regclass('graphile_worker.jobs') is not null then
    waits := exists (select from graphile_worker.jobs j where j.locked_at is null and j.run_at < clock_timestamp() - patience and j.attempts < j.max_attempts);
  end if;
  if seen < clock_timestamp() - patience or waits then
    perform strata.free_deliveries();
    perform strata.open_incident('worker', 'worker',
      coalesce('No worker has sent a heartbeat since ' || strata.iso_time(seen) || '.', 'Jobs wait in the queue, but no worker has ever sent a heartbeat.'));
    return false;
  end if;
  return true;
end
$$;

comment on function strata.check_worker(interval) is 'Whether a worker executes scheduled and queued work; opens an incident if none does.';
