-- ======================================================================================================
-- Datasets: the registry, and what the catalogue says about each
--
-- A dataset is a table of production with a primary key. Strata reads everything else about it from the catalogue,
-- when it is needed: constraints are the rules, their names the reasons of rejection, and their comments the
-- explanations; foreign keys decide the order, grants the rights, and comments are the documentation.
-- ======================================================================================================

-- The watermark of a dataset is (xid, seq): all records up to that place in the order of arrival are transformed.
create table if not exists strata.datasets (
  dataset text constraint datasets_pkey primary key,
  xid xid8 not null default '0',
  seq bigint not null default 0,
  run_id bigint,
  updated_at timestamptz
);

alter table strata.datasets add column if not exists place integer not null default 0;
alter table strata.datasets add column if not exists extras_column text;
alter table strata.datasets add column if not exists default_rights boolean not null default false;
alter table strata.datasets add column if not exists owned_by_source boolean not null default false;

comment on table strata.datasets is 'Datasets: tables of production that are fed from staging, each with its watermark; one row per dataset.';
comment on column strata.datasets.dataset is 'Name of the table in production; rows arrive in staging.raw_<name>.';
comment on column strata.datasets.xid is 'Transaction id of the last record that was transformed.';
comment on column strata.datasets.seq is 'Sequence number of the last record that was transformed.';
comment on column strata.datasets.run_id is 'Run that last moved the watermark; null if that was done in SQL.';
comment on column strata.datasets.updated_at is 'When a transform last brought the dataset up to date; null before the first one.';
comment on column strata.datasets.place is 'Position in the transform, lowest first: parents come before the datasets that refer to them.';
comment on column strata.datasets.extras_column is 'Column of the raw table (jsonb) for fields that have no column of their own; null if such fields are rejected.';
comment on column strata.datasets.default_rights is 'Whether Strata sets the grants on the table, also for new columns; false if the owner had set grants before.';
comment on column strata.datasets.owned_by_source is 'Whether a row belongs to the source system that brought it first; records of other sources are then rejected.';

create or replace function strata.arrival_columns()
returns text[]
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return '{id,raw_id,ingested_at,source_system,ingest_seq,ingest_xid,ingest_run,ingest_line,ingest_operation}'::text[];

comment on function strata.arrival_columns() is 'Columns of raw tables that are not fields of the dataset but describe the arrival of a record.';

create or replace function strata.provenance_columns()
returns text[]
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return '{source_seq,strata_source}'::text[];

comment on function strata.provenance_columns() is 'Columns of production tables that name the record that a row came from.';

create or replace function strata.raw_table(dataset text)
returns regclass
language sql stable set search_path = pg_catalog, pg_temp
return to_regclass('staging.' || quote_ident('raw_' || dataset));

comment on function strata.raw_table(text) is 'Table that stores the arriving records of a dataset; null if there is none.';

create or replace function strata.production_table(dataset text)
returns regclass
language sql stable set search_path = pg_catalog, pg_temp
return to_regclass('production.' || quote_ident(dataset));

comment on function strata.production_table(text) is 'Production table of a dataset; null if there is none.';

-- Only a view counts: the raw table of another dataset may have this name.
create or replace function strata.mapping_view(dataset text)
returns regclass
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select c.oid::regclass from pg_class c where c.oid = to_regclass(format('staging.%I', dataset)) and c.relkind = 'v';
end;

comment on function strata.mapping_view(text) is 'View that maps raw records to rows of a dataset; null if records need no mapping.';

-- The uuid of a record is in `id`, unless the dataset has a column of that name.
create or replace function strata.raw_id_column(dataset text)
returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select a.attname::text
  from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
  where i.indrelid = strata.raw_table(dataset) and i.indisprimary;
end;

comment on function strata.raw_id_column(text) is 'Name of the uuid column that identifies a record in the raw table of a dataset.';

create or replace function strata.key_columns(relation regclass)
returns text[]
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select array_agg(a.attname::text order by k.place)
  from pg_index i
  cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = relation and i.indisprimary;
end;

comment on function strata.key_columns(regclass) is 'Columns of the primary key of a table in their order; null if it has none.';

