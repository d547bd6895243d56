-- ======================================================================================================
-- Strata: a three-layer data pipeline in PostgreSQL (15 or newer, with PostGIS and uuid-ossp)
--
--   files, services ──▶ staging.raw_* ──▶ production.* ──▶ analytics.* ──▶ GraphQL, BI tools
--                ingest        │    transform       │    refresh
--                              ▼                    ▼
--                    staging.quarantine    analytics.change_log
--
--   staging      What arrived, as it arrived, for a short time. Not readable by any API role.
--   production   One row per user, transaction, event: every row satisfies every constraint.
--   analytics    Pre-computed answers, how fresh they are, and the runs that made them.
--
-- Moving the data is the work of functions in this file; the process that calls them only decides when.
-- Each of them does one bounded batch and commits, so that a crash loses no more than a batch of time:
--
--   transform    staging.transform_batch   takes a window of raw rows; valid ones into production, others
--                                          into quarantine, and moves the watermark, in one transaction.
--   refresh      analytics.refresh         recomputes the groups that analytics.change_log says changed.
--   cleanup      staging.cleanup_batch     deletes old raw rows that the transform has taken.
--
-- Every timestamp without time zone holds UTC.
--
-- Editing rules
--   * The file may be applied any number of times, by psql or by the server, over any earlier version.
--   * A new column goes into an `alter table … add column if not exists` below its table as well: inside
--     `create table if not exists` an existing database would never see it.
--   * `create or replace view` can add columns at the end only.
--   * Every name is qualified; every object and column has a comment (they are the API's documentation).
--   * Functions are executable by their owner alone unless section 12 grants more.
--   * Raise the number in analytics.schema_version() with every change.
-- ======================================================================================================

begin;

set local client_min_messages = warning;
set local timezone = 'UTC';

-- Two servers that start together must not apply this at the same time.
select pg_advisory_xact_lock(hashtextextended('strata:schema', 0));

-- ------------------------------------------------------------------------------------------------------
-- 1. Extensions, schemas, roles
-- ------------------------------------------------------------------------------------------------------

create extension if not exists "uuid-ossp" with schema public;
create extension if not exists postgis with schema public;

create schema if not exists staging;
create schema if not exists production;
create schema if not exists analytics;

comment on schema staging is 'Raw data as it arrived: no constraints, short retention.';
comment on schema production is 'Cleaned and validated data: strict constraints, long retention.';
comment on schema analytics is 'Aggregates and key figures: pre-computed, refreshed regularly.';

-- Roles belong to the whole cluster, so another database may be creating them right now. The applying user
-- becomes a member of each, because the server switches to them.
do $$
declare
  role_name text;
  -- From PostgreSQL 16 on, membership and the right to SET ROLE are two things.
  privilege text := case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end;
begin
  foreach role_name in array array['strata_reader', 'strata_ingestor', 'strata_operator'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then null;
      end;
    end if;
    if not pg_catalog.pg_has_role(current_user, role_name, privilege) then
      execute format('grant %I to current_user', role_name);
    end if;
  end loop;
  foreach role_name in array array['strata_reader', 'strata_ingestor'] loop
    if not pg_catalog.pg_has_role('strata_operator', role_name, 'USAGE') then
      execute format('grant %I to strata_operator', role_name);
    end if;
  end loop;
end
$$;

-- ------------------------------------------------------------------------------------------------------
-- 2. Staging
-- ------------------------------------------------------------------------------------------------------

-- ingest_xid and ingest_seq are the row's place in the order of arrival. A transaction may commit long after
-- it drew its numbers, so only rows below the oldest running transaction are final: the transform's window.
-- A retried row keeps its number but moves to the transaction that retried it.

create table if not exists staging.raw_users (
  id uuid primary key default public.uuid_generate_v4(),
  user_id integer not null,
  username varchar(100),
  email varchar(255),
  created_at timestamp,
  country varchar(100),
  ingested_at timestamp default current_timestamp,
  source_system varchar(50) default 'api',
  ingest_seq bigint not null generated by default as identity,
  ingest_xid xid8 not null default pg_current_xact_id()
);

create index if not exists idx_raw_users_arrival on staging.raw_users (ingest_xid, ingest_seq);

comment on table staging.raw_users is 'Users as they arrived from source systems; one row per received record.';
comment on column staging.raw_users.id is 'Identity of the received record.';
comment on column staging.raw_users.user_id is 'User the record is about.';
comment on column staging.raw_users.username is 'Name as received.';
comment on column staging.raw_users.email is 'E-mail address as received.';
comment on column staging.raw_users.created_at is 'When the source system created the user.';
comment on column staging.raw_users.country is 'Country as received.';
comment on column staging.raw_users.ingested_at is 'When the record arrived.';
comment on column staging.raw_users.source_system is 'Where the record came from.';
comment on column staging.raw_users.ingest_seq is 'Order of arrival; the latest valid record of a user wins.';
comment on column staging.raw_users.ingest_xid is 'Transaction that brought the record; decides when the transform may take it.';

create table if not exists staging.raw_transactions (
  id uuid primary key default public.uuid_generate_v4(),
  transaction_id integer not null,
  user_id integer,
  amount numeric,
  status varchar(50),
  transaction_date timestamp,
  ingested_at timestamp default current_timestamp,
  source_system varchar(50) default 'api',
  ingest_seq bigint not null generated by default as identity,
  ingest_xid xid8 not null default pg_current_xact_id()
);

create index if not exists idx_raw_transactions_arrival on staging.raw_transactions (ingest_xid, ingest_seq);

comment on table staging.raw_transactions is 'Transactions as they arrived from source systems; one row per received record.';
comment on column staging.raw_transactions.id is 'Identity of the received record.';
comment on column staging.raw_transactions.transaction_id is 'Transaction the record is about.';
comment on column staging.raw_transactions.user_id is 'User who made the transaction.';
comment on column staging.raw_transactions.amount is 'Amount as received.';
comment on column staging.raw_transactions.status is 'Status as received.';
comment on column staging.raw_transactions.transaction_date is 'When the transaction took place.';
comment on column staging.raw_transactions.ingested_at is 'When the record arrived.';
comment on column staging.raw_transactions.source_system is 'Where the record came from.';
comment on column staging.raw_transactions.ingest_seq is 'Order of arrival; the latest valid record of a transaction wins.';
comment on column staging.raw_transactions.ingest_xid is 'Transaction that brought the record; decides when the transform may take it.';

create table if not exists staging.raw_events (
  id uuid primary key default public.uuid_generate_v4(),
  event_id bigint not null,
  user_id integer,
  event_type varchar(50),
  event_data jsonb,
  event_time timestamp,
  latitude double precision,
  longitude double precision,
  ingested_at timestamp default current_timestamp,
  source_system varchar(50) default 'api',
  ingest_seq bigint not null generated by default as identity,
  ingest_xid xid8 not null default pg_current_xact_id()
);

create index if not exists idx_raw_events_arrival on staging.raw_events (ingest_xid, ingest_seq);
create index if not exists idx_events_data on staging.raw_events using gin (event_data);

comment on table staging.raw_events is 'Events as they arrived from source systems; one row per received record.';
comment on column staging.raw_events.id is 'Identity of the received record.';
comment on column staging.raw_events.event_id is 'Event the record is about.';
comment on column staging.raw_events.user_id is 'User who caused the event, if anybody did.';
comment on column staging.raw_events.event_type is 'Kind of event as received.';
comment on column staging.raw_events.event_data is 'Everything else that came with the event.';
comment on column staging.raw_events.event_time is 'When the event took place.';
comment on column staging.raw_events.latitude is 'Latitude in degrees (WGS 84).';
comment on column staging.raw_events.longitude is 'Longitude in degrees (WGS 84).';
comment on column staging.raw_events.ingested_at is 'When the record arrived.';
comment on column staging.raw_events.source_system is 'Where the record came from.';
comment on column staging.raw_events.ingest_seq is 'Order of arrival; the latest valid record of an event wins.';
comment on column staging.raw_events.ingest_xid is 'Transaction that brought the record; decides when the transform may take it.';

create table if not exists staging.quarantine (
  quarantine_id bigint generated always as identity primary key,
  dataset text not null,
  stage text not null,
  reasons text[] not null,
  detail text,
  waiting boolean not null default false,
  payload jsonb,
  raw_text text,
  raw_id uuid,
  ingest_seq bigint,
  source_system varchar(50),
  source_name text,
  source_line bigint,
  run_id bigint,
  attempts integer not null default 1,
  quarantined_at timestamptz not null default current_timestamp,
  last_attempt_at timestamptz not null default current_timestamp,
  constraint known_dataset check (dataset in ('users', 'transactions', 'events')),
  constraint known_stage check (stage in ('ingest', 'transform')),
  constraint has_reason check (cardinality(reasons) > 0)
);

create index if not exists idx_quarantine_reasons on staging.quarantine using gin (reasons);
create index if not exists idx_quarantine_dataset on staging.quarantine (dataset, quarantine_id);
create index if not exists idx_quarantine_waiting on staging.quarantine (dataset, ((payload ->> 'user_id'))) where waiting;
create index if not exists idx_quarantine_raw_id on staging.quarantine (raw_id);

comment on table staging.quarantine is 'Records that could not be taken over, with every reason; one row per record.';
comment on column staging.quarantine.quarantine_id is 'Identity of the entry.';
comment on column staging.quarantine.dataset is 'Dataset of the record: users, transactions or events.';
comment on column staging.quarantine.stage is 'Where it failed: ingest (could not be typed) or transform (broke a rule).';
comment on column staging.quarantine.reasons is 'Every reason, as stable codes.';
comment on column staging.quarantine.detail is 'The reasons in words, with the values found.';
comment on column staging.quarantine.waiting is 'Waits for another record, for example its user, and is retried by every run.';
comment on column staging.quarantine.payload is 'The record, field by field; empty if it could not be read at all.';
comment on column staging.quarantine.raw_text is 'The text as received, if the record could not be typed.';
comment on column staging.quarantine.raw_id is 'Identity of the record in staging.';
comment on column staging.quarantine.ingest_seq is 'Its place in the order of arrival, kept by a retry.';
comment on column staging.quarantine.source_system is 'Where the record came from.';
comment on column staging.quarantine.source_name is 'File or stream the record came from.';
comment on column staging.quarantine.source_line is 'Line in that file.';
comment on column staging.quarantine.run_id is 'Run that rejected the record last.';
comment on column staging.quarantine.attempts is 'How often the record was tried.';
comment on column staging.quarantine.quarantined_at is 'When the record was rejected first.';
comment on column staging.quarantine.last_attempt_at is 'When the record was tried last.';

-- One row per dataset: everything at or before this place in the order of arrival has been taken.
create table if not exists staging.watermarks (
  dataset text primary key,
  xid xid8 not null default '0',
  seq bigint not null default 0,
  run_id bigint,
  updated_at timestamptz,
  constraint known_dataset check (dataset in ('users', 'transactions', 'events'))
);

insert into staging.watermarks (dataset) values ('users'), ('transactions'), ('events') on conflict do nothing;

comment on table staging.watermarks is 'How far the transform has read each dataset; one row per dataset.';
comment on column staging.watermarks.dataset is 'Dataset: users, transactions or events.';
comment on column staging.watermarks.xid is 'Transaction of the last record taken.';
comment on column staging.watermarks.seq is 'Number of the last record taken within that transaction.';
comment on column staging.watermarks.run_id is 'Run that moved it last.';
comment on column staging.watermarks.updated_at is 'When the dataset was last brought up to date.';

-- The ingest asks about values it cannot judge itself, so that PostgreSQL alone says what a value may be. The
-- block per value is what pg_input_error_info() does without one from PostgreSQL 16 on. Times go through
-- timestamptz: a cast to timestamp would drop their offset.
create or replace function staging.typed_values(kinds text[], given text[])
returns table (value text, reason text, problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' as $$
begin
  for i in 1 .. cardinality(kinds) loop
    value := given[i];
    reason := null;
    problem := null;
    begin
      case kinds[i]
        when 'integer' then value := value::integer;
        when 'bigint' then value := value::bigint;
        when 'numeric' then value := value::numeric;
        when 'double precision' then value := value::double precision;
        when 'timestamp' then value := value::timestamptz at time zone 'UTC';
        when 'jsonb' then value := value::jsonb;
        else
          -- As for any varchar, spaces beyond the limit do not count.
          if char_length(rtrim(value, ' ')) > kinds[i]::integer then
            raise string_data_right_truncation
              using message = format('value too long: %s characters; allowed: %s', char_length(value), kinds[i]);
          end if;
      end case;
    exception when others then
      problem := sqlerrm;
      reason := case
        when sqlstate = '22001' then 'too_long'
        when kinds[i] = 'timestamp' then case when sqlstate = '22008' then 'impossible_date' else 'invalid_timestamp' end
        when kinds[i] = 'jsonb' then 'invalid_json'
        when sqlstate = '22003' then 'out_of_range'
        when kinds[i] in ('integer', 'bigint') then 'invalid_integer'
        else 'invalid_number'
      end;
    end;
    return next;
  end loop;
end
$$;

comment on function staging.typed_values(text[], text[]) is 'Says for each value whether PostgreSQL takes it as the given type, and how it is written; the reason and the problem if not.';

-- ------------------------------------------------------------------------------------------------------
-- 3. Production
-- ------------------------------------------------------------------------------------------------------

create table if not exists production.users (
  user_id serial primary key,
  username varchar(100) not null unique,
  email varchar(255) not null unique,
  email_verified boolean default false,
  created_at timestamp not null default current_timestamp,
  updated_at timestamp default current_timestamp,
  country varchar(100),
  source_seq bigint,
  constraint valid_email check (
    email ~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}$'
  )
);

create index if not exists idx_users_country on production.users (country);
create index if not exists idx_users_created_at on production.users (created_at);

comment on table production.users is 'A person with an account; one row per user.';
comment on column production.users.user_id is 'Identity of the user.';
comment on column production.users.username is 'Unique name of the user.';
comment on column production.users.email is 'Unique e-mail address of the user.';
comment on column production.users.email_verified is 'Whether the user has proven to own the address.';
comment on column production.users.created_at is 'When the user was created (UTC).';
comment on column production.users.updated_at is 'When the row was changed last (UTC).';
comment on column production.users.country is 'Country of the user.';
comment on column production.users.source_seq is 'Record in staging that the row came from; empty if it was created directly.';

create table if not exists production.transactions (
  transaction_id serial primary key,
  user_id integer not null,
  amount decimal(10, 2) not null,
  status varchar(20) default 'pending',
  transaction_date timestamp not null default current_timestamp,
  created_at timestamp not null default current_timestamp,
  updated_at timestamp default current_timestamp,
  source_seq bigint,
  transaction_day date not null generated always as (transaction_date::date) stored,
  constraint fk_user foreign key (user_id) references production.users (user_id) on delete cascade,
  constraint positive_amount check (amount > 0),
  constraint valid_status check (status in ('pending', 'completed', 'failed', 'refunded'))
);

create index if not exists idx_transactions_user_id on production.transactions (user_id);
create index if not exists idx_user_date on production.transactions (user_id, transaction_date);
create index if not exists idx_transactions_date on production.transactions (transaction_date);
create index if not exists idx_transactions_status_date on production.transactions (status, transaction_date);

comment on table production.transactions is 'A payment by a user; one row per transaction.';
comment on column production.transactions.transaction_id is 'Identity of the transaction.';
comment on column production.transactions.user_id is 'User who made the transaction.';
comment on column production.transactions.amount is 'Amount of money, always positive.';
comment on column production.transactions.status is 'State of the payment: pending, completed, failed or refunded.';
comment on column production.transactions.transaction_date is 'When the transaction took place (UTC).';
comment on column production.transactions.transaction_day is 'Day of transaction_date, which joins dim_date.full_date.';
comment on column production.transactions.created_at is 'When the row was created (UTC).';
comment on column production.transactions.updated_at is 'When the row was changed last (UTC).';
comment on column production.transactions.source_seq is 'Record in staging that the row came from; empty if it was created directly.';

create table if not exists production.events (
  event_id bigserial primary key,
  user_id integer,
  event_type varchar(50) not null,
  event_data jsonb not null default '{}',
  event_time timestamp not null default current_timestamp,
  position public.geometry(Point, 4326),
  source_seq bigint,
  event_day date not null generated always as (event_time::date) stored,
  constraint fk_user foreign key (user_id) references production.users (user_id) on delete cascade
);

create index if not exists idx_events_user_time on production.events (user_id, event_time);
create index if not exists idx_events_time on production.events (event_time);
create index if not exists idx_events_type_time on production.events (event_type, event_time);
create index if not exists idx_events_event_data on production.events using gin (event_data);
create index if not exists idx_events_position on production.events using gist (position);
-- Degrees are no distance: metres, and the nearest first, need an index on the sphere.
create index if not exists idx_events_position_geography on production.events using gist ((position::public.geography));

comment on table production.events is 'Something that happened, at a time and often at a place; one row per event.';
comment on column production.events.event_id is 'Identity of the event.';
comment on column production.events.user_id is 'User who caused the event, if anybody did.';
comment on column production.events.event_type is 'Kind of event, for example page_view.';
comment on column production.events.event_data is 'Details; their structure depends on the kind of event.';
comment on column production.events.event_time is 'When the event took place (UTC).';
comment on column production.events.event_day is 'Day of event_time, which joins dim_date.full_date.';
comment on column production.events.position is 'Where the event took place (WGS 84).';
comment on column production.events.source_seq is 'Record in staging that the row came from; empty if it was created directly.';

create table if not exists production.dim_date (
  date_id serial primary key,
  full_date date not null unique,
  year integer not null,
  quarter integer not null,
  month integer not null,
  month_name varchar(20),
  week integer not null,
  day_of_week integer not null,
  day_name varchar(20),
  is_weekend boolean,
  is_holiday boolean default false
);

create index if not exists idx_dim_date_year on production.dim_date (year, quarter, month);

comment on table production.dim_date is 'The calendar, for grouping by anything a date has; one row per day.';
comment on column production.dim_date.date_id is 'Identity of the day.';
comment on column production.dim_date.full_date is 'The day.';
comment on column production.dim_date.year is 'Calendar year.';
comment on column production.dim_date.quarter is 'Quarter of the year, 1 to 4.';
comment on column production.dim_date.month is 'Month of the year, 1 to 12.';
comment on column production.dim_date.month_name is 'English name of the month.';
comment on column production.dim_date.week is 'ISO 8601 week, 1 to 53.';
comment on column production.dim_date.day_of_week is 'ISO 8601 day of the week, 1 (Monday) to 7 (Sunday).';
comment on column production.dim_date.day_name is 'English name of the day.';
comment on column production.dim_date.is_weekend is 'Whether the day is a Saturday or a Sunday.';
comment on column production.dim_date.is_holiday is 'Whether the day is a holiday; set by hand.';

-- Days that exist are left alone (holidays are kept), and no date_id is drawn for them.
create or replace function production.extend_dim_date(from_date date, to_date date)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  days_added integer;
begin
  if from_date is null or to_date is null or from_date > to_date then
    raise exception 'dim_date cannot be extended from % to %', coalesce(from_date::text, 'null'), coalesce(to_date::text, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Give two dates, the earlier one first.';
  end if;
  insert into production.dim_date (full_date, year, quarter, month, month_name, week, day_of_week, day_name, is_weekend)
  select day, extract(year from day), extract(quarter from day), extract(month from day), to_char(day, 'FMMonth'),
         extract(week from day), extract(isodow from day), to_char(day, 'FMDay'), extract(isodow from day) >= 6
  from (select generate_series(from_date::timestamp, to_date::timestamp, interval '1 day')::date as day) days
  where not exists (select from production.dim_date d where d.full_date = day)
  order by day;
  get diagnostics days_added = row_count;
  return days_added;
end
$$;

comment on function production.extend_dim_date(date, date) is 'Adds the missing days of a range to dim_date and returns how many there were.';

select production.extend_dim_date('2015-01-01', '2035-12-31')
where not exists (select from production.dim_date);

-- In public because the specification creates it without a schema.
create or replace function public.update_updated_at_column()
returns trigger
language plpgsql as $$
begin
  new.updated_at = current_timestamp;
  return new;
end;
$$;

comment on function public.update_updated_at_column() is 'Sets updated_at whenever a row is changed.';

create or replace trigger update_users_updated_at
before update on production.users
for each row execute function public.update_updated_at_column();

comment on trigger update_users_updated_at on production.users is 'Keeps updated_at.';

create or replace trigger update_transactions_updated_at
before update on production.transactions
for each row execute function public.update_updated_at_column();

comment on trigger update_transactions_updated_at on production.transactions is 'Keeps updated_at.';

-- ------------------------------------------------------------------------------------------------------
-- 4. Analytics: runs
-- ------------------------------------------------------------------------------------------------------

create table if not exists analytics.pipeline_runs (
  run_id bigint generated always as identity primary key,
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
  duration_ms integer generated always as ((extract(epoch from finished_at - started_at) * 1000)::integer) stored,
  rows_read bigint not null default 0,
  rows_written bigint not null default 0,
  rows_rejected bigint not null default 0,
  rows_deleted bigint not null default 0,
  progress real not null default 0,
  error text,
  constraint fk_parent_run foreign key (parent_run_id) references analytics.pipeline_runs (run_id) on delete cascade,
  constraint known_step check (step in ('ingest', 'transform', 'refresh', 'cleanup', 'pipeline')),
  constraint known_status check (status in ('queued', 'running', 'succeeded', 'failed')),
  constraint known_trigger check (trigger in ('cli', 'api', 'schedule', 'sample', 'sql')),
  constraint known_dataset check (dataset in ('users', 'transactions', 'events')),
  constraint progress_is_a_share check (progress between 0 and 1)
);

-- No two runs of one step at a time. Works where session locks do not: behind a transaction pooler, and on
-- the embedded engine, where all connections are one session.
create unique index if not exists idx_pipeline_runs_one_running on analytics.pipeline_runs (step)
  where status = 'running' and step <> 'ingest';
create unique index if not exists idx_pipeline_runs_one_queued on analytics.pipeline_runs (step)
  where status = 'queued' and step <> 'ingest';
create index if not exists idx_pipeline_runs_parent on analytics.pipeline_runs (parent_run_id);
create index if not exists idx_pipeline_runs_step on analytics.pipeline_runs (step, run_id);
create index if not exists idx_pipeline_runs_status on analytics.pipeline_runs (status, run_id);
create index if not exists idx_pipeline_runs_started_at on analytics.pipeline_runs (started_at);
create index if not exists idx_pipeline_runs_actor on analytics.pipeline_runs (actor, run_id);

alter table analytics.pipeline_runs enable row level security;

comment on table analytics.pipeline_runs is 'What the pipeline did and is doing; one row per run of a step.';
comment on column analytics.pipeline_runs.run_id is 'Identity of the run.';
comment on column analytics.pipeline_runs.step is 'What it does: ingest, transform, refresh, cleanup, or pipeline (transform, then refresh).';
comment on column analytics.pipeline_runs.status is 'State: queued, running, succeeded or failed.';
comment on column analytics.pipeline_runs.trigger is 'What asked for it: cli, api, schedule, sample or sql.';
comment on column analytics.pipeline_runs.actor is 'Who asked for it.';
comment on column analytics.pipeline_runs.dataset is 'Dataset of an ingest: users, transactions or events.';
comment on column analytics.pipeline_runs.arguments is 'Arguments of the step.';
comment on column analytics.pipeline_runs.parent_run_id is 'Pipeline run that this run is part of.';
comment on column analytics.pipeline_runs.queued_at is 'When the run was asked for.';
comment on column analytics.pipeline_runs.started_at is 'When the work started.';
comment on column analytics.pipeline_runs.finished_at is 'When the work ended.';
comment on column analytics.pipeline_runs.heartbeat_at is 'Last sign of life; a running run without one for 30 seconds is dead.';
comment on column analytics.pipeline_runs.duration_ms is 'Time from start to end, in milliseconds.';
comment on column analytics.pipeline_runs.rows_read is 'Rows read.';
comment on column analytics.pipeline_runs.rows_written is 'Rows inserted or updated.';
comment on column analytics.pipeline_runs.rows_rejected is 'Rows put into quarantine.';
comment on column analytics.pipeline_runs.rows_deleted is 'Rows deleted.';
comment on column analytics.pipeline_runs.progress is 'Share of the work that is done, 0 to 1.';
comment on column analytics.pipeline_runs.error is 'Why the run failed.';

-- Heartbeats alone are no news.
create or replace function analytics.notify_run()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('strata:run', json_build_object('runId', new.run_id, 'step', new.step, 'status', new.status)::text);
  return null;
end
$$;

comment on function analytics.notify_run() is 'Tells listeners on strata:run that a run changed.';

create or replace trigger notify_run_queued
after insert on analytics.pipeline_runs
for each row execute function analytics.notify_run();

create or replace trigger notify_run_changed
after update on analytics.pipeline_runs
for each row
when (row(old.status, old.progress, old.rows_read, old.rows_written, old.rows_deleted)
      is distinct from row(new.status, new.progress, new.rows_read, new.rows_written, new.rows_deleted))
execute function analytics.notify_run();

comment on trigger notify_run_queued on analytics.pipeline_runs is 'Announces a new run.';
comment on trigger notify_run_changed on analytics.pipeline_runs is 'Announces progress and the end of a run.';

-- Ingests may overlap: each one only adds rows.
create or replace function analytics.start_ingest_run(dataset text, run_trigger text, actor text, arguments jsonb default '{}')
returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  insert into analytics.pipeline_runs (step, status, trigger, actor, dataset, arguments, started_at, heartbeat_at)
  values ('ingest', 'running', run_trigger, actor, dataset, arguments, clock_timestamp(), clock_timestamp())
  returning run_id
$$;

comment on function analytics.start_ingest_run(text, text, text, jsonb) is 'Starts a run that brings rows of a dataset into staging, and returns its number.';

-- ------------------------------------------------------------------------------------------------------
-- 5. Analytics: daily metrics
-- ------------------------------------------------------------------------------------------------------

-- What changed in production since the last refresh. Append only and without a unique key: a writer that
-- finds its entry already there and skips it would lose it to a refresh that is consuming the other one.
create table if not exists analytics.change_log (
  changed_date date,
  user_id integer,
  rebuild boolean not null default false,
  row_count bigint not null default 1,
  logged_at timestamptz not null default current_timestamp
);

comment on table analytics.change_log is 'Changes in production that the daily metrics do not contain yet; one row per statement and date or user.';
comment on column analytics.change_log.changed_date is 'Day whose transactions changed.';
comment on column analytics.change_log.user_id is 'User who was created, deleted, moved to another country or lost a transaction.';
comment on column analytics.change_log.rebuild is 'Everything has to be computed again.';
comment on column analytics.change_log.row_count is 'Rows that changed.';
comment on column analytics.change_log.logged_at is 'When they changed.';

create table if not exists analytics.daily_rollup (
  date date,
  country varchar(100),
  active_users bigint not null,
  total_revenue numeric,
  avg_transaction numeric,
  constraint daily_rollup_key unique nulls not distinct (date, country)
);

comment on table analytics.daily_rollup is 'Daily metrics as of the last refresh, from which daily_user_metrics is made; one row per day and country.';
comment on column analytics.daily_rollup.date is 'Day; empty for users without transactions.';
comment on column analytics.daily_rollup.country is 'Country of the users.';
comment on column analytics.daily_rollup.active_users is 'Users with at least one transaction on that day.';
comment on column analytics.daily_rollup.total_revenue is 'Sum of all amounts.';
comment on column analytics.daily_rollup.avg_transaction is 'Mean amount.';

-- Finding these users takes an anti-join over all transactions, so they are kept from one refresh to the next.
create table if not exists analytics.users_without_transactions (
  user_id integer primary key,
  country varchar(100)
);

comment on table analytics.users_without_transactions is 'Users without transactions as of the last refresh; one row per user.';
comment on column analytics.users_without_transactions.user_id is 'The user.';
comment on column analytics.users_without_transactions.country is 'Country of the user.';

create table if not exists analytics.refresh_state (
  singleton boolean primary key default true,
  data_version bigint not null default 0,
  refreshed_at timestamptz,
  run_id bigint,
  constraint one_row check (singleton)
);

comment on table analytics.refresh_state is 'State of the pre-computed data; exactly one row.';
comment on column analytics.refresh_state.singleton is 'Always true.';
comment on column analytics.refresh_state.data_version is 'Grows with every refresh, whoever does it; same version, same answers.';
comment on column analytics.refresh_state.refreshed_at is 'When the last refresh was done.';
comment on column analytics.refresh_state.run_id is 'Run that did the last refresh; empty if it was done in SQL.';

with created as (insert into analytics.refresh_state default values on conflict do nothing returning singleton)
insert into analytics.change_log (rebuild, row_count) select true, 0 from created;

create or replace view analytics.daily_user_metrics_live as
select
  date(t.transaction_date) as date,
  u.country,
  count(distinct u.user_id) as active_users,
  sum(t.amount) as total_revenue,
  avg(t.amount) as avg_transaction
from production.users u
left join production.transactions t on u.user_id = t.user_id
group by date(t.transaction_date), u.country;

comment on view analytics.daily_user_metrics_live is 'Users and revenue by day and country, as of now; one row per day and country.';
comment on column analytics.daily_user_metrics_live.date is 'Day; empty for users without transactions.';
comment on column analytics.daily_user_metrics_live.country is 'Country of the users.';
comment on column analytics.daily_user_metrics_live.active_users is 'Users with at least one transaction on that day.';
comment on column analytics.daily_user_metrics_live.total_revenue is 'Sum of all amounts.';
comment on column analytics.daily_user_metrics_live.avg_transaction is 'Mean amount.';

-- Called by the materialized view itself, so that a REFRESH in psql is noticed like any other.
create or replace function analytics.note_refresh()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  state analytics.refresh_state;
  run bigint := nullif(current_setting('strata.run_id', true), '')::bigint;
begin
  update analytics.refresh_state
  set data_version = data_version + 1, refreshed_at = clock_timestamp(), run_id = run
  returning * into state;
  perform pg_notify('strata:refresh', json_build_object('version', state.data_version, 'runId', state.run_id)::text);
  return true;
end
$$;

comment on function analytics.note_refresh() is 'Raises the data version and tells listeners on strata:refresh.';

create materialized view if not exists analytics.daily_user_metrics as
select date, country, active_users, total_revenue, avg_transaction
from analytics.daily_user_metrics_live
where (select analytics.note_refresh());

create unique index if not exists idx_daily_user_metrics_key on analytics.daily_user_metrics (date, country) nulls not distinct;
create index if not exists idx_daily_user_metrics_country on analytics.daily_user_metrics (country, date);

comment on materialized view analytics.daily_user_metrics is 'Users and revenue by day and country, as of the last refresh; one row per day and country.';
comment on column analytics.daily_user_metrics.date is 'Day; empty for users without transactions.';
comment on column analytics.daily_user_metrics.country is 'Country of the users.';
comment on column analytics.daily_user_metrics.active_users is 'Users with at least one transaction on that day.';
comment on column analytics.daily_user_metrics.total_revenue is 'Sum of all amounts.';
comment on column analytics.daily_user_metrics.avg_transaction is 'Mean amount.';

create or replace view analytics.quarterly_revenue as
select
  d.year,
  d.quarter,
  sum(m.total_revenue) as total_revenue,
  coalesce(sum(m.total_revenue) filter (where d.is_weekend), 0) as weekend_revenue,
  count(distinct m.date) as active_days
from analytics.daily_user_metrics m
join production.dim_date d on m.date = d.full_date
group by d.year, d.quarter;

comment on view analytics.quarterly_revenue is 'Revenue by quarter, as of the last refresh; one row per quarter.';
comment on column analytics.quarterly_revenue.year is 'Calendar year.';
comment on column analytics.quarterly_revenue.quarter is 'Quarter of the year, 1 to 4.';
comment on column analytics.quarterly_revenue.total_revenue is 'Sum of all amounts.';
comment on column analytics.quarterly_revenue.weekend_revenue is 'Part of it made on Saturdays and Sundays.';
comment on column analytics.quarterly_revenue.active_days is 'Days with at least one transaction.';

create or replace view analytics.freshness as
select
  w.dataset,
  w.updated_at as refreshed_at,
  w.run_id,
  behind.row_count as rows_behind,
  coalesce(extract(epoch from current_timestamp at time zone 'UTC' - behind.since), 0)::double precision as lag_seconds
from staging.watermarks w
cross join lateral (
  select count(*) as row_count, min(r.ingested_at) as since from staging.raw_users r
  where w.dataset = 'users' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq)
  union all
  select count(*), min(r.ingested_at) from staging.raw_transactions r
  where w.dataset = 'transactions' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq)
  union all
  select count(*), min(r.ingested_at) from staging.raw_events r
  where w.dataset = 'events' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq)
  order by row_count desc limit 1
) behind
union all
select
  'daily_user_metrics',
  s.refreshed_at,
  s.run_id,
  behind.row_count,
  coalesce(extract(epoch from current_timestamp - behind.since), 0)::double precision
