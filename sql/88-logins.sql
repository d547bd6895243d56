-- ======================================================================================================
-- Logins for other tools, such as BI tools
--
-- `strata login create` creates a login that is a member of a Strata role, which decides what it may read. Where that
-- role may read only some columns of a relation, `select *` would fail. So a schema that comes first in the login's
-- search_path has a view of the same name with those columns. Each view calls a function with the rights of its
-- caller. PostgreSQL records no dependency of the function's text on the columns, so no view blocks a migration.
-- `strata.reconcile` recreates the views when rights or columns have changed.
-- ======================================================================================================

create table if not exists strata.login_views (
  role_name text primary key,
  schema_name text not null unique,
  digest text not null
);

comment on table strata.login_views is 'Schemas of views that let logins use select * although their role may read only some columns; one row per role.';
comment on column strata.login_views.role_name is 'Role whose rights decide the columns of the views.';
comment on column strata.login_views.schema_name is 'Schema of the views.';
comment on column strata.login_views.digest is 'Digest of the statements that created the views; a different one recreates them.';

create or replace function strata.login_view_statements(role_name text, schema_name text)
returns setof text
language sql stable set search_path = pg_catalog, pg_temp set jit = off
begin atomic
  with columns as (
    select c.oid, n.nspname, c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) as type,
           has_column_privilege(role_name, c.oid, a.attnum, 'select') as is_readable
    from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where n.nspname in ('analytics', 'production') and c.relkind in ('r', 'p', 'v', 'm', 'f')
      and has_schema_privilege(role_name, n.oid, 'usage')
  ), relations as (
    -- If both schemas have the name, analytics comes first in the search path.
    select distinct on (relname) oid, nspname, relname,
           string_agg(format('%I %s', attname, type), ', ' order by attnum) filter (where is_readable) as result,
           string_agg(format('t.%I', attname), ', ' order by attnum) filter (where is_readable) as list
    from columns
    group by oid, nspname, relname
    having bool_or(is_readable) and not bool_and(is_readable)
    order by relname, nspname
  )
  select statement
  from relations r
    cross join lateral (
      select 1, 0, format('create function %I.%I() returns table (%s) language sql stable as %L', schema_name, r.relname, r.result,
                          format('select %s from %I.%I t', r.list, r.nspname, r.relname))
      union all
      select 2, 0, format('revoke execute on function %I.%I() from public', schema_name, r.relname)
      union all
      select 3, 0, format('grant execute on function %I.%I() to %I', schema_name, r.relname, role_name)
      union all
      select 4, 0, format('create view %1$I.%2$I with (security_invoker = true) as select * from %1$I.%2$I()', schema_name, r.relname)
      union all
      select 5, 0, format('grant select on %I.%I to %I', schema_name, r.relname, role_name)
      union all
      select 6, 0, format('comment on view %I.%I is %L', schema_name, r.relname, obj_description(r.oid, 'pg_class'))
      union all
      select 7, c.attnum, format('comment on column %I.%I.%I is %L', schema_name, r.relname, c.attname, col_description(r.oid, c.attnum))
      from columns c
      where c.oid = r.oid and c.is_readable and col_description(r.oid, c.attnum) is not null
    ) made (step, place, statement)
  order by r.relname, step, place;
end;

comment on function strata.login_view_statements(text, text) is 'Statements, in order, that create the views for the logins of a role.';

create or replace function strata.put_login_views(given text)
returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  schema text := 'bi_' || regexp_replace(given, '^strata_', '');
  statements text[] := array(select strata.login_view_statements(given, schema));
  made text := md5(array_to_string(statements, E'\n'));
  statement text;
begin
  if to_regnamespace(quote_ident(schema)) is not null then
    if exists (select from strata.login_views v where v.role_name = given and v.digest = made) then
      return schema;
    end if;
    if not exists (select from strata.login_views v where v.role_name = given) then
      raise exception 'The schema "%" already exists, but the views of logins as "%" need that name', schema, given
        using errcode = 'duplicate_schema';
    end if;
    execute format('drop schema %I cascade', schema);
  end if;
  execute format('create schema %I', schema);
  execute format('comment on schema %I is %L', schema, format('What %s may read of tables that have other columns, too.', given));
  execute format('grant usage on schema %I to %I', schema, given);
  foreach statement in array statements loop
    execute statement;
  end loop;
  insert into strata.login_views (role_name, schema_name, digest) values (given, schema, made)
  on conflict (role_name) do update set digest = excluded.digest;
  return schema;