-- Domains may be based on domains: each adds constraints, and the innermost base type stores the values.
create or replace function strata.base_type(type_id oid, typmod integer, out base oid, out base_typmod integer, out not_null boolean)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive chain (base, typmod, not_null, depth) as (
    select base_type.type_id, base_type.typmod, false, 0
    union all
    select t.typbasetype, t.typtypmod, c.not_null or t.typnotnull, c.depth + 1
    from chain c join pg_type t on t.oid = c.base where t.typtype = 'd'
  )
  select c.base, c.typmod, c.not_null from chain c order by c.depth desc limit 1;
end;

comment on function strata.base_type(oid, integer) is 'Base type and typmod of a domain, or the type itself, and whether one of the domains is NOT NULL.';

-- Times, drawn numbers and random values are not constant.
create or replace function strata.is_constant(expression pg_node_tree)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return expression is not null
  and expression::text !~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|VAR) '
  and not exists (
    select from regexp_matches(expression::text, ':(?:funcid|opfuncid) (\d+)', 'g') f
    join pg_proc p on p.oid = f[1]::oid where p.provolatile <> 'i'
  );

comment on function strata.is_constant(pg_node_tree) is 'Whether an expression has the same value for every row at any time.';

-- typmod and base_type of a column with a domain are those of the type below the domain.
create or replace function strata.table_columns(relation regclass)
returns table (
  attnum smallint, name text, type text, type_id oid, typmod integer, base_type oid, not_null boolean, is_key boolean,
  is_generated boolean, is_identity_only boolean, expression text, default_sql text, is_constant boolean, sequence regclass
)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with key as materialized (select coalesce(strata.key_columns(relation), '{}') as names)
  select a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid, coalesce(b.base_typmod, a.atttypmod),
         coalesce(b.base, a.atttypid), a.attnotnull or coalesce(b.not_null, false),
         a.attname = any (key.names),
         a.attgenerated <> '',
         a.attidentity = 'a' and a.attname <> all (key.names),
         case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end,
         case when a.attidentity <> '' then format('nextval(%L::regclass)', s.name)
              when a.attgenerated = '' then coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) end,
         a.attidentity = '' and a.attgenerated = '' and strata.is_constant(coalesce(d.adbin, t.typdefaultbin)),
         s.name::regclass
  from key
  join pg_attribute a on a.attrelid = relation and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (select * from strata.base_type(a.atttypid, a.atttypmod) where t.typtype = 'd') b on true
  left join lateral (select pg_get_serial_sequence(relation::text, a.attname) as name where a.attidentity <> '' or d.oid is not null) s on true
  order by a.attnum;
end;

comment on function strata.table_columns(regclass) is 'Columns of a production table as the transform needs them: types, defaults and origin.';