from analytics.refresh_state s
cross join (select coalesce(sum(row_count), 0)::bigint as row_count, min(logged_at) as since from analytics.change_log) behind;

comment on view analytics.freshness is 'How far each dataset lags behind its source; one row per dataset.';
comment on column analytics.freshness.dataset is 'Dataset: users, transactions, events or daily_user_metrics.';
comment on column analytics.freshness.refreshed_at is 'When it was brought up to date last.';
comment on column analytics.freshness.run_id is 'Run that did so; empty if it was done in SQL.';
comment on column analytics.freshness.rows_behind is 'Rows of its source that it does not contain yet.';
comment on column analytics.freshness.lag_seconds is 'Age of the oldest of them, in seconds.';

create or replace view analytics.quarantine as
select quarantine_id, dataset, stage, reasons, detail, waiting, payload, raw_text, source_system, source_name,
       source_line, run_id, attempts, quarantined_at, last_attempt_at
from staging.quarantine;

comment on view analytics.quarantine is 'Records that could not be taken over, with every reason; one row per record.';
comment on column analytics.quarantine.quarantine_id is 'Identity of the entry.';
comment on column analytics.quarantine.dataset is 'Dataset of the record: users, transactions or events.';
comment on column analytics.quarantine.stage is 'Where it failed: ingest (could not be typed) or transform (broke a rule).';
comment on column analytics.quarantine.reasons is 'Every reason, as stable codes.';
comment on column analytics.quarantine.detail is 'The reasons in words, with the values found.';
comment on column analytics.quarantine.waiting is 'Waits for another record, for example its user, and is retried by every run.';
comment on column analytics.quarantine.payload is 'The record, field by field; empty if it could not be read at all.';
comment on column analytics.quarantine.raw_text is 'The text as received, if the record could not be typed.';
comment on column analytics.quarantine.source_system is 'Where the record came from.';
comment on column analytics.quarantine.source_name is 'File or stream the record came from.';
comment on column analytics.quarantine.source_line is 'Line in that file.';
comment on column analytics.quarantine.run_id is 'Run that rejected the record last.';
comment on column analytics.quarantine.attempts is 'How often the record was tried.';
comment on column analytics.quarantine.quarantined_at is 'When the record was rejected first.';
comment on column analytics.quarantine.last_attempt_at is 'When the record was tried last.';

