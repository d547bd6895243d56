-- ======================================================================================================
-- Strata's model: the specification's tables, and what is computed from them
--
--   staging      Records as they arrived, stored for a short time. No API role may read them.
--   production   One row per user, transaction, event; every row satisfies every constraint.
--   analytics    Pre-computed results.
--
-- Each dataset is one block: the raw table, the production table, the mapping view between them, the grants, and
-- strata.add_dataset, which creates everything else. For a dataset of your own, copy a block into a file in
-- datasets/; this file holds the tables of the specification only.
--
--   * A constraint is a rule. Its name is the reason of a rejection, and its comment explains the reason.
--   * The mapping view staging.<dataset> cleans values. Its column `reasons` adds rules that are not constraints,
--     as "code" or "code: explanation". Without a view, columns of equal names are copied.
--   * The grants are the rights in the API. Without any, readers read and operators write.
--
-- Every timestamp without time zone holds UTC. The file may be applied any number of times, after sql/*.sql.
-- A new column goes into an `alter table … add column if not exists` below its production and its raw table, since
-- `create table if not exists` does nothing for an existing table, and to the end of the mapping view.
-- ======================================================================================================

set local client_min_messages = warning;
set local timezone = 'UTC';

-- ------------------------------------------------------------------------------------------------------
-- The calendar
-- ------------------------------------------------------------------------------------------------------

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

comment on table production.dim_date is 'Calendar for grouping by parts of a date; one row per day.';
comment on column production.dim_date.date_id is 'Identifier of the day.';
comment on column production.dim_date.full_date is 'The day.';
comment on column production.dim_date.year is 'Calendar year.';
comment on column production.dim_date.quarter is 'Quarter of the year, 1 to 4.';
comment on column production.dim_date.month is 'Month of the year, 1 to 12.';
comment on column production.dim_date.month_name is 'English name of the month.';
comment on column production.dim_date.week is 'ISO 8601 week, 1 to 53.';
comment on column production.dim_date.day_of_week is 'ISO 8601 day of the week, 1 (Monday) to 7 (Sunday).';
comment on column production.dim_date.day_name is 'English name of the day.';
comment on column production.dim_date.is_weekend is 'Whether the day is a Saturday or a Sunday.';
comment on column production.dim_date.is_holiday is 'Whether the day is a holiday; set manually, false by default.';

-- Existing days are skipped with NOT EXISTS: ON CONFLICT would draw a date_id for each of them.
create or replace function production.extend_dim_date(from_date date, to_date date)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  days_added integer;
begin
  if from_date is null or to_date is null or from_date > to_date or not isfinite(from_date) or not isfinite(to_date) then
    raise exception 'dim_date cannot be extended from % to %', coalesce(from_date::text, 'null'), coalesce(to_date::text, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Give two dates of the calendar, the earlier one first.';
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

comment on function production.extend_dim_date(date, date) is 'Adds the missing days of a range to dim_date and returns their number.';

select production.extend_dim_date('2015-01-01', '2035-12-31')
where not exists (select from production.dim_date);

-- Cached responses about metrics may contain the calendar, and a change of it is not a refresh.
create or replace trigger note_calendar_change
after insert or update or delete or truncate on production.dim_date
for each statement execute function strata.note_change();

comment on trigger note_calendar_change on production.dim_date is 'Raises the data version.';

-- ------------------------------------------------------------------------------------------------------
-- Dataset: users
-- ------------------------------------------------------------------------------------------------------

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

comment on table staging.raw_users is 'Users as they arrived from source systems; one row per received record.';
comment on column staging.raw_users.id is 'Identifier of the received record.';
comment on column staging.raw_users.user_id is 'Key of the user that the record describes.';
comment on column staging.raw_users.username is 'Name as received.';
comment on column staging.raw_users.email is 'E-mail address as received.';
comment on column staging.raw_users.created_at is 'When the source system created the user (UTC).';
comment on column staging.raw_users.country is 'Country as received.';
comment on column staging.raw_users.ingested_at is 'When the record arrived (UTC).';
comment on column staging.raw_users.source_system is 'Source system that sent the record.';

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

alter table production.users add column if not exists strata_source text;

-- An index serves a prefix search (like 'x%') only if it compares bytes, whatever the collation.
create index if not exists idx_users_username_prefix on production.users (username varchar_pattern_ops);
create index if not exists idx_users_email_prefix on production.users (email varchar_pattern_ops);
create index if not exists idx_users_country on production.users (country);
create index if not exists idx_users_created_at on production.users (created_at);

comment on table production.users is 'A person with an account; one row per user.';
comment on column production.users.user_id is 'Identifier of the user.';
comment on column production.users.username is 'Unique name of the user.';
comment on column production.users.email is 'Unique e-mail address of the user.';
comment on column production.users.email_verified is 'Whether the user has confirmed the e-mail address.';
comment on column production.users.created_at is 'When the user was created (UTC).';
comment on column production.users.updated_at is 'When the row was last changed (UTC).';
comment on column production.users.country is 'Country of the user; null if unknown.';
comment on column production.users.source_seq is 'ingest_seq of the record that the row came from; null if the row was created directly.';
comment on column production.users.strata_source is 'Source system of the record that the row came from; null if the row was created directly.';

comment on constraint valid_email on production.users is 'The e-mail address is not valid.';
comment on constraint users_email_key on production.users is 'Another user has the e-mail address.';
comment on constraint users_username_key on production.users is 'Another user has the username.';

-- It is in public because the specification creates it without a schema.
create or replace function public.update_updated_at_column()
returns trigger
language plpgsql as $$
begin
  new.updated_at = current_timestamp;
  return new;
end;
$$;

comment on function public.update_updated_at_column() is 'Trigger function: sets updated_at to the current time.';
revoke execute on function public.update_updated_at_column() from public;

create or replace trigger update_users_updated_at
before update on production.users
for each row execute function public.update_updated_at_column();

comment on trigger update_users_updated_at on production.users is 'Sets updated_at on each update.';

-- An implausible time is an error of the source, and the calendar would be extended to it.
create or replace function staging.is_possible_time(value timestamp)
returns boolean
language sql stable
return value >= timestamp '1900-01-01' and value < (current_timestamp at time zone 'UTC') + interval '1 day';

comment on function staging.is_possible_time(timestamp) is 'Whether a time (UTC) lies between 1900 and 24 hours from now.';

create or replace view staging.users as
select
  user_id,
  nullif(btrim(username), '') as username,
  nullif(btrim(email), '') as email,
  created_at,
  nullif(btrim(country), '') as country,
  case when not staging.is_possible_time(created_at)
       then array[format('impossible_date: created_at must lie between 1900 and tomorrow. Given: %s.', created_at)] end as reasons,
  ingest_xid,
  ingest_seq,
  source_system
from staging.raw_users;

comment on view staging.users is 'Maps raw users to rows of production.users; reasons has violations of rules that are not constraints.';

grant select (user_id, username, email_verified, created_at, updated_at, country, source_seq, strata_source) on production.users to strata_reader;
-- Only operators may read e-mail addresses.
grant select on production.users to strata_operator;
grant insert (user_id, username, email, email_verified, created_at, country), update (username, email, email_verified, created_at, country), delete
  on production.users to strata_operator;
grant usage on sequence production.users_user_id_seq to strata_operator;

select strata.add_dataset('users');

-- ------------------------------------------------------------------------------------------------------
-- Dataset: transactions
-- ------------------------------------------------------------------------------------------------------

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

comment on table staging.raw_transactions is 'Transactions as they arrived from source systems; one row per received record.';
comment on column staging.raw_transactions.id is 'Identifier of the received record.';
comment on column staging.raw_transactions.transaction_id is 'Key of the transaction that the record describes.';
comment on column staging.raw_transactions.user_id is 'User who made the transaction.';
comment on column staging.raw_transactions.amount is 'Amount as received.';
comment on column staging.raw_transactions.status is 'Status as received.';
comment on column staging.raw_transactions.transaction_date is 'When the transaction took place (UTC).';
comment on column staging.raw_transactions.ingested_at is 'When the record arrived (UTC).';
comment on column staging.raw_transactions.source_system is 'Source system that sent the record.';

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

alter table production.transactions add column if not exists strata_source text;

create index if not exists idx_transactions_user_id on production.transactions (user_id);
create index if not exists idx_user_date on production.transactions (user_id, transaction_date);
create index if not exists idx_transactions_date on production.transactions (transaction_date);
-- Metrics by day select the rows of stale days by it.
create index if not exists idx_transactions_day on production.transactions (transaction_day);
create index if not exists idx_transactions_amount on production.transactions (amount);
create index if not exists idx_transactions_status_date on production.transactions (status, transaction_date);

comment on table production.transactions is 'A payment by a user; one row per transaction.';
comment on column production.transactions.transaction_id is 'Identifier of the transaction.';
comment on column production.transactions.user_id is 'User who made the transaction.';
comment on column production.transactions.amount is 'Amount of money, always positive; the currency is not stored.';
comment on column production.transactions.status is 'State of the payment: pending, completed, failed or refunded.';
comment on column production.transactions.transaction_date is 'When the transaction took place (UTC).';
comment on column production.transactions.transaction_day is 'Day of transaction_date, which joins dim_date.full_date.';
comment on column production.transactions.created_at is 'When the row was created (UTC).';
comment on column production.transactions.updated_at is 'When the row was last changed (UTC).';
comment on column production.transactions.source_seq is 'ingest_seq of the record that the row came from; null if the row was created directly.';
comment on column production.transactions.strata_source is 'Source system of the record that the row came from; null if the row was created directly.';

comment on constraint fk_user on production.transactions is 'The user does not exist, or has not arrived yet.';
comment on constraint positive_amount on production.transactions is 'The amount must be positive.';
comment on constraint valid_status on production.transactions is 'The status must be pending, completed, failed or refunded.';

create or replace trigger update_transactions_updated_at
before update on production.transactions
for each row execute function public.update_updated_at_column();

comment on trigger update_transactions_updated_at on production.transactions is 'Sets updated_at on each update.';

create or replace view staging.transactions as
select
  transaction_id,
  user_id,
  amount,
  nullif(lower(btrim(status)), '') as status,
  transaction_date,
  -- The table's default is for transactions created in production, not for records without a date.
  case when transaction_date is null then array['transaction_date_missing']
       when not staging.is_possible_time(transaction_date)
       then array[format('impossible_date: transaction_date must lie between 1900 and tomorrow. Given: %s.', transaction_date)] end as reasons,
  ingest_xid,
  ingest_seq,
  source_system
from staging.raw_transactions;

comment on view staging.transactions is 'Maps raw transactions to rows of production.transactions; reasons has violations of rules that are not constraints.';

grant select on production.transactions to strata_reader;
grant insert (transaction_id, user_id, amount, status, transaction_date), update (user_id, amount, status, transaction_date), delete
  on production.transactions to strata_operator;
grant usage on sequence production.transactions_transaction_id_seq to strata_operator;

select strata.add_dataset('transactions');

-- ------------------------------------------------------------------------------------------------------
-- Dataset: events
-- ------------------------------------------------------------------------------------------------------

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

create index if not exists idx_events_data on staging.raw_events using gin (event_data);

comment on table staging.raw_events is 'Events as they arrived from source systems; one row per received record.';
comment on column staging.raw_events.id is 'Identifier of the received record.';
comment on column staging.raw_events.event_id is 'Key of the event that the record describes.';
comment on column staging.raw_events.user_id is 'User who caused the event; null if no user did.';
comment on column staging.raw_events.event_type is 'Kind of event as received.';
comment on column staging.raw_events.event_data is 'Further details of the event: a JSON object as received.';
comment on column staging.raw_events.event_time is 'When the event took place (UTC).';
comment on column staging.raw_events.latitude is 'Latitude in degrees (WGS 84).';
comment on column staging.raw_events.longitude is 'Longitude in degrees (WGS 84).';
comment on column staging.raw_events.ingested_at is 'When the record arrived (UTC).';
comment on column staging.raw_events.source_system is 'Source system that sent the record.';

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

alter table production.events add column if not exists strata_source text;

create index if not exists idx_events_user_time on production.events (user_id, event_time);
create index if not exists idx_events_time on production.events (event_time);
create index if not exists idx_events_type_time on production.events (event_type, event_time);
create index if not exists idx_events_event_data on production.events using gin (event_data);
create index if not exists idx_events_position on production.events using gist (position);
-- Searches by metres, and for the nearest first, need an index on geography: degrees are not distances.
create index if not exists idx_events_position_geography on production.events using gist ((position::public.geography));

comment on table production.events is 'An action or occurrence with a time and, if known, a position; one row per event.';
comment on column production.events.event_id is 'Identifier of the event.';
comment on column production.events.user_id is 'User who caused the event; null if no user did.';
comment on column production.events.event_type is 'Kind of event, for example page_view.';
comment on column production.events.event_data is 'Details as JSON; the structure depends on the kind of event.';
comment on column production.events.event_time is 'When the event took place (UTC).';
comment on column production.events.event_day is 'Day of event_time, which joins dim_date.full_date.';
comment on column production.events.position is 'Where the event took place: a point in degrees (WGS 84); null if unknown.';
comment on column production.events.source_seq is 'ingest_seq of the record that the row came from; null if the row was created directly.';
comment on column production.events.strata_source is 'Source system of the record that the row came from; null if the row was created directly.';

comment on constraint fk_user on production.events is 'The user does not exist, or has not arrived yet.';

create or replace view staging.events as
select
  event_id,
  user_id,
  nullif(btrim(event_type), '') as event_type,
  event_data,
  event_time,
  case when latitude between -90 and 90 and longitude between -180 and 180
       then public.st_setsrid(public.st_makepoint(longitude, latitude), 4326)::public.geometry(Point, 4326) end as position,
  array_remove(array[
    case when event_time is null then 'event_time_missing'
         when not staging.is_possible_time(event_time)
         then format('impossible_date: event_time must lie between 1900 and tomorrow. Given: %s.', event_time) end,
    case when (latitude is null) <> (longitude is null) or latitude not between -90 and 90 or longitude not between -180 and 180
         then format('invalid_position: A position needs a latitude from -90 to 90 and a longitude from -180 to 180. Given: %s and %s.',
                     coalesce(latitude::text, 'none'), coalesce(longitude::text, 'none')) end
  ], null) as reasons,
  ingest_xid,
  ingest_seq,
  source_system
from staging.raw_events;

comment on view staging.events is 'Maps raw events to rows of production.events; reasons has violations of rules that are not constraints.';

grant select on production.events to strata_reader;
grant insert (event_id, user_id, event_type, event_data, event_time, position), update (user_id, event_type, event_data, event_time, position), delete
  on production.events to strata_operator;
grant usage on sequence production.events_event_id_seq to strata_operator;

-- Fields without a column of their own are added to event_data.
select strata.add_dataset('events', extras_column => 'event_data');

-- ------------------------------------------------------------------------------------------------------
-- Daily metrics of users
-- ------------------------------------------------------------------------------------------------------

-- Groups with a date and the group without one are computed incrementally: see sql/70-daily-users.sql.
select strata.add_daily_users();

create or replace view analytics.daily_user_metrics_live as
select r.date, r.country, r.active_users, r.total_revenue, r.avg_transaction from strata.daily_rollup_live r
union all
select null::date, n.country::varchar(100), n.users, null::numeric, null::numeric from strata.idle_users_now() n;

comment on view analytics.daily_user_metrics_live is 'Users and revenue by day and country, as of now, from transactions of any status; one row per day and country.';
comment on column analytics.daily_user_metrics_live.date is 'Day (UTC); null for users without transactions.';
comment on column analytics.daily_user_metrics_live.country is 'Country of the users; null if unknown.';
comment on column analytics.daily_user_metrics_live.active_users is 'Number of users with at least one transaction of any status on that day; without a date, users without transactions.';
comment on column analytics.daily_user_metrics_live.total_revenue is 'Sum of the amounts of all transactions, including pending, failed and refunded ones.';
comment on column analytics.daily_user_metrics_live.avg_transaction is 'Mean amount of all transactions, including pending, failed and refunded ones.';

-- REFRESH … CONCURRENTLY looks for duplicates by sorting all rows by their binary form, the slowest part of a refresh
-- unless they have that order already: text by bytes, and days before 2000 (negative numbers) last.
create materialized view if not exists analytics.daily_user_metrics as
select date, country, active_users, total_revenue, avg_transaction
from analytics.daily_user_metrics_live
where (select strata.note_refresh())
order by date < date '2000-01-01', date, country collate "C";

create unique index if not exists idx_daily_user_metrics_key on analytics.daily_user_metrics (date, country) nulls not distinct;
-- The API pages in this order, with the group without a date last.
create index if not exists idx_daily_user_metrics_pages on analytics.daily_user_metrics
  ((date is null), date, (country is null), country);
create index if not exists idx_daily_user_metrics_country on analytics.daily_user_metrics (country, date);

comment on materialized view analytics.daily_user_metrics is E'@notNull active_users\nUsers and revenue by day and country, as of the last refresh, from transactions of any status; one row per day and country.';
comment on column analytics.daily_user_metrics.date is 'Day (UTC); null for users without transactions.';
comment on column analytics.daily_user_metrics.country is 'Country of the users; null if unknown.';
comment on column analytics.daily_user_metrics.active_users is 'Number of users with at least one transaction of any status on that day; without a date, users without transactions.';
comment on column analytics.daily_user_metrics.total_revenue is 'Sum of the amounts of all transactions, including pending, failed and refunded ones.';
comment on column analytics.daily_user_metrics.avg_transaction is 'Mean amount of all transactions, including pending, failed and refunded ones.';

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

comment on view analytics.quarterly_revenue is E'@primaryKey year,quarter\n@notNull total_revenue,weekend_revenue,active_days\nRevenue by quarter, as of the last refresh, from transactions of any status; one row per quarter.';
comment on column analytics.quarterly_revenue.year is 'Calendar year.';
comment on column analytics.quarterly_revenue.quarter is 'Quarter of the year, 1 to 4.';
comment on column analytics.quarterly_revenue.total_revenue is 'Sum of the amounts of all transactions, including pending, failed and refunded ones.';
comment on column analytics.quarterly_revenue.weekend_revenue is 'Part of total_revenue from Saturdays and Sundays; 0 if there is none.';
comment on column analytics.quarterly_revenue.active_days is 'Number of days with at least one transaction of any status.';

-- The specification's view sums payments of any status; this metric has a column for each status.
select strata.add_metric('daily_revenue', partition => 'date', query => $$
  select t.transaction_day as date,
         count(*) as transactions,
         coalesce(sum(t.amount) filter (where t.status = 'completed'), 0) as completed,
         coalesce(sum(t.amount) filter (where t.status = 'pending'), 0) as pending,
         coalesce(sum(t.amount) filter (where t.status = 'failed'), 0) as failed,
         coalesce(sum(t.amount) filter (where t.status = 'refunded'), 0) as refunded
  from production.transactions t
  group by t.transaction_day
$$);

comment on table analytics.daily_revenue is 'Amounts of transactions by day and status, as of the last refresh; one row per day.';
comment on column analytics.daily_revenue.date is 'Day of the transactions (UTC).';
comment on column analytics.daily_revenue.transactions is 'Number of transactions of any status.';
comment on column analytics.daily_revenue.completed is 'Sum of completed amounts, which is revenue in the usual sense.';
comment on column analytics.daily_revenue.pending is 'Sum of amounts whose payment is pending.';
comment on column analytics.daily_revenue.failed is 'Sum of amounts whose payment failed.';
comment on column analytics.daily_revenue.refunded is 'Sum of amounts that were refunded.';

grant select on production.dim_date, analytics.daily_user_metrics, analytics.daily_user_metrics_live, analytics.quarterly_revenue to strata_reader;
grant update (is_holiday) on production.dim_date to strata_operator;

select strata.reconcile();
