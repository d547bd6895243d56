-- ======================================================================================================
-- Incidents: what somebody should look at, noticed once and once more when it is over
--
--   run_failed   a run ended in failure; over when a later run of the step (and dataset) succeeds
--   freshness    a dataset or metric lags further behind than strata.promise allows
--   quarantine   a dataset rejects more rows within a day than ALERT_QUARANTINE_ROWS
--   worker       nobody executes scheduled and queued work
--
-- The first is opened in the transaction that ends the run; the others by strata.check_incidents, which a worker
-- calls each minute, and the last by strata.check_worker, which every serving process calls.
-- ======================================================================================================

create table if not exists strata.promises (
  dataset text constraint promises_pkey primary key,
  fresh_within interval not null,
  constraint positive_interval check (fresh_within > interval '0')
);

comment on table strata.promises is 'How fresh datasets and metrics are promised to be; one row each.';
comment on column strata.promises.dataset is 'Dataset, metric or materialized view.';
comment on column strata.promises.fresh_within is 'Age that a source row may reach before the dataset contains it.';

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

comment on table strata.incidents is 'What somebody should look at, or should have; one row per incident.';
comment on column strata.incidents.incident_id is 'Identity of the incident.';
comment on column strata.incidents.kind is 'What it is: run_failed, freshness, quarantine or worker.';
comment on column strata.incidents.subject is 'What it is about: a step, a dataset or metric, the worker.';
comment on column strata.incidents.detail is 'What happened, in a sentence that names neither values nor SQL.';
comment on column strata.incidents.run_id is 'Run that failed.';
comment on column strata.incidents.opened_at is 'When it was noticed.';
comment on column strata.incidents.resolved_at is 'When it was over; empty while it lasts.';

create table if not exists strata.worker_state (
  singleton boolean constraint worker_state_pkey primary key default true,
  seen_at timestamptz,
  constraint one_row check (singleton)
);

comment on table strata.worker_state is 'Sign of life of the workers; exactly one row.';
comment on column strata.worker_state.singleton is 'Always true.';
comment on column strata.worker_state.seen_at is 'When any worker gave a sign of life last; empty if none ever did.';

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
    raise exception 'fresh_within must be longer than nothing, not %.', promise.fresh_within using errcode = 'invalid_parameter_value';
  end if;
  insert into strata.promises as p (dataset, fresh_within) values (promise.dataset, promise.fresh_within)
  on conflict on constraint promises_pkey do update set fresh_within = excluded.fresh_within
  where p.fresh_within is distinct from excluded.fresh_within;
end
$$;

comment on function strata.promise(text, interval) is 'Promises that a dataset or metric contains each source row within this time; null takes the promise back.';

-- Times as in JSON of other programs, whatever the session's settings are.
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

comment on function strata.tell_of_incident(strata.incidents, text) is 'Tells the receiver of alerts that an incident was opened or resolved.';

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

comment on function strata.open_incident(text, text, text, bigint) is 'Opens an incident, unless the same one is open.';

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

comment on function strata.resolve_incident(text, text) is 'Ends an incident, if it is open.';

-- The message of an error may hold values and SQL, and goes nowhere: the run has it.
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
  -- The part that failed is the incident, not the run that it is part of.
  elsif new.status = 'failed' and not exists (select from strata.runs r where r.parent_run_id = new.run_id and r.status = 'failed') then
    perform strata.open_incident('run_failed', subject,
      format('The %s failed (run %s).', new.step || coalesce(' of ' || new.dataset, ''), new.run_id), new.run_id);
  end if;
  return null;
end
$$;

comment on function strata.tell_of_run() is 'Tells receivers that a run has started or ended; one that failed is an incident.';

create or replace trigger tell_of_start
after insert on strata.runs
for each row when (new.status <> 'queued') execute function strata.tell_of_run();

create or replace trigger tell_of_change
after update of status on strata.runs
for each row when (old.status is distinct from new.status and new.status <> 'queued') execute function strata.tell_of_run();

comment on trigger tell_of_start on strata.runs is 'Tells receivers of a run that starts when it is asked for.';
comment on trigger tell_of_change on strata.runs is 'Tells receivers that a run has started or ended.';

-- Reads no more than it must: lags only of what was promised, and as many rejected rows as the limit has.
create or replace function strata.find_problems(quarantine_rows bigint)
returns table (kind text, subject text, detail text)
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set intervalstyle = 'postgres' as $$
begin
  if exists (select from strata.promises) then
    return query
      select 'freshness', f.dataset, format('%s lacks source rows that are %s old; promised is %s.', f.dataset, make_interval(secs => round(f.lag_seconds)), p.fresh_within)
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

comment on function strata.find_problems(bigint) is 'What is wrong at this moment, of the kinds that no transaction tells.';

create or replace function strata.check_incidents(quarantine_rows bigint default 1000)
returns setof strata.incidents
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  problems jsonb;
begin
  -- Another one is looking.
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
  -- Nothing of a dataset that was removed will ever succeed.
  perform strata.resolve_incident(i.kind, i.subject)
  from strata.incidents i join strata.runs r on r.run_id = i.run_id
  where i.resolved_at is null and i.kind = 'run_failed'
    and r.dataset is not null and not exists (select from strata.datasets d where d.dataset = r.dataset);
  delete from strata.incidents i where i.resolved_at < clock_timestamp() - interval '90 days';
  delete from strata.outbox o where o.created_at < clock_timestamp() - interval '90 days';
  return query select * from strata.incidents i where i.opened_at >= began or i.resolved_at >= began order by i.incident_id;
end
$$;

comment on function strata.check_incidents(bigint) is 'Opens and resolves incidents, and returns those that it has changed.';

create or replace function strata.note_worker()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  update strata.worker_state s set seen_at = clock_timestamp();
  perform strata.resolve_incident('worker', 'worker');
end
$$;

comment on function strata.note_worker() is 'Sign of life of a worker.';

-- Where no worker was ever seen, others may run the steps: only work that waits says that one is missing.
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
      coalesce('No worker has given a sign of life since ' || strata.iso_time(seen) || '.', 'Work waits in the queue, and no worker was ever seen.'));
    return false;
  end if;
  return true;
end
$$;

comment on function strata.check_worker(interval) is 'Whether somebody executes scheduled and queued work; opens an incident if nobody does.';
