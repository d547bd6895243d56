-- ======================================================================================================
-- Strata's machinery: what moves the data of the model (schema.sql) through its layers
--
--   staging.raw_<dataset> ──▶ production.<dataset> ──▶ analytics.<metric> ──▶ GraphQL, BI tools
--                transform (40)           refresh (60)
--
-- A dataset is a table of production, a metric is a query. Both are declared in plain SQL
-- (strata.add_dataset, strata.add_metric); everything else is read from PostgreSQL's catalogue.
--
-- The files of this folder are applied in the order of their names, before schema.sql, any number of times:
--
--   00 foundation   extensions, schemas, roles
--   05 upgrade      turns a database of version 11 or later into what the other files expect
--   10 datasets     the registry of datasets, and what the catalogue says about each
--   20 runs         who asked for which step, and how far it is
--   22 outbox       messages for receivers outside, written in the transaction that they tell of
--   30 quarantine   rows that could not be taken over, and the way back
--   40 transform    staging to production, for any dataset
--   50 metrics      the registry of metrics, and what a change makes stale
--   60 refresh      production to analytics, for any metric and materialized view
--   65 announcements  changed rows of tables that ask for it, told to subscribers
--   70 daily users  the one metric with a group of its own: users without transactions
--   77 incidents    what somebody should look at: failed runs, broken promises of freshness, a missing worker
--   80 views        what people read about all of this
--   82 run events   what receivers of lineage are told of a run
--   85 files        which files of DATASETS_DIR were applied
--   90 rights       who may call what
--
-- Editing rules
--   * State (tables) is created if missing and then altered: `create table if not exists` never sees a new
--     column of an existing table. Functions and views are replaced.
--   * Every name is qualified, every function has a fixed search_path, every object a comment.
--   * Raise the number in strata.schema_version() with every change.
-- ======================================================================================================

set local client_min_messages = warning;
set local timezone = 'UTC';

create extension if not exists "uuid-ossp" with schema public;
create extension if not exists postgis with schema public;

create schema if not exists staging;
create schema if not exists production;
create schema if not exists analytics;
create schema if not exists strata;

comment on schema staging is 'Raw data as it arrived: no constraints, short retention.';
comment on schema production is 'Cleaned and validated data: strict constraints, long retention.';
comment on schema analytics is 'Aggregates and key figures: pre-computed, refreshed regularly.';
comment on schema strata is 'The machinery of the pipeline: registries, runs, change log, functions.';

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

create or replace function strata.schema_version()
returns integer
language sql immutable parallel safe as 'select 17';

comment on function strata.schema_version() is 'Version of the machinery and the model; the server rejects a database with an older one.';
