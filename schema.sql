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
  retried_at timestamptz,
  constraint known_dataset check (dataset in ('users', 'transactions', 'events')),
  constraint known_stage check (stage in ('ingest', 'transform')),
  constraint has_reason check (cardinality(reasons) > 0)
);

create index if not exists idx_quarantine_reasons on staging.quarantine using gin (reasons);
create index if not exists idx_quarantine_dataset on staging.quarantine (dataset, quarantine_id);
create index if not exists idx_quarantine_run on staging.quarantine (run_id);
create index if not exists idx_quarantine_waiting on staging.quarantine (quarantine_id) where waiting and retried_at is null;
create index if not exists idx_quarantine_retried on staging.quarantine (raw_id) where retried_at is not null;
create unique index if not exists idx_quarantine_raw_id on staging.quarantine (raw_id);

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
comment on column staging.quarantine.retried_at is 'When the record was given back to the transform, which has not decided yet.';

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

-- A prefix is found by an index only if that compares bytes, whatever the collation.
create index if not exists idx_users_username_prefix on production.users (username varchar_pattern_ops);
create index if not exists idx_users_email_prefix on production.users (email varchar_pattern_ops);
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
create index if not exists idx_transactions_amount on production.transactions (amount);
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

-- The transform notes that a record came again unchanged. That is no change of the row. Fires after the
-- triggers above: triggers fire in the order of their names.
create or replace function production.keep_updated_at()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.updated_at = old.updated_at;
  return new;
end
$$;

comment on function production.keep_updated_at() is 'Leaves updated_at alone.';

create or replace trigger updated_at_kept
before update on production.users
for each row
when (new.source_seq is distinct from old.source_seq
      and (new.user_id, new.username, new.email, new.email_verified, new.created_at, new.country)
          is not distinct from (old.user_id, old.username, old.email, old.email_verified, old.created_at, old.country))
execute function production.keep_updated_at();

create or replace trigger updated_at_kept
before update on production.transactions
for each row
when (new.source_seq is distinct from old.source_seq
      and (new.transaction_id, new.user_id, new.amount, new.status, new.transaction_date, new.created_at)
          is not distinct from (old.transaction_id, old.user_id, old.amount, old.status, old.transaction_date, old.created_at))
execute function production.keep_updated_at();

comment on trigger updated_at_kept on production.users is 'Leaves updated_at alone if only the provenance changed.';
comment on trigger updated_at_kept on production.transactions is 'Leaves updated_at alone if only the provenance changed.';

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
  duration_ms integer generated always as (least(extract(epoch from finished_at - started_at) * 1000, 2147483647)::integer) stored,
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

-- Without the bound, a run of more than 24 days could not be closed.
do $$
begin
  if exists (
    select from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where a.attrelid = 'analytics.pipeline_runs'::regclass and a.attname = 'duration_ms' and pg_get_expr(d.adbin, d.adrelid) !~* 'least'
  ) then
    alter table analytics.pipeline_runs drop column duration_ms;
    alter table analytics.pipeline_runs add column duration_ms integer
      generated always as (least(extract(epoch from finished_at - started_at) * 1000, 2147483647)::integer) stored;
  end if;
end
$$;

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

-- ------------------------------------------------------------------------------------------------------
-- 5. Analytics: daily metrics
-- ------------------------------------------------------------------------------------------------------

-- What changed in production since the last refresh. Append only and without a unique key: a writer that
-- finds its entry already there and skips it would lose it to a refresh that is consuming the other one.
create table if not exists analytics.change_log (
  changed_dates date[],
  user_ids integer[],
  moved_user_ids integer[],
  rebuild boolean not null default false,
  row_count bigint not null default 0,
  logged_at timestamptz not null default current_timestamp
);

comment on table analytics.change_log is 'Changes in production that the daily metrics do not contain yet; one row per statement.';
comment on column analytics.change_log.changed_dates is 'Days whose transactions changed.';
comment on column analytics.change_log.user_ids is 'Users who may have got their first transaction, or lost their last one.';
comment on column analytics.change_log.moved_user_ids is 'Users who moved to another country, with all their days.';
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
  day_count integer not null default 0,
  constraint one_row check (singleton)
);

comment on table analytics.refresh_state is 'State of the pre-computed data; exactly one row.';
comment on column analytics.refresh_state.singleton is 'Always true.';
comment on column analytics.refresh_state.data_version is 'Grows with every refresh, whoever does it, and with the calendar; same version, same answers.';
comment on column analytics.refresh_state.refreshed_at is 'When the last refresh was done.';
comment on column analytics.refresh_state.run_id is 'Run that did the last refresh; empty if it was done in SQL.';
comment on column analytics.refresh_state.day_count is 'Days in daily_rollup, to tell when a rebuild is cheaper.';

with created as (insert into analytics.refresh_state default values on conflict do nothing returning singleton)
insert into analytics.change_log (rebuild) select true from created;

-- Capturing the changes. Security definer, because whoever may write to production may not write to the log.
create or replace function analytics.log_transaction_changes()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    insert into analytics.change_log (changed_dates, row_count)
    select array_agg(day), sum(row_count)
    from (select transaction_day as day, count(*) as row_count from new_rows group by transaction_day) days
    having count(*) > 0;
  elsif tg_op = 'DELETE' then
    insert into analytics.change_log (changed_dates, user_ids, row_count)
    select array_agg(distinct transaction_day), array_agg(distinct user_id), count(*) from old_rows having count(*) > 0;
  else
    insert into analytics.change_log (changed_dates, user_ids, row_count)
    select array_agg(distinct o.transaction_day) || array_agg(distinct n.transaction_day),
           array_agg(distinct o.user_id) filter (where o.user_id is distinct from n.user_id), count(*)
    from old_rows o full join new_rows n using (transaction_id)
    where (o.user_id, o.amount, o.transaction_day) is distinct from (n.user_id, n.amount, n.transaction_day)
    having count(*) > 0;
  end if;
  return null;
end
$$;

comment on function analytics.log_transaction_changes() is 'Notes which days of daily_user_metrics a statement on transactions changed.';

-- The days of a user who moves are found when the log is read: a transaction that is being inserted right now
-- would be missed here.
create or replace function analytics.log_user_changes()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    insert into analytics.change_log (user_ids, row_count)
    select array_agg(user_id), count(*) from new_rows having count(*) > 0;
  elsif tg_op = 'DELETE' then
    insert into analytics.change_log (user_ids, row_count)
    select array_agg(user_id), count(*) from old_rows having count(*) > 0;
  else
    insert into analytics.change_log (moved_user_ids, row_count)
    select array_remove(array_agg(o.user_id) || array_agg(n.user_id), null), count(*)
    from old_rows o full join new_rows n using (user_id)
    where o.user_id is null or n.user_id is null or o.country is distinct from n.country
    having count(*) > 0;
  end if;
  return null;
end
$$;

comment on function analytics.log_user_changes() is 'Notes which users a statement created, deleted or moved to another country.';

create or replace function analytics.log_truncation()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into analytics.change_log (rebuild) values (true);
  return null;
end
$$;

comment on function analytics.log_truncation() is 'Notes that daily_user_metrics has to be computed from nothing.';

create or replace trigger log_inserted after insert on production.transactions
referencing new table as new_rows for each statement execute function analytics.log_transaction_changes();
create or replace trigger log_updated after update on production.transactions
referencing old table as old_rows new table as new_rows for each statement execute function analytics.log_transaction_changes();
create or replace trigger log_deleted after delete on production.transactions
referencing old table as old_rows for each statement execute function analytics.log_transaction_changes();
create or replace trigger log_truncated after truncate on production.transactions
for each statement execute function analytics.log_truncation();

create or replace trigger log_inserted after insert on production.users
referencing new table as new_rows for each statement execute function analytics.log_user_changes();
create or replace trigger log_updated after update on production.users
referencing old table as old_rows new table as new_rows for each statement execute function analytics.log_user_changes();
create or replace trigger log_deleted after delete on production.users
referencing old table as old_rows for each statement execute function analytics.log_user_changes();
create or replace trigger log_truncated after truncate on production.users
for each statement execute function analytics.log_truncation();

comment on trigger log_inserted on production.transactions is 'Feeds analytics.change_log.';
comment on trigger log_updated on production.transactions is 'Feeds analytics.change_log.';
comment on trigger log_deleted on production.transactions is 'Feeds analytics.change_log.';
comment on trigger log_truncated on production.transactions is 'Feeds analytics.change_log.';
comment on trigger log_inserted on production.users is 'Feeds analytics.change_log.';
comment on trigger log_updated on production.users is 'Feeds analytics.change_log.';
comment on trigger log_deleted on production.users is 'Feeds analytics.change_log.';
comment on trigger log_truncated on production.users is 'Feeds analytics.change_log.';

