-- ======================================================================================================
-- Strata's machinery: moves the data of the model (schema.sql) through the layers
--
--   staging.raw_<dataset> ──▶ production.<dataset> ──▶ analytics.<metric> ──▶ GraphQL, BI tools
--                transform (40)           refresh (60)
--
-- A dataset is a table of production; a metric is a query. Both are declared in plain SQL (strata.add_dataset,
-- strata.add_metric), and everything else is read from PostgreSQL's catalogue.
--
-- The files of this folder are applied in the order of their names, before schema.sql. They may be applied again:
--
--   00 foundation   extensions, schemas, roles
--   05 upgrade      changes a database of schema version 11 or later into what the other files expect
--   10 datasets     the registry of datasets, and what the catalogue says about each
--   20 runs         runs of the pipeline's steps: requests, progress, counts
--   22 outbox       messages to external receivers, written in the transaction of the change that they report
--   30 quarantine   rejected records, and how they are retried
--   40 transform    staging to production, for any dataset
--   50 metrics      the registry of metrics, and what a change makes stale
--   60 refresh      production to analytics, for any metric and materialized view
--   65 announcements  changed rows, announced to subscribers for tables where that is switched on
--   70 daily users  the metric daily_user_metrics, which is composed of three others
--   75 cleanup      deletes old raw rows, runs, quarantined records and tombstones
--   77 incidents    problems: failed runs, broken promises of freshness, full quarantine, no worker
--   80 views        runs, quarantine, freshness, datasets and lineage for readers and the API
--   82 run events   events of runs for receivers of lineage
--   85 files        applied files of DATASETS_DIR
--   88 logins       logins for other tools
--   90 rights       grants; follows changes of the catalogue
--
-- Editing rules
--   * Tables are created if missing and then altered, because `create table if not exists` ignores a new column of
--     an existing table. Functions and views are replaced.
--   * Names are qualified, functions have a fixed search_path, objects have comments.
--   * Raise strata.schema_version() with every change that an existing database needs.
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
comment on schema production is 'Clean, validated data: strict constraints, long retention.';
comment on schema analytics is 'Aggregates and metrics: pre-computed, refreshed regularly.';
comment on schema strata is 'The machinery of the pipeline: registries, runs, change log, functions.';

-- Roles belong to the whole cluster, so another database may be creating them at the same time. The current user
-- becomes a member of each, because the server switches to them.
do $$
declare
  role_name text;
  -- From PostgreSQL 16 on, membership alone does not give the right to SET ROLE.
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

comment on function strata.schema_version() is 'Version of the machinery and the model. A server does not start on a database with another version.';
