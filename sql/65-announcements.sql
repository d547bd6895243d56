-- ======================================================================================================
-- Announcements of changed rows to subscribers
-- ======================================================================================================

-- Tables are announced only on request, because commits that notify wait for each other, which slows down many small
-- concurrent writes.

-- The message has the rows' keys as text; more than 100 keys, or long ones, are replaced by null, meaning "some rows".
create or replace function strata.announce_rows()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  key text := (select string_agg(format('%I::text', k.name), ', ' order by k.place)
               from unnest(strata.key_columns(tg_relid)) with ordinality k (name, place));
  keys jsonb;
  is_renamed boolean := false;
  message text;
begin
  if tg_op <> 'TRUNCATE' then
    execute format('select jsonb_agg(jsonb_build_array(%1$s)) from (select * from rows limit 101) r', key) into keys;
    if keys is null then
      return null;
    end if;
  end if;
  if jsonb_array_length(keys) > 100 then
    keys := null;
  elsif tg_op = 'UPDATE' then
    execute format('select exists (select %1$s from old_rows except select %1$s from rows)', key) into is_renamed;
  end if;
  message := json_build_object('relation', tg_relid::text, 'operation', tg_op, 'keys', case when not is_renamed then keys end)::text;
  if octet_length(message) > 7900 then
    message := json_build_object('relation', tg_relid::text, 'operation', tg_op, 'keys', null)::text;
  end if;
  perform pg_notify('strata:rows', message);
  return null;
end
$$;

comment on function strata.announce_rows() is 'Trigger function: notifies listeners on strata:rows of the rows that a statement changed.';

create or replace function strata.announce_changes(dataset text, enabled boolean default true)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  op record;
begin
  if production is null or strata.key_columns(production) is null then
    raise exception 'There is no table production.% with a primary key; only changes of such a table can be announced.', coalesce(quote_ident(dataset), 'null')
      using errcode = 'undefined_table';
  end if;
  if enabled is null then
    raise exception 'enabled must be true or false, not null.' using errcode = 'null_value_not_allowed';
  end if;
  for op in
    select * from (values ('insert', 'inserted', 'new table as rows'), ('update', 'updated', 'old table as old_rows new table as rows'),
                          ('delete', 'deleted', 'old table as rows'), ('truncate', 'truncated', null)) o (event, done, tables)
  loop
    if enabled then
      execute format('create or replace trigger %I after %s on %s %s for each statement execute function strata.announce_rows()',
                     'strata_announce_' || op.done, op.event, production, coalesce('referencing ' || op.tables, ''));
      execute format('comment on trigger %I on %s is %L', 'strata_announce_' || op.done, production, 'Announces rows to subscribers.');
    else
      execute format('drop trigger if exists %I on %s', 'strata_announce_' || op.done, production);
    end if;
  end loop;
end
$$;

comment on function strata.announce_changes(text, boolean) is
  'Gives the API a subscription to the changed rows of a production table, or removes it if not enabled; may be repeated.';

create or replace view strata.announced_tables as
select t.tgrelid as relation from pg_catalog.pg_trigger t
where t.tgname = 'strata_announce_inserted' and t.tgfoid = 'strata.announce_rows'::regproc;

comment on view strata.announced_tables is 'Tables whose changed rows are announced to subscribers; one row per table.';
comment on column strata.announced_tables.relation is 'The announced table.';