-- The days whose groups in the rollup are out of date. Above a third of all days, computing everything is
-- cheaper: then all of them are.
create or replace function analytics.dirty_days(out days date[], out rebuild boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set jit = off as $$
begin
  rebuild := exists (select from analytics.change_log c where c.rebuild);
  if not rebuild then
    days := array(
      select unnest(c.changed_dates) from analytics.change_log c
      union
      select t.transaction_day from production.transactions t
      where t.user_id in (select unnest(c.moved_user_ids) from analytics.change_log c)
    );
    rebuild := cardinality(days) * 3 > (select s.day_count from analytics.refresh_state s);
  end if;
  if rebuild then
    days := array(select distinct r.date from analytics.daily_rollup r where r.date is not null);
  end if;
end
$$;

comment on function analytics.dirty_days() is 'Days whose metrics have changed since the last refresh, and whether these are so many that all have to be computed.';

-- transaction_date finds the rows by its index: a day more does no harm, and infinity has no next day. Day by day
-- (offset 0): a join by range looks so large to the planner that it reads all of a long history instead.
create or replace function analytics.transactions_of_days(days date[])
returns setof production.transactions
language sql stable as $$
  select t.*
  from unnest(days) d (day)
  cross join lateral (
    select * from production.transactions t
    where t.transaction_day = d.day and t.transaction_date >= d.day
      and t.transaction_date <= case when isfinite(d.day) then d.day + 1 else d.day end
    offset 0
  ) t
$$;

comment on function analytics.transactions_of_days(date[]) is 'Transactions of the given days.';

-- The groups that the rollup does not have, or not right: those of the dirty days, and the users without
-- transactions, less and plus those who may have got their first or lost their last one.
create or replace function analytics.dirty_metrics()
returns table (date date, country varchar(100), active_users bigint, total_revenue numeric, avg_transaction numeric)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_custom_plan as $$
declare
  dirty record;
  users integer[];
begin
  select * into dirty from analytics.dirty_days();
  if dirty.rebuild then
    return query
      select date(t.transaction_date), u.country, count(distinct u.user_id), sum(t.amount), avg(t.amount)
      from production.users u left join production.transactions t on t.user_id = u.user_id
      group by date(t.transaction_date), u.country;
    return;
  end if;
  if cardinality(dirty.days) > 0 then
    return query
      select t.transaction_day, u.country, count(distinct u.user_id), sum(t.amount), avg(t.amount)
      from analytics.transactions_of_days(dirty.days) t join production.users u on u.user_id = t.user_id
      group by t.transaction_day, u.country;
  end if;
  users := array(
    select unnest(c.user_ids) from analytics.change_log c
    union
    select unnest(c.moved_user_ids) from analytics.change_log c
  );
  return query
    select null::date, n.country, sum(n.users)::bigint, null::numeric, null::numeric
    from (
      select r.country, r.active_users as users from analytics.daily_rollup r where r.date is null
      union all
      select w.country, -1 from analytics.users_without_transactions w
      where w.user_id in (select unnest(users) union all select t.user_id from analytics.transactions_of_days(dirty.days) t)
      union all
      select u.country, 1 from production.users u
      where u.user_id = any (users) and not exists (select from production.transactions t where t.user_id = u.user_id)
    ) n
    group by n.country
    having sum(n.users) > 0;
end
$$;

comment on function analytics.dirty_metrics() is 'Daily metrics that changed since the last refresh, and those of users without transactions, computed from production.';

-- What daily_user_metrics has to equal: the rollup where nothing changed since the last refresh, production
-- where something did. Functions do the latter: as parts of the query they would make it look expensive, and
-- have it compiled at every call, although most of the time nothing has changed.
create or replace view analytics.daily_user_metrics_live as
select r.date, r.country, r.active_users, r.total_revenue, r.avg_transaction
from analytics.daily_rollup r
where r.date is not null and not exists (select from unnest((select d.days from analytics.dirty_days() d)) d (day) where d.day = r.date)
union all
select m.date, m.country::varchar(100), m.active_users, m.total_revenue, m.avg_transaction
from analytics.dirty_metrics() m;

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

-- The calendar is a part of answers about the metrics; a change of it is rare, and no refresh.
create or replace function analytics.note_calendar_change()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  update analytics.refresh_state set data_version = data_version + 1;
  return null;
end
$$;

comment on function analytics.note_calendar_change() is 'Raises the data version when dim_date changes.';

create or replace trigger note_calendar_change
after insert or update or delete or truncate on production.dim_date
for each statement execute function analytics.note_calendar_change();

comment on trigger note_calendar_change on production.dim_date is 'Raises the data version.';

--
-- REFRESH … CONCURRENTLY looks for duplicates by sorting all rows as binary images, which takes longer than
-- everything else unless they are in that order already: bytes of text, and days before 2000 (negative) last.
create materialized view if not exists analytics.daily_user_metrics as
select date, country, active_users, total_revenue, avg_transaction
from analytics.daily_user_metrics_live
where (select analytics.note_refresh())
order by date < date '2000-01-01', date, country collate "C";

create unique index if not exists idx_daily_user_metrics_key on analytics.daily_user_metrics (date, country) nulls not distinct;
-- The order in which the API pages through them, the group without a date last.
create index if not exists idx_daily_user_metrics_pages on analytics.daily_user_metrics
  ((date is null), date, (country is null), country);
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
from staging.quarantine
where retried_at is null;

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
language sql immutable parallel safe as 'select 11';

comment on function analytics.schema_version() is 'Version of this schema; the server refuses to run on an older one.';

-- ------------------------------------------------------------------------------------------------------
-- 6. Runs
-- ------------------------------------------------------------------------------------------------------

-- A run is asked for under the caller's role (start_run: the right to execute it is the authority), then
-- claimed, executed in batches and finished by the server's login.
--
-- Three parties write a run's row: its batches, its heartbeat, and whoever closes it because it seems dead.
-- A batch holds FOR KEY SHARE: the heartbeat passes, the closing one (FOR UPDATE) does not, so that a closed
-- run can never write and a run in the middle of a batch is never closed.

create or replace function analytics.close_dead_runs()
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  closed integer;
begin
  with dead as (
    select run_id from analytics.pipeline_runs
    where status = 'running' and heartbeat_at < clock_timestamp() - interval '30 seconds'
    for update skip locked
  )
  update analytics.pipeline_runs r
  set status = 'failed', finished_at = r.heartbeat_at,
      error = 'The process that executed this run gave no sign of life for 30 seconds.'
  from dead where r.run_id = dead.run_id;
  get diagnostics closed = row_count;
  return closed;
end
$$;

comment on function analytics.close_dead_runs() is 'Closes running runs whose process died and returns how many there were.';

-- Returns the run of this step that waits, with what both want, else a new one. One that is running began before:
-- it need not see what the caller has just written, nor do all that the caller asks for.
create or replace function analytics.start_run(
  step text,
  trigger text default 'sql',
  actor text default null,
  arguments jsonb default '{}',
  parent_run_id bigint default null
)
returns analytics.pipeline_runs
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  run analytics.pipeline_runs;
begin
  if start_run.step is null or start_run.step not in ('transform', 'refresh', 'cleanup', 'pipeline') then
    raise exception 'Unknown step %; allowed are transform, refresh, cleanup and pipeline.', coalesce(quote_literal(start_run.step), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  if start_run.step = 'cleanup' then
    perform staging.check_days_to_keep(coalesce((start_run.arguments ->> 'daysToKeep')::integer, 30));
  end if;
  perform analytics.close_dead_runs();
  insert into analytics.pipeline_runs as r (step, trigger, actor, arguments, parent_run_id)
  values (start_run.step, start_run.trigger, coalesce(nullif(current_setting('strata.sub', true), ''), start_run.actor, session_user),
          coalesce(start_run.arguments, '{}'), start_run.parent_run_id)
  on conflict (step) where status = 'queued' and step <> 'ingest'
  do update set
    arguments = r.arguments || excluded.arguments || jsonb_strip_nulls(jsonb_build_object(
      'full', nullif(coalesce((r.arguments ->> 'full')::boolean, false) or coalesce((excluded.arguments ->> 'full')::boolean, false), false),
      'daysToKeep', case when r.step = 'cleanup' then
        least(coalesce((r.arguments ->> 'daysToKeep')::integer, 30), coalesce((excluded.arguments ->> 'daysToKeep')::integer, 30)) end
    )),
    parent_run_id = coalesce(r.parent_run_id, excluded.parent_run_id)
  returning * into run;
  return run;
end
$$;

comment on function analytics.start_run(text, text, text, jsonb, bigint) is 'Asks for a run of a step; joins the one that waits.';

-- Ingests may overlap: each one only adds rows.
create or replace function analytics.start_ingest_run(dataset text, run_trigger text, actor text, arguments jsonb default '{}')
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  started bigint;
begin
  perform analytics.close_dead_runs();
  insert into analytics.pipeline_runs (step, status, trigger, actor, dataset, arguments, started_at, heartbeat_at)
  values ('ingest', 'running', start_ingest_run.run_trigger,
          coalesce(nullif(current_setting('strata.sub', true), ''), start_ingest_run.actor, session_user),
          start_ingest_run.dataset, start_ingest_run.arguments, clock_timestamp(), clock_timestamp())
  returning run_id into started;
  return started;
end
$$;

comment on function analytics.start_ingest_run(text, text, text, jsonb) is 'Starts a run that brings rows of a dataset into staging, and returns its number.';

create or replace function analytics.claim_run(run_id bigint)
returns setof analytics.pipeline_runs
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform analytics.close_dead_runs();
  return query
    update analytics.pipeline_runs r
    set status = 'running', started_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    where r.run_id = claim_run.run_id and r.status = 'queued'
    returning r.*;
exception when unique_violation then
  return;
end
$$;

comment on function analytics.claim_run(bigint) is 'Turns a waiting run into a running one; no row if it is not waiting or another run of its step is running.';

create or replace function analytics.heartbeat_run(run_id bigint)
returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  with alive as (
    update analytics.pipeline_runs r set heartbeat_at = clock_timestamp()
    where r.run_id = heartbeat_run.run_id and r.status = 'running'
    returning 1
  )
  select exists (select from alive);
end;

comment on function analytics.heartbeat_run(bigint) is 'Gives a sign of life; false if the run is not running any more.';

-- Counts of a part add up in its pipeline run. A run that was closed meanwhile stays as it is.
create or replace function analytics.finish_run(run_id bigint, error text default null)
returns analytics.pipeline_runs
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  run analytics.pipeline_runs;
begin
  update analytics.pipeline_runs r
  set status = case when finish_run.error is null then 'succeeded' else 'failed' end,
      finished_at = clock_timestamp(), heartbeat_at = clock_timestamp(), error = finish_run.error,
      progress = case when finish_run.error is null then 1 else r.progress end
  where r.run_id = finish_run.run_id and r.status in ('running', 'queued')
  returning * into run;
  if not found then
    select * into run from analytics.pipeline_runs r where r.run_id = finish_run.run_id;
  elsif run.parent_run_id is not null then
    update analytics.pipeline_runs r
    set rows_read = r.rows_read + run.rows_read, rows_written = r.rows_written + run.rows_written,
        rows_rejected = r.rows_rejected + run.rows_rejected, rows_deleted = r.rows_deleted + run.rows_deleted,
        progress = least(1, r.progress + 0.5)
    where r.run_id = run.parent_run_id and r.status = 'running';
  end if;
  return run;
end
$$;

comment on function analytics.finish_run(bigint, text) is 'Ends a run: succeeded, or failed if an error is given.';

create or replace function staging.enter_batch(run_id bigint)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if enter_batch.run_id is null then
    return;
  end if;
  perform from analytics.pipeline_runs r where r.run_id = enter_batch.run_id and r.status = 'running' for key share;
  if not found then
    raise exception 'Run % is not running.', enter_batch.run_id using errcode = 'ST001';
  end if;
end
$$;

comment on function staging.enter_batch(bigint) is 'Refuses the batch of a run that was closed, and keeps the run from being closed until the batch has ended.';

create or replace function staging.count_batch(
  run_id bigint,
  rows_read bigint default 0,
  rows_written bigint default 0,
  rows_rejected bigint default 0,
  rows_deleted bigint default 0,
  progress real default null
)
returns void
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  update analytics.pipeline_runs r
  set rows_read = r.rows_read + count_batch.rows_read,
      rows_written = r.rows_written + count_batch.rows_written,
      rows_rejected = r.rows_rejected + count_batch.rows_rejected,
      rows_deleted = r.rows_deleted + count_batch.rows_deleted,
      progress = greatest(r.progress, least(1, coalesce(count_batch.progress, r.progress))),
      heartbeat_at = clock_timestamp()
  where r.run_id = count_batch.run_id;
end;

comment on function staging.count_batch(bigint, bigint, bigint, bigint, bigint, real) is 'Adds the counts of a batch to its run.';

-- ------------------------------------------------------------------------------------------------------
-- 7. Transform: the rules
-- ------------------------------------------------------------------------------------------------------

create or replace function staging.is_possible_time(value timestamp)
returns boolean
language sql stable
return value >= timestamp '1900-01-01' and value < (current_timestamp at time zone 'UTC') + interval '1 day';

comment on function staging.is_possible_time(timestamp) is 'Whether a time lies between 1900 and tomorrow.';

create or replace function staging.user_reasons(username text, email text, created_at timestamp)
returns text[]
language sql stable
return array_remove(array[
  case when coalesce(username, '') = '' then 'missing_username' end,
  case when coalesce(email, '') = '' then 'missing_email'
       when email !~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}$' then 'invalid_email' end,
  case when created_at is not null and not staging.is_possible_time(created_at) then 'impossible_date' end
], null);

comment on function staging.user_reasons(text, text, timestamp) is 'Why a user is not valid; empty if it is.';

create or replace function staging.transaction_reasons(user_id integer, user_exists boolean, amount numeric, status text, transaction_date timestamp)
returns text[]
language sql stable
return array_remove(array[
  case when user_id is null then 'missing_user' when not user_exists then 'unknown_user' end,
  case when amount is null then 'missing_amount' when amount <= 0 then 'amount_not_positive'
       when amount >= 100000000 then 'amount_out_of_range' end,
  case when status not in ('pending', 'completed', 'failed', 'refunded') then 'unknown_status' end,
  case when transaction_date is null then 'missing_date' when not staging.is_possible_time(transaction_date) then 'impossible_date' end
], null);

comment on function staging.transaction_reasons(integer, boolean, numeric, text, timestamp) is 'Why a transaction is not valid; empty if it is.';

create or replace function staging.event_reasons(
  user_id integer, user_exists boolean, event_type text, event_time timestamp, latitude double precision, longitude double precision
)
returns text[]
language sql stable
return array_remove(array[
  case when user_id is not null and not user_exists then 'unknown_user' end,
  case when coalesce(event_type, '') = '' then 'missing_event_type' end,
  case when event_time is null then 'missing_date' when not staging.is_possible_time(event_time) then 'impossible_date' end,
  case when (latitude is null) <> (longitude is null) or latitude not between -90 and 90 or longitude not between -180 and 180
       then 'invalid_position' end
], null);

comment on function staging.event_reasons(integer, boolean, text, timestamp, double precision, double precision) is 'Why an event is not valid; empty if it is.';

create or replace function staging.describe_reasons(reasons text[], payload jsonb)
returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select string_agg(case reason
      when 'missing_username' then 'The username is missing.'
      when 'missing_email' then 'The e-mail address is missing.'
      when 'invalid_email' then format('%s is not an e-mail address.', payload -> 'email')
      when 'username_taken' then format('The username %s belongs to another user.', payload -> 'username')
      when 'email_taken' then format('The e-mail address %s belongs to another user.', payload -> 'email')
      when 'missing_user' then 'The user is missing.'
      when 'unknown_user' then format('User %s does not exist (yet).', payload ->> 'user_id')
      when 'missing_amount' then 'The amount is missing.'
      when 'amount_not_positive' then format('The amount must be positive, not %s.', payload ->> 'amount')
      when 'amount_out_of_range' then format('The amount must be below 100000000, not %s.', payload ->> 'amount')
      when 'unknown_status' then format('The status must be pending, completed, failed or refunded, not %s.', payload -> 'status')
      when 'missing_date' then 'The time is missing.'
      when 'impossible_date' then format('%s is not between 1900 and tomorrow.',
        coalesce(payload ->> 'transaction_date', payload ->> 'event_time', payload ->> 'created_at'))
      when 'missing_event_type' then 'The event type is missing.'
      when 'invalid_position' then format('A position needs a latitude from -90 to 90 and a longitude from -180 to 180, not %s and %s.',
        coalesce(payload ->> 'latitude', 'none'), coalesce(payload ->> 'longitude', 'none'))
      else reason
    end, ' ' order by place)
    from unnest(reasons) with ordinality r (reason, place)
  );