-- Fields are the columns of the raw table except those that describe the arrival.
create or replace function strata.fields(dataset text)
returns table (place integer, field text, type text, is_key boolean, is_required boolean, description text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select (row_number() over (order by k.place nulls last, a.attnum))::integer, a.attname::text, format_type(a.atttypid, a.atttypmod),
         k.place is not null,
         k.place is not null and (c.default_sql is null or a.attnotnull),
         coalesce(col_description(a.attrelid, a.attnum), col_description(strata.production_table(fields.dataset), c.attnum))
  from pg_attribute a
  left join strata.table_columns(strata.production_table(fields.dataset)) c on c.name = a.attname
  left join unnest(strata.key_columns(strata.production_table(fields.dataset))) with ordinality k (name, place) on k.name = a.attname
  where a.attrelid = strata.raw_table(fields.dataset) and a.attnum > 0 and not a.attisdropped
    and (a.attname <> all (strata.arrival_columns())
         or (a.attname = 'id' and strata.raw_id_column(fields.dataset) <> 'id'))
    -- Omit columns that production no longer has, whose values would silently be lost; a mapping view may still read them.
    and (strata.mapping_view(fields.dataset) is not null or (not c.is_generated and not c.is_identity_only))
  order by 1;
end;

comment on function strata.fields(text) is 'Fields of a dataset for an ingest, the key first; a record without a required one is rejected.';

-- A foreign key to a partitioned table has a copy for each partition, which is not to be checked on its own.
-- From PostgreSQL 18 on, a constraint may be declared NOT ENFORCED.
create or replace function strata.enforced_constraints(relation regclass)
returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select k.oid from pg_constraint k
  where k.conrelid = relation and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
    and not exists (select from pg_constraint p where p.oid = k.conparentid and p.conrelid = k.conrelid)
$$;

comment on function strata.enforced_constraints(regclass) is 'Constraints of a table that every row must satisfy.';

create or replace function strata.parents(dataset text)
returns text[]
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(array_agg(distinct p.dataset order by p.dataset), '{}')
  from pg_constraint k join strata.datasets p on strata.production_table(p.dataset) = k.confrelid
  where k.contype = 'f' and k.conrelid = strata.production_table(parents.dataset) and p.dataset <> parents.dataset;
end;

comment on function strata.parents(text) is 'Datasets that a dataset refers to by foreign keys, except itself.';

-- ON DELETE CASCADE and SET NULL do not matter: a load changes no rows but those it names.
create or replace function strata.referrers(dataset text)
returns table (reason text, waiting_key text, child regclass, own text[], theirs text[], is_about_key boolean)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select 'referenced_by_' || c.relname, 'referenced_by_' || c.relname || '.' || k.conname, c.oid::regclass, n.own, n.theirs,
         n.theirs <@ strata.key_columns(k.confrelid)
  from pg_constraint k join pg_class c on c.oid = k.conrelid
  cross join lateral (
    select array(select a.attname::text from unnest(k.conkey) with ordinality x (n, i)
                 join pg_attribute a on a.attrelid = k.conrelid and a.attnum = x.n order by x.i) as own,
           array(select a.attname::text from unnest(k.confkey) with ordinality x (n, i)
                 join pg_attribute a on a.attrelid = k.confrelid and a.attnum = x.n order by x.i) as theirs
  ) n
  where k.contype = 'f' and k.confrelid = strata.production_table(dataset) and k.conparentid = 0
    and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
  order by c.relname, k.conname;
end;

comment on function strata.referrers(text) is 'Foreign keys, of any table, that prevent a load from deleting a row of a dataset while another row refers to it.';

-- Datasets that refer to each other in a cycle come last, by name: their rows wait for each other in quarantine.
create or replace function strata.order_datasets()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  placed text[] := '{}';
  next text[];
begin
  loop
    select array_agg(d.dataset order by d.dataset) into next
    from strata.datasets d where d.dataset <> all (placed) and strata.parents(d.dataset) <@ placed;
    if next is null then
      select array_agg(d.dataset order by d.dataset) into next from strata.datasets d where d.dataset <> all (placed);
      exit when next is null;
    end if;
    placed := placed || next;
  end loop;
  update strata.datasets d set place = p.place
  from unnest(placed) with ordinality p (dataset, place) where d.dataset = p.dataset and d.place <> p.place;
end
$$;

comment on function strata.order_datasets() is 'Updates the place of each dataset in the transform, parents first.';

-- A raw column has no limits of varchar and numeric: the transform checks them and rejects with a reason.
create or replace function strata.raw_type(column_type oid, column_typmod integer)
returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select case when b.base in ('varchar'::regtype, 'bpchar'::regtype) then 'text'
              when b.base = 'numeric'::regtype then 'numeric'
              else format_type(b.base, b.base_typmod) end
  from strata.base_type(column_type, column_typmod) b;
end;

comment on function strata.raw_type(oid, integer) is 'Type of the raw column that corresponds to a type of production.';

create or replace function strata.keep_updated_at()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.updated_at = old.updated_at;
  return new;
end
$$;

comment on function strata.keep_updated_at() is 'Trigger function: keeps the old value of updated_at.';

-- If a record arrives again unchanged, the transform updates the provenance columns only; updated_at must not move.
-- Triggers fire in the order of their names, and zz_ lets this one fire last.
create or replace function strata.guard_updated_at(relation regclass)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  condition text;
begin
  if not exists (select from strata.table_columns(relation) c where c.name = 'updated_at') then
    return;
  end if;
  select format('new.source_seq is distinct from old.source_seq and (%s) is not distinct from (%s)',
                string_agg('new.' || e.expression, ', '), string_agg('old.' || e.expression, ', '))
  into condition
  from (
    select case when strata.has_equality(c.type_id) then quote_ident(c.name) else quote_ident(c.name) || '::text' end as expression
    from strata.table_columns(relation) c
    where not c.is_generated and c.name <> all (strata.provenance_columns() || '{updated_at}')
    order by c.attnum
  ) e;
  if obj_description((select t.oid from pg_trigger t where t.tgrelid = relation and t.tgname = 'zz_updated_at_kept'), 'pg_trigger')
     is distinct from 'Keeps updated_at if only the provenance changed: ' || md5(condition) then
    execute format('create or replace trigger zz_updated_at_kept before update on %s for each row when (%s) execute function strata.keep_updated_at()',
                   relation, condition);
    execute format('comment on trigger zz_updated_at_kept on %s is %L', relation,
                   'Keeps updated_at if only the provenance changed: ' || md5(condition));
  end if;
end
$$;

comment on function strata.guard_updated_at(regclass) is 'Creates the trigger that keeps updated_at of a table if only the provenance changed.';

-- The = of an extension's type may not distinguish all values (citext ignores case, geometry the reference system),
-- and it is not found without the extension's schema.
create or replace function strata.has_equality(type_id oid)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from strata.base_type(has_equality.type_id, -1) b join pg_type base on base.oid = b.base
    left join pg_type element on element.oid = base.typelem and base.typcategory = 'A'
    cross join lateral strata.base_type(coalesce(element.oid, base.oid), -1) i join pg_type item on item.oid = i.base
    where item.typtype in ('e', 'r', 'm')
       or (item.typnamespace = 'pg_catalog'::regnamespace
           and exists (select from pg_opclass o join pg_am m on m.oid = o.opcmethod
                       where m.amname = 'btree' and o.opcdefault
                         and (o.opcintype = item.oid or (item.oid = 'varchar'::regtype and o.opcintype = 'text'::regtype))))
  );