end
$$;

comment on function strata.put_login_views(text) is 'Creates the views for the logins of a role, or recreates them if they are outdated; returns their schema.';

create or replace function strata.follow_login_views()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  v strata.login_views;
begin
  for v in select * from strata.login_views order by role_name loop
    if exists (select from pg_roles r where r.rolname = v.role_name) then
      perform strata.put_login_views(v.role_name);
    else
      execute format('drop schema if exists %I cascade', v.schema_name);
      delete from strata.login_views d where d.role_name = v.role_name;
    end if;
  end loop;
end
$$;

comment on function strata.follow_login_views() is 'Recreates the views of logins whose rights or columns have changed, and drops those of dropped roles.';

-- Allows the same roles as a token may name: Strata's and their members (see src/http/database-roles.ts).
create or replace function strata.create_login(login text, role_name text, password text, connections integer, timeout text)
returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  may_write boolean;
  schema text;
begin
  if exists (select from pg_roles r where r.rolname = login) then
    raise exception 'The role "%" already exists', login using errcode = 'duplicate_object';
  end if;
  if not exists (
    select from pg_roles r
    where r.rolname = role_name and not r.rolsuper and not r.rolbypassrls and r.rolname not in (current_user, session_user)
      and (pg_has_role(r.oid, 'strata_reader', 'member') or pg_has_role(r.oid, 'strata_ingestor', 'member'))
  ) then
    raise exception 'A login cannot be a member of "%"; allowed: reader, ingestor, operator, or a role that is a member of one of them', role_name
      using errcode = 'invalid_parameter_value';
  end if;
  may_write := pg_has_role(role_name, 'strata_ingestor', 'member') or pg_has_role(role_name, 'strata_operator', 'member');
  schema := strata.put_login_views(role_name);
  execute format('create role %I login password %L connection limit %s in role %I', login, password, connections, role_name);
  execute format('comment on role %I is %L', login, 'Login made by strata login create, as ' || role_name);
  execute format('alter role %I set search_path = %I, analytics, production, public', login, schema);
  execute format('alter role %I set statement_timeout = %L', login, timeout);
  execute format('alter role %I set idle_in_transaction_session_timeout = ''5min''', login);
  execute format('alter role %I set timezone = ''UTC''', login);
  if not may_write then
    execute format('alter role %I set default_transaction_read_only = on', login);
  end if;
  execute format('grant connect on database %I to %I', current_database(), login);
  return schema;
end
$$;

comment on function strata.create_login(text, text, text, integer, text) is 'Creates a login that is a member of a role, and returns the schema of its views.';

create or replace function strata.login_rows()
returns table (login text, role_name text, connections integer, connection_limit integer, statement_timeout text, is_read_only boolean)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select r.rolname, substring(d.description from 'as (.*)$'),
         (select count(*)::integer from pg_stat_activity s where s.usesysid = r.oid), r.rolconnlimit,
         (select substring(c from '=(.*)$') from unnest(r.rolconfig) c where c like 'statement\_timeout=%'),
         exists (select from unnest(r.rolconfig) c where c = 'default_transaction_read_only=on')
  from pg_roles r
    join pg_shdescription d on d.objoid = r.oid and d.classoid = 'pg_authid'::regclass
  where d.description like 'Login made by strata login create, as %'
  order by 1;
end;

comment on function strata.login_rows() is 'Logins that strata login create has created.';

-- Disconnects the login's sessions if the caller may do that.
create or replace function strata.drop_login(given text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from strata.login_rows() l where l.login = given) then
    raise exception 'There is no login "%" created by strata login create; strata login list shows the existing ones', given
      using errcode = 'undefined_object';
  end if;
  execute format('revoke connect on database %I from %I', current_database(), given);
  begin
    perform pg_terminate_backend(s.pid) from pg_stat_activity s where s.usename = given and s.pid <> pg_backend_pid();
  exception when insufficient_privilege then
    raise notice 'The current user may not disconnect the sessions of "%"; they continue until they end', given;
  end;
  execute format('drop role %I', given);
end
$$;

comment on function strata.drop_login(text) is 'Drops a login that strata login create has created, and disconnects its sessions.';
