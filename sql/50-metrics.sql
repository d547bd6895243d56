-- ======================================================================================================
-- Metrics: the registry, and what a change makes stale
--
-- A metric is a query. The table analytics.<metric> holds its result as of the last refresh; the view
-- analytics.<metric>_live is always exact. A refresh computes only the stale partitions, provided that two facts
-- about the query can be proven:
--
-- * The partition column is computed from columns of one table (the fact table), and the query groups by it. A
-- changed row of that table makes two partitions stale: the one it was in and the one it is in now.
-- * Every other table is joined, directly or through others, by an equality of columns. From the old and new
-- values of a changed row, the equality leads to fact rows; their partitions become stale.
--
-- strata.analyse reads this from the query's parse tree, in which names are resolved and joins are explicit.
-- Any other metric is computed as a whole; strata.metrics.why gives the reason.
--
-- Statement triggers append the values that lead to stale partitions to strata.changes. That log has no unique key,
-- so writers always append: one that skipped an entry because an equal one exists would lose its change if a refresh
-- is consuming that entry. A refresh consumes the log first and reads production afterwards, so changes that
-- commit in between stay logged.
-- ======================================================================================================

create table if not exists strata.metrics (
  metric text constraint metrics_pkey primary key,
  schema_name text not null default 'analytics',
  query text not null,
  partition_column text,
  key_columns text[] not null default '{}',
  mode text not null,
  why text,
  always boolean not null default false,
  rebuild boolean not null default true,
  place integer not null default 0,
  partition_count bigint not null default 0,
  default_rights boolean not null default false,
  analysis jsonb not null default '{}',
  refreshed_at timestamptz,
  run_id bigint,
  error text,
  constraint known_mode check (mode in ('partition', 'whole'))
);

comment on table strata.metrics is 'Metrics: queries whose results are stored; one row per metric.';
comment on column strata.metrics.metric is 'Name of the metric''s table; the live view has the suffix _live.';
comment on column strata.metrics.schema_name is 'Schema of the table and the live view.';
comment on column strata.metrics.query is 'SQL of the query, as it was declared.';
comment on column strata.metrics.partition_column is 'Column of the result by which stale parts are recomputed; null if none was declared.';
comment on column strata.metrics.key_columns is 'Columns that the query groups by, which together are unique; empty if there is no such key.';
comment on column strata.metrics.mode is 'partition: a refresh computes only stale partitions; whole: it computes everything when something changed.';
comment on column strata.metrics.why is 'Why the metric is computed as a whole; null if it is computed by partition.';
comment on column strata.metrics.always is 'Whether every refresh computes the metric, because its changes cannot be detected.';
comment on column strata.metrics.rebuild is 'Whether the stored result is not that of the query, so that the next refresh computes everything.';
comment on column strata.metrics.place is 'Position in the refresh, lowest first: metrics that others read come first.';
comment on column strata.metrics.partition_count is 'Number of partitions as of the last refresh; shows when computing everything is cheaper.';
comment on column strata.metrics.default_rights is 'Whether Strata set the grants on the table and the view, rather than the owner.';
comment on column strata.metrics.analysis is 'Result of strata.analyse: the tables that the query reads, their roles and columns.';
comment on column strata.metrics.refreshed_at is 'When the metric was last brought up to date; null before its first refresh.';
comment on column strata.metrics.run_id is 'Run that last refreshed the metric; null if that was done in SQL.';
comment on column strata.metrics.error is 'Error of the last refresh of the metric, after which the next one computes it as a whole; null if it succeeded.';

create table if not exists strata.changes (
  relation text not null,
  keys jsonb,
  row_count bigint not null default 0,
  logged_at timestamptz not null default current_timestamp
);

comment on table strata.changes is 'Log of changes that the metrics do not contain yet; one row per statement.';
comment on column strata.changes.relation is 'Qualified name of the table that changed.';
comment on column strata.changes.keys is 'Object with an array of old and new values for each tracked expression; null if they are unknown, as after TRUNCATE.';
comment on column strata.changes.row_count is 'Number of rows that changed; 1 if unknown.';
comment on column strata.changes.logged_at is 'When the statement''s transaction began.';

create table if not exists strata.refresh_state (
  singleton boolean constraint refresh_state_pkey primary key default true,
  data_version bigint not null default 0,
  refreshed_at timestamptz,
  run_id bigint,
  constraint one_row check (singleton)
);

alter table strata.refresh_state add column if not exists catalogue_version bigint not null default 0;
alter table strata.refresh_state add column if not exists catalogue_digest text;
alter table strata.refresh_state add column if not exists view_errors jsonb not null default '{}';

comment on table strata.refresh_state is 'State of the refresh; exactly one row.';
comment on column strata.refresh_state.singleton is 'Always true: allows only one row.';
comment on column strata.refresh_state.data_version is 'Grows with every refresh, direct change of a metric and change of the calendar; equal versions give equal responses.';
comment on column strata.refresh_state.refreshed_at is 'When the last refresh ended; null before the first one.';
comment on column strata.refresh_state.run_id is 'Run of the last refresh; null if it was done in SQL.';
comment on column strata.refresh_state.catalogue_version is 'Grows when strata.reconcile finds a changed catalogue; running servers then reload their schema.';
comment on column strata.refresh_state.catalogue_digest is 'Digest of the catalogue at catalogue_version.';
comment on column strata.refresh_state.view_errors is 'Object: materialized view to error, for those that the last refresh could not update.';

insert into strata.refresh_state default values on conflict do nothing;

-- ------------------------------------------------------------------------------------------------------
-- Analysing a query
-- ------------------------------------------------------------------------------------------------------

-- Each field becomes an array that ends in null, and a node's type is in "_". Translating token by token is safe:
-- PostgreSQL escapes special characters inside a token, except for a leading colon, which is escaped here first.
create or replace function strata.node_tree(tree text)
returns jsonb
language sql immutable strict set search_path = pg_catalog, pg_temp
return (
  select rtrim(string_agg(case
           when t.token[1] = '{' then '{"_":['
           when t.token[1] = '}' then 'null]},'
           when t.token[1] = '(' then '['
           when t.token[1] = ')' then 'null],'
           when t.token[1] ~ '^:[a-z_A-Z]+$' then 'null],' || to_json(substr(t.token[1], 2)) || ':['
           else to_json(regexp_replace(t.token[1], '\\(.)', '\1', 'g')) || ',' end, '' order by t.place), ',')::jsonb
  from regexp_matches(regexp_replace(tree, '(:[a-z_A-Z]+ ):((?:\\.|[^\s(){}\\])*)', '\1\\:\2', 'g'),
                      '(?:\\.|[^\s(){}\\])+|[(){}]', 'g') with ordinality t (token, place)
);

comment on function strata.node_tree(text) is 'Converts a PostgreSQL parse tree to JSON.';

