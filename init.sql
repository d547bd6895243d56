-- Creates a development database with psql, from any directory:
--     psql -U postgres -f init.sql
-- A second run applies the files to the existing database again.

\set ON_ERROR_STOP on

select 'create database dev_db' where not exists (select from pg_database where datname = 'dev_db') \gexec

-- Columns of type timestamp hold UTC. Unqualified names resolve to production before analytics.
alter database dev_db set timezone = 'UTC';
alter database dev_db set search_path = "$user", public, production, analytics;

\c dev_db

-- One transaction applies the machinery and then the model, or nothing.
begin;
-- The lock keeps servers that start at the same time from applying the files together.
select pg_advisory_xact_lock(hashtextextended('strata:schema', 0));
\ir sql/00-foundation.sql
\ir sql/05-upgrade.sql
\ir sql/10-datasets.sql
\ir sql/20-runs.sql
\ir sql/22-outbox.sql
\ir sql/30-quarantine.sql
\ir sql/40-transform.sql
\ir sql/50-metrics.sql
\ir sql/60-refresh.sql
\ir sql/65-announcements.sql
\ir sql/70-daily-users.sql
\ir sql/75-cleanup.sql
\ir sql/77-incidents.sql
\ir sql/80-views.sql
\ir sql/82-run-events.sql
\ir sql/85-files.sql
\ir sql/88-logins.sql
\ir sql/90-rights.sql
\ir schema.sql
commit;