end
$$;

comment on function staging.describe_reasons(text[], jsonb) is 'Says in words why a record was rejected.';

-- ------------------------------------------------------------------------------------------------------
-- 8. Transform: the batches
-- ------------------------------------------------------------------------------------------------------

-- Serial columns do not notice ids that come from elsewhere, and the next created row would collide. Drawing
-- the numbers cannot step back behind somebody who draws at the same time; setting can, so only for big gaps.
create or replace function staging.advance_sequence(sequence regclass, id bigint)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  last bigint := coalesce(pg_sequence_last_value(sequence), 0);
begin
  if id is null or id <= last then
    return;
  end if;
  if id - last > 10000 then
    perform setval(sequence, id);
  else
    perform count(nextval(sequence)) from generate_series(last + 1, id);
  end if;
end
$$;

comment on function staging.advance_sequence(regclass, bigint) is 'Moves a sequence to an id that was written without it.';

-- The calendar has every day that the data has.
create or replace function staging.cover_dates(first_time timestamp, last_time timestamp)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  first_day date;
  last_day date;
begin
  select min(full_date), max(full_date) into first_day, last_day from production.dim_date;
  if first_time < first_day then
    perform production.extend_dim_date(date_trunc('year', first_time)::date, first_day);
  end if;
  if date(last_time) > last_day then
    perform production.extend_dim_date(last_day, (date_trunc('year', last_time) + interval '1 year - 1 day')::date);
  end if;