end
$$;

comment on function strata.has_equality(oid) is 'Whether = is reliable for a type: it distinguishes all values and is found in pg_catalog.';

-- These functions search pg_catalog only, where citext = citext would be resolved to text = text.
create or replace function strata.equality(opclass oid)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select case when n.nspname = 'pg_catalog' then p.oprname::text else format('operator(%I.%s)', n.nspname, p.oprname) end
    from pg_opclass o
    join pg_amop a on a.amopfamily = o.opcfamily and a.amoplefttype = o.opcintype and a.amoprighttype = o.opcintype and a.amopstrategy = 3
    join pg_operator p on p.oid = a.amopopr
    join pg_namespace n on n.oid = p.oprnamespace
    where o.oid = opclass
  );
end
$$;

comment on function strata.equality(oid) is 'Equality operator of a b-tree operator class, qualified if it is not in pg_catalog.';

create or replace function strata.columns_equal(relation regclass, columns text[], one text, other text, other_columns text[] default null)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select string_agg(format('%s.%I %s %s.%I', one, c.name, coalesce(strata.equality((
             select o.oid from pg_opclass o join pg_am m on m.oid = o.opcmethod
             where m.amname = 'btree' and o.opcdefault
               and o.opcintype = case when t.typtype = 'd' then (select b.base from strata.base_type(t.oid, -1) b) else t.oid end
           )), '='), other, o.name), ' and ' order by c.place)
    from unnest(columns) with ordinality c (name, place)
    join unnest(coalesce(other_columns, columns)) with ordinality o (name, place) on o.place = c.place
    join pg_attribute a on a.attrelid = relation and a.attname = c.name
    join pg_type t on t.oid = a.atttypid
  );
end
$$;

comment on function strata.columns_equal(regclass, text[], text, text, text[]) is
  'SQL condition that columns of a table under one alias equal columns under another alias.';

-- Grants by the owner are never overwritten. Without any, readers read, operators write and ingestors load.
create or replace function strata.has_grants(relation regclass)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (
    select from pg_class c, aclexplode(c.relacl) a where c.oid = relation and a.grantee <> c.relowner
    union all
    select from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a where c.oid = relation and a.grantee <> c.relowner
  );

comment on function strata.has_grants(regclass) is 'Whether anyone but the owner has a right on a table or one of its columns.';

create or replace function strata.grant_default_rights(relation regclass)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  writable text;
  changeable text;
  drawn regclass;
begin
  select string_agg(quote_ident(c.name), ', '), string_agg(quote_ident(c.name), ', ') filter (where not c.is_key)
  into writable, changeable
  from strata.table_columns(relation) c
  where not c.is_generated and not c.is_identity_only and c.name <> all (strata.provenance_columns() || '{updated_at}');
  execute format('grant select on %s to strata_reader', relation);
  execute format('grant insert (%s), delete on %s to strata_operator', writable, relation);
  if changeable is not null then
    execute format('grant update (%s) on %s to strata_operator', changeable, relation);
  end if;
  for drawn in select c.sequence from strata.table_columns(relation) c where c.sequence is not null loop
    execute format('grant usage on sequence %s to strata_operator', drawn);
  end loop;