create or replace function analytics.schema_version()
returns integer
language sql immutable parallel safe as 'select 1';

comment on function analytics.schema_version() is 'Version of this schema; the server refuses to run on an older one.';

-- ------------------------------------------------------------------------------------------------------
-- 12. Rights
-- ------------------------------------------------------------------------------------------------------

revoke execute on all functions in schema staging, production, analytics from public;
revoke execute on function public.update_updated_at_column() from public;

grant usage on schema production to strata_reader;
grant usage on schema analytics to strata_reader, strata_ingestor;

grant select (user_id, username, email_verified, created_at, updated_at, country, source_seq) on production.users to strata_reader;
grant select on production.transactions, production.events, production.dim_date to strata_reader;
grant select on analytics.daily_user_metrics, analytics.daily_user_metrics_live, analytics.quarterly_revenue, analytics.freshness
  to strata_reader;
grant select (run_id, step, status, trigger, actor, dataset, arguments, parent_run_id, queued_at, started_at, finished_at,
              heartbeat_at, duration_ms, rows_read, rows_written, rows_rejected, rows_deleted, progress)
  on analytics.pipeline_runs to strata_reader;

-- A source system sees why its own pushes failed.
grant select on analytics.pipeline_runs to strata_ingestor;

grant execute on function analytics.start_ingest_run(text, text, text, jsonb) to strata_ingestor, strata_operator;

