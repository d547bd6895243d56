-- Bootstrap of a development database with psql, from any directory:
--     psql -U postgres -f init.sql
-- A second run keeps the database and applies schema.sql to it again.

\set ON_ERROR_STOP on

select 'create database dev_db' where not exists (select from pg_database where datname = 'dev_db') \gexec

-- Every timestamp column holds UTC; unqualified names find the cleaned tables.
alter database dev_db set timezone = 'UTC';
alter database dev_db set search_path = "$user", public, production, analytics;

\c dev_db

\ir schema.sql