-- Columns are positions in the query's range table. A column of a join or of GROUP BY stands for others, so it is
-- followed to those.
create or replace function strata.base_columns(query jsonb, expression jsonb)
returns table (rtindex integer, attnum integer)
language sql immutable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive vars (rtindex, attnum, depth) as (
    select (v #>> '{varno,0}')::integer, (v #>> '{varattno,0}')::integer, 0
    from jsonb_path_query(expression, 'strict $.** ? (@._[0] == "VAR" && @.varlevelsup[0] == "0")') v
    union
    select (i #>> '{varno,0}')::integer, (i #>> '{varattno,0}')::integer, vars.depth + 1
    from vars
    cross join lateral (select query #> array['rtable', '0', (vars.rtindex - 1)::text] as entry) e
    cross join lateral (select coalesce(e.entry #> '{joinaliasvars,0}', e.entry #> '{groupexprs,0}') as columns) l
    -- Column 0 is the whole row.
    cross join lateral jsonb_path_query(case vars.attnum when 0 then l.columns else l.columns -> (vars.attnum - 1) end, 'strict $.** ? (@._[0] == "VAR")') i
    where (e.entry #>> '{rtekind,0}') in ('2', '9') and vars.depth < 20
  )
  select distinct vars.rtindex, vars.attnum
  from vars
  where coalesce(query #>> array['rtable', '0', (vars.rtindex - 1)::text, 'rtekind', '0'], '') not in ('2', '9');
end;

comment on function strata.base_columns(jsonb, jsonb) is 'Table columns that an expression in a parse tree depends on.';

-- Relabelling a type (varchar as text) does not change a value, so an expression that only does that counts as its
-- column.
create or replace function strata.plain_column(query jsonb, expression jsonb, out rtindex integer, out attnum integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  node jsonb := expression;
  entry jsonb;
begin
  loop
    if node #>> '{_,0}' = 'RELABELTYPE' then
      node := node #> '{arg,0}';
    elsif node #>> '{_,0}' = 'VAR' and node #>> '{varattno,0}' <> '0' then
      entry := query #> array['rtable', '0', ((node #>> '{varno,0}')::integer - 1)::text];
      if entry #>> '{rtekind,0}' not in ('2', '9') then
        rtindex := (node #>> '{varno,0}')::integer;
        attnum := (node #>> '{varattno,0}')::integer;
        return;
      end if;
      node := coalesce(entry #> '{joinaliasvars,0}', entry #> '{groupexprs,0}') -> ((node #>> '{varattno,0}')::integer - 1);
    else
      return;
    end if;
  end loop;
end
$$;

comment on function strata.plain_column(jsonb, jsonb) is 'Table column that an expression in a parse tree stands for; null if the expression is more than a column.';

-- Proves it from the parse tree: columns that are NOT NULL, counts, columns of groups, sums of values that are never
-- null, and functions and operators that return null only for null. Anything not listed here may be null.
create or replace function strata.never_null(query jsonb, node jsonb)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  kind text := node #>> '{_,0}';
  entry jsonb;
  place integer;
  parts jsonb;
begin
  case kind
    when 'CONST' then return node #>> '{constisnull,0}' = 'false';
    when 'NULLTEST' then return true;
    when 'RELABELTYPE', 'COERCEVIAIO' then return strata.never_null(query, node #> '{arg,0}');
    when 'COALESCEEXPR', 'COALESCE', 'MINMAXEXPR', 'MINMAX' then
      return exists (select from jsonb_array_elements(node #> '{args,0}') a where jsonb_typeof(a) = 'object' and strata.never_null(query, a));
    when 'CASEEXPR', 'CASE' then
      parts := jsonb_path_query_array(node, 'strict $.args[0][*] ? (@.type() == "object").result[0]') || jsonb_build_array(node #> '{defresult,0}');
    when 'AGGREF' then
      if (node #>> '{aggfnoid,0}')::oid in ('count()'::regprocedure, 'count("any")'::regprocedure) then return true; end if;
      -- With GROUP BY a group has at least one row; without, the aggregate may be over no rows.
      if node #>> '{aggfilter,0}' <> '<>' or query #>> '{groupClause,0}' = '<>' or query #>> '{groupingSets,0}' <> '<>'
         or not exists (select from pg_proc p where p.oid = (node #>> '{aggfnoid,0}')::oid and p.pronamespace = 'pg_catalog'::regnamespace
                          and p.proname in ('sum', 'min', 'max', 'avg', 'bool_and', 'bool_or', 'every')) then return false; end if;
      parts := jsonb_path_query_array(node, 'strict $.args[0][*] ? (@.type() == "object").expr[0]');
    when 'WINDOWFUNC' then
      return (node #>> '{winfnoid,0}')::oid in ('count()'::regprocedure, 'count("any")'::regprocedure, 'row_number()'::regprocedure, 'rank()'::regprocedure, 'dense_rank()'::regprocedure);
    when 'FUNCEXPR' then
      if not exists (select from pg_proc p where p.oid = (node #>> '{funcid,0}')::oid and p.pronamespace = 'pg_catalog'::regnamespace
                       and p.proname in ('date_trunc', 'date', 'timestamp', 'timestamptz', 'timezone', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric',
                                         'text', 'varchar', 'bpchar', 'round', 'floor', 'ceil', 'ceiling', 'trunc', 'abs', 'lower', 'upper', 'btrim')) then return false; end if;
      parts := node #> '{args,0}';
    when 'OPEXPR' then
      if not exists (select from pg_operator o join pg_type t on t.oid = o.oprresult where o.oid = (node #>> '{opno,0}')::oid
                       and o.oprnamespace = 'pg_catalog'::regnamespace and t.typcategory in ('N', 'D', 'T') and o.oprname in ('+', '-', '*', '/', '%')) then return false; end if;
      parts := node #> '{args,0}';
    when 'VAR' then
      -- The other side of an outer join is null, and so are columns in totals of grouping sets.
      if node #>> '{varlevelsup,0}' <> '0' or query #>> '{groupingSets,0}' <> '<>'
         or jsonb_path_exists(query -> 'jointree', 'strict $.** ? (@._[0] == "JOINEXPR" && @.jointype[0] != "0")') then return false; end if;
      entry := query #> array['rtable', '0', ((node #>> '{varno,0}')::integer - 1)::text];
      place := (node #>> '{varattno,0}')::integer;
      case entry #>> '{rtekind,0}'
        when '0' then return strata.never_null_columns((entry #>> '{relid,0}')::oid, place) <> '{}';
        when '1' then return strata.never_null_output(entry #> '{subquery,0}', place);
        when '2', '9' then return strata.never_null(query, coalesce(entry #> '{joinaliasvars,0}', entry #> '{groupexprs,0}') -> (place - 1));
        else return false;
      end case;
    else return false;
  end case;
  return coalesce((select bool_and(strata.never_null(query, p)) from jsonb_array_elements(parts) p where jsonb_typeof(p) = 'object'), false)
     and not exists (select from jsonb_array_elements(parts) p where jsonb_typeof(p) = 'string');
end
$$;

comment on function strata.never_null(jsonb, jsonb) is 'Whether an expression in a parse tree is provably never null.';

create or replace function strata.never_null_output(query jsonb, place integer)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if query #>> '{setOperations,0}' <> '<>' then
    return (
      select bool_and(strata.never_null_output(query #> array['rtable', '0', ((r #>> '{rtindex,0}')::integer - 1)::text, 'subquery', '0'], place))
      from jsonb_path_query(query -> 'setOperations', 'strict $.** ? (@._[0] == "RANGETBLREF")') r);
  end if;
  return coalesce((
    select strata.never_null(query, t #> '{expr,0}') from jsonb_array_elements(query #> '{targetList,0}') t
    where jsonb_typeof(t) = 'object' and t #>> '{resno,0}' = place::text), false);
end
$$;

comment on function strata.never_null_output(jsonb, integer) is 'Whether an output column of a query is provably never null.';

-- A metric's table has no NOT NULL constraints, so the metric's query is analysed instead.
create or replace function strata.never_null_columns(relation oid, only_column integer default null)
returns integer[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  query_view oid;
  query jsonb;
begin
  select coalesce((select to_regclass(strata.metric_query(m.metric)) from strata.metrics m where to_regclass(strata.metric_table(m)) = relation), relation)
  into query_view;
  -- Views of schema strata are too deep to analyse quickly; tags declare their nullability.
  select strata.node_tree(w.ev_action::text) #> '{0}' into query
  from pg_rewrite w join pg_class c on c.oid = w.ev_class
  where w.ev_class = query_view and w.rulename = '_RETURN' and (only_column is null or query_view <> relation or c.relnamespace <> 'strata'::regnamespace);
  return array(
    select a.attnum::integer
    from pg_attribute a left join pg_attribute q on q.attrelid = query_view and q.attname = a.attname
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attnum = coalesce(only_column, a.attnum)
      and case when a.attnotnull or query is null then a.attnotnull else strata.never_null_output(query, q.attnum) end
    order by a.attnum);
end
$$;

comment on function strata.never_null_columns(oid, integer) is 'Numbers of the columns of a table, view or metric that are provably never null.';

-- PostgreSQL's own functions that are stable only because a setting affects formats or conversions are left out: all
-- computations of metrics use the same settings.
create or replace function strata.unsteady_calls(tree text)
returns text[]
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select array(
    select distinct p.proname::text || '()' from regexp_matches(tree, ':(?:funcid|opfuncid|winfnoid|aggfnoid) (\d+)', 'g') f
    join pg_proc p on p.oid = f[1]::oid
    where p.provolatile = 'v'
       or p.provolatile = 's' and (
         p.oid >= 16384
         or p.proname ~ '^(now|age|current_|transaction_timestamp|statement_timestamp|txid_|pg_|has_|inet_|to_reg|row_security|obj_|col_desc|shobj_|getdatabase|version|format_type|lo_|query_to_|table_to_|schema_to_|database_to_|cursor_to_)')
    union all
    select 'current_date or the like' where tree ~ '\{SQLVALUEFUNCTION '
    union all
    select 'nextval()' where tree ~ '\{NEXTVALUEEXPR '
    union all
    select 'a sample (TABLESAMPLE)' where tree ~ '\{TABLESAMPLECLAUSE '
    union all
    select 'a system column' where tree ~ ':varattno -'
  );
end;

comment on function strata.unsteady_calls(text) is 'Functions and other parts of a parse tree whose results change without a change of the data.';

create or replace function strata.base_tables(view_name regclass)
returns table (relation regclass, relkind "char")
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive reads (relation) as (
    select view_name::oid
    union
    select d.refobjid
    from reads
    join pg_rewrite w on w.ev_class = reads.relation
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass and d.refobjid <> reads.relation
  )
  select c.oid::regclass, c.relkind from reads join pg_class c on c.oid = reads.relation where c.oid <> view_name and c.relkind not in ('v', 'm', 'S', 'i');
end;

comment on function strata.base_tables(regclass) is 'Tables that a view reads, directly or through other views and materialized views.';

-- Does not look into materialized views: their rows change only when they are refreshed.
create or replace function strata.reads(view_name regclass)
returns table (relation oid, relkind "char", tree text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive reads (relation, relkind) as (
    select view_name::oid, 'v'::"char"
    union
    select c.oid, c.relkind
    from reads
    join pg_rewrite w on w.ev_class = reads.relation and reads.relkind = 'v'
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
    join pg_class c on c.oid = d.refobjid
  )
  select r.relation, r.relkind, w.ev_action::text from reads r left join pg_rewrite w on w.ev_class = r.relation and r.relkind = 'v';
end;

comment on function strata.reads(regclass) is 'Relations that a query reads, directly or through views, itself included; with the parse trees of views.';

-- Replacing a view, a function or a generated column changes the result without a change of the data, so the digest
-- covers all of them.
create or replace function strata.definition_digest(view_name regclass)
returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select md5(string_agg(x.item, E'\n' order by x.item)) from (
    select pg_get_viewdef(r.relation) from strata.reads(view_name) r where r.relkind = 'v'
    union
    select pg_get_functiondef(p.oid)
    from strata.reads(view_name) r cross join lateral regexp_matches(r.tree, ':(?:funcid|opfuncid|winfnoid|aggfnoid) (\d+)', 'g') f
    join pg_proc p on p.oid = f[1]::oid where p.oid >= 16384 and p.prokind <> 'a'
      and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')
    union
    select format('%s %s', d.adrelid::regclass, pg_get_expr(d.adbin, d.adrelid))
    from strata.reads(view_name) r join pg_attribute a on a.attrelid = r.relation and a.attgenerated <> '' and a.attnum > 0
    join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  ) x (item);
end;

comment on function strata.definition_digest(regclass) is 'Digest of the views, functions and generated columns that a query uses.';

-- Without wrapping, pg_get_viewdef() prints each output column on a line, separated by top-level commas.
create or replace function strata.output_expression(view_name regclass, column_name text)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  definition text := regexp_replace(pg_get_viewdef(view_name, false), '^\s*SELECT\s+(DISTINCT\s+)?', '');
  depth integer := 0;
  quote text;
  start integer := 1;
  place integer := 1;
  wanted integer := (select a.attnum from pg_attribute a where a.attrelid = view_name and a.attname = column_name);
  item text;
  character text;
begin
  for i in 1 .. length(definition) loop
    character := substr(definition, i, 1);
    if quote is not null then
      if character = quote then
        quote := null;
      end if;
    elsif character in ('''', '"') then
      quote := character;
    elsif character in ('(', '[') then
      depth := depth + 1;
    elsif character in (')', ']') then
      depth := depth - 1;
    elsif depth = 0 and (character = ',' or substr(definition, i) ~ '^\s+FROM\s') then
      if place = wanted then
        item := btrim(substr(definition, start, i - start), E' \n\t');
        exit;
      end if;
      exit when character <> ',';
      place := place + 1;
      start := i + 1;
    end if;
  end loop;
  return regexp_replace(item, '\s+AS\s+("(?:[^"]|"")+"|\S+)$', '');
end
$$;

comment on function strata.output_expression(regclass, text) is 'SQL of an output column of a view.';

-- Foreign, partitioned and inherited tables, materialized views and system catalogues change without our triggers.
create or replace function strata.can_watch(relation oid)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select c.relkind = 'r' and c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
         and not exists (select from pg_inherits i where i.inhparent = c.oid or i.inhrelid = c.oid)
  from pg_class c where c.oid = relation;
end;

comment on function strata.can_watch(oid) is 'Whether triggers see every change of a relation.';

-- Returns {mode, why, always, key, fact, alias, partition, sources: [{relation, role, tracked, resolve, columns}]}:
-- tracked   expression over the table's own columns, whose values the change log stores for a changed row
-- resolve   statement from those values ($1, as text) to stale partitions (as text); null for the fact table
-- columns   columns of the table that the query reads; changes of other columns are ignored
create or replace function strata.analyse(view_name regclass, partition_column text)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  tree text := (select w.ev_action::text from pg_rewrite w where w.ev_class = view_name and w.rulename = '_RETURN');
  query jsonb := strata.node_tree(tree) #> '{0}';
  -- The patterns match field names only: names never occur inside a token, so constants and comments cannot match.
  unsteady text[] := array(select distinct u from strata.reads(view_name) r cross join unnest(strata.unsteady_calls(r.tree)) u order by u);
  digest text := strata.definition_digest(view_name);
  target jsonb;
  bases integer[];
  fact integer;
  expression text;
  fact_alias text;
  why text;
  key text[];
  has_groups boolean;
  read jsonb := jsonb_build_array(query -> 'targetList', query -> 'jointree', query -> 'havingQual');
  sources jsonb := '[]';
  links jsonb := '[]';
  reached integer[];
  paths jsonb := '{}';
  link record;
  source record;
  always boolean := unsteady <> '{}';
  odd record;
begin
  -- The analysis below holds for ordinary tables only, whose changes triggers see.
  select b.relation::regclass as relation into odd from strata.reads(view_name) b
  where b.relkind <> 'v' and not strata.can_watch(b.relation) order by b.relation limit 1;
  if odd.relation is not null then
    why := format('%s is not an ordinary table, whose changes a trigger sees', odd.relation);
    always := true;
  elsif unsteady <> '{}' then
    why := format('%s changes without a change of the data', array_to_string(unsteady, ', '));
  elsif partition_column is null then
    why := 'no partition column was given';
  end if;

  has_groups := jsonb_array_length(coalesce(nullif(query #> '{groupClause,0}', '"<>"'), '[]')) > 1;
  -- The key is made of the columns that are grouped by, if the query returns all of them.
  select array_agg(t.entry #>> '{resname,0}' order by (t.entry #>> '{resname,0}') = partition_column desc nulls last, t.place)
  into key
  from jsonb_array_elements(query #> '{targetList,0}') with ordinality t (entry, place)
  where jsonb_typeof(t.entry) = 'object' and t.entry #>> '{resjunk,0}' = 'false'
    and exists (select from jsonb_array_elements(coalesce(nullif(query #> '{groupClause,0}', '"<>"'), nullif(query #> '{distinctClause,0}', '"<>"'), '[]')) g
                where g #>> '{tleSortGroupRef,0}' = t.entry #>> '{ressortgroupref,0}');
  if coalesce(array_length(key, 1), 0) <> jsonb_array_length(coalesce(nullif(query #> '{groupClause,0}', '"<>"'), nullif(query #> '{distinctClause,0}', '"<>"'), '[null]')) - 1
     or query #>> '{setOperations,0}' <> '<>' or query #>> '{groupingSets,0}' <> '<>' or query #>> '{hasDistinctOn,0}' = 'true' then
    key := null;
  end if;

  if why is null then
    why := case
      when query #>> '{setOperations,0}' <> '<>' then 'it combines queries (UNION, INTERSECT or EXCEPT)'
      when query #>> '{cteList,0}' <> '<>' then 'it has a WITH clause'
      when query #>> '{hasSubLinks,0}' = 'true' then 'it has a subquery in an expression'
      when query #>> '{hasWindowFuncs,0}' = 'true' then 'it has a window function'
      when query #>> '{hasTargetSRFs,0}' = 'true' then 'it calls a function that returns rows'
      when query #>> '{groupingSets,0}' <> '<>' then 'it groups by several sets (ROLLUP, CUBE or GROUPING SETS)'
      when query #>> '{hasDistinctOn,0}' = 'true' then 'it has DISTINCT ON'
      when query #>> '{limitCount,0}' <> '<>' or query #>> '{limitOffset,0}' <> '<>' then 'it has LIMIT or OFFSET'
    end;
  end if;
  if why is null then
    select t into target from jsonb_array_elements(query #> '{targetList,0}') t where t #>> '{resname,0}' = partition_column and t #>> '{resjunk,0}' = 'false';
    if target is null then
      raise exception 'The query has no column % to partition by; it has: %.', quote_literal(partition_column),
        (select string_agg(a.attname, ', ' order by a.attnum) from pg_attribute a where a.attrelid = view_name and a.attnum > 0)
        using errcode = 'undefined_column';
    end if;
    select array_agg(distinct b.rtindex) into bases from strata.base_columns(query, target -> 'expr') b;
    why := case
      when query #>> '{hasAggs,0}' = 'true' and not has_groups then 'it aggregates without GROUP BY'
      when has_groups and not exists (select from jsonb_array_elements(query #> '{groupClause,0}') g
                                      where g #>> '{tleSortGroupRef,0}' = target #>> '{ressortgroupref,0}')
        then format('it does not group by %s', partition_column)
      when coalesce(array_length(bases, 1), 0) <> 1 then format('%s is not computed from one table', partition_column)
      when exists (select from jsonb_path_query(target -> 'expr', 'strict $.** ? (@._[0] == "AGGREF")')) then format('%s is an aggregate', partition_column)
      when exists (select from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = view_name and a.attname = partition_column and t.typcategory = 'A')
        then format('%s is an array', partition_column)
    end;
    fact := bases[1];
  end if;
  if why is null then
    select case
        when e.entry #>> '{rtekind,0}' = '1' then 'it has a subquery in FROM'
        when e.entry #>> '{rtekind,0}' <> '0' then 'it reads from something that is no table'
        when e.entry #>> '{tablesample,0}' <> '<>' then 'it samples a table'
        when e.entry #>> '{relkind,0}' <> 'r' then format('it reads the view %s', (e.entry #>> '{relid,0}')::oid::regclass)
      end into why
    from (select distinct (r #>> '{rtindex,0}')::integer as rtindex from jsonb_path_query(query -> 'jointree', 'strict $.** ? (@._[0] == "RANGETBLREF")') r) r
    cross join lateral (select query #> array['rtable', '0', (r.rtindex - 1)::text] as entry) e
    where e.entry #>> '{rtekind,0}' <> '0' or e.entry #>> '{tablesample,0}' <> '<>' or e.entry #>> '{relkind,0}' <> 'r'
    limit 1;
  end if;
  if why is null then
    -- Values of jointype: 0 inner, 1 left, 2 full, 3 right.
    if exists (
      select from jsonb_path_query(query -> 'jointree', 'strict $.** ? (@._[0] == "JOINEXPR")') j
      cross join lateral (values (j -> 'larg', '{2,3}'::text[]), (j -> 'rarg', '{1,2}'::text[])) side (tree, types)
      where j #>> '{jointype,0}' = any (side.types)
        and exists (select from jsonb_path_query(side.tree, 'strict $.** ? (@._[0] == "RANGETBLREF")') r where (r #>> '{rtindex,0}')::integer = fact)
    ) then
      why := format('an outer join makes rows without a row of %s', (query #>> array['rtable', '0', (fact - 1)::text, 'relid', '0'])::oid::regclass);
    elsif exists (select from jsonb_path_query(query -> 'jointree', 'strict $.** ? (@._[0] == "JOINEXPR")') j where j #>> '{jointype,0}' not in ('0', '1', '3')) then
      why := 'it has a full join';
    end if;
  end if;

  if why is null then
    -- The partition is a column, possibly renamed by joins or GROUP BY, or an expression over columns of its table.
    select format('t.%I', a.attname) into expression
    from strata.plain_column(query, target #> '{expr,0}') p
    join pg_attribute a on a.attrelid = (query #>> array['rtable', '0', (p.rtindex - 1)::text, 'relid', '0'])::oid and a.attnum = p.attnum;
    fact_alias := 't';
    if expression is null then
      fact_alias := query #>> array['rtable', '0', (fact - 1)::text, 'eref', '0', 'aliasname', '0'];
      expression := strata.output_expression(view_name, partition_column);
      begin
        if query #>> array['rtable', '0', (fact - 1)::text, 'alias', '0', 'colnames', '0'] <> '<>' then
          raise exception using message = 'the columns have other names';
        end if;
        execute format('select (%s)::text from %s %I where false', expression, (query #>> array['rtable', '0', (fact - 1)::text, 'relid', '0'])::oid::regclass, fact_alias);
      exception when others then
        why := format('%s is not written with the names of its table (%s)', partition_column, sqlerrm);
      end;
    end if;
  end if;
  if why is null then
    -- Collect equalities that are joined by AND in WHERE and ON. They hold for every result row, except those in ON of
    -- an outer join, which only decide which rows of the optional side are found.
    with recursive conditions (node, reachable) as (
      select q, case holder #>> '{jointype,0}' when '1' then holder -> 'rarg' when '3' then holder -> 'larg' end
      from jsonb_path_query(query -> 'jointree', 'strict $.** ? (@._[0] == "JOINEXPR" || @._[0] == "FROMEXPR")') holder
      cross join lateral jsonb_array_elements(holder -> 'quals') q where jsonb_typeof(q) in ('object', 'array')
      union all
      select item, conditions.reachable from conditions
      cross join lateral jsonb_array_elements(case
        when jsonb_typeof(conditions.node) = 'array' then conditions.node
        when conditions.node #>> '{_,0}' = 'BOOLEXPR' and conditions.node #>> '{boolop,0}' = 'and' then conditions.node -> 'args'
        else '[]' end) item
      where jsonb_typeof(item) in ('object', 'array')
    ), plain as materialized (
      select l.rtindex as l_index, l.attnum as l_attnum, r.rtindex as r_index, r.attnum as r_attnum, c.reachable is null as is_general,
             array(select (r #>> '{rtindex,0}')::integer from jsonb_path_query(c.reachable, 'strict $.** ? (@._[0] == "RANGETBLREF")') r) as reachable
      from conditions c
      join pg_operator o on o.oid = (c.node #>> '{opno,0}')::oid
      cross join lateral strata.plain_column(query, c.node #> '{args,0,0}') l
      cross join lateral strata.plain_column(query, c.node #> '{args,0,1}') r
      where jsonb_typeof(c.node) = 'object' and c.node #>> '{_,0}' = 'OPEXPR' and o.oprname = '=' and o.oprnamespace = 'pg_catalog'::regnamespace
        and l.rtindex <> r.rtindex
    )
    select coalesce(jsonb_agg(jsonb_build_object('from', x.f, 'from_attnum', x.fa, 'to', x.t, 'to_attnum', x.ta)), '[]') into links
    from (select l_index as f, l_attnum as fa, r_index as t, r_attnum as ta from plain where is_general or r_index = any (reachable)
          union select r_index, r_attnum, l_index, l_attnum from plain where is_general or l_index = any (reachable)) x;

    reached := array[fact];
    paths := jsonb_build_object(fact::text, jsonb_build_object('resolve', null));
    loop
      -- Next, a table that an equality connects with one already reached; prefer an index on the reached side.
      select l.f, l.fa, l.t, l.ta, fr.relid as f_relid, tr.relid as t_relid, fa.attname as f_column, ta.attname as t_column,
             format_type(ta.atttypid, ta.atttypmod) as t_type
      into link
      from jsonb_to_recordset(links) as x ("from" integer, from_attnum integer, "to" integer, to_attnum integer)
      cross join lateral (select x."from" as f, x.from_attnum as fa, x."to" as t, x.to_attnum as ta) l
      cross join lateral (select (query #>> array['rtable', '0', (l.f - 1)::text, 'relid', '0'])::oid as relid) fr
      cross join lateral (select (query #>> array['rtable', '0', (l.t - 1)::text, 'relid', '0'])::oid as relid) tr
      join pg_attribute fa on fa.attrelid = fr.relid and fa.attnum = l.fa
      join pg_attribute ta on ta.attrelid = tr.relid and ta.attnum = l.ta
      where l.f = any (reached) and l.t <> all (reached)
      order by exists (select from pg_index i where i.indrelid = fr.relid and i.indkey[0] = l.fa and i.indpred is null) desc, l.f, l.fa, l.t, l.ta
      limit 1;
      exit when not found;
      reached := reached || link.t;
      -- $1 has values of the equal column. Step by step they lead to rows of the reached tables, up to the fact table.
      paths := paths || jsonb_build_object(link.t::text, jsonb_build_object('column', link.t_column, 'via', link.f, 'via_column', link.f_column, 'type', link.t_type));
    end loop;
    select format('%s is joined without an equality of columns', (query #>> array['rtable', '0', (r.rtindex - 1)::text, 'relid', '0'])::oid::regclass)
    into why
    from (select distinct (r #>> '{rtindex,0}')::integer as rtindex from jsonb_path_query(query -> 'jointree', 'strict $.** ? (@._[0] == "RANGETBLREF")') r) r
    where r.rtindex <> all (reached) limit 1;
  end if;
  if why is null then
    select format('%s.%I is a virtual column, which triggers do not see', a.attrelid::regclass, a.attname) into why
    from strata.base_columns(query, read) b
    join pg_attribute a on a.attrelid = (query #>> array['rtable', '0', (b.rtindex - 1)::text, 'relid', '0'])::oid and a.attnum = b.attnum and a.attgenerated = 'v'
    order by a.attrelid, a.attnum limit 1;
  end if;

  if why is not null then
    -- Computed as a whole when any of its tables changes.
    select coalesce(jsonb_agg(jsonb_build_object('relation', b.relation::regclass::text, 'role', 'read', 'columns', null) order by b.relation), '[]') into sources
    from strata.reads(view_name) b where strata.can_watch(b.relation);
    return jsonb_build_object('mode', 'whole', 'why', why, 'always', always, 'key', to_jsonb(coalesce(key, '{}')), 'sources', sources, 'digest', digest);
  end if;

  for source in
    select i.rtindex, (query #>> array['rtable', '0', (i.rtindex - 1)::text, 'relid', '0'])::oid::regclass as relation
    from unnest(reached) i (rtindex) order by i.rtindex
  loop
    declare
      step jsonb := paths -> source.rtindex::text;
      resolve text;
      at integer := source.rtindex;
    begin
      if source.rtindex <> fact then
        -- Nest subqueries from the values of this table's column ($1) through the joined tables to the fact table.
        resolve := format('select unnest($1)::%s', step ->> 'type');
        loop
          at := (step ->> 'via')::integer;
          resolve := format('select distinct %s from %s %I where %I.%I in (%s)',
            case when at = fact then format('(%s)::text', expression) else format('x.%I', paths -> at::text ->> 'column') end,
            (query #>> array['rtable', '0', (at - 1)::text, 'relid', '0'])::oid::regclass,
            case when at = fact then fact_alias else 'x' end, case when at = fact then fact_alias else 'x' end,
            step ->> 'via_column', resolve);
          exit when at = fact;
          step := paths -> at::text;
        end loop;
      end if;
      sources := sources || jsonb_build_object(
        'relation', source.relation::text,
        'role', case when source.rtindex = fact then 'fact' else 'joined' end,
        'alias', case when source.rtindex = fact then fact_alias else 't' end,
        'tracked', case when source.rtindex = fact then expression else format('t.%I', paths -> source.rtindex::text ->> 'column') end,
        'resolve', resolve,
        -- A foreign key allows no child without its parent, so inserts and deletes of parents change no result.
        'changes_only', source.rtindex <> fact and exists (
          select from pg_constraint k
          join pg_attribute own on own.attrelid = k.conrelid and own.attname = (paths -> source.rtindex::text ->> 'via_column')
          join pg_attribute their on their.attrelid = k.confrelid and their.attname = (paths -> source.rtindex::text ->> 'column')
          where k.contype = 'f' and k.convalidated and k.conkey = array[own.attnum] and k.confkey = array[their.attnum]
            and k.confrelid = source.relation
            and k.conrelid = (query #>> array['rtable', '0', ((paths -> source.rtindex::text ->> 'via')::integer - 1)::text, 'relid', '0'])::oid),
        -- A whole row (count(t.*)) depends on all columns, shown as null.
        'columns', (select case when bool_or(b.attnum = 0) then null else to_jsonb(array_agg(distinct a.attname::text)) end
                    from strata.base_columns(query, read) b left join pg_attribute a on a.attrelid = source.relation and a.attnum = b.attnum
                    where b.rtindex = source.rtindex));
    end;
  end loop;
  return jsonb_build_object('mode', 'partition', 'always', false, 'key', to_jsonb(coalesce(key, '{}')), 'fact', (query #>> array['rtable', '0', (fact - 1)::text, 'relid', '0'])::oid::regclass::text,
                            'partition', expression, 'sources', sources, 'digest', digest);
end
$$;

comment on function strata.analyse(regclass, text) is 'Which partitions a change of each table makes stale, or why that cannot be proven; a JSON object.';

-- ------------------------------------------------------------------------------------------------------
-- Logging changes
-- ------------------------------------------------------------------------------------------------------

-- The statement is a trigger argument, so a write looks nothing up. Security definer, because roles that may write to
-- production may not write to the log.
create or replace function strata.capture()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set extra_float_digits = 1 as $$
begin
  execute tg_argv[0];
  return null;
exception when others then
  -- The write must succeed even if an expression fails for a row or a column was renamed; log an unknown change.
  insert into strata.changes (relation, row_count) values (tg_argv[1], 1);
  return null;
end
$$;

comment on function strata.capture() is 'Trigger function: appends the changes of a statement to strata.changes.';

create or replace function strata.set_trigger(relation regclass, name text, events text, statement text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  existing oid := (select t.oid from pg_trigger t where t.tgrelid = relation and t.tgname = name);
  description text := 'Feeds strata.changes: ' || md5(coalesce(statement, ''));
begin
  if statement is null then
    if existing is not null then
      execute format('drop trigger %I on %s', name, relation);
    end if;
  elsif obj_description(existing, 'pg_trigger') is distinct from description then
    execute format('create or replace trigger %I after %s for each statement execute function strata.capture(%L, %L)', name, format(events, relation), statement, relation);
    execute format('comment on trigger %I on %s is %L', name, relation, description);
  end if;
end
$$;

comment on function strata.set_trigger(regclass, text, text, text) is 'Creates, replaces or drops a trigger that feeds strata.changes; a null statement drops it, an unchanged one does nothing.';

create or replace function strata.watch(relation regclass)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  key text[] := strata.key_columns(relation);
  is_read boolean;
  inserts_count boolean;
  on_insert text;
  on_change text;
  used text[];
  is_same text;
  touched text;
  append text;
begin
  -- Metrics that track the same expression share one pair of expression and values.
  select count(*) > 0, coalesce(bool_or(not s.changes_only), false),
         string_agg(distinct s.pair, ', ') filter (where not s.changes_only), string_agg(distinct s.pair, ', '),
         case when bool_or(s.columns is null) then null else array(
           select distinct c from strata.metrics m cross join lateral jsonb_array_elements(m.analysis -> 'sources') x
           cross join lateral jsonb_array_elements_text(x -> 'columns') c where x ->> 'relation' = relation::text) end
  into is_read, inserts_count, on_insert, on_change, used
  from (
    select nullif(x -> 'columns', 'null') as columns, coalesce((x ->> 'changes_only')::boolean, false) as changes_only,
           case when x ->> 'tracked' is not null then
             format('(%1$L, (select coalesce(jsonb_agg(x), ''[]'') from (select distinct (%2$s)::text as x from rows %3$I) d))', x ->> 'tracked', x ->> 'tracked', x ->> 'alias') end as pair
    from strata.metrics m cross join lateral jsonb_array_elements(m.analysis -> 'sources') x where x ->> 'relation' = relation::text
  ) s;
  on_insert := coalesce('(select jsonb_object_agg(p.expression, p.found) from (values ' || on_insert || ') p (expression, found))', '''{}''');
  on_change := coalesce('(select jsonb_object_agg(p.expression, p.found) from (values ' || on_change || ') p (expression, found))', '''{}''');
  append := 'insert into strata.changes (relation, keys, row_count) select %L, %s, (select %s from rows) where exists (select from rows)';

  perform strata.set_trigger(relation, 'strata_inserted', 'insert on %s referencing new table as rows',
    case when inserts_count then format(append, relation, on_insert, 'count(*)') end);
  perform strata.set_trigger(relation, 'strata_deleted', 'delete on %s referencing old table as rows',
    case when is_read then format(append, relation, on_change, 'count(*)') end);
  -- Rows are compared bit by bit (*=): numbers that are equal may print differently.
  select string_agg(format('n.%1$I = o.%1$I', k), ' and ')
         || (select format(' and row(%s)::record operator(pg_catalog.*=) row(%s)::record', string_agg(format('n.%I', c), ', '), string_agg(format('o.%I', c), ', ')) from unnest(used) c having used is not null)
  into is_same from unnest(key) k;
  touched := case when is_same is null then 'select * from old_rows union all select * from new_rows'
    else format('select o.* from old_rows o where not exists (select from new_rows n where %1$s) union all '
                'select n.* from new_rows n where not exists (select from old_rows o where %1$s)', is_same) end;
  perform strata.set_trigger(relation, 'strata_updated', 'update on %s referencing old table as old_rows new table as new_rows',
    case when is_read then format('with rows as materialized (%s) ', touched) || format(append, relation, on_change, '(count(*) + 1) / 2') end);
  perform strata.set_trigger(relation, 'strata_truncated', 'truncate on %s',
    case when is_read then format('insert into strata.changes (relation, row_count) values (%L, 1)', relation) end);
end
$$;

comment on function strata.watch(regclass) is 'Gives a table the triggers that log its changes for the metrics, or drops them if no metric reads it.';

-- ------------------------------------------------------------------------------------------------------
-- Stale partitions
-- ------------------------------------------------------------------------------------------------------

-- When more than a third of the partitions are stale, computing everything is cheaper.
create or replace function strata.stale_partitions(metric text, consumed boolean default false)
returns text[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set extra_float_digits = 1 set jit = off
set plan_cache_mode = force_custom_plan as $$
declare
  m strata.metrics;
  log text := case when consumed then 'pg_temp.strata_consumed' else 'strata.changes' end;
  source record;
  relations text[];
  amount bigint;
  unknown boolean;
  given text[];
  stale text[] := '{}';
  fact record;
  partitions double precision;
begin
  select * into m from strata.metrics x where x.metric = stale_partitions.metric;
  if m.metric is null or m.rebuild or m.always then
    return null;
  end if;
  relations := array(select distinct s ->> 'relation' from jsonb_array_elements(m.analysis -> 'sources') s);
  execute format('select count(*), coalesce(bool_or(c.keys is null), false) from %s c where c.relation = any ($1)', log) into amount, unknown using relations;
  if amount = 0 then
    return stale;
  elsif unknown or m.mode = 'whole' then
    return null;
  end if;
  for source in select * from jsonb_to_recordset(m.analysis -> 'sources') as s (relation text, role text, tracked text, resolve text) loop
    execute format('select array_agg(distinct v) from %s c cross join lateral jsonb_array_elements_text(c.keys -> $2) v where c.relation = $1', log)
    into given using source.relation, source.tracked;
    if given is null then
      continue;
    elsif source.resolve is not null then
      execute format('select array_agg(p) from (%s) s (p)', source.resolve) into given using given;
    end if;
    stale := stale || given;
  end loop;
  stale := array(select distinct s from unnest(stale) s);
  if cardinality(stale) * 3 <= m.partition_count then
    return stale;
  end if;
  -- The fact table may have gained partitions since the last refresh, so look at its statistics too.
  select n.nspname as schema_name, c.relname as name, a.attname as column_name, greatest(c.reltuples, 0) as rows into fact
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
  where c.oid = to_regclass(m.analysis ->> 'fact') and m.analysis ->> 'partition' like '%.' || quote_ident(a.attname) and a.attnum > 0;
  select case when s.n_distinct < 0 then -s.n_distinct * fact.rows else s.n_distinct end into partitions
  from pg_stats s where s.schemaname = fact.schema_name and s.tablename = fact.name and s.attname = fact.column_name and not s.inherited;
  if cardinality(stale) * 3 > greatest(m.partition_count, partitions) then
    return null;
  end if;
  return stale;
end
$$;

comment on function strata.stale_partitions(text, boolean) is 'Partitions of a metric, as text, that changed since its last refresh; null if everything has to be computed.';

-- The argument's type names the metric, as in null::analytics.<metric>; its value is ignored.
create or replace function strata.stale_rows(kept anyelement)
returns setof anyelement
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set extra_float_digits = 1 set jit = off
set plan_cache_mode = force_custom_plan as $$
declare
  m strata.metrics;
  stale text[];
begin
  select x.* into strict m from strata.metrics x join pg_class c on c.relname = x.metric
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = x.schema_name where c.reltype = pg_typeof(kept);
  stale := strata.stale_partitions(m.metric);
  if stale is null then
    return query execute strata.metric_rows(m, 'true');
  elsif stale <> '{}' then
    return query execute strata.metric_rows(m, strata.partition_condition(m, 'd', stale)) using stale;
  end if;
end
$$;

comment on function strata.stale_rows(anyelement) is 'Rows of the stale partitions of a metric, computed by its query.';

create or replace function strata.metric_table(m strata.metrics)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
return format('%I.%I', m.schema_name, m.metric);

comment on function strata.metric_table(strata.metrics) is 'Qualified name of the table that stores a metric.';

create or replace function strata.metric_query(metric text)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
return format('strata.%I', 'metric_' || metric);

comment on function strata.metric_query(text) is 'Qualified name of the view that holds the query of a metric.';

create or replace function strata.metric_columns(m strata.metrics)
returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
  where a.attrelid = to_regclass(strata.metric_table(m)) and a.attnum > 0 and not a.attisdropped;
end;

comment on function strata.metric_columns(strata.metrics) is 'Columns of a metric''s table, as a list for SELECT.';

create or replace function strata.metric_rows(m strata.metrics, condition text)
returns text
language sql stable set search_path = pg_catalog, pg_temp
return format('select %s from %s d where %s', strata.metric_columns(m), strata.metric_query(m.metric), condition);

comment on function strata.metric_rows(strata.metrics, text) is 'Statement that computes the rows of a metric that meet a condition.';

-- $1 holds the partitions as text. Comparing with an array never finds null, so a null partition needs its own test.
create or replace function strata.partition_condition(m strata.metrics, alias text, stale text[])
returns text
language sql stable set search_path = pg_catalog, pg_temp
return format('(%1$s.%2$I = any ($1::%3$s[])%4$s)', alias, m.partition_column,
              (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
               where a.attrelid = to_regclass(strata.metric_table(m)) and a.attname = m.partition_column),
              case when array_position(stale, null) is not null then format(' or %s.%I is null', alias, m.partition_column) else '' end);

comment on function strata.partition_condition(strata.metrics, text, text[]) is 'SQL condition for rows of the given partitions.';

-- ------------------------------------------------------------------------------------------------------
-- Declaring metrics
-- ------------------------------------------------------------------------------------------------------

-- A place is the longest chain of metrics and materialized views between one of them and its tables.
create or replace function strata.refresh_order()
returns table (relation regclass, metric text, place integer)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  with recursive kept (relation, source, metric) as (
    select to_regclass(strata.metric_table(m))::oid, to_regclass(strata.metric_query(m.metric))::oid, m.metric
    from strata.metrics m where to_regclass(strata.metric_table(m)) is not null
    union all
    select c.oid, c.oid, null from pg_class c where c.relnamespace = 'analytics'::regnamespace and c.relkind = 'm'
  ), reads (relation, reading, depth) as (
    select k.relation, k.source, 0 from kept k
    union
    select r.relation, coalesce(k.source, d.refobjid), r.depth + (k.relation is not null)::integer
    from reads r
    join pg_rewrite w on w.ev_class = r.reading
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.reading
    left join kept k on k.relation = d.refobjid
    where r.depth < 100
  )
  select k.relation::regclass, k.metric, max(r.depth) from kept k join reads r on r.relation = k.relation group by k.relation, k.metric;
end;

comment on function strata.refresh_order() is 'Metrics and materialized views of analytics with their place in the refresh; those that others read come first.';

create or replace function strata.order_metrics()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  circle text := (select string_agg(o.relation::text, ', ' order by o.relation::text) from strata.refresh_order() o where o.place >= 100);
begin
  if circle is not null then
    raise exception 'A metric may not be computed from itself, directly or through other metrics or views; given: %.', circle using errcode = 'invalid_recursion';
  end if;
  update strata.metrics m set place = o.place from strata.refresh_order() o where o.metric = m.metric and m.place <> o.place;
end
$$;

comment on function strata.order_metrics() is 'Updates the place of each metric in the refresh; rejects cycles.';

create or replace function strata.note_change()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform strata.raise_version();
  return null;
end
$$;

comment on function strata.note_change() is 'Trigger function: raises the data version when stored results or the calendar change directly.';

-- A refresh sets strata.refreshing and raises the version once, at its end.
create or replace function strata.raise_version()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('strata.refreshing', true), '') = '' then
    update strata.refresh_state set data_version = data_version + 1;
  end if;
end
$$;

comment on function strata.raise_version() is 'Raises the data version, unless a refresh is running in this transaction.';

create or replace function strata.column_definitions(relation regclass)
returns table (place smallint, name text, definition text)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select a.attnum, a.attname::text,
         format_type(a.atttypid, a.atttypmod) || coalesce((
           select format(' collate %I.%I', n.nspname, c.collname) from pg_collation c join pg_namespace n on n.oid = c.collnamespace join pg_type t on t.oid = a.atttypid
           where c.oid = a.attcollation and a.attcollation <> t.typcollation), '')
  from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
end;

comment on function strata.column_definitions(regclass) is 'Columns of a table or view with their types and collations, as for CREATE TABLE.';

create or replace function strata.grants_of(relation regclass)
returns text[]
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select array(
    select format('grant %s%s on %s to %s%s', x.privilege_type, x.columns, relation, case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end,
                  case when x.is_grantable then ' with grant option' else '' end)
    from (
      select a.*, '' as columns, c.relowner from pg_class c cross join lateral aclexplode(c.relacl) a where c.oid = relation
      union all
      select a.*, format(' (%I)', t.attname), c.relowner
      from pg_class c join pg_attribute t on t.attrelid = c.oid cross join lateral aclexplode(t.attacl) a where c.oid = relation
    ) x where x.grantee <> x.relowner
  );
end;

comment on function strata.grants_of(regclass) is 'GRANT statements that restore the current rights on a relation.';

create or replace function strata.make_metric_table(m strata.metrics)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  name text := strata.metric_table(m);
  query_view regclass := strata.metric_query(m.metric)::regclass;
  col record;
  key text;
begin
  if to_regclass(name) is null then
    execute format('create table %s ()', name);
    execute format('comment on table %s is %L', name, format('%s, as of the last refresh.', initcap(left(m.metric, 1)) || replace(substr(m.metric, 2), '_', ' ')));
  end if;
  -- Columns keep their comments and rights; the next refresh fills them. The live view is dropped and made again later.
  for col in
    select coalesce(o.name, a.name) as name, a.definition, o.definition as before
    from strata.column_definitions(query_view) a
    full join strata.column_definitions(strata.metric_table(m)::regclass) o on o.name = a.name
    where o.definition is distinct from a.definition
    order by a.definition is not null, a.place, o.place
  loop
    if col.before is not null then
      execute format('drop view if exists %I.%I', m.schema_name, m.metric || '_live');
    end if;
    execute format(case when col.before is null then 'alter table %s add column %I %s' when col.definition is null then 'alter table %s drop column %I'
                        else 'alter table %1$s alter column %2$I type %3$s using null' end, name, col.name, col.definition);
  end loop;
  for col in
    select o.attname as name from pg_attribute o
    where o.attrelid = name::regclass and o.attnum > 0 and not o.attisdropped and col_description(o.attrelid, o.attnum) is null
  loop
    execute format('comment on column %s.%I is %L', name, col.name, initcap(left(col.name, 1)) || replace(substr(col.name, 2), '_', ' ') || '.');
  end loop;

  -- The grouped columns become the key if their types allow; the partition comes first, as rows are replaced by it.
  select string_agg(quote_ident(k), ', ' order by k.place) into key from unnest(m.key_columns) with ordinality k (k, place);
  if key is not null and exists (
    select from unnest(m.key_columns) k join pg_attribute a on a.attrelid = name::regclass and a.attname = k
    where not exists (select from pg_type t where t.oid = a.atttypid and (t.typtype in ('e', 'r') or t.typcategory in ('N', 'S', 'D', 'B', 'T', 'I') or t.typname = 'uuid'))
  ) then
    key := null;
  end if;
  if (select pg_get_constraintdef(k.oid) from pg_constraint k where k.conrelid = name::regclass and k.conname = m.metric || '_key')
     is distinct from 'UNIQUE NULLS NOT DISTINCT (' || key || ')' then
    execute format('alter table %s drop constraint if exists %I', name, m.metric || '_key');
    if key is not null then
      begin
        execute format('alter table %s add constraint %I unique nulls not distinct (%s)', name, m.metric || '_key', key);
      exception when unique_violation then
        execute format('delete from %s', name);
        execute format('alter table %s add constraint %I unique nulls not distinct (%s)', name, m.metric || '_key', key);
      end;
    end if;
  end if;
  if m.partition_column is not null and (key is null or m.key_columns[1] <> m.partition_column) then
    execute format('create index if not exists %I on %s (%I)', 'idx_' || m.metric || '_partition', name, m.partition_column);
  end if;
  execute format('create or replace trigger strata_version after insert or update or delete or truncate on %s for each statement execute function strata.note_change()', name);
  execute format('comment on trigger strata_version on %s is %L', name, 'Raises the data version.');
end
$$;

comment on function strata.make_metric_table(strata.metrics) is 'Creates the table of a metric, or adapts its columns and key to the query.';

-- The view returns stored rows of unchanged partitions and computes those of stale ones. A function computes these:
-- inlined, the query would mislead the planner about the view's cost, although most of the time nothing is stale.
create or replace function strata.make_live_view(m strata.metrics)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  name text := format('%I.%I', m.schema_name, m.metric || '_live');
  kept regclass := strata.metric_table(m)::regclass;
  columns text := strata.metric_columns(m);
begin
  execute format($sql$
    create or replace view %1$s as
    select %2$s from %3$s r
    where (select strata.stale_partitions(%4$L)) is not null %5$s
    union all
    select %2$s from strata.stale_rows(null::%3$s)
  $sql$, name, columns, kept, m.metric, case when m.mode = 'partition' then format(
    'and not exists (select from unnest((select strata.stale_partitions(%1$L))::%2$s[]) s (p) where s.p = r.%3$I) '
    'and (r.%3$I is not null or array_position((select strata.stale_partitions(%1$L)), null) is null)',
    m.metric, (select format_type(a.atttypid, a.atttypmod) from pg_attribute a where a.attrelid = kept and a.attname = m.partition_column), m.partition_column) else '' end);
end
$$;

comment on function strata.make_live_view(strata.metrics) is 'Creates the live view of a metric, which is always exact.';

-- Comments on the table may be set after the metric was declared, so they are copied again later.
create or replace function strata.copy_comments(m strata.metrics)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  kept regclass := strata.metric_table(m)::regclass;
  live regclass := to_regclass(format('%I.%I', m.schema_name, m.metric || '_live'));
  item record;
begin
  for item in
    select l.attname as name, col_description(kept, k.attnum) as description
    from pg_attribute l join pg_attribute k on k.attrelid = kept and k.attname = l.attname
    where l.attrelid = live and l.attnum > 0 and col_description(live, l.attnum) is distinct from col_description(kept, k.attnum)
  loop
    execute format('comment on column %s.%I is %L', live, item.name, item.description);
  end loop;
  select replace(obj_description(kept, 'pg_class'), 'as of the last refresh', 'as of now') as description into item;
  if item.description is distinct from obj_description(live, 'pg_class') then
    execute format('comment on view %s is %L', live, item.description);
  end if;
end
$$;

comment on function strata.copy_comments(strata.metrics) is 'Copies the comments of a metric''s table to its live view.';

create or replace function strata.put_metric(schema_name text, metric text, query text, partition_column text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  before strata.metrics;
  m strata.metrics;
  clean text := rtrim(query, E'; \r\n\t');
  path text := current_setting('search_path');
  query_view text;
  relation text;
  odd text;
  live text;
  is_new boolean;
  grants text[];
begin
  if metric is null or metric !~ '^[a-z_][a-z0-9_]{0,49}$' or metric like '%\_live' then
    raise exception 'The name of a metric is not valid; given: %; allowed are at most 50 lower case letters, digits and _, not starting with a digit or ending in _live.', coalesce(quote_literal(metric), 'null')
      using errcode = 'invalid_name';
  end if;
  query_view := strata.metric_query(metric);
  live := format('%I.%I', schema_name, metric || '_live');
  is_new := to_regclass(format('%I.%I', schema_name, metric)) is null;
  if coalesce(clean, '') = '' then
    raise exception 'The query of % is empty.', metric using errcode = 'invalid_parameter_value', hint = 'Write: select … as date, sum(…) as revenue from production.… group by 1.';
  end if;
  select * into before from strata.metrics x where x.metric = put_metric.metric;
  if before.metric is null and to_regclass(format('%I.%I', schema_name, metric)) is not null
     and not exists (select from pg_trigger t where t.tgrelid = to_regclass(format('%I.%I', schema_name, metric)) and t.tgname = 'strata_version') then
    raise exception '%.% exists and is not a metric.', schema_name, metric using errcode = 'duplicate_table', hint = 'Choose another name, or drop the existing object.';
  elsif before.metric is null and to_regclass(live) is not null then
    raise exception '% exists, but the live view of the metric % needs that name.', live, metric using errcode = 'duplicate_table', hint = 'Choose another name, or drop the existing object.';
  elsif before.schema_name <> schema_name then
    raise exception '% is already a metric, in schema %.', metric, before.schema_name using errcode = 'duplicate_table', hint = 'Choose another name.';
  end if;

  if before.metric is null or before.query <> clean or to_regclass(query_view) is null then
    execute format('drop view if exists %s', query_view);
    -- Names without a schema are looked up where users keep their tables.
    perform set_config('search_path', 'production, analytics, public', true);
    -- In parentheses, so that it is one query and nothing else.
    execute format(E'create view %s as (\n%s\n)', query_view, clean);
    perform set_config('search_path', path, true);
    execute format('comment on view %s is %L', query_view, format('The query of the metric %s.', metric));
    if not exists (select from pg_attribute a where a.attrelid = query_view::regclass and a.attnum > 0) then
      raise exception 'The query of % has no columns.', metric using errcode = 'invalid_column_definition', hint = 'Write: select expression as name.';
    end if;
    select a.attname into odd from pg_attribute a where a.attrelid = query_view::regclass and a.attname = '?column?';
    if odd is not null then
      raise exception 'Every column of the query of % needs a name.', metric using errcode = 'invalid_column_definition', hint = 'Write: expression as name.';
    end if;
  end if;

  m.metric := metric;
  m.schema_name := schema_name;
  m.query := clean;
  m.partition_column := partition_column;
  m.analysis := strata.analyse(query_view::regclass, partition_column);
  m.mode := m.analysis ->> 'mode';
  m.why := m.analysis ->> 'why';
  m.always := coalesce((m.analysis ->> 'always')::boolean, false);
  m.key_columns := array(select jsonb_array_elements_text(m.analysis -> 'key'));
  if partition_column is not null and not exists (select from pg_attribute a where a.attrelid = query_view::regclass and a.attname = partition_column) then
    raise exception 'The query has no column % to partition by; it has: %.', quote_literal(partition_column),
      (select string_agg(a.attname, ', ' order by a.attnum) from pg_attribute a where a.attrelid = query_view::regclass and a.attnum > 0)
      using errcode = 'undefined_column';
  end if;
  m.default_rights := coalesce(before.default_rights, to_regclass(strata.metric_table(m)) is null or not strata.has_grants(strata.metric_table(m)::regclass));

  if before.metric is null then
    insert into strata.metrics (metric, schema_name, query, partition_column, key_columns, mode, why, always, default_rights, analysis)
    values (m.metric, m.schema_name, m.query, m.partition_column, m.key_columns, m.mode, m.why, m.always, m.default_rights, m.analysis);
  elsif (before.query, before.partition_column, before.analysis) is distinct from (m.query, m.partition_column, m.analysis) then
    update strata.metrics x
    set query = m.query, partition_column = m.partition_column, key_columns = m.key_columns, mode = m.mode, why = m.why, always = m.always,
        analysis = m.analysis, rebuild = true
    where x.metric = m.metric;
  end if;
  if before.metric is null or (before.query, before.partition_column, before.analysis) is distinct from (m.query, m.partition_column, m.analysis)
     or to_regclass(strata.metric_table(m)) is null or to_regclass(live) is null then
    grants := strata.grants_of(to_regclass(live));
    if to_regclass(live) is null and m.default_rights and schema_name = 'analytics' then
      grants := array[format('grant select on %s to strata_reader', live)];
    end if;
    if is_new and m.default_rights and schema_name = 'analytics' then
      grants := grants || format('grant select on %s to strata_reader', strata.metric_table(m));
    end if;
    begin
      perform strata.make_metric_table(m);
    exception when dependent_objects_still_exist or feature_not_supported then
      get stacked diagnostics odd = pg_exception_detail;
      raise exception 'The columns of % cannot change while other views read them: %', strata.metric_table(m), coalesce(nullif(odd, ''), sqlerrm)
        using errcode = 'dependent_objects_still_exist', hint = 'Drop those views first and create them again afterwards; adding columns needs neither.';
    end;
    update strata.metrics x set rebuild = true where x.metric = m.metric and not x.rebuild;
    perform strata.make_live_view(m);
    perform strata.copy_comments(m);
    for odd in select g from unnest(grants) g loop
      begin
        execute odd;
      exception when undefined_column then null;  -- The grant was on a column that no longer exists.
      end;
    end loop;
    for relation in
      select s ->> 'relation' from jsonb_array_elements(m.analysis -> 'sources') s
      union select s ->> 'relation' from jsonb_array_elements(coalesce(before.analysis, '{}') -> 'sources') s
    loop
      if to_regclass(relation) is not null then
        perform strata.watch(relation::regclass);
      end if;
    end loop;
    perform strata.order_metrics();
  end if;
end
$$;

comment on function strata.put_metric(text, text, text, text) is 'Declares a metric in a schema, or changes it.';

create or replace function strata.add_metric(metric text, query text, partition text default null)
returns void
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  select strata.put_metric('analytics', metric, query, partition);
end;

comment on function strata.add_metric(text, text, text) is
  'Declares a metric: stores the result of a query in analytics.<metric> as of the last refresh; analytics.<metric>_live is always exact. Calling it again with another query changes the metric.';

create or replace function strata.remove_metric(metric text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  m strata.metrics;
  relation text;
begin
  delete from strata.metrics x where x.metric = remove_metric.metric and x.schema_name = 'analytics' returning * into m;
  if m.metric is null then
    raise exception 'There is no metric %; there are: %.', coalesce(quote_literal(remove_metric.metric), 'null'),
      coalesce((select string_agg(x.metric, ', ' order by x.metric) from strata.metrics x where x.schema_name = 'analytics'), 'none')
      using errcode = 'undefined_object';
  end if;
  execute format('drop view if exists %I.%I', m.schema_name, m.metric || '_live');
  execute format('drop view if exists %s', strata.metric_query(m.metric));
  for relation in select s ->> 'relation' from jsonb_array_elements(m.analysis -> 'sources') s loop
    if to_regclass(relation) is not null then
      perform strata.watch(relation::regclass);
    end if;
  end loop;
  execute format('drop trigger if exists strata_version on %s', strata.metric_table(m));
end
$$;

comment on function strata.remove_metric(text) is 'Removes a metric and its live view; the table with its last result stays.';

-- For tests and doctor: computes everything, so it is as slow as the query.
create or replace function strata.count_differences(metric text)
returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  m strata.metrics;
  columns text;
  differences bigint;
begin
  select * into m from strata.metrics x where x.metric = count_differences.metric;
  if m.metric is null then
    raise exception 'There is no metric %; there are: %.', coalesce(quote_literal(count_differences.metric), 'null'),
      coalesce((select string_agg(x.metric, ', ' order by x.metric) from strata.metrics x), 'none')
      using errcode = 'undefined_object';
  end if;
  select string_agg(case when strata.has_equality(a.atttypid) then quote_ident(a.attname) else quote_ident(a.attname) || '::text' end, ', ') into columns
  from pg_attribute a where a.attrelid = strata.metric_table(m)::regclass and a.attnum > 0 and not a.attisdropped;
  execute format($sql$
    with truth as materialized (select %1$s from %2$s), live as materialized (select %1$s from %3$I.%4$I)
    select count(*) from ((table truth except all table live) union all (table live except all table truth)) d
  $sql$, columns, strata.metric_query(m.metric), m.schema_name, m.metric || '_live')
  into differences;
  return differences;
end
$$;

comment on function strata.count_differences(text) is 'Number of rows by which the live view of a metric differs from its query; 0 if it is exact.';