grant select on production.users to strata_operator;
grant select on analytics.pipeline_runs, analytics.quarantine to strata_operator;
grant insert (user_id, username, email, email_verified, created_at, country), update (username, email, email_verified, created_at, country), delete
  on production.users to strata_operator;
grant insert (transaction_id, user_id, amount, status, transaction_date), update (user_id, amount, status, transaction_date), delete
  on production.transactions to strata_operator;
grant insert (event_id, user_id, event_type, event_data, event_time, position), update (user_id, event_type, event_data, event_time, position), delete
  on production.events to strata_operator;
grant update (is_holiday) on production.dim_date to strata_operator;
grant usage on sequence production.users_user_id_seq, production.transactions_transaction_id_seq, production.events_event_id_seq
  to strata_operator;

do $$
begin
  if not exists (select from pg_catalog.pg_policies where schemaname = 'analytics' and tablename = 'pipeline_runs' and policyname = 'readers_see_all') then
    create policy readers_see_all on analytics.pipeline_runs for select to strata_reader using (true);
  end if;
  if not exists (select from pg_catalog.pg_policies where schemaname = 'analytics' and tablename = 'pipeline_runs' and policyname = 'ingestors_see_their_own') then
    create policy ingestors_see_their_own on analytics.pipeline_runs for select to strata_ingestor
      using (step = 'ingest' and actor = current_setting('strata.sub', true));
  end if;
end
$$;

comment on policy readers_see_all on analytics.pipeline_runs is 'Readers and operators see every run.';
comment on policy ingestors_see_their_own on analytics.pipeline_runs is 'Source systems see the runs that they asked for.';

commit;