end
$$;

comment on function strata.grant_default_rights(regclass) is 'Grants SELECT on a table to readers, and INSERT, UPDATE and DELETE to operators.';

create or replace function strata.make_raw_table(dataset text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  production regclass := strata.production_table(dataset);
  raw text := format('staging.%I', 'raw_' || dataset);
  raw_id text;
  col record;
begin
  if strata.raw_table(dataset) is null then
    raw_id := case when exists (select from strata.table_columns(production) c where c.name = 'id') then 'raw_id' else 'id' end;
    execute format('create table %s (%s, %I uuid not null default public.uuid_generate_v4(), constraint %I primary key (%I))',
      raw,
      (select string_agg(format('%I %s', c.name, strata.raw_type(c.type_id, c.typmod)), ', ' order by c.attnum)
       from strata.table_columns(production) c
       where not c.is_generated and not c.is_identity_only and c.name <> all (strata.provenance_columns() || '{ingested_at,source_system,ingest_seq,ingest_xid}')),
      raw_id, 'raw_' || dataset || '_pkey', raw_id);
    execute format('comment on table %s is %L', raw, initcap(left(dataset, 1)) || substr(dataset, 2) || ' as they arrived from source systems; one row per received record.');
    execute format('comment on column %s.%I is %L', raw, raw_id, 'Identifier of the received record.');
  end if;
  for col in
    select c.name, strata.raw_type(c.type_id, c.typmod) as type, coalesce(col_description(production, c.attnum), c.name) as description
    from strata.table_columns(production) c
    where not c.is_generated and not c.is_identity_only and c.name <> all (strata.provenance_columns())
      -- With a mapping view, the raw table's owner decides which fields there are.
      and (strata.mapping_view(dataset) is null or c.name in ('ingested_at', 'source_system'))
    union all
    values ('ingested_at', 'timestamp', 'When the record arrived (UTC).'), ('source_system', 'varchar(50)', 'Source system that sent the record.'),
           ('ingest_seq', 'bigint', 'Order of arrival; the latest valid record of a key wins.'),
           ('ingest_xid', 'xid8', 'Transaction that landed the record; once it has ended, the transform may process the record.'),
           ('ingest_run', 'bigint', 'Run that landed the record; null if it was written in SQL.'), ('ingest_line', 'integer', 'Line of the file at which the record begins; null without a file.'),
           ('ingest_operation', 'text', 'What to do with the row that the record names: null writes it, delete deletes it.')
  loop
    if not exists (select from pg_attribute a where a.attrelid = raw::regclass and a.attname = col.name and not a.attisdropped) then
      execute format('alter table %s add column %I %s', raw, col.name, col.type || case col.name
        when 'ingested_at' then ' default current_timestamp'
        when 'source_system' then ' default ''api'''
        when 'ingest_seq' then ' not null generated by default as identity'
        when 'ingest_xid' then ' not null default pg_current_xact_id()'
        else '' end);
    end if;
    if col_description(raw::regclass, (select a.attnum from pg_attribute a where a.attrelid = raw::regclass and a.attname = col.name)) is null then
      execute format('comment on column %s.%I is %L', raw, col.name, col.description);
    end if;
  end loop;
  -- Widen a raw column with its column in production. If a type becomes narrower, the transform checks the values.
  for col in
    select c.name, strata.raw_type(c.type_id, c.typmod) as type
    from strata.table_columns(production) c join pg_attribute a on a.attrelid = raw::regclass and a.attname = c.name
    where strata.mapping_view(dataset) is null and c.name <> all (strata.arrival_columns())
      and format_type(a.atttypid, a.atttypmod) <> strata.raw_type(c.type_id, c.typmod)
      and (strata.raw_type(c.type_id, c.typmod) = 'text'
           or exists (select from pg_cast t where t.castsource = a.atttypid and t.castcontext = 'i'
                        and t.casttarget = to_regtype(strata.raw_type(c.type_id, c.typmod))))
  loop
    execute format('alter table %s alter column %I type %s', raw, col.name, col.type);
  end loop;
  -- Any other word would be treated as null: a row to write.
  if not exists (select from pg_constraint k where k.conrelid = raw::regclass and k.conname = 'known_operation') then
    execute format('alter table %s add constraint known_operation check (ingest_operation = ''delete'')', raw);
  end if;
  -- The column's name is the last resort; a comment that the owner writes later replaces it.
  for col in
    select a.attname as name, coalesce(col_description(production, c.attnum), a.attname::text) as description
    from pg_attribute a left join strata.table_columns(production) c on c.name = a.attname
    where a.attrelid = raw::regclass and a.attnum > 0 and not a.attisdropped and col_description(a.attrelid, a.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', raw, col.name, col.description);
  end loop;
  execute format('create index if not exists %I on %s (ingest_xid, ingest_seq)', 'idx_raw_' || dataset || '_arrival', raw);
  execute format('create index if not exists %I on %s (ingest_xid, ingest_seq) where ingest_operation is not null', 'idx_raw_' || dataset || '_operation', raw);
end
$$;

comment on function strata.make_raw_table(text) is 'Creates the raw table of a dataset, or adds missing columns, comments and indexes.';

-- Finds faults of a mapping view when it is declared, instead of at the next transform.
create or replace function strata.check_mapping(dataset text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  view_name regclass := strata.mapping_view(dataset);
  given text[];
  lacking text[];
begin
  if view_name is null then
    return;
  end if;
  given := array(select a.attname::text from pg_attribute a where a.attrelid = view_name and a.attnum > 0 and not a.attisdropped);
  if not given @> '{ingest_xid,ingest_seq}' then
    raise exception 'The mapping view staging.% lacks the columns ingest_xid and ingest_seq of staging.raw_%.', dataset, dataset
      using errcode = 'invalid_object_definition', hint = 'Add them to its select list.';
  end if;
  if exists (
    select from pg_attribute a where a.attrelid = view_name and a.attname = 'reasons' and a.atttypid <> 'text[]'::regtype
      and not exists (select from strata.table_columns(strata.production_table(dataset)) c where c.name = 'reasons')
  ) then
    raise exception 'The column reasons of the mapping view staging.% must be of type text[].', dataset
      using errcode = 'invalid_object_definition', hint = 'For example: array_remove(array[case when … then ''code: words'' end], null) as reasons.';
  end if;
  lacking := array(
    select c.name from strata.table_columns(strata.production_table(dataset)) c
    where c.not_null and c.default_sql is null and not c.is_generated and c.name <> all (strata.provenance_columns() || given)
  );
  if lacking <> '{}' then
    raise exception 'The mapping view staging.% has no column for %; production.% requires it.', dataset, array_to_string(lacking, ', '), dataset
      using errcode = 'invalid_object_definition', hint = 'Every column that is NOT NULL and has no default needs a value.';
  end if;
  lacking := array(
    select g from unnest(given) g
    where g <> all (strata.arrival_columns() || '{reasons}'::text[])
      and not exists (select from strata.table_columns(strata.production_table(dataset)) c
                      where c.name = g and not c.is_generated and not c.is_identity_only)
  );
  if lacking <> '{}' then
    raise exception 'The mapping view staging.% has columns that production.% does not have: %.', dataset, dataset, array_to_string(lacking, ', ')
      using errcode = 'invalid_object_definition', hint = 'Name each column of the view as the column of production that it fills.';
  end if;
end
$$;

comment on function strata.check_mapping(text) is 'Raises an error if the transform cannot use the mapping view of a dataset.';

drop function if exists strata.add_dataset(text, text);
create or replace function strata.add_dataset(dataset text, extras_column text default null, owned_by_source boolean default false)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  production regclass := strata.production_table(dataset);
  raw regclass;
  gives_rights boolean;
  col record;
begin
  if production is null then
    raise exception 'There is no table production.%; a dataset needs one.', coalesce(quote_ident(dataset), 'null')
      using errcode = 'undefined_table',
            hint = format('Create it first: create table if not exists production.%s (…). Existing tables: %s.', coalesce(quote_ident(nullif(dataset, '')), '…'),
                          (select string_agg(quote_ident(c.relname), ', ' order by c.relname) from pg_class c
                           where c.relnamespace = 'production'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition));
  end if;
  if (select c.relkind from pg_class c where c.oid = production) not in ('r', 'p') then
    raise exception 'production.% is not a table; only a table can be a dataset.', quote_ident(dataset) using errcode = 'wrong_object_type';
  end if;
  if (select c.relispartition from pg_class c where c.oid = production) then
    raise exception 'production.% is a partition; a dataset is the whole table, %.', quote_ident(dataset),
        (select i.inhparent::regclass from pg_inherits i where i.inhrelid = production)
      using errcode = 'wrong_object_type';
  end if;
  if strata.key_columns(production) is null then
    raise exception 'production.% has no primary key; a dataset needs one to know which row a record is about.', quote_ident(dataset)
      using errcode = 'invalid_table_definition', hint = 'Add one: alter table … add primary key (…).';
  end if;
  if exists (select from strata.table_columns(production) c where c.name in ('ingest_seq', 'ingest_xid', 'ingest_run', 'ingest_line', 'ingest_operation', 'raw_id')) then
    raise exception 'production.% has a column ingest_seq, ingest_xid, ingest_run, ingest_line, ingest_operation or raw_id; these names are reserved for the raw table.', quote_ident(dataset)
      using errcode = 'invalid_table_definition';
  end if;

  if exists (select from strata.table_columns(production) c where c.name = 'source_seq' and c.type <> 'bigint' or c.name = 'strata_source' and c.type <> 'text') then
    raise exception 'production.% has a column source_seq or strata_source of another type; Strata stores there which record a row came from, as bigint and text.', quote_ident(dataset)
      using errcode = 'invalid_table_definition', hint = 'Rename the column.';
  end if;
  if owned_by_source is null then
    raise exception 'owned_by_source must be true or false, not null.' using errcode = 'null_value_not_allowed';
  end if;
  if octet_length(dataset) > 45 then
    raise exception 'The name % is too long for a dataset; given: % bytes; allowed: 45.', quote_ident(dataset), octet_length(dataset)
      using errcode = 'name_too_long';
  end if;

  gives_rights := coalesce((select d.default_rights from strata.datasets d where d.dataset = add_dataset.dataset),
                           not strata.has_grants(production));
  execute format('alter table %s add column if not exists source_seq bigint, add column if not exists strata_source text', production);
  for col in
    select a.attname as name, w.words
    from (values ('source_seq', 'ingest_seq of the record that the row came from; null if the row was created directly.'),
                 ('strata_source', 'Source system of the record that the row came from; null if the row was created directly.')) w (name, words)
    join pg_attribute a on a.attrelid = production and a.attname = w.name
    where col_description(production, a.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', production, col.name, col.words);
  end loop;
  perform strata.make_raw_table(dataset);
  raw := strata.raw_table(dataset);
  if extras_column is not null and not exists (
    select from pg_attribute a where a.attrelid = raw and a.attname = extras_column and a.atttypid = 'jsonb'::regtype
  ) then
    raise exception 'staging.raw_% has no column % of type jsonb for extra fields; columns of this type: %.', dataset, quote_literal(extras_column),
        coalesce((select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a where a.attrelid = raw and a.atttypid = 'jsonb'::regtype and not a.attisdropped), 'none')
      using errcode = 'undefined_column';
  end if;
  perform strata.check_mapping(dataset);
  perform strata.guard_updated_at(production);
  if gives_rights then
    perform strata.grant_default_rights(production);
  end if;
  if not strata.has_grants(raw) then
    execute format('grant insert on %s to strata_ingestor', raw);
  end if;

  insert into strata.datasets as d (dataset, extras_column, default_rights, owned_by_source)
  values (add_dataset.dataset, add_dataset.extras_column, gives_rights, add_dataset.owned_by_source)
  on conflict on constraint datasets_pkey do update
    set extras_column = excluded.extras_column, default_rights = excluded.default_rights, owned_by_source = excluded.owned_by_source
    where (d.extras_column, d.default_rights, d.owned_by_source)
          is distinct from (excluded.extras_column, excluded.default_rights, excluded.owned_by_source);
  perform strata.order_datasets();
end
$$;

comment on function strata.add_dataset(text, text, boolean) is
  'Makes a table of production a dataset, fed from staging.raw_<name>. Call it again after each change of the table.';

create or replace function strata.remove_dataset(dataset text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  delete from strata.datasets d where d.dataset = remove_dataset.dataset;
  if not found then
    raise exception 'There is no dataset %; there are: %.', coalesce(quote_literal(remove_dataset.dataset), 'null'),
      coalesce((select string_agg(d.dataset, ', ' order by d.place, d.dataset) from strata.datasets d), 'none')
      using errcode = 'undefined_object';
  end if;
  delete from strata.deletions d where d.dataset = remove_dataset.dataset;
  delete from strata.snapshots s where s.dataset = remove_dataset.dataset;
  perform strata.order_datasets();
end
$$;

comment on function strata.remove_dataset(text) is 'Removes a dataset from the registry; its tables and rows stay.';

create or replace function strata.check_dataset(dataset text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from strata.datasets d where d.dataset = check_dataset.dataset) then
    raise exception 'There is no dataset %; there are: %.', coalesce(quote_literal(check_dataset.dataset), 'null'),
      coalesce((select string_agg(d.dataset, ', ' order by d.place, d.dataset) from strata.datasets d), 'none')
      using errcode = 'undefined_object';
  end if;
end
$$;

comment on function strata.check_dataset(text) is 'Raises an error that lists the datasets if the given one does not exist.';

-- Values that the ingest cannot judge itself are cast here, so that PostgreSQL alone decides what is valid. The block
-- per value replaces pg_input_error_info(), which exists from PostgreSQL 16 on. The given value is returned, not
-- PostgreSQL's output: sixteen bytes of a number may become a hundred thousand. Times are the exception, because COPY
-- would read them differently: it drops the offset of a time without time zone and guesses the order of day and month.
create or replace function strata.typed_values(types text[], given text[])
returns table (value text, reason text, problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD' as $$
declare
  type_name text;
  number numeric;
  written text;
  longest integer;
begin
  for i in 1 .. cardinality(types) loop
    type_name := types[i];
    value := given[i];
    reason := null;
    problem := null;
    begin
      case
        when type_name = 'integer' then perform value::integer;
        when type_name = 'bigint' then perform value::bigint;
        when type_name = 'numeric' then
          number := value::numeric;
          -- The largest precision that a column may declare. NaN compares greater than infinity, so it passes.
          if scale(number) > 1000 or (abs(number) >= 1e1000 and abs(number) < 'infinity') then
            raise numeric_value_out_of_range using message = 'more than 1000 digits before or after the decimal point';
          end if;
        when type_name = 'double precision' then perform value::double precision;
        when type_name = 'timestamp without time zone' then value := value::timestamptz at time zone 'UTC';
        when type_name = 'jsonb' then perform value::jsonb;
        when type_name in ('text', 'character varying') then null;
        when type_name ~ '^character' and type_name !~ '\]$' then
          -- Trailing spaces beyond the limit are ignored, as in any varchar.
          longest := coalesce(substring(type_name from '\((\d+)\)')::integer, 1);
          if char_length(rtrim(value, ' ')) > longest then
            raise string_data_right_truncation
              using message = format('value too long: %s characters; allowed: %s', char_length(value), longest);
          end if;
        else
          -- PostGIS reads GeoJSON as geometry only.
          if type_name ~ '^(\w+\.)?geography\M' and value ~ '^\s*\{' then
            execute format('select $1::%s::%s::text', replace(split_part(type_name, '(', 1), 'geography', 'geometry'), type_name) into value using value;
          end if;
          execute format('select ($1::%s)::text', type_name) into written using value;
          -- Limits numbers inside ranges, arrays and composite values; a geometry's output is four times its text.
          if length(written) > 1000 + 20 * length(given[i]) then
            raise string_data_right_truncation
              using message = format('value too long: its %s characters become %s when written out', length(given[i]), length(written));
          end if;
          if type_name ~ '(date|time|ts(tz)?(multi)?range)' then
            value := written;
          end if;
      end case;
    exception when others then
      problem := left(sqlerrm, 500);
      reason := case
        when sqlstate = '22001' then 'too_long'
        when type_name ~ '^(timestamp|date|time)\M' then case when sqlstate = '22008' then 'impossible_date' else 'invalid_timestamp' end
        when type_name in ('json', 'jsonb') then 'invalid_json'
        when sqlstate = '22003' then 'out_of_range'
        when type_name in ('smallint', 'integer', 'bigint') then 'invalid_integer'
        when type_name ~ '^(numeric|double precision|real|money)' then 'invalid_number'
        else 'invalid_value'
      end;
    end;
    return next;
  end loop;
end
$$;

comment on function strata.typed_values(text[], text[]) is 'For each value: what to copy if it is valid for its type, or else the reason and PostgreSQL''s message.';