end
$$;

comment on function staging.cover_dates(timestamp, timestamp) is 'Extends dim_date to the years of the given times.';

create or replace function staging.highest_xid()
returns xid8
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select xid from (
    (select w.xid from staging.watermarks w order by w.xid desc limit 1)
    union all
    (select r.ingest_xid from staging.raw_users r order by r.ingest_xid desc limit 1)
    union all
    (select r.ingest_xid from staging.raw_transactions r order by r.ingest_xid desc limit 1)
    union all
    (select r.ingest_xid from staging.raw_events r order by r.ingest_xid desc limit 1)
  ) used (xid)
  order by xid desc limit 1;
end;

comment on function staging.highest_xid() is 'The highest transaction number in staging.';

create or replace function staging.first_unused_xid()
returns xid8
language sql volatile set search_path = pg_catalog, pg_temp
return greatest(pg_snapshot_xmax(pg_current_snapshot()), (pg_current_xact_id()::text::bigint + 1)::text::xid8);

comment on function staging.first_unused_xid() is 'A transaction number that no row visible before has, unless it comes from another cluster.';

-- A dump that was restored into a younger cluster brings transaction numbers that this cluster has yet to
-- reach: the window would stay shut for what came with it, and the watermark would hide what came since. Rows
-- that were certainly taken stay so; the others are read again, which changes nothing if they had been.
create or replace function staging.renumber_restored()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  highest xid8 := staging.highest_xid();
  first_unused xid8;
  mark staging.watermarks;
begin
  -- In this order, one statement after the other: what commits in between is not from another cluster.
  first_unused := staging.first_unused_xid();
  if highest is null or highest < first_unused then
    return false;
  end if;
  -- Rows that arrive meanwhile would be taken for old ones.
  lock table staging.raw_users, staging.raw_transactions, staging.raw_events in share row exclusive mode;
  first_unused := staging.first_unused_xid();
  for mark in select * from staging.watermarks order by dataset for update loop
    execute format($sql$
      update staging.%I
      set ingest_xid = case when ingest_xid >= $1 and (ingest_xid, ingest_seq) <= ($2, $3) then '3' else pg_current_xact_id() end
    $sql$, 'raw_' || mark.dataset)
    using first_unused, mark.xid, mark.seq;
    update staging.watermarks w set xid = '3', seq = 9223372036854775807 where w.dataset = mark.dataset;
  end loop;
  return true;
end
$$;

comment on function staging.renumber_restored() is 'Repairs the order of arrival after a dump was restored into a younger cluster; says whether that was necessary.';

-- The end of the window that a transform may read: below it every transaction has ended, so no row can still
-- appear. A highest number or ingestion time would pass over rows whose transaction commits late. Transactions
-- of other databases do not count: they cannot write here, and may last for hours. Nor does autovacuum.
create or replace function staging.transform_window(out upper_xid xid8, out users bigint, out transactions bigint, out events bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  snapshot pg_snapshot;
  vanished boolean;
begin
  -- A transaction that ended between the two looks cannot be told from a foreign one: look again.
  for attempt in 1 .. 20 loop
    perform pg_stat_clear_snapshot();
    snapshot := pg_current_snapshot();
    select coalesce(min(running.xid), pg_snapshot_xmax(snapshot)), coalesce(bool_or(a.pid is null and p.gid is null), false)
    into upper_xid, vanished
    from pg_snapshot_xip(snapshot) running (xid)
    left join pg_stat_activity a on a.backend_xid = running.xid::xid
    left join pg_prepared_xacts p on p.transaction = running.xid::xid
    where coalesce(a.datname, p.database, current_database()) = current_database()
      and a.backend_type is distinct from 'autovacuum worker';
    exit when not vanished;
  end loop;

  select count(*) into users from staging.raw_users r, staging.watermarks w
  where w.dataset = 'users' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq) and r.ingest_xid < upper_xid;
  select count(*) into transactions from staging.raw_transactions r, staging.watermarks w
  where w.dataset = 'transactions' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq) and r.ingest_xid < upper_xid;
  select count(*) into events from staging.raw_events r, staging.watermarks w
  where w.dataset = 'events' and (r.ingest_xid, r.ingest_seq) > (w.xid, w.seq) and r.ingest_xid < upper_xid;
end
$$;

comment on function staging.transform_window() is 'Where a transform that starts now has to stop, and how many rows of each dataset lie before that.';

-- A batch: the rows between two places in the order of arrival, cleaned and judged. The limit changes nothing,
-- but makes the planner take the index. From outside it has to see the number of rows: statistics know of no
-- transaction that has just arrived, and with an estimate of one row, joins of batches become quadratic. For
-- the same reason its valid rows are those with less than one reason: the planner takes an equality to be rare.
-- Rejected rows are looked up one by one (offset 0), not by reading all of staging.
create or replace function staging.judged_users(from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer)
returns table (id uuid, user_id integer, username text, email text, country text, created_at timestamp, ingested_at timestamp, ingest_seq bigint, reasons text[])
language sql stable rows 20000 set search_path = pg_catalog, pg_temp as $$
  select r.id, r.user_id, btrim(r.username), btrim(r.email), nullif(btrim(r.country), ''), r.created_at, r.ingested_at, r.ingest_seq,
         staging.user_reasons(btrim(r.username), btrim(r.email), r.created_at)
  from (
    select * from staging.raw_users u
    where (u.ingest_xid, u.ingest_seq) > (from_xid, from_seq) and (u.ingest_xid, u.ingest_seq) <= (to_xid, to_seq)
    order by u.ingest_xid, u.ingest_seq limit batch_size
  ) r
$$;

comment on function staging.judged_users(xid8, bigint, xid8, bigint, integer) is 'A batch of raw users, cleaned, each with the reasons against it.';

create or replace function staging.judged_transactions(from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer, users integer[])
returns table (id uuid, transaction_id integer, user_id integer, amount numeric, status text, transaction_date timestamp, ingest_seq bigint, reasons text[])
language sql stable rows 20000 set search_path = pg_catalog, pg_temp as $$
  select r.id, r.transaction_id, r.user_id, r.amount, r.status, r.transaction_date, r.ingest_seq,
         staging.transaction_reasons(r.user_id, u.user_id is not null, r.amount, r.status, r.transaction_date)
  from (
    select t.id, t.transaction_id, t.user_id, round(t.amount, 2) as amount, coalesce(nullif(lower(btrim(t.status)), ''), 'pending') as status,
           t.transaction_date, t.ingest_seq
    from staging.raw_transactions t
    where (t.ingest_xid, t.ingest_seq) > (from_xid, from_seq) and (t.ingest_xid, t.ingest_seq) <= (to_xid, to_seq)
    order by t.ingest_xid, t.ingest_seq limit batch_size
  ) r
  left join unnest(users) u (user_id) on u.user_id = r.user_id
$$;

comment on function staging.judged_transactions(xid8, bigint, xid8, bigint, integer, integer[]) is 'A batch of raw transactions, cleaned, each with the reasons against it.';

create or replace function staging.judged_events(from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer, users integer[])
returns table (id uuid, event_id bigint, user_id integer, event_type text, event_data jsonb, event_time timestamp, latitude double precision, longitude double precision, ingest_seq bigint, reasons text[])
language sql stable rows 20000 set search_path = pg_catalog, pg_temp as $$
  select r.id, r.event_id, r.user_id, btrim(r.event_type), coalesce(r.event_data, '{}'), r.event_time, r.latitude, r.longitude, r.ingest_seq,
         staging.event_reasons(r.user_id, u.user_id is not null, btrim(r.event_type), r.event_time, r.latitude, r.longitude)
  from (
    select * from staging.raw_events e
    where (e.ingest_xid, e.ingest_seq) > (from_xid, from_seq) and (e.ingest_xid, e.ingest_seq) <= (to_xid, to_seq)
    order by e.ingest_xid, e.ingest_seq limit batch_size
  ) r
  left join unnest(users) u (user_id) on u.user_id = r.user_id
$$;

comment on function staging.judged_events(xid8, bigint, xid8, bigint, integer, integer[]) is 'A batch of raw events, cleaned, each with the reasons against it.';

-- A record that comes back from quarantine keeps its entry, with what is known about its source. Called for
-- every rejected row: in plpgsql, because a function in SQL would be planned every time.
create or replace function staging.reject(dataset text, run_id bigint, id uuid, ingest_seq bigint, reasons text[], raw jsonb)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  insert into staging.quarantine as q (dataset, stage, reasons, detail, waiting, payload, raw_id, ingest_seq, source_system, run_id)
  select reject.dataset, 'transform', reject.reasons, staging.describe_reasons(reject.reasons, payload), reject.reasons = '{unknown_user}',
         payload, reject.id, reject.ingest_seq, raw ->> 'source_system', reject.run_id
  from (select raw - '{id,ingested_at,source_system,ingest_seq,ingest_xid}'::text[] as payload) p
  on conflict (raw_id) do update
  set stage = excluded.stage, reasons = excluded.reasons, detail = excluded.detail, waiting = excluded.waiting, payload = excluded.payload,
      ingest_seq = excluded.ingest_seq, run_id = excluded.run_id, attempts = q.attempts + 1, last_attempt_at = excluded.last_attempt_at,
      retried_at = null;
end
$$;

comment on function staging.reject(text, bigint, uuid, bigint, text[], jsonb) is 'Puts a record into quarantine.';

-- One by one, in the order of arrival. The plans of the loop's statements are made once, not for every user.
create or replace function staging.apply_contested_users(
  run_id bigint, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer, contested integer[],
  out rows_written bigint, out rows_rejected bigint, out highest integer
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  r record;
  taken text[];
  changed boolean;
begin
  rows_written := 0;
  rows_rejected := 0;
  for r in
    select b.*
    from staging.judged_users(from_xid, from_seq, to_xid, to_seq, batch_size) b
    where cardinality(b.reasons) < 1 and exists (select from unnest(contested) c where c = b.user_id)
    order by b.ingest_seq
  loop
    continue when exists (select from production.users u where u.user_id = r.user_id and u.source_seq >= r.ingest_seq);
    taken := array_remove(array[
      case when exists (select from production.users u where u.username = r.username and u.user_id <> r.user_id) then 'username_taken' end,
      case when exists (select from production.users u where u.email = r.email and u.user_id <> r.user_id) then 'email_taken' end
    ], null);
    if taken <> '{}' then
      perform staging.reject('users', apply_contested_users.run_id, r.id, r.ingest_seq, taken, (select to_jsonb(u) from staging.raw_users u where u.id = r.id));
      rows_rejected := rows_rejected + 1;
    else
      changed := not exists (
        select from production.users u
        where u.user_id = r.user_id
          and (u.username, u.email, u.country, u.created_at)
            is not distinct from (r.username, r.email, r.country, coalesce(r.created_at, u.created_at))
      );
      insert into production.users as u (user_id, username, email, created_at, country, source_seq)
      values (r.user_id, r.username, r.email, coalesce(r.created_at, r.ingested_at, current_timestamp at time zone 'UTC'), r.country, r.ingest_seq)
      on conflict (user_id) do update
      set username = excluded.username, email = excluded.email, created_at = coalesce(r.created_at, u.created_at),
          country = excluded.country, source_seq = excluded.source_seq;
      rows_written := rows_written + changed::integer;
      highest := greatest(highest, r.user_id);
    end if;
  end loop;
end
$$;

comment on function staging.apply_contested_users(bigint, xid8, bigint, xid8, bigint, integer, integer[]) is 'Takes over the users of a batch who contest a username or an e-mail address.';

-- Users. A username or e-mail address is contested if another user brings it in this batch or holds it
-- already; then the order decides, and the rows of these users are applied one by one. All others at once.
create or replace function staging.transform_users(
  run_id bigint, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  contested integer[];
  last_id integer;
begin
  with batch as materialized (
    select b.user_id, b.username, b.email
    from staging.judged_users(from_xid, from_seq, to_xid, to_seq, batch_size) b where cardinality(b.reasons) < 1
  ), emails as materialized (
    select b.email from batch b group by b.email having min(b.user_id) <> max(b.user_id)
    union
    select b.email from batch b join production.users u on u.email = b.email and u.user_id <> b.user_id
  ), usernames as materialized (
    select b.username from batch b group by b.username having min(b.user_id) <> max(b.user_id)
    union
    select b.username from batch b join production.users u on u.username = b.username and u.user_id <> b.user_id
  )
  select coalesce(array_agg(a.user_id), '{}') into contested from (
    select b.user_id from batch b join emails e on e.email = b.email
    union select b.user_id from batch b join usernames n on n.username = b.username
    union select u.user_id from production.users u join emails e on u.email = e.email
    union select u.user_id from production.users u join usernames n on u.username = n.username
  ) a;

  with batch as materialized (
    select * from staging.judged_users(from_xid, from_seq, to_xid, to_seq, batch_size)
  ), rejected as materialized (
    select staging.reject('users', transform_users.run_id, b.id, b.ingest_seq, b.reasons, raw.fields)
    from batch b
    cross join lateral (select to_jsonb(u) as fields from staging.raw_users u where u.id = b.id offset 0) raw
    where cardinality(b.reasons) > 0
  ), latest as (
    select distinct on (b.user_id) b.*
    from batch b
    where cardinality(b.reasons) < 1 and not exists (select from unnest(contested) c where c = b.user_id)
    order by b.user_id, b.ingest_seq desc
  ), compared as materialized (
    select l.user_id, l.username, l.email, l.country, l.ingest_seq,
           coalesce(l.created_at, u.created_at, l.ingested_at, current_timestamp at time zone 'UTC') as created_at,
           u.user_id is null as is_new,
           (u.username, u.email, u.country, u.created_at)
             is distinct from (l.username, l.email, l.country, coalesce(l.created_at, u.created_at)) as changed
    from latest l left join production.users u on u.user_id = l.user_id
    where u.source_seq is null or u.source_seq < l.ingest_seq
  ), inserted as (
    insert into production.users (user_id, username, email, created_at, country, source_seq)
    select c.user_id, c.username, c.email, c.created_at, c.country, c.ingest_seq from compared c where c.is_new
    returning user_id
  ), updated as (
    update production.users u
    set username = c.username, email = c.email, created_at = c.created_at, country = c.country, source_seq = c.ingest_seq
    from compared c
    where not c.is_new and u.user_id = c.user_id and (u.source_seq is null or u.source_seq < c.ingest_seq)
    returning u.user_id, c.changed
  ), written as (
    select user_id, true as changed from inserted union all select user_id, changed from updated
  )
  select (select count(*) from batch), (select count(*) from rejected), count(*) filter (where w.changed), max(w.user_id)
  into rows_read, rows_rejected, rows_written, last_id
  from written w;

  if contested <> '{}' then
    select transform_users.rows_written + c.rows_written, transform_users.rows_rejected + c.rows_rejected, greatest(last_id, c.highest)
    into rows_written, rows_rejected, last_id
    from staging.apply_contested_users(run_id, from_xid, from_seq, to_xid, to_seq, batch_size, contested) c;
  end if;

  perform staging.advance_sequence('production.users_user_id_seq', last_id);
end
$$;

comment on function staging.transform_users(bigint, xid8, bigint, xid8, bigint, integer) is 'Takes over a batch of users.';

-- Transactions and events. Users deleted between the check and the insert would break the foreign key, so
-- the users are locked first, in the order of their keys. The check then sees who is left.
create or replace function staging.transform_transactions(
  run_id bigint, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  users integer[];
  highest integer;
  earliest timestamp;
  newest timestamp;
begin
  users := array(
    select u.user_id from production.users u
    where u.user_id = any (array(
      select r.user_id from staging.raw_transactions r
      where (r.ingest_xid, r.ingest_seq) > (from_xid, from_seq) and (r.ingest_xid, r.ingest_seq) <= (to_xid, to_seq)
      order by r.ingest_xid, r.ingest_seq limit batch_size
    ))
    order by u.user_id for key share
  );

  with batch as materialized (
    select * from staging.judged_transactions(from_xid, from_seq, to_xid, to_seq, batch_size, users)
  ), rejected as materialized (
    select staging.reject('transactions', transform_transactions.run_id, b.id, b.ingest_seq, b.reasons, raw.fields)
    from batch b
    cross join lateral (select to_jsonb(u) as fields from staging.raw_transactions u where u.id = b.id offset 0) raw
    where cardinality(b.reasons) > 0
  ), latest as (
    select distinct on (b.transaction_id) b.*
    from batch b where cardinality(b.reasons) < 1 order by b.transaction_id, b.ingest_seq desc
  ), compared as materialized (
    select l.*, t.transaction_id is null as is_new,
           (t.user_id, t.amount, t.status, t.transaction_date)
             is distinct from (l.user_id, l.amount, l.status, l.transaction_date) as changed
    from latest l left join production.transactions t on t.transaction_id = l.transaction_id
    where t.source_seq is null or t.source_seq < l.ingest_seq
  ), inserted as (
    insert into production.transactions (transaction_id, user_id, amount, status, transaction_date, source_seq)
    select c.transaction_id, c.user_id, c.amount, c.status, c.transaction_date, c.ingest_seq from compared c where c.is_new
    returning transaction_id, transaction_date
  ), updated as (
    update production.transactions t
    set user_id = c.user_id, amount = c.amount, status = c.status, transaction_date = c.transaction_date, source_seq = c.ingest_seq
    from compared c
    where not c.is_new and t.transaction_id = c.transaction_id and (t.source_seq is null or t.source_seq < c.ingest_seq)
    returning t.transaction_id, t.transaction_date, c.changed
  ), written as (
    select transaction_id, transaction_date, true as changed from inserted
    union all
    select transaction_id, transaction_date, changed from updated
  )
  select (select count(*) from batch), (select count(*) from rejected), count(*) filter (where w.changed),
         max(w.transaction_id), min(w.transaction_date), max(w.transaction_date)
  into rows_read, rows_rejected, rows_written, highest, earliest, newest
  from written w;

  perform staging.advance_sequence('production.transactions_transaction_id_seq', highest);
  perform staging.cover_dates(earliest, newest);
end
$$;

comment on function staging.transform_transactions(bigint, xid8, bigint, xid8, bigint, integer) is 'Takes over a batch of transactions.';

create or replace function staging.transform_events(
  run_id bigint, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  users integer[];
  highest bigint;
  earliest timestamp;
  newest timestamp;
begin
  users := array(
    select u.user_id from production.users u
    where u.user_id = any (array(
      select r.user_id from staging.raw_events r
      where (r.ingest_xid, r.ingest_seq) > (from_xid, from_seq) and (r.ingest_xid, r.ingest_seq) <= (to_xid, to_seq)
      order by r.ingest_xid, r.ingest_seq limit batch_size
    ))
    order by u.user_id for key share
  );

  with batch as materialized (
    select * from staging.judged_events(from_xid, from_seq, to_xid, to_seq, batch_size, users)
  ), rejected as materialized (
    select staging.reject('events', transform_events.run_id, b.id, b.ingest_seq, b.reasons, raw.fields)
    from batch b
    cross join lateral (select to_jsonb(u) as fields from staging.raw_events u where u.id = b.id offset 0) raw
    where cardinality(b.reasons) > 0
  ), latest as (
    select distinct on (b.event_id) b.*, public.st_setsrid(public.st_makepoint(b.longitude, b.latitude), 4326) as position
    from batch b where cardinality(b.reasons) < 1 order by b.event_id, b.ingest_seq desc
  ), compared as materialized (
    select l.*, e.event_id is null as is_new,
           (e.user_id, e.event_type, e.event_data, e.event_time) is distinct from (l.user_id, l.event_type, l.event_data, l.event_time)
             or public.st_asewkb(e.position) is distinct from public.st_asewkb(l.position) as changed
    from latest l left join production.events e on e.event_id = l.event_id
    where e.source_seq is null or e.source_seq < l.ingest_seq
  ), inserted as (
    insert into production.events (event_id, user_id, event_type, event_data, event_time, position, source_seq)
    select c.event_id, c.user_id, c.event_type, c.event_data, c.event_time, c.position, c.ingest_seq from compared c where c.is_new
    returning event_id, event_time
  ), updated as (
    update production.events e
    set user_id = c.user_id, event_type = c.event_type, event_data = c.event_data, event_time = c.event_time, position = c.position,
        source_seq = c.ingest_seq
    from compared c
    where not c.is_new and e.event_id = c.event_id and (e.source_seq is null or e.source_seq < c.ingest_seq)
    returning e.event_id, e.event_time, c.changed
  ), written as (
    select event_id, event_time, true as changed from inserted
    union all
    select event_id, event_time, changed from updated
  )
  select (select count(*) from batch), (select count(*) from rejected), count(*) filter (where w.changed),
         max(w.event_id), min(w.event_time), max(w.event_time)
  into rows_read, rows_rejected, rows_written, highest, earliest, newest
  from written w;

  perform staging.advance_sequence('production.events_event_id_seq', highest);
  perform staging.cover_dates(earliest, newest);
end
$$;

comment on function staging.transform_events(bigint, xid8, bigint, xid8, bigint, integer) is 'Takes over a batch of events.';

-- The rows and the watermark move in one transaction: after a crash at any point a row has been taken or not.
create or replace function staging.transform_batch(
  run_id bigint, dataset text, upper_xid xid8, batch_size integer default 20000, progress real default null,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set plan_cache_mode = force_custom_plan as $$
declare
  mark staging.watermarks;
  to_xid xid8;
  to_seq bigint;
begin
  perform staging.enter_batch(run_id);
  select * into strict mark from staging.watermarks w where w.dataset = transform_batch.dataset for update;
  execute format($sql$
    select r.ingest_xid, r.ingest_seq from (
      select ingest_xid, ingest_seq from staging.%I
      where (ingest_xid, ingest_seq) > ($1, $2) and ingest_xid < $3
      order by ingest_xid, ingest_seq limit $4
    ) r order by r.ingest_xid desc, r.ingest_seq desc limit 1
  $sql$, 'raw_' || transform_batch.dataset)
  into to_xid, to_seq using mark.xid, mark.seq, upper_xid, batch_size;

  rows_read := 0;
  rows_written := 0;
  rows_rejected := 0;
  if to_xid is not null then
    execute format('select * from staging.%I($1, $2, $3, $4, $5, $6)', 'transform_' || transform_batch.dataset)
    into rows_read, rows_written, rows_rejected using run_id, mark.xid, mark.seq, to_xid, to_seq, batch_size;

    -- What came back from quarantine has been decided: it is in production, or its entry is a new one.
    if exists (select from staging.quarantine q where q.retried_at is not null) then
      execute format($sql$
        delete from staging.quarantine q using staging.%I r
        where q.retried_at is not null and q.dataset = $1 and r.id = q.raw_id and (r.ingest_xid, r.ingest_seq) <= ($2, $3)
      $sql$, 'raw_' || transform_batch.dataset)
      using transform_batch.dataset, to_xid, to_seq;
    end if;
  end if;

  update staging.watermarks w
  set xid = coalesce(to_xid, w.xid), seq = coalesce(to_seq, w.seq), run_id = transform_batch.run_id, updated_at = clock_timestamp()
  where w.dataset = transform_batch.dataset;
  perform staging.count_batch(run_id, rows_read, rows_written, rows_rejected, 0, progress);
end
$$;

comment on function staging.transform_batch(bigint, text, xid8, integer, real) is 'Takes over the next rows of a dataset; no rows read means that there are none left below the given transaction.';

-- ------------------------------------------------------------------------------------------------------
-- 9. Refresh
-- ------------------------------------------------------------------------------------------------------

create or replace function analytics.rebuild_rollup()
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  written bigint;
begin
  delete from analytics.daily_rollup;
  insert into analytics.daily_rollup (date, country, active_users, total_revenue, avg_transaction)
  select t.transaction_day, u.country, count(distinct u.user_id), sum(t.amount), avg(t.amount)
  from production.transactions t join production.users u on u.user_id = t.user_id
  group by t.transaction_day, u.country;
  get diagnostics written = row_count;

  delete from analytics.users_without_transactions;
  insert into analytics.users_without_transactions (user_id, country)
  select u.user_id, u.country from production.users u
  where not exists (select from production.transactions t where t.user_id = u.user_id);
  insert into analytics.daily_rollup (country, active_users)
  select w.country, count(*) from analytics.users_without_transactions w group by w.country;

  update analytics.refresh_state set day_count = (select count(distinct r.date) from analytics.daily_rollup r);
  return written;
end
$$;

comment on function analytics.rebuild_rollup() is 'Computes all daily metrics from production and returns how many groups there are.';

-- The group of users without transactions changes by those who may have entered or left it: the users of the
-- log, and those with transactions on the changed days.
create or replace function analytics.update_rollup(days date[], users integer[])
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  written bigint;
begin
  delete from analytics.daily_rollup r where r.date = any (days);
  insert into analytics.daily_rollup (date, country, active_users, total_revenue, avg_transaction)
  select t.transaction_day, u.country, count(distinct u.user_id), sum(t.amount), avg(t.amount)
  from analytics.transactions_of_days(days) t join production.users u on u.user_id = t.user_id
  group by t.transaction_day, u.country;
  get diagnostics written = row_count;

  with gone as (
    delete from analytics.users_without_transactions w
    where w.user_id in (select unnest(users) union all select t.user_id from analytics.transactions_of_days(days) t)
    returning w.country
  ), fewer as (
    select g.country, count(*) as users from gone g group by g.country
  )
  update analytics.daily_rollup r set active_users = r.active_users - f.users
  from fewer f where r.date is null and r.country is not distinct from f.country;

  with came as (
    insert into analytics.users_without_transactions (user_id, country)
    select u.user_id, u.country from production.users u
    where u.user_id = any (users) and not exists (select from production.transactions t where t.user_id = u.user_id)
    returning country
  )
  insert into analytics.daily_rollup as r (country, active_users)
  select c.country, count(*) from came c group by c.country
  on conflict on constraint daily_rollup_key do update set active_users = r.active_users + excluded.active_users;

  delete from analytics.daily_rollup r where r.date is null and r.active_users = 0;
  return written;
end
$$;

comment on function analytics.update_rollup(date[], integer[]) is 'Computes the daily metrics of the given days, and of users who may have got or lost all transactions.';

-- Writers go on meanwhile. What commits after the log was consumed stays logged, so the view takes it from
-- production, whether the rollup has it already or not.
--
-- REFRESH … CONCURRENTLY compares all groups, however few have changed. What can be spared is sorting them on
-- disk, and sampling them for statistics that do not change how they are compared.
create or replace function analytics.refresh("full" boolean default false, run_id bigint default null)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set plan_cache_mode = force_custom_plan set jit = off set default_statistics_target = 1 as $$
declare
  changes record;
  days date[];
  written bigint;
  memory text := current_setting('work_mem');
begin
  perform staging.enter_batch(refresh.run_id);
  -- One refresh at a time; whoever reads the rollup is not kept waiting.
  lock table analytics.daily_rollup in share row exclusive mode;

  with consumed as materialized (delete from analytics.change_log returning *)
  select coalesce(bool_or(c.rebuild), false) as rebuild, coalesce(sum(c.row_count), 0)::bigint as row_count,
         array(select distinct unnest(changed_dates) from consumed) as days,
         array(select unnest(user_ids) from consumed union select unnest(moved_user_ids) from consumed) as users,
         array(select distinct unnest(moved_user_ids) from consumed) as moved_users
  into changes from consumed c;
  days := array(
    select unnest(changes.days)
    union
    select t.transaction_day from production.transactions t where t.user_id = any (changes.moved_users)
  );

  if "full" or changes.rebuild or cardinality(days) * 3 > (select s.day_count from analytics.refresh_state s) then
    written := analytics.rebuild_rollup();
  else
    written := analytics.update_rollup(days, changes.users);
  end if;

  -- The views on the metrics join the calendar. Dates that nobody can mean do not get one.
  perform staging.cover_dates(min(r.date), max(r.date)) from analytics.daily_rollup r where r.date between '1900-01-01' and '2199-12-31';

  -- The view itself raises the data version and notifies.
  perform set_config('strata.run_id', coalesce(refresh.run_id::text, ''), true);
  perform set_config('work_mem', greatest(pg_size_bytes(memory) / 1024, 65536) || 'kB', true);
  if (select c.relispopulated from pg_class c where c.oid = 'analytics.daily_user_metrics'::regclass) then
    refresh materialized view concurrently analytics.daily_user_metrics;
  else
    refresh materialized view analytics.daily_user_metrics;
  end if;
  perform set_config('work_mem', memory, true);
  perform set_config('strata.run_id', '', true);
  perform staging.count_batch(refresh.run_id, changes.row_count, written, 0, 0, 1);
  return written;
end
$$;

comment on function analytics.refresh(boolean, bigint) is 'Brings the daily metrics up to date and returns how many groups were computed; full computes all of them.';

create or replace function analytics.count_wrong_metrics()
returns bigint
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with truth as materialized (
    select date(t.transaction_date) as date, u.country, count(distinct u.user_id) as active_users,
           sum(t.amount) as total_revenue, avg(t.amount) as avg_transaction
    from production.users u left join production.transactions t on u.user_id = t.user_id
    group by date(t.transaction_date), u.country
  ), kept as materialized (
    select date, country, active_users, total_revenue, avg_transaction from analytics.daily_user_metrics_live
  )
  select count(*) from (
    (select * from truth except all select * from kept) union all (select * from kept except all select * from truth)
  ) differences;
end;

comment on function analytics.count_wrong_metrics() is 'Compares the kept daily metrics, with the logged changes, to the truth, and returns how many groups differ.';

-- ------------------------------------------------------------------------------------------------------
-- 10. Cleanup
-- ------------------------------------------------------------------------------------------------------

create or replace function staging.check_days_to_keep(days integer)
returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if days is null or days not between 0 and 36500 then
    raise exception 'days_to_keep must be from 0 to 36500, not %.', coalesce(days::text, 'null') using errcode = 'invalid_parameter_value';
  end if;
end
$$;

comment on function staging.check_days_to_keep(integer) is 'Refuses a retention that nobody can mean.';

-- Rows beyond the watermark stay, however old: the transform has not taken them.
create or replace function staging.cleanup_batch(run_id bigint, days_to_keep integer, batch_size integer default 20000)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  mark staging.watermarks;
  deleted integer;
  total integer := 0;
begin
  perform staging.check_days_to_keep(days_to_keep);
  perform staging.enter_batch(run_id);
  for mark in select * from staging.watermarks order by dataset loop
    execute format($sql$
      delete from staging.%1$I where id in (
        select id from staging.%1$I
        where (ingest_xid, ingest_seq) <= ($1, $2) and ingested_at < (current_timestamp at time zone 'UTC') - make_interval(days => $3)
        order by ingest_xid, ingest_seq limit $4
      )
    $sql$, 'raw_' || mark.dataset)
    using mark.xid, mark.seq, days_to_keep, batch_size - total;
    get diagnostics deleted = row_count;
    total := total + deleted;
    exit when total >= batch_size;
  end loop;
  perform staging.count_batch(run_id, total, 0, 0, total);
  return total;
end
$$;

comment on function staging.cleanup_batch(bigint, integer, integer) is 'Deletes a batch of old raw rows and returns how many; zero means that none are left.';

create or replace function staging.cleanup_old_data(days_to_keep integer default 30)
returns integer
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  select staging.cleanup_batch(null, cleanup_old_data.days_to_keep, 2147483647);
end;

comment on function staging.cleanup_old_data(integer) is 'Deletes raw rows that are older than a number of days and that the transform has taken; returns how many.';

-- ------------------------------------------------------------------------------------------------------
-- 11. Quarantine
-- ------------------------------------------------------------------------------------------------------

-- A retry puts the record back into staging, with its place in the order of arrival and a new transaction, so
-- that the next transform takes it like any other. Its entry stays, hidden, until the transform has decided.

create or replace function staging.raw_fields(dataset text)
returns table (field text, kind text)
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select f.field, f.kind
  from (values
    ('users', 1, 'user_id', 'integer'), ('users', 2, 'username', '100'), ('users', 3, 'email', '255'),
    ('users', 4, 'created_at', 'timestamp'), ('users', 5, 'country', '100'),
    ('transactions', 1, 'transaction_id', 'integer'), ('transactions', 2, 'user_id', 'integer'), ('transactions', 3, 'amount', 'numeric'),
    ('transactions', 4, 'status', '50'), ('transactions', 5, 'transaction_date', 'timestamp'),
    ('events', 1, 'event_id', 'bigint'), ('events', 2, 'user_id', 'integer'), ('events', 3, 'event_type', '50'),
    ('events', 4, 'event_data', 'jsonb'), ('events', 5, 'event_time', 'timestamp'),
    ('events', 6, 'latitude', 'double precision'), ('events', 7, 'longitude', 'double precision')
  ) f (dataset, place, field, kind)
  where f.dataset = raw_fields.dataset
  order by f.place
$$;

comment on function staging.raw_fields(text) is 'Fields of a dataset with their types; a number is the greatest length of a text.';

-- For payloads whose fields have the right types.
create or replace function staging.requeue(dataset text, ids bigint[])
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  fields text;
  requeued integer;
begin
  update staging.quarantine q
  set retried_at = clock_timestamp(), raw_id = coalesce(q.raw_id, public.uuid_generate_v4())
  where q.quarantine_id = any (ids) and q.dataset = requeue.dataset;
  get diagnostics requeued = row_count;

  select string_agg(format('%I', f.field), ', ') into fields from staging.raw_fields(requeue.dataset) f;
  execute format($sql$
    insert into staging.%1$I (id, source_system, ingest_seq, %2$s)
    select q.raw_id, q.source_system, q.ingest_seq, %3$s
    from staging.quarantine q, jsonb_populate_record(null::staging.%1$I, q.payload) p
    where q.quarantine_id = any ($1) and q.dataset = $2
    on conflict (id) do update set ingest_xid = pg_current_xact_id(), (%2$s) = row(%4$s)
  $sql$, 'raw_' || requeue.dataset, fields, 'p.' || replace(fields, ', ', ', p.'), 'excluded.' || replace(fields, ', ', ', excluded.'))
  using ids, requeue.dataset;
  return requeued;
end
$$;

comment on function staging.requeue(text, bigint[]) is 'Gives quarantined records of a dataset back to the transform.';

-- Types a record as the ingest does; false, with the entry's reasons up to date, if it cannot. An empty field
-- of CSV is an absent one, and its event_data is the text of JSON; NDJSON has the values themselves. The two are
-- told apart by the text as received: an unquoted field of CSV holds no quote.
create or replace function staging.type_payload(entry staging.quarantine, patch jsonb)
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  is_csv boolean := coalesce(entry.raw_text !~ '^\s*\{\s*"', false);
  merged jsonb := entry.payload;
  spoilt text[];
  found_reasons text[];
  found_detail text;
  typed jsonb;
  extra jsonb;
begin
  if patch is not null then
    -- Without what the patch sets to null: for a column that is the same, another field has no other way out.
    merged := (coalesce(merged, '{}') || patch) - array(select p.key from jsonb_each(patch) p where p.value = 'null');
  end if;
  if jsonb_typeof(merged) is distinct from 'object' then
    found_reasons := array['unparseable'];
    found_detail := 'The record cannot be read; give its fields with the retry.';
  else
    -- A patch is JSON, and so is what the transform rejected.
    if is_csv and merged ? 'event_data' and (entry.stage = 'transform' or coalesce(patch ? 'event_data', false)) then
      merged := jsonb_set(merged, '{event_data}', to_jsonb((merged -> 'event_data')::text));
    end if;

    -- Where jsonb could not hold a character there is another one, which must not pass for the source's.
    spoilt := array(
      select e.key from jsonb_each(merged) e left join staging.raw_fields(entry.dataset) f on f.field = e.key and f.kind <> 'jsonb'
      where case when f.field is null then 'invalid_json' else 'invalid_encoding' end = any (entry.reasons) and not is_csv
        and position(U&'\FFFD' in e.key || e.value::text) > 0 and not coalesce(patch ? e.key, false)
    );

    with fields as (
      select f.field, f.kind, row_number() over () as place, jsonb_typeof(merged -> f.field) in ('object', 'array') as is_nested,
             case when is_csv then nullif(merged ->> f.field, '')
                  when f.kind = 'jsonb' then (merged -> f.field)::text
                  else merged ->> f.field end as given
      from staging.raw_fields(entry.dataset) f
    ), judged as (
      select f.field, f.kind, f.place, v.value,
             case when f.place = 1 and f.given is null then array['missing_key', 'it is the key and is missing']
                  when f.field = any (spoilt)
                  then array[case f.kind when 'jsonb' then 'invalid_json' else 'invalid_encoding' end,
                             'it has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry']
                  when f.is_nested and (f.kind = 'timestamp' or f.kind ~ '^\d')
                  then array['invalid_text', 'it is an object or array; it has to be text']
                  else array[v.reason, v.problem] end as fault
      from fields f
      cross join lateral staging.typed_values(array[f.kind], array[f.given]) v
    )
    select jsonb_object_agg(j.field, case when j.kind = 'jsonb' and j.fault[1] is null then j.value::jsonb else to_jsonb(j.value) end),
           array_agg(distinct j.fault[1]) filter (where j.fault[1] is not null),
           string_agg(format('%s: %s.', j.field, j.fault[2]), ' ' order by j.place) filter (where j.fault[1] is not null)
    into typed, found_reasons, found_detail
    from judged j;

    select jsonb_object_agg(e.key, e.value), array_agg(e.key) filter (where e.key = any (spoilt)) into extra, spoilt
    from jsonb_each(merged) e
    where not exists (select from staging.raw_fields(entry.dataset) f where f.field = e.key)
      and not (is_csv and e.value = 'null');
    if extra is not null and entry.dataset <> 'events' then
      found_reasons := found_reasons || 'unknown_field'::text;
      found_detail := concat_ws(' ', found_detail, format('Unknown fields: %s.', (select string_agg(k, ', ') from jsonb_object_keys(extra) k)));
    elsif spoilt is not null then
      found_reasons := array_remove(found_reasons, 'invalid_json') || 'invalid_json'::text;
      found_detail := concat_ws(' ', found_detail, format(
        'Fields with U+FFFD, which may stand for a NUL character or half of a surrogate pair: %s; give them with the retry.',
        array_to_string(spoilt, ', ')));
    elsif extra is not null then
      typed := jsonb_set(typed, '{event_data}', extra || case
        when jsonb_typeof(typed -> 'event_data') = 'null' then '{}'
        when jsonb_typeof(typed -> 'event_data') = 'object' and not typed -> 'event_data' ?| array(select jsonb_object_keys(extra))
        then typed -> 'event_data'
        else jsonb_build_object('event_data', typed -> 'event_data') end);
    end if;
  end if;

  if found_reasons is not null then
    update staging.quarantine q
    set payload = merged, stage = 'ingest', reasons = found_reasons, detail = found_detail, waiting = false,
        attempts = q.attempts + 1, last_attempt_at = clock_timestamp()
    where q.quarantine_id = entry.quarantine_id;
    return false;
  end if;
  update staging.quarantine q set payload = typed where q.quarantine_id = entry.quarantine_id;
  return true;
end
$$;

comment on function staging.type_payload(staging.quarantine, jsonb) is 'Gives the fields of a quarantined record, corrected by a patch if there is one, their types; false if that fails, with the reasons renewed.';

-- Without a patch, of an earlier version.
drop function if exists staging.type_payload(staging.quarantine);

-- By id, by reason, or everything: exactly one of the three, so that no slip retries or discards too much.
create or replace function staging.select_quarantined(ids bigint[], reason text, everything boolean)
returns setof staging.quarantine
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if num_nonnulls(ids, reason, nullif(everything, false)) <> 1 then
    raise exception 'Say which records: by ids, by reason, or all of them; give exactly one of these.' using errcode = 'invalid_parameter_value';
  end if;
  return query
    select * from staging.quarantine q
    where q.retried_at is null
      and (everything or q.quarantine_id = any (ids) or q.reasons @> array[reason])
    order by q.quarantine_id
    for update;
end
$$;

comment on function staging.select_quarantined(bigint[], text, boolean) is 'Quarantined records by id, by reason, or all of them.';

create or replace function analytics.retry_quarantined(
  ids bigint[] default null,
  reason text default null,
  everything boolean default false,
  patch jsonb default null
)
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  entry staging.quarantine;
  entries bigint[] := '{}';
  retried integer := 0;
begin
  if patch is not null and jsonb_typeof(patch) <> 'object' then
    raise exception 'The patch must be an object of fields and values, not %.', patch using errcode = 'invalid_parameter_value';
  end if;
  for entry in select * from staging.select_quarantined(ids, reason, everything) loop
    -- A field that neither the dataset nor the record has would spoil the record for later tries.
    if exists (
      select jsonb_object_keys(patch) except select jsonb_object_keys(entry.payload) except select f.field from staging.raw_fields(entry.dataset) f
    ) then
      raise exception 'The patch has fields that % do not have; allowed: %.', entry.dataset,
        (select string_agg(f.field, ', ') from staging.raw_fields(entry.dataset) f)
          || coalesce((select ', and of this record ' || string_agg(k, ', ') from jsonb_object_keys(entry.payload) k
                       where k not in (select f.field from staging.raw_fields(entry.dataset) f)), '')
        using errcode = 'invalid_parameter_value';
    end if;
    if (patch is null and entry.stage = 'transform') or staging.type_payload(entry, patch) then
      entries := entries || entry.quarantine_id;
    end if;
  end loop;
  select sum(staging.requeue(d.dataset, entries)) into retried from (values ('users'), ('transactions'), ('events')) d (dataset);
  return retried;
end
$$;

comment on function analytics.retry_quarantined(bigint[], text, boolean, jsonb) is 'Gives quarantined records back to the transform, with corrected fields if a patch is given, and returns how many.';

create or replace function analytics.discard_quarantined(ids bigint[] default null, reason text default null, everything boolean default false)
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  discarded integer;
begin
  delete from staging.quarantine q
  using staging.select_quarantined(ids, reason, everything) s where q.quarantine_id = s.quarantine_id;
  get diagnostics discarded = row_count;
  return discarded;
end
$$;

comment on function analytics.discard_quarantined(bigint[], text, boolean) is 'Deletes quarantined records for good and returns how many.';

create or replace function staging.requeue_waiting(run_id bigint, batch_size integer)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  ready bigint[];
begin
  perform staging.enter_batch(run_id);
  select array_agg(r.quarantine_id) into ready from (
    select q.quarantine_id from staging.quarantine q
    where q.waiting and q.retried_at is null
      and exists (select from production.users u where u.user_id = (q.payload ->> 'user_id')::integer)
    limit batch_size
    for update skip locked
  ) r;
  perform staging.requeue('transactions', ready), staging.requeue('events', ready);
  return coalesce(cardinality(ready), 0);
end
$$;

comment on function staging.requeue_waiting(bigint, integer) is 'Gives records back to the transform whose user exists by now, and returns how many.';

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

grant execute on function analytics.start_run(text, text, text, jsonb, bigint) to strata_operator;
grant execute on function analytics.retry_quarantined(bigint[], text, boolean, jsonb), analytics.discard_quarantined(bigint[], text, boolean)
  to strata_operator;

-- The live view reads with the rights of its owner, but calls functions with those of its reader.
grant execute on function analytics.dirty_days(), analytics.dirty_metrics() to strata_reader;

-- What a subscriber to refreshes has missed.
grant select (data_version, refreshed_at, run_id) on analytics.refresh_state to strata_reader;

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
    create policy ingestors_see_their_own on analytics.pipeline_runs for select to strata_ingestor using (false);
  end if;
end
$$;

-- Other actors are logins and users of a machine, whose names anybody's token may have.
alter policy ingestors_see_their_own on analytics.pipeline_runs
  using (step = 'ingest' and trigger = 'api' and actor = current_setting('strata.sub', true));

comment on policy readers_see_all on analytics.pipeline_runs is 'Readers and operators see every run.';
comment on policy ingestors_see_their_own on analytics.pipeline_runs is 'Source systems see the runs that they asked for.';

commit;
