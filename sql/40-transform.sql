-- ======================================================================================================
-- Transform: staging to production, for any dataset
--
-- Each call of strata.transform_batch takes the next rows below the window's end, judges them, writes the valid
-- ones to production, puts the others into quarantine and moves the watermark. All of that is one transaction, so
-- a crash at any point leaves each row either fully processed or untouched.
--
-- The statements are made from the catalogue (strata.merge_statements). Some faults show only on writing: a
-- trigger that raises, an exclusion constraint. They must not cost good rows, so the rows are divided until the
-- bad one is alone.
-- ======================================================================================================

-- ------------------------------------------------------------------------------------------------------
-- The window
-- ------------------------------------------------------------------------------------------------------

-- ingest_xid and ingest_seq are a row's place in the order of arrival. A transaction may commit long after it
-- drew its numbers, so only rows below the oldest running transaction are final. A watermark on the highest number
-- or ingestion time would skip rows that commit late. Transactions of other databases are ignored: they cannot
-- write here and may last for hours. Autovacuum is ignored too.
create or replace function strata.window_end()
returns xid8
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  snapshot pg_snapshot;
  upper_xid xid8;
  vanished boolean;
begin
  -- A transaction that ended between the two reads looks like one of another database: read again.
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
  return upper_xid;
end
$$;

comment on function strata.window_end() is 'Transaction id below which no new row can appear. A transform that starts now stops there.';

-- Counts the records beyond the watermark; with upper_xid, only those below it.
create or replace function strata.rows_behind(dataset text, upper_xid xid8 default null, out row_count bigint, out since timestamp)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  raw regclass := strata.raw_table(dataset);
begin
  if raw is null then
    row_count := 0;
    return;
  end if;
  execute format($sql$
    select count(*), min(r.ingested_at) from %s r, strata.datasets d
    where d.dataset = $1 and (r.ingest_xid, r.ingest_seq) > (d.xid, d.seq) and ($2 is null or r.ingest_xid < $2)
  $sql$, raw)
  into row_count, since using dataset, upper_xid;
end
$$;

comment on function strata.rows_behind(text, xid8) is 'Number of raw rows of a dataset that have not been transformed, and the ingestion time (UTC) of the oldest; null if there are none.';

-- Fixes the bounds of a run: datasets without a raw or a production table are left out, parents come first.
create or replace function strata.transform_window(out upper_xid xid8, out datasets jsonb)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform strata.order_datasets();
  upper_xid := strata.window_end();
  select coalesce(jsonb_agg(jsonb_build_object('dataset', d.dataset, 'rows', b.row_count) order by d.place), '[]') into datasets
  from strata.datasets d cross join lateral strata.rows_behind(d.dataset, upper_xid) b
  where strata.raw_table(d.dataset) is not null and strata.production_table(d.dataset) is not null;
end
$$;

comment on function strata.transform_window() is 'Where a transform that starts now stops, and the number of rows of each dataset before that; parents first.';

-- ------------------------------------------------------------------------------------------------------
-- A restored database
-- ------------------------------------------------------------------------------------------------------

create or replace function strata.first_unused_xid()
returns xid8
language sql volatile set search_path = pg_catalog, pg_temp
return greatest(pg_snapshot_xmax(pg_current_snapshot()), (pg_current_xact_id()::text::bigint + 1)::text::xid8);

comment on function strata.first_unused_xid() is 'A transaction id above that of every row now visible, unless the row comes from another cluster.';

create or replace function strata.highest_xid()
returns xid8
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  highest xid8 := (select d.xid from strata.datasets d order by d.xid desc limit 1);
  found xid8;
  raw regclass;
begin
  for raw in select strata.raw_table(d.dataset) from strata.datasets d where strata.raw_table(d.dataset) is not null loop
    execute format('select ingest_xid from %s order by ingest_xid desc limit 1', raw) into found;
    if found is not null and (highest is null or found > highest) then
      highest := found;
    end if;
  end loop;
  return highest;
end
$$;

comment on function strata.highest_xid() is 'The highest transaction id in staging and the watermarks; null if there is none.';

-- A dump restored into a younger cluster brings transaction ids that this cluster has yet to reach. The window would
-- exclude the restored rows, and the watermark would hide newer ones. Rows below the watermark stay taken; the others
-- are read again, which changes nothing if production already has them.
create or replace function strata.renumber_restored()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  highest xid8 := strata.highest_xid();
  first_unused xid8;
  mark strata.datasets;
begin
  -- highest is read before first_unused, so a row that commits in between cannot look like one of another cluster.
  first_unused := strata.first_unused_xid();
  if highest is null or highest < first_unused then
    return false;
  end if;
  -- The locks keep out new rows, which would get the number of restored ones.
  for mark in select * from strata.datasets d where strata.raw_table(d.dataset) is not null order by d.dataset loop
    execute format('lock table %s in share row exclusive mode', strata.raw_table(mark.dataset));
  end loop;
  first_unused := strata.first_unused_xid();
  for mark in select * from strata.datasets d where strata.raw_table(d.dataset) is not null order by d.dataset for update loop
    execute format($sql$
      update %s
      set ingest_xid = case when ingest_xid >= $1 and (ingest_xid, ingest_seq) <= ($2, $3) then '3' else pg_current_xact_id() end
    $sql$, strata.raw_table(mark.dataset))
    using first_unused, mark.xid, mark.seq;
    update strata.datasets d set xid = '3', seq = 9223372036854775807 where d.dataset = mark.dataset;
  end loop;
  -- Snapshots get their number after the rows, as they come after them in the order of arrival.
  update strata.snapshots s set ingest_xid = pg_current_xact_id() where s.taken_at is null;
  update strata.runs r set held_from = '3' where r.held_from is not null;
  return true;
end
$$;

comment on function strata.renumber_restored() is 'Repairs the order of arrival after a restore into a younger cluster; returns whether that was necessary.';

-- ------------------------------------------------------------------------------------------------------
-- Values
-- ------------------------------------------------------------------------------------------------------

-- Used only where no condition can predict whether a cast fails: domains, enums, text to another type.
create or replace function strata.cast_fault(value text, type text, column_name text)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  broken text;
begin
  if value is not null then
    execute format('select $1::%s', type) using value;
  end if;
  return null;
exception when others then
  get stacked diagnostics broken = constraint_name;
  return coalesce(nullif(broken, ''), column_name || case sqlstate when '22001' then '_too_long' when '22003' then '_out_of_range' else '_invalid' end);
end
$$;

comment on function strata.cast_fault(text, text, text) is 'Why a value cannot be cast to a type: the domain''s constraint, or <column>_too_long, <column>_out_of_range, <column>_invalid; null if it can.';

-- A sequence does not notice ids that are written explicitly, and the next drawn id would collide. nextval() can never
-- move a sequence back while others draw from it; setval() can, so it is used only for gaps above 10000.
create or replace function strata.advance_sequence(sequence regclass, id bigint)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  s pg_sequence := (select q from pg_sequence q where q.seqrelid = sequence);
  last bigint := coalesce(pg_sequence_last_value(sequence), s.seqstart - s.seqincrement);
  target bigint := least(id, s.seqmax);
begin
  if id is null or target <= last or s.seqincrement < 0 then
    return;
  end if;
  if target - last > 10000 then
    perform setval(sequence, target);
  else
    perform count(nextval(sequence)) from generate_series(last + s.seqincrement, target, s.seqincrement);
  end if;
end
$$;

comment on function strata.advance_sequence(regclass, bigint) is 'Moves a sequence up to an id that was written explicitly.';

-- Extends the calendar to every day of the data; the caller leaves out implausible dates.
create or replace function strata.cover_dates(first_date date, last_date date)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  first_day date;
  last_day date;
begin
  select min(full_date), max(full_date) into first_day, last_day from production.dim_date;
  if first_day is null then
    perform production.extend_dim_date(date_trunc('year', first_date)::date, (date_trunc('year', last_date) + interval '1 year - 1 day')::date);
    return;
  end if;
  if first_date < first_day then
    perform production.extend_dim_date(date_trunc('year', first_date)::date, first_day);
  end if;
  if last_date > last_day then
    perform production.extend_dim_date(last_day, (date_trunc('year', last_date) + interval '1 year - 1 day')::date);
  end if;
end
$$;

comment on function strata.cover_dates(date, date) is 'Extends dim_date to the full years of the given dates.';

-- ------------------------------------------------------------------------------------------------------
-- The statements of a dataset
-- ------------------------------------------------------------------------------------------------------

do $$
begin
  if to_regtype('strata.merge_statements') is null then
    create type strata.merge_statements as (
      judge text,               -- creates the temporary table strata_batch: the rows, cast, with their reasons
      lock_parents text[],      -- lock the parents of valid rows, so that they cannot be deleted
      judge_self text[],        -- add reasons that depend on other rows: missing parents in the same dataset, other owners
      reject text,              -- copies rows that have reasons into quarantine
      contested text,           -- finds rows that contest a unique value; null without unique indexes
      taken text,               -- reasons of one row whose unique values other rows hold; null likewise
      merge text,               -- writes the valid rows of a range
      superseded text,          -- counts rows of a range that later rows of the range replaced
      probes text[],            -- write the new rows of a range, then the others, in order; each notes its row first
      sequences text,           -- moves the sequences up, or null
      dates text                -- extends the calendar, or null
    );
  end if;
end
$$;

comment on type strata.merge_statements is 'Statements that move rows of one dataset from staging into production.';

drop function if exists strata.merge_statements(text);
create or replace function strata.merge_statements(dataset text, is_replay boolean default false)
returns strata.merge_statements
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  statements strata.merge_statements;
  production regclass := strata.production_table(dataset);
  raw regclass := strata.raw_table(dataset);
  raw_id text := strata.raw_id_column(dataset);
  source regclass := coalesce(strata.mapping_view(dataset), raw);
  source_window text;
  source_system text := 'w.source_system::text';
  has_reasons boolean;
  is_owned boolean := (select d.owned_by_source from strata.datasets d where d.dataset = merge_statements.dataset);
  keys text[];
  key_names text[] := strata.key_columns(production);
  drawn text[] := '{}';       -- key columns that PostgreSQL fills when the record has no value
  sequences text[] := '{}';
  dates text[] := '{}';
  col record;
  fk record;
  uniq record;
  casts text[] := '{}';       -- expression of each column, cast to its type
  flags text[] := '{}';       -- expressions that are not null where a cast fails
  generated text[] := '{}';
  reasons text[] := '{}';
  written text[] := '{}';     -- columns that a record fills
  inserted text[] := '{}';
  updated text[] := '{}';
  compared_new text[] := '{}';
  compared_old text[] := '{}';
  spelled text[] := '{}';     -- columns that are lost or changed when written as JSON, so kept as text
  fk_names text[] := '{}';
  waiting text[] := '{}';
  parts text[];
  taken text[] := '{}';
  contested text[] := '{}';
  versions text[] := '{}';    -- expressions that differ between two versions of a row
  same text;
  one_row text;               -- expressions that are equal for records of the same production row
  compared text;              -- CTE: rows of a range beside their production rows
  assigned text;
  in_range text;
  differs text;
begin
  has_reasons := source <> raw
    and exists (select from pg_attribute a where a.attrelid = source and a.attname = 'reasons' and not a.attisdropped)
    and not exists (select from strata.table_columns(production) c where c.name = 'reasons');
  source_window := format($sql$
    (select * from %s w where (w.ingest_xid, w.ingest_seq) > ($1, $2) and (w.ingest_xid, w.ingest_seq) <= ($3, $4)
     order by w.ingest_xid, w.ingest_seq limit $5) w$sql$, source);
  -- A mapping view may lack source_system; the raw table has it.
  if not exists (select from pg_attribute a where a.attrelid = source and a.attname = 'source_system' and not a.attisdropped) then
    source_system := 'r.source_system::text';
    source_window := source_window || format($sql$
      left join (select r.ingest_xid, r.ingest_seq, r.source_system from %s r
                 where (r.ingest_xid, r.ingest_seq) > ($1, $2) and (r.ingest_xid, r.ingest_seq) <= ($3, $4)) r using (ingest_xid, ingest_seq)$sql$, raw);
  end if;
  keys := array(select quote_ident(k) from unnest(key_names) k);

  for col in
    select c.*, s.atttypid as source_type, s.atttypmod as source_typmod, s.attname is not null as is_given, quote_ident(c.name) as q,
           format_type(c.base_type, c.typmod) as base_name,
           (select t.typcategory from pg_type t where t.oid = s.atttypid) as source_category,
           (select t.typcategory from pg_type t where t.oid = c.base_type) as base_category,
           coalesce((select format(' collate %I.%I', n.nspname, l.collname)
                     from pg_attribute a join pg_collation l on l.oid = a.attcollation join pg_namespace n on n.oid = l.collnamespace
                     where a.attrelid = production and a.attnum = c.attnum and l.collname <> 'default'), '') as collation
    from strata.table_columns(production) c
    left join pg_attribute s on s.attrelid = source and s.attname = c.name and s.attnum > 0 and not s.attisdropped
      and not c.is_identity_only
      -- The id of a raw row is not a field of the dataset.
      and not (source = raw and c.name = raw_id)
    where c.name <> all (strata.provenance_columns())
    order by c.attnum
  loop
    declare
      given text := 'w.' || col.q;
      value text;
      fits text;
      broken text;
      -- numeric's typmod holds the precision above a signed scale of eleven bits.
      scale integer := ((((col.typmod - 4) & 2047) # 1024) - 1024);
      precision_of integer := ((col.typmod - 4) >> 16) & 65535;
    begin
      -- Cast to the domain's base type, which does not check, then evaluate the domain's constraints one by one.
      reasons := reasons || array(
        with recursive domains (oid) as (
          select col.type_id
          union all
          select t.typbasetype from domains d join pg_type t on t.oid = d.oid where t.typtype = 'd'
        )
        select format('case when (select (%s) from (select j.%s) d (value)) is false then %L end', pg_get_expr(k.conbin, 0), col.q, k.conname)
        from domains d join pg_constraint k on k.contypid = d.oid and k.contype = 'c' order by k.conname
      );
      if col.type_id = 'date'::regtype then
        dates := dates || format('case when b.%1$I between ''1900-01-01'' and ''2199-12-31'' then b.%1$I end', col.name);
      end if;
      if col.is_generated then
        generated := generated || format('(%s)::%s%s as %s', col.expression, col.base_name, col.collation, col.q);
        continue;
      end if;
      if not col.is_given then
        -- The column may have a default, or a value in production, so PostgreSQL checks NOT NULL.
        value := format('null::%s', col.base_name);
      elsif (col.source_type, col.source_typmod) = (col.base_type, col.typmod) then
        value := given;
      elsif (col.source_category = 'S' and col.base_category <> 'S') or (col.typmod <> -1 and col.base_category = 'U')
            or (col.base_type in ('float4'::regtype, 'float8'::regtype) and col.source_category = 'N') then
        broken := format('strata.cast_fault((%s)::text, %L, %L)', given, col.base_name, col.name);
        value := format('(%s)::text::%s', given, col.base_name);
      else
        if col.base_type in ('varchar'::regtype, 'bpchar'::regtype) and col.typmod > 0 then
          fits := format('char_length(rtrim((%s)::text, '' '')) <= %s', given, col.typmod - 4);
          broken := format('case when not (%s) then %L end', fits, col.name || '_too_long');
        elsif col.base_type = 'numeric'::regtype and col.typmod > 0 then
          fits := format('abs(round((%s)::numeric, %s)) < 1e%s', given, scale, precision_of - scale);
          broken := format('case when not (%s) then %L end', fits, col.name || '_out_of_range');
        elsif col.base_type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) and col.source_category = 'N' then
          fits := format('round((%s)::numeric) between %s', given, case col.base_type
            when 'int2'::regtype then '-32768 and 32767' when 'int4'::regtype then '-2147483648 and 2147483647'
            else '-9223372036854775808 and 9223372036854775807' end);
          broken := format('case when not (%s) then %L end', fits, col.name || '_out_of_range');
        end if;
        value := format('(%s)::%s', given, col.base_name);
      end if;
      if broken is not null then
        flags := flags || format('%s as strata_fault_%s', broken, col.attnum);
        value := format('case when %s then %s end', coalesce(fits, broken || ' is null'), value);
        reasons := reasons || format('j.strata_fault_%s', col.attnum);
      end if;
      if col.is_given and col.is_constant then
        value := format('case when %s is null then (%s)::%s else %s end', given, col.default_sql, col.base_name, value);
      end if;
      casts := casts || format('(%s)%s as %s', value, col.collation, col.q);
      if col.not_null and (col.default_sql is null or (col.is_constant and col.is_given)) then
        reasons := reasons || format('case when j.%1$s is null %2$s then %3$L end', col.q,
          case when broken is not null then format('and j.strata_fault_%s is null', col.attnum) else '' end, col.name || '_missing');
      end if;

      if col.is_key and col.default_sql is not null and not col.is_constant then
        drawn := drawn || col.q;
      end if;
      if col.is_given and col.sequence is not null then
        sequences := sequences || format('strata.advance_sequence(%L, max(b.%s)::bigint)', col.sequence, col.q);
      end if;
      if col.is_given then
        written := written || col.q;
        inserted := inserted || case when col.default_sql is not null and not col.is_constant
          then format('coalesce(c.%s, %s)', col.q, col.default_sql) else 'c.' || col.q end;
        if not col.is_key then
          -- An update keeps the value of a computed default (a time, a drawn number): it dates from the row's creation.
          updated := updated || format('%s = %s', col.q, case when col.default_sql is not null and not col.is_constant
            then format('coalesce(c.%1$s, t.%1$s)', col.q) else 'c.' || col.q end);
          same := case when strata.has_equality(col.type_id) then '%s'
                       when col.base_type = 'public.geometry'::regtype then 'public.st_asewkb(%s)'
                       else '(%s)::text collate "C"' end;
          compared_new := compared_new || format(same, case when col.default_sql is not null and not col.is_constant
            then format('coalesce(l.%1$s, t.%1$s)', col.q) else 'l.' || col.q end);
          compared_old := compared_old || format(same, 't.' || col.q);
          versions := versions || format(same, 'b.' || col.q);
        end if;
      end if;
    end;
  end loop;

  -- CHECK constraints, as the catalogue spells them, on the row as production would hold it.
  for col in
    select k.conname, pg_get_expr(k.conbin, k.conrelid) as expression
    from pg_constraint k
    where k.oid in (select strata.enforced_constraints(production)) and k.contype = 'c'
      -- PostgreSQL checks those on the whole row or on system columns.
      and k.conbin::text !~ ':varattno (0|-)'
    order by k.conname
  loop
    reasons := reasons || format('case when (%s) is false then %L end', col.expression, col.conname);
  end loop;

  -- Foreign keys: parents are locked, then looked up. A parent in the same dataset may come in the same batch.
  for fk in
    select k.conname, k.confrelid::regclass as parent, k.confrelid = production as is_self,
           array(select a.attname::text from unnest(k.conkey) with ordinality c (n, i)
                 join pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.n order by c.i) as own,
           array(select a.attname::text from unnest(k.confkey) with ordinality c (n, i)
                 join pg_attribute a on a.attrelid = k.confrelid and a.attnum = c.n order by c.i) as theirs
    from pg_constraint k where k.oid in (select strata.enforced_constraints(production)) and k.contype = 'f' order by k.conname
  loop
    fk_names := fk_names || fk.conname::text;
    declare
      own text := (select string_agg(quote_ident(o), ', ') from unnest(fk.own) o);
      their_columns text := (select string_agg(format('p.%I', t), ', ') from unnest(fk.theirs) t);
      joined_b text := strata.columns_equal(fk.parent, fk.theirs, 'p', 'b', fk.own);
    begin
      statements.lock_parents := statements.lock_parents || format(
        'select from %s p where exists (select from pg_temp.strata_batch b where b.strata_reasons = ''{}'' and %s) order by %s for key share',
        fk.parent, joined_b, their_columns);
      if fk.is_self then
        statements.judge_self := statements.judge_self || format($sql$
          update pg_temp.strata_batch b set strata_reasons = b.strata_reasons || %1$L::text
          where num_nulls(%2$s) = 0 and not (%1$L = any (b.strata_reasons))
            and not exists (select from %3$s p where %4$s)
            and not exists (select from pg_temp.strata_batch p where p.strata_reasons = '{}' and %4$s)
        $sql$, fk.conname, own, fk.parent, joined_b);
      else
        reasons := reasons || format('case when num_nulls(%s) = 0 and not exists (select from %s p where %s) then %L end',
                                     own, fk.parent, strata.columns_equal(fk.parent, fk.theirs, 'p', 'j', fk.own), fk.conname);
      end if;
      waiting := waiting || format('case when %L = any (b.strata_reasons) then jsonb_build_object(%L, jsonb_build_object(%s)) end', fk.conname, fk.conname,
        (select string_agg(format('%L, b.%I::text', t.name, o.name), ', ')
         from unnest(fk.theirs) with ordinality t (name, i) join unnest(fk.own) with ordinality o (name, i) using (i)));
    end;
  end loop;
  -- A rejected deletion waits until no row refers to its row any more.
  for fk in select r.reason, r.waiting_key, r.theirs from strata.referrers(dataset) r where r.is_about_key loop
    fk_names := fk_names || fk.reason;
    waiting := waiting || format('case when %L = any (b.strata_reasons) then jsonb_build_object(%L, jsonb_build_object(%s)) end', fk.reason, fk.waiting_key,
      (select string_agg(format('%L, b.%I::text', t, t), ', ') from unnest(fk.theirs) t));
  end loop;
  if is_owned then
    statements.judge_self := statements.judge_self || strata.owned_statements(dataset);
  end if;

  -- offset 0 stops PostgreSQL from inlining the subquery, so each cast is computed once.
  statements.judge := format($sql$
    create temporary table strata_batch on commit drop as
    select j.*, array_remove(array[%1$s]::text[] %2$s, null) as strata_reasons
    from (
      select i.* %3$s from (
        select w.ingest_xid, w.ingest_seq, %6$s as strata_source, %4$s
        from %5$s
        offset 0
      ) i offset 0
    ) j
  $sql$, array_to_string(reasons, ', '),
    case when has_reasons then '|| case when j.strata_notes is null then ''{}''::text[] else array(select split_part(n, '': '', 1) from unnest(j.strata_notes) n) end' else '' end,
    coalesce(', ' || nullif(array_to_string(generated, ', '), ''), ''),
    array_to_string(casts || flags || case when has_reasons then '{w.reasons as strata_notes}'::text[]
                                           when is_owned then '{null::text[] as strata_notes}'::text[] else '{}'::text[] end, ', '), source_window, source_system);

  -- offset 0 makes PostgreSQL look up the rejected rows by index instead of scanning staging.
  spelled := array(
    select format('%L, r.%I::text', a.attname, a.attname) from pg_attribute a
    where a.attrelid = raw and a.attnum > 0 and not a.attisdropped and (a.atttypid in ('public.geometry'::regtype, 'public.geography'::regtype)
           or (a.atttypid <> 'jsonb'::regtype and exists (select from pg_cast c where c.castsource = a.atttypid and c.casttarget = 'json'::regtype)))
  );
  statements.reject := format($sql$
    insert into staging.quarantine as q (dataset, stage, reasons, detail, waiting, waiting_for, payload, raw_id, ingest_seq, source_system,
                                         source_name, source_line, row_key, operation, run_id)
    select %1$L, 'transform', b.strata_reasons, strata.describe(b.strata_reasons, r.payload, $2, %2$s), b.strata_reasons <@ %3$L::text[],
           case when b.strata_reasons <@ %3$L::text[] then %4$s end, r.payload, r.raw_id, b.ingest_seq, r.source_system,
           (select u.arguments ->> 'sourceName' from strata.runs u where u.run_id = r.ingest_run), r.ingest_line,
           nullif(concat_ws(', ', %8$s), ''), r.ingest_operation, $1
    from pg_temp.strata_batch b
    cross join lateral (
      select %5$s as payload, r.%6$I as raw_id, r.source_system, r.ingest_run, r.ingest_line, r.ingest_operation
      from %7$s r where (r.ingest_xid, r.ingest_seq) = (b.ingest_xid, b.ingest_seq) offset 0
    ) r
    where cardinality(b.strata_reasons) > 0 and b.ingest_seq between $3 and $4
    on conflict (raw_id) do update
    set stage = excluded.stage, reasons = excluded.reasons, detail = excluded.detail, waiting = excluded.waiting,
        waiting_for = excluded.waiting_for, payload = excluded.payload, source_format = null, ingest_seq = excluded.ingest_seq,
        row_key = excluded.row_key, run_id = excluded.run_id, attempts = q.attempts + 1, last_attempt_at = excluded.last_attempt_at, retried_at = null
  $sql$, dataset, case when has_reasons or is_owned then 'coalesce(b.strata_notes, ''{}'')' else '''{}''' end, fk_names,
    coalesce(nullif(array_to_string(array(select format('coalesce(%s, ''{}'')', x) from unnest(waiting) x), ' || '), ''), 'null::jsonb'),
    format('to_jsonb(r) - %L::text[]', array(select a from unnest(strata.arrival_columns()) a where a <> 'id' or raw_id = 'id'))
      || case when spelled <> '{}' then format(' || jsonb_build_object(%s)', array_to_string(spelled, ', ')) else '' end,
    raw_id, raw, (select string_agg(format('b.%I::text', k), ', ' order by i) from unnest(key_names) with ordinality x (k, i)));

  -- Unique values. A value is contested if several rows of the batch bring it or another production row holds it.
  -- Contested rows are written one by one in the order of arrival; all others are written at once.
  for uniq in
    select c.relname as name,
           array(select pg_get_indexdef(i.indexrelid, n, true) from generate_series(1, i.indnkeyatts) n) as expressions,
           array(select strata.equality(i.indclass[n - 1]) from generate_series(1, i.indnkeyatts) n) as operators,
           pg_get_expr(i.indpred, i.indrelid) as predicate, i.indnullsnotdistinct as nulls_equal
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = production and i.indisunique and not i.indisprimary and i.indislive order by c.relname
  loop
    declare
      values_of text := (select string_agg(format('(%s) as strata_u%s', e, i), ', ') from unnest(uniq.expressions) with ordinality x (e, i));
      names text := (select string_agg(format('strata_u%s', i), ', ') from generate_subscripts(uniq.expressions, 1) i);
      -- An "or" only where nulls are equal: an index serves plain equality.
      equal text := (select string_agg(format(case when uniq.nulls_equal
                       then '(o.strata_u%1$s %2$s m.strata_u%1$s or (o.strata_u%1$s is null and m.strata_u%1$s is null))'
                       else 'o.strata_u%1$s %2$s m.strata_u%1$s' end, i, operator), ' and ')
                     from unnest(uniq.operators) with ordinality x (operator, i));
      condition text := coalesce(uniq.predicate, 'true');
      mine text := format('select b.ingest_seq, %s, %s from pg_temp.strata_batch b where (%s)',
                          array_to_string(array(select 'b.' || k from unnest(keys) k), ', '), values_of, condition);
      others text := format('select %s, %s from %s where (%s)', array_to_string(keys, ', '), values_of, production, condition);
      is_same text := strata.columns_equal(production, key_names, 'o', 'm');
      key_o text := array_to_string(array(select 'o.' || k from unnest(keys) k), ', ');
      key_m text := array_to_string(array(select 'm.' || k from unnest(keys) k), ', ');
    begin
      taken := taken || format('case when exists (select from (%s and b.ingest_seq = $1) m join (%s) o on %s where (%s) is not true) then %L end',
                               mine, others, equal, is_same, uniq.name);
      contested := contested || format($sql$
        select m.ingest_seq, %7$s from (
          with mine as materialized (%1$s and b.strata_reasons = '{}'), disputed as (
            select %2$s from mine group by %2$s having count(*) > 1 and count(distinct (%3$s)) %9$s > 1
            union
            select %4$s from mine m join (%5$s) o on %6$s where (%8$s) is not true
          )
          select m.* from mine m join disputed o on %6$s
        ) m
        union all
        select null, %10$s from (
          with mine as materialized (%1$s and b.strata_reasons = '{}')
          select o.* from mine m join (%5$s) o on %6$s where (%8$s) is not true
        ) o
      $sql$, mine, names, array_to_string(keys, ', '), replace(names, 'strata_u', 'm.strata_u'), others, equal, key_m, is_same,
        case when drawn <> '{}' then format('+ count(*) filter (where num_nulls(%s) > 0)', array_to_string(drawn, ', ')) else '' end, key_o);
    end;
  end loop;
  if taken <> '{}' then
    -- A row of which production has a later version is not rejected but skipped.
    statements.taken := format($sql$
      select case when exists (select from %s p join pg_temp.strata_batch b on %s where b.ingest_seq = $1 and p.source_seq >= $1) then '{}'
                  else array_remove(array[%s]::text[], null) end
    $sql$, production, strata.columns_equal(production, key_names, 'p', 'b') || case when is_replay then ' and p.source_seq <> b.ingest_seq' else '' end,
      array_to_string(taken, ', '));
    -- All rows with the key of a contested row are contested too: one of them may give the value up.
    statements.contested := format($sql$
      with contested (strata_seq, %1$s) as materialized (%2$s)
      select coalesce(array_agg(b.ingest_seq), '{}') from pg_temp.strata_batch b
      where b.strata_reasons = '{}'
        and (b.ingest_seq in (select c.strata_seq from contested c) or exists (select from contested c where %3$s))
    $sql$, array_to_string(keys, ', '), array_to_string(contested, ' union all '), strata.columns_equal(production, key_names, 'c', 'b'));
  end if;

  one_row := array_to_string(array(select 'b.' || k from unnest(keys) k), ', ')
    -- Records without the key get a drawn one, so each is a row of its own.
    || case when drawn <> '{}' then format(', case when num_nulls(%s) > 0 then b.ingest_seq end', array_to_string(array(select 'b.' || d from unnest(drawn) d), ', ')) else '' end;
  in_range := 'b.strata_reasons = ''{}'' and b.ingest_seq between $1 and $2 and b.ingest_seq <> all ($3)';

  differs := case when compared_new = '{}' then 'false'
    else format('(%s) is distinct from (%s)', array_to_string(compared_old, ', '), array_to_string(compared_new, ', ')) end;
  -- offset 0 makes PostgreSQL look up production by key, whatever the table's size.
  compared := format($sql$
    with latest as (
      select distinct on (%1$s) b.*
      from pg_temp.strata_batch b
      where %2$s
      order by %1$s, b.ingest_seq desc
    ), compared as materialized (
      select l.*, t.strata_found is null as strata_is_new, %3$s as strata_changed, t.strata_source <> l.strata_source as strata_is_foreign
      from latest l
      left join lateral (select true as strata_found, p.* from %4$s p where %5$s offset 0) t on true
      where t.strata_found is null or t.source_seq is null or t.source_seq < l.ingest_seq %6$s
    )$sql$,
    one_row, in_range, differs, production, strata.columns_equal(production, key_names, 'p', 'l'),
    case when is_replay then format('or (t.source_seq = l.ingest_seq and %s)', differs) else '' end);
  assigned := coalesce(nullif(array_to_string(updated, ', '), '') || ',', '');
  statements.merge := format($sql$
    %1$s, inserted as (
      insert into %3$s (%4$s, source_seq, strata_source) overriding system value
      select %5$s, c.ingest_seq, c.strata_source from compared c where c.strata_is_new
      returning 1
    ), updated as (
      update %3$s t set %6$s source_seq = c.ingest_seq, strata_source = c.strata_source
      from compared c
      where not c.strata_is_new and %7$s and (t.source_seq is null or t.source_seq %8$s c.ingest_seq)
      returning c.strata_changed, c.strata_is_foreign
    )
    select i.amount + u.changed, u.changed, u.foreigners, (select count(*) from pg_temp.strata_batch b where %2$s) - i.amount - u.amount
    from (select count(*) as amount from inserted) i,
         (select count(*) as amount, count(*) filter (where strata_changed) as changed,
                 count(*) filter (where strata_changed and strata_is_foreign) as foreigners from updated) u
  $sql$,
    compared, in_range, production, array_to_string(written, ', '), array_to_string(inserted, ', '), assigned,
    strata.columns_equal(production, key_names, 't', 'c'), case when is_replay then '<=' else '<' end);
  statements.probes := array[
    format($sql$
      %1$s
      insert into %2$s (%3$s, source_seq, strata_source) overriding system value
      select %4$s, setval('pg_temp.strata_probed', c.ingest_seq), c.strata_source
      from (select * from compared c where c.strata_is_new order by c.ingest_seq offset 0) c
    $sql$, compared, production, array_to_string(written, ', '), array_to_string(inserted, ', ')),
    format($sql$
      %1$s
      update %2$s t set %3$s source_seq = setval('pg_temp.strata_probed', c.ingest_seq), strata_source = c.strata_source
      from (select * from compared c where not c.strata_is_new order by c.ingest_seq offset 0) c
      where %4$s and (t.source_seq is null or t.source_seq %5$s c.ingest_seq)
    $sql$, compared, production, assigned, strata.columns_equal(production, key_names, 't', 'c'), case when is_replay then '<=' else '<' end)
  ];
  -- The merge compared the last record of a key with production; this compares each other one with its successor.
  statements.superseded := format($sql$
    select count(*) as changed, count(*) filter (where s.strata_is_foreign) as foreigners
    from (
      select lag(1) over later is not null and %1$s as strata_changed, b.strata_source <> lag(b.strata_source) over later as strata_is_foreign
      from pg_temp.strata_batch b
      where %2$s
      window later as (partition by %3$s order by b.ingest_seq)
    ) s
    where s.strata_changed
  $sql$,
    case when versions = '{}' then 'false'
         else format('(%s) is distinct from (%s)', array_to_string(versions, ', '),
                     (select string_agg(format('lag(%s) over later', v), ', ' order by i) from unnest(versions) with ordinality x (v, i))) end,
    in_range, one_row);

  if sequences <> '{}' then
    statements.sequences := format('select %s from pg_temp.strata_batch b where b.strata_reasons = ''{}''', array_to_string(sequences, ', '));
  end if;
  if dates <> '{}' then
    statements.dates := format('select strata.cover_dates(min(least(%1$s)), max(greatest(%1$s))) from pg_temp.strata_batch b '
                               'where b.strata_reasons = ''{}'' having count(coalesce(%1$s)) > 0', array_to_string(dates, ', '));
  end if;
  return statements;
end
$$;

comment on function strata.merge_statements(text, boolean) is 'Makes the statements of a dataset from its columns, constraints, indexes and mapping view. In a replay, a record also replaces the row that it wrote before.';

-- ------------------------------------------------------------------------------------------------------
-- The batches
-- ------------------------------------------------------------------------------------------------------

-- Classes of errors that are not about a row but about the machine, the connection or the statement end the batch,
-- which is then retried. 42601 and XX000 are about rows: types and extensions raise them for values they cannot parse,
-- as to_tsquery and PostGIS do.
create or replace function strata.is_fault_of_row(state text)
returns boolean
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return state !~ '^(08|0A|25|26|28|3B|3D|40|42|53|55|57|58|F0|XX|ST)' or state in ('42601', 'XX000');

comment on function strata.is_fault_of_row(text) is 'Whether an error with this SQLSTATE is caused by a row.';

create or replace function strata.error_reason(state text, constraint_name text, column_name text default null)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return coalesce(nullif(constraint_name, ''), case
  when state = '23502' and column_name <> '' then column_name || '_missing'
  when state in ('P0001', 'P0004') then 'rejected_by_trigger'
  else 'rejected_by_database' end);

comment on function strata.error_reason(text, text, text) is 'Reason for a row that the database rejected: the constraint, <column>_missing, rejected_by_trigger or rejected_by_database.';

-- Finds likely culprits without one statement per row. A probe writes the rows one after the other, noting each
-- number in a sequence, whose value survives the rollback: on failure it names the row that was being written. That
-- row is only a suspect, since a check at the end of the statement, or another row, may be the cause. The settings
-- force nested loops, the only plan that updates rows in their order.
create or replace function strata.suspects(statements strata.merge_statements, from_seq bigint, to_seq bigint, contested bigint[])
returns bigint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off as $$
declare
  nowhere constant bigint := -9223372036854775808;
  probe text;
  suspects bigint[] := '{}';
  start bigint;
  place bigint;
begin
  if to_regclass('pg_temp.strata_probed') is null then
    create temporary sequence strata_probed minvalue -9223372036854775808;
  end if;
  foreach probe in array statements.probes loop
    start := from_seq;
    while start <= to_seq loop
      perform setval('pg_temp.strata_probed', nowhere);
      begin
        execute probe using start, to_seq, contested || suspects;
        raise exception using errcode = 'ST002';
      exception
        when sqlstate 'ST002' then
          exit;
        when others or assert_failure then
          if not strata.is_fault_of_row(sqlstate) then
            raise;
          end if;
          select p.last_value into place from pg_temp.strata_probed p;
          exit when place = nowhere;
          suspects := suspects || place;
          start := place + 1;
      end;
    end loop;
  end loop;
  return array(select distinct s from unnest(suspects) s order by s);
end
$$;

comment on function strata.suspects(strata.merge_statements, bigint, bigint, bigint[]) is
  'Rows of a range at which writing them fails. They need not be at fault, and others may be.';

-- Writes the rows of strata_batch in a range at once; on failure part by part, down to single rows in the order of
-- arrival. A failed range is divided by four: by two takes more rounds over all rows, by many takes more statements
-- for few rows. In a small range, strata.suspects finds likely culprits first; the other rows are written together,
-- and the suspects after them.
create or replace function strata.merge_range(
  run_id bigint, dataset text, statements strata.merge_statements, words jsonb, from_seq bigint, to_seq bigint, contested bigint[],
  is_probed boolean default false, out rows_written bigint, out rows_rejected bigint, out rows_replaced bigint, out rows_replaced_from_other_source bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  -- Largest range in rows that is probed. Higher: each probe reads more rows than it saves. Lower: most probes find
  -- nothing.
  probed_rows constant bigint := 400;
  state text;
  problem text;
  broken text;
  broken_column text;
  reason text;
  firsts bigint[];
  lasts bigint[];
  size bigint;
  not_written bigint;
  superseded record;
  suspects bigint[];
  part record;
begin
  rows_rejected := 0;
  begin
    execute statements.merge into rows_written, rows_replaced, rows_replaced_from_other_source, not_written using from_seq, to_seq, contested;
    if not_written > 0 then
      execute statements.superseded into superseded using from_seq, to_seq, contested;
      rows_replaced := rows_replaced + superseded.changed;
      rows_replaced_from_other_source := rows_replaced_from_other_source + superseded.foreigners;
    end if;
    return;
  exception when others or assert_failure then
    get stacked diagnostics state = returned_sqlstate, problem = message_text, broken = constraint_name, broken_column = column_name;
    if not strata.is_fault_of_row(state) then
      raise;
    end if;
  end;
  rows_written := 0;
  rows_replaced := 0;
  rows_replaced_from_other_source := 0;
  if to_regclass('pg_temp.strata_batch_seq') is null then
    create index strata_batch_seq on pg_temp.strata_batch (ingest_seq);
  end if;
  if from_seq = to_seq then
    firsts := array[from_seq];
    lasts := firsts;
  else
    select array_agg(p.first order by p.first), array_agg(p.last order by p.first), sum(p.size) into firsts, lasts, size
    from (
      select min(n.ingest_seq) as first, max(n.ingest_seq) as last, count(*) as size
      from (
        select d.ingest_seq, ntile(4) over (order by d.ingest_seq) as part
        from (
          select distinct b.ingest_seq from pg_temp.strata_batch b
          where b.strata_reasons = '{}' and b.ingest_seq between from_seq and to_seq and b.ingest_seq <> all (contested)
        ) d
      ) n
      group by n.part
    ) p;
  end if;
  if firsts is null then
    -- No row is left, so a statement trigger must have raised: nothing to reject.
    return;
  elsif firsts[1] = lasts[cardinality(lasts)] then
    reason := strata.error_reason(state, broken, broken_column);
    update pg_temp.strata_batch b set strata_reasons = array[reason]
    where b.strata_reasons = '{}' and b.ingest_seq between from_seq and to_seq and b.ingest_seq <> all (contested);
    -- PostgreSQL's message, after the constraint's description if it has one.
    execute statements.reject using run_id, words || jsonb_build_object(reason, jsonb_build_object(
      'words', concat_ws(' ', words #>> array[broken, 'words'], problem), 'columns', coalesce(words #> array[broken, 'columns'], '[]'))), from_seq, to_seq;
    rows_rejected := 1;
    return;
  end if;
  if size <= probed_rows and not is_probed then
    suspects := strata.suspects(statements, from_seq, to_seq, contested);
  end if;
  for part in
    select from_seq as first, to_seq as last, contested || suspects as excluded, true as is_probed where suspects <> '{}'
    union all
    select s, s, contested, true from unnest(suspects) s
    union all
    select f, l, contested, merge_range.is_probed from unnest(firsts, lasts) u (f, l) where coalesce(suspects, '{}') = '{}'
  loop
    select merge_range.rows_written + m.rows_written, merge_range.rows_rejected + m.rows_rejected, merge_range.rows_replaced + m.rows_replaced,
           merge_range.rows_replaced_from_other_source + m.rows_replaced_from_other_source
    into rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source
    from strata.merge_range(run_id, dataset, statements, words, part.first, part.last, part.excluded, part.is_probed) m;
  end loop;
end
$$;

comment on function strata.merge_range(bigint, text, strata.merge_statements, jsonb, bigint, bigint, bigint[], boolean) is
  'Writes the valid rows of a range into production. A row that the database rejects goes to quarantine without affecting others.';

-- random_page_cost favours index lookups of parents and keys. JIT would compile these statements anew for each batch.
create or replace function strata.merge_window(
  run_id bigint, dataset text, statements strata.merge_statements, words jsonb,
  from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer, operation text,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint,
  out rows_replaced bigint, out rows_replaced_from_other_source bigint, out rows_deleted bigint
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set random_page_cost = 1.1 set jit = off as $$
#variable_conflict use_column
declare
  statement text;
  marked bigint;
  amount bigint;
  contested bigint[] := '{}';
  row_seq bigint;
  row_reasons text[];
begin
  execute statements.judge using from_xid, from_seq, to_xid, to_seq, 2 * batch_size;
  get diagnostics rows_read = row_count;
  if rows_read = 2 * batch_size then
    raise exception 'The mapping view staging.% returns % or more rows for one record; check its joins.', dataset, rows_read using errcode = 'cardinality_violation';
  end if;
  rows_deleted := 0;
  if operation = 'delete' then
    rows_written := 0;
    rows_replaced := 0;
    rows_replaced_from_other_source := 0;
    perform strata.judge_deletions(dataset, from_xid, from_seq, to_xid, to_seq);
    execute statements.reject using run_id, words || jsonb_build_object('left_out_by_mapping', jsonb_build_object('columns', '[]'::jsonb,
      'words', 'The mapping view leaves the record out, so the key of the row to delete is not known.')), 0::bigint, 9223372036854775807;
    get diagnostics rows_rejected = row_count;
    rows_deleted := strata.delete_batch(dataset);
    drop table pg_temp.strata_batch;
    return;
  end if;
  perform strata.leave_out_outdated(dataset);
  -- Rejecting a parent rejects its children, which may be parents themselves: repeat until nothing changes.
  loop
    marked := 0;
    foreach statement in array coalesce(statements.judge_self, '{}') loop
      execute statement;
      get diagnostics amount = row_count;
      marked := marked + amount;
    end loop;
    exit when marked = 0;
  end loop;
  execute statements.reject using run_id, words, 0::bigint, 9223372036854775807;
  get diagnostics rows_rejected = row_count;

  foreach statement in array coalesce(statements.lock_parents, '{}') loop
    execute statement;
  end loop;
  -- Sequences move up before a key is drawn that a record of the batch brings explicitly.
  if statements.sequences is not null then
    execute statements.sequences;
  end if;

  if statements.contested is not null then
    execute statements.contested into contested;
  end if;
  select m.rows_written, merge_window.rows_rejected + m.rows_rejected, m.rows_replaced, m.rows_replaced_from_other_source
  into rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source
  from strata.merge_range(run_id, dataset, statements, words, 0, 9223372036854775807, contested) m;

  if contested <> '{}' then
    if to_regclass('pg_temp.strata_batch_seq') is null then
      create index strata_batch_seq on pg_temp.strata_batch (ingest_seq);
    end if;
    for row_seq in select c from unnest(contested) c order by c loop
      execute statements.taken into row_reasons using row_seq;
      if row_reasons <> '{}' then
        update pg_temp.strata_batch b set strata_reasons = row_reasons where b.ingest_seq = row_seq;
        execute statements.reject using run_id, words, row_seq, row_seq;
        rows_rejected := rows_rejected + 1;
      else
        select merge_window.rows_written + m.rows_written, merge_window.rows_rejected + m.rows_rejected, merge_window.rows_replaced + m.rows_replaced,
               merge_window.rows_replaced_from_other_source + m.rows_replaced_from_other_source
        into rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source
        from strata.merge_range(run_id, dataset, statements, words, row_seq, row_seq, '{}') m;
      end if;
    end loop;
  end if;
  if statements.dates is not null then
    execute statements.dates;
  end if;
  drop table pg_temp.strata_batch;
  drop sequence if exists pg_temp.strata_probed;
end
$$;

comment on function strata.merge_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer, text) is
  'Transforms the rows between two places in the order of arrival, all of one operation.';

create or replace function strata.window_middle(dataset text, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, out row_count bigint, out xid xid8, out seq bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  execute format($sql$
    with places as (
      select ingest_xid, ingest_seq, row_number() over place as number, count(*) over () as row_count,
             (ingest_xid, ingest_seq) < (lead(ingest_xid) over place, lead(ingest_seq) over place) as divides
      from %s where (ingest_xid, ingest_seq) > ($1, $2) and (ingest_xid, ingest_seq) <= ($3, $4)
      window place as (order by ingest_xid, ingest_seq)
    )
    select row_count, case when divides then ingest_xid end, case when divides then ingest_seq end
    from places order by divides desc nulls last, abs(number - (row_count + 1) / 2), number limit 1
  $sql$, strata.raw_table(dataset))
  into row_count, xid, seq using from_xid, from_seq, to_xid, to_seq;
end
$$;

comment on function strata.window_middle(text, xid8, bigint, xid8, bigint) is 'Number of raw rows between two places, and the place that divides them best; null if all rows have the same place.';

-- If judging fails, as when a mapping view divides by zero, the window is halved until the bad row is alone.
create or replace function strata.take_window(
  run_id bigint, dataset text, statements strata.merge_statements, words jsonb,
  from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, batch_size integer, operation text,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint,
  out rows_replaced bigint, out rows_replaced_from_other_source bigint, out rows_deleted bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  state text;
  problem text;
  broken text;
  middle record;
  part record;
begin
  begin
    select * into rows_read, rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source, rows_deleted
    from strata.merge_window(run_id, dataset, statements, words, from_xid, from_seq, to_xid, to_seq, batch_size, operation);
    return;
  exception when others or assert_failure then
    get stacked diagnostics state = returned_sqlstate, problem = message_text, broken = constraint_name;
    if not strata.is_fault_of_row(state) then
      raise;
    end if;
  end;
  select * into middle from strata.window_middle(dataset, from_xid, from_seq, to_xid, to_seq);
  if middle.row_count > 1 and middle.xid is null then
    -- Only hand-written numbers can be equal, so no row can be singled out.
    raise exception '%', problem using errcode = state, detail = format('Several records of %s have the same ingest_xid and ingest_seq; each record needs a place of its own.', strata.raw_table(dataset));
  end if;
  if middle.row_count = 1 then
    execute format('create temporary table strata_batch on commit drop as select ingest_xid, ingest_seq, %s array[$5] as strata_reasons from %s '
                   'where (ingest_xid, ingest_seq) > ($1, $2) and (ingest_xid, ingest_seq) <= ($3, $4)',
                   (select coalesce(string_agg(format('null::%s as %I,', c.type, c.name), ' '), '')
                    from strata.table_columns(strata.production_table(dataset)) c)
                   || case when statements.judge ~ ' as strata_notes' then 'null::text[] as strata_notes,' else '' end, strata.raw_table(dataset))
    using from_xid, from_seq, to_xid, to_seq, strata.error_reason(state, broken);
    execute statements.reject using run_id, words || jsonb_build_object(strata.error_reason(state, broken),
      jsonb_build_object('words', problem, 'columns', '[]'::jsonb)), 0::bigint, 9223372036854775807;
    drop table pg_temp.strata_batch;
    rows_read := 1;
    rows_written := 0;
    rows_rejected := 1;
    rows_replaced := 0;
    rows_replaced_from_other_source := 0;
    rows_deleted := 0;
    return;
  end if;
  rows_read := 0;
  rows_written := 0;
  rows_rejected := 0;
  rows_replaced := 0;
  rows_replaced_from_other_source := 0;
  rows_deleted := 0;
  for part in values (from_xid, from_seq, middle.xid, middle.seq), (middle.xid, middle.seq, to_xid, to_seq) loop
    select take_window.rows_read + m.rows_read, take_window.rows_written + m.rows_written, take_window.rows_rejected + m.rows_rejected,
           take_window.rows_replaced + m.rows_replaced, take_window.rows_replaced_from_other_source + m.rows_replaced_from_other_source,
           take_window.rows_deleted + m.rows_deleted
    into rows_read, rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source, rows_deleted
    from strata.take_window(run_id, dataset, statements, words, part.column1, part.column2, part.column3, part.column4, batch_size, operation) m;
  end loop;
end
$$;

comment on function strata.take_window(bigint, text, strata.merge_statements, jsonb, xid8, bigint, xid8, bigint, integer, text) is
  'Transforms the rows between two places. A row that cannot be judged goes to quarantine without affecting others.';

-- ------------------------------------------------------------------------------------------------------
-- Deletions, full snapshots, owners
--
-- A record with the ingest_operation "delete" names a row by its key. A full snapshot is a load like any other; when
-- all of it has landed, an entry in strata.snapshots marks its end in the order of arrival. When the transform reaches
-- that entry, it deletes the rows of the same source that no record of the snapshot has written.
--
-- The later one decides: a record older than a deletion of its row, or than a snapshot of its source, is skipped,
-- however late it is transformed.
-- ------------------------------------------------------------------------------------------------------

create table if not exists strata.snapshots (
  dataset text not null,
  ingest_seq bigint not null,
  ingest_xid xid8 not null default pg_current_xact_id(),
  source_system text not null,
  first_seq bigint not null,
  run_id bigint,
  taken_at timestamptz,
  taken_by bigint,
  problem text,
  constraint snapshots_pkey primary key (dataset, ingest_seq)
);

create index if not exists idx_snapshots_taken_by on strata.snapshots (taken_by) where problem is not null;

comment on table strata.snapshots is 'Full snapshots, each holding all rows of one source; one row per load.';
comment on column strata.snapshots.dataset is 'Dataset of the rows.';
comment on column strata.snapshots.ingest_seq is 'Place of the snapshot''s end in the order of arrival, after all of its rows.';
comment on column strata.snapshots.ingest_xid is 'Transaction that completed the snapshot.';
comment on column strata.snapshots.source_system is 'Source system whose rows the snapshot holds.';
comment on column strata.snapshots.first_seq is 'Sequence number below all rows of the snapshot: rows of the source written by older records are deleted.';
comment on column strata.snapshots.run_id is 'Ingest run that landed the snapshot.';
comment on column strata.snapshots.taken_at is 'When the transform processed the snapshot; null until then.';
comment on column strata.snapshots.taken_by is 'Transform run that processed the snapshot; null until then.';
comment on column strata.snapshots.problem is 'Why the snapshot deleted nothing; null if it was applied or still waits.';

create table if not exists strata.deletions (
  deletion_id bigint generated always as identity constraint deletions_pkey primary key,
  dataset text not null,
  ingest_seq bigint not null,
  key jsonb not null,
  deleted_at timestamptz not null default current_timestamp
);

create index if not exists idx_deletions_dataset on strata.deletions (dataset, ingest_seq);
create index if not exists idx_deletions_deleted_at on strata.deletions (deleted_at);

comment on table strata.deletions is 'Tombstones: keys that records deleted, kept against older records that arrive later; one row per key and record.';
comment on column strata.deletions.deletion_id is 'Identifier of the tombstone.';
comment on column strata.deletions.dataset is 'Dataset of the deleted row.';
comment on column strata.deletions.ingest_seq is 'Place of the deletion in the order of arrival.';
comment on column strata.deletions.key is 'Key of the row as an object: column name to value as text.';
comment on column strata.deletions.deleted_at is 'When the transform deleted the row.';

-- Returns the whole window as one part unless it holds deletions or a snapshot's end, which are rare.
create or replace function strata.window_parts(dataset text, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint, upper_xid xid8)
returns table (after_xid xid8, after_seq bigint, last_xid xid8, last_seq bigint, operation text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  is_mixed boolean;
begin
  execute format($sql$
    select exists (select from %s r where r.ingest_operation is not null and (r.ingest_xid, r.ingest_seq) > ($1, $2) and (r.ingest_xid, r.ingest_seq) <= ($3, $4))
  $sql$, strata.raw_table(dataset))
  into is_mixed using from_xid, from_seq, to_xid, to_seq;
  if not is_mixed and not exists (select from strata.snapshots s where s.dataset = window_parts.dataset and s.taken_at is null) then
    return query select from_xid, from_seq, to_xid, to_seq, null::text where to_xid is not null;
    return;
  end if;
  return query execute format($sql$
    with events as (
      select r.ingest_xid as xid, r.ingest_seq as seq, r.ingest_operation as operation
      from %s r where (r.ingest_xid, r.ingest_seq) > ($1, $2) and (r.ingest_xid, r.ingest_seq) <= ($3, $4)
      union all
      select s.ingest_xid, s.ingest_seq, 'replace' from strata.snapshots s
      where s.dataset = $6 and s.taken_at is null and ((s.ingest_xid, s.ingest_seq) <= ($3, $4) or s.ingest_xid < $5)
    ), numbered as (
      select e.*, sum(e.starts) over (order by e.xid, e.seq) as part
      from (
        select e.*, (e.operation = 'replace' or e.operation is distinct from lag(e.operation) over (order by e.xid, e.seq)
                     or lag(e.xid) over (order by e.xid, e.seq) is null)::integer as starts
        from events e
      ) e
    ), parts as (
      select distinct on (n.part) n.part, n.xid, n.seq, n.operation from numbered n order by n.part, n.xid desc, n.seq desc
    )
    select coalesce(lag(p.xid) over (order by p.part), $1), coalesce(lag(p.seq) over (order by p.part), $2), p.xid, p.seq, p.operation
    from parts p order by p.part
  $sql$, strata.raw_table(dataset))
  using from_xid, from_seq, to_xid, to_seq, upper_xid, dataset;
end
$$;

comment on function strata.window_parts(text, xid8, bigint, xid8, bigint, xid8) is
  'Divides a window into parts of one operation: null writes rows, delete deletes them, replace ends a snapshot. With upper_xid, includes snapshots that end after the window but below that transaction.';

create or replace function strata.owned_statements(dataset text)
returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  owned constant text := $sql$
    update pg_temp.strata_batch b
    set strata_reasons = b.strata_reasons || 'owned_by_another_source'::text,
        strata_notes = b.strata_notes || format('owned_by_another_source: The row belongs to the source %%s; the dataset is owned by source. Given: %%s.', p.strata_source, b.strata_source)
    from %s p
    where p.strata_source <> b.strata_source and not ('owned_by_another_source' = any (b.strata_reasons)) and %s
  $sql$;
begin
  return array[
    format(owned, production, strata.columns_equal(production, keys, 'p', 'b')),
    -- Among rows of the batch with the same key, the first owns the row that production lacks.
    format(owned, format('(select distinct on (%1$s) f.* from pg_temp.strata_batch f where f.strata_reasons = ''{}'' order by %1$s, f.ingest_seq)',
                         (select string_agg(format('f.%I', k), ', ' order by i) from unnest(keys) with ordinality x (k, i))),
           strata.columns_equal(production, keys, 'p', 'b'))];
end
$$;

comment on function strata.owned_statements(text) is 'Statements that reject rows of the batch that belong to another source.';

-- Applies the rule that the later one decides: a deletion or a snapshot may have been transformed before older rows.
create or replace function strata.leave_out_outdated(dataset text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  production regclass := strata.production_table(dataset);
  last_deletion bigint := (select max(d.ingest_seq) from strata.deletions d where d.dataset = leave_out_outdated.dataset);
  last_snapshot bigint := (select max(s.first_seq) from strata.snapshots s
                           where s.dataset = leave_out_outdated.dataset and s.taken_at is not null and s.problem is null);
  first_row bigint;
begin
  if last_deletion is null and last_snapshot is null then
    return;
  end if;
  select min(b.ingest_seq) into first_row from pg_temp.strata_batch b;
  if last_deletion > first_row then
    execute format($sql$
      delete from pg_temp.strata_batch b using strata.deletions d, jsonb_populate_record(null::%s, d.key) k
      where d.dataset = $1 and d.ingest_seq > $2 and d.ingest_seq > b.ingest_seq and %s
    $sql$, production, strata.columns_equal(production, strata.key_columns(production), 'k', 'b'))
    using dataset, first_row;
  end if;
  if last_snapshot > first_row then
    delete from pg_temp.strata_batch b using strata.snapshots s
    where s.dataset = leave_out_outdated.dataset and s.taken_at is not null and s.problem is null
      and s.source_system = b.strata_source and b.ingest_seq < s.first_seq;
  end if;
end
$$;

comment on function strata.leave_out_outdated(text) is 'Removes rows from the batch that are older than a deletion of their key or a snapshot of their source.';

-- References from rows that the same batch deletes do not count.
create or replace function strata.mark_referenced(dataset text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  referrer record;
  marked bigint;
  amount bigint;
begin
  -- The lock keeps others from referring to the rows from here on.
  execute format('select from %s t where exists (select from pg_temp.strata_batch b where b.strata_reasons = ''{}'' and %s) order by %s for update',
                 production, strata.columns_equal(production, keys, 't', 'b'), (select string_agg(format('t.%I', k), ', ' order by i) from unnest(keys) with ordinality x (k, i)));
  loop
    marked := 0;
    for referrer in select * from strata.referrers(dataset) loop
      execute format($sql$
        update pg_temp.strata_batch b set strata_reasons = b.strata_reasons || %1$L::text
        from %2$s t
        where not (%1$L = any (b.strata_reasons)) and %3$s and (t.source_seq is null or t.source_seq < b.ingest_seq)
          and exists (select from %4$s c where %5$s %6$s)
      $sql$, referrer.reason, production, strata.columns_equal(production, keys, 't', 'b'), referrer.child,
        strata.columns_equal(referrer.child, referrer.own, 'c', 't', referrer.theirs),
        case when referrer.child = production then format(
          'and not exists (select from pg_temp.strata_batch d where d.strata_reasons = ''{}'' and %s and (c.source_seq is null or c.source_seq < d.ingest_seq))',
          strata.columns_equal(production, keys, 'c', 'd')) else '' end);
      get diagnostics amount = row_count;
      marked := marked + amount;
    end loop;
    exit when marked = 0;
  end loop;
end
$$;

comment on function strata.mark_referenced(text) is 'Rejects the rows of the batch that cannot be deleted because other rows refer to them.';

-- Only the key of a deleting record counts, so faults of its other fields are ignored.
create or replace function strata.judge_deletions(dataset text, from_xid xid8, from_seq bigint, to_xid xid8, to_seq bigint)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  of_keys text[] := array(
    select k || s from unnest(keys) k, unnest('{_missing,_too_long,_out_of_range,_invalid}'::text[]) s
    union all
    select n.conname from strata.table_columns(production) c join pg_constraint n on n.contypid = c.type_id where c.is_key
  );
  statement text;
begin
  execute format($sql$
    insert into pg_temp.strata_batch (ingest_xid, ingest_seq, strata_source, strata_reasons)
    select r.ingest_xid, r.ingest_seq, r.source_system, array['left_out_by_mapping']
    from %s r
    where (r.ingest_xid, r.ingest_seq) > ($1, $2) and (r.ingest_xid, r.ingest_seq) <= ($3, $4)
      and not exists (select from pg_temp.strata_batch b where b.ingest_seq = r.ingest_seq)
  $sql$, strata.raw_table(dataset))
  using from_xid, from_seq, to_xid, to_seq;
  execute format($sql$
    update pg_temp.strata_batch b
    set strata_reasons = array(select r from unnest(b.strata_reasons) r where r = any ($1)) || array_remove(array[%s], null)
    where b.strata_reasons <> '{left_out_by_mapping}' and (b.strata_reasons <> '{}' or num_nulls(%s) > 0)
  $sql$,
    (select string_agg(format('case when b.%1$I is null and not (b.strata_reasons && array[%2$L, %3$L, %4$L, %5$L]) then %2$L end',
                              k, k || '_missing', k || '_too_long', k || '_out_of_range', k || '_invalid'), ', ') from unnest(keys) k),
    (select string_agg(format('b.%I', k), ', ') from unnest(keys) k))
  using of_keys;
  if (select d.owned_by_source from strata.datasets d where d.dataset = judge_deletions.dataset) then
    execute (strata.owned_statements(dataset))[1];
  end if;
  perform strata.mark_referenced(dataset);
end
$$;

comment on function strata.judge_deletions(text, xid8, bigint, xid8, bigint) is 'Judges the records of a batch as deletions: whether each names a row, and whether that row may be deleted.';

create or replace function strata.delete_batch(dataset text)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  deleted bigint;
begin
  execute format($sql$
    with doomed as (
      select %1$s, max(b.ingest_seq) as ingest_seq from pg_temp.strata_batch b where b.strata_reasons = '{}' group by %1$s
    ), noted as (
      insert into strata.deletions (dataset, ingest_seq, key) select $1, b.ingest_seq, jsonb_build_object(%2$s) from doomed b
    )
    delete from %3$s t using doomed b where %4$s and (t.source_seq is null or t.source_seq < b.ingest_seq)
  $sql$,
    (select string_agg(format('b.%I', k), ', ') from unnest(keys) k),
    (select string_agg(format('%L, b.%I::text', k, k), ', ') from unnest(keys) k),
    production, strata.columns_equal(production, keys, 't', 'b'))
  using dataset;
  get diagnostics deleted = row_count;
  return deleted;
end
$$;

comment on function strata.delete_batch(text) is 'Deletes the rows that the batch names, unless a later record has written them, and records tombstones; returns the number of deleted rows.';

-- The object has the shape that strata.requeue_waiting reads.
create or replace function strata.referrers_sql(dataset text)
returns text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(string_agg(format('case when %L = any (b.strata_reasons) then jsonb_build_object(%L, jsonb_build_object(%s)) else ''{}'' end', r.reason, r.waiting_key,
           (select string_agg(format('%L, b.%I::text', t, t), ', ') from unnest(r.theirs) t)), ' || '), 'null::jsonb')
  from strata.referrers(dataset) r where r.is_about_key;
end;

comment on function strata.referrers_sql(text) is 'SQL expression for quarantine.waiting_for of a rejected deletion.';

-- Deletes rows of the source that the snapshot does not hold. A row that others refer to waits in quarantine. If
-- another error prevents a deletion, or the snapshot is incomplete, nothing is deleted and problem says why.
create or replace function strata.take_snapshot(run_id bigint, dataset text, seq bigint, words jsonb, out rows_deleted bigint, out rows_rejected bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  snapshot strata.snapshots;
  not_taken bigint;
  fault text;
begin
  rows_deleted := 0;
  rows_rejected := 0;
  select * into strict snapshot from strata.snapshots s where s.dataset = take_snapshot.dataset and s.ingest_seq = seq for update;
  -- Rows that belong to another source do not make this source's snapshot incomplete.
  select count(*) into not_taken from staging.quarantine q
  where q.dataset = take_snapshot.dataset and q.source_system = snapshot.source_system and q.reasons <> '{owned_by_another_source}'
    and q.ingest_seq > snapshot.first_seq and q.ingest_seq < snapshot.ingest_seq;
  if not_taken > 0 then
    fault := format('%s of its rows %s in quarantine', not_taken, case when not_taken = 1 then 'is' else 'are' end);
  else
    begin
      execute format($sql$
        create temporary table strata_batch on commit drop as
        select $1 as ingest_seq, t.strata_source, '{}'::text[] as strata_reasons, %s from %s t where t.strata_source = $2 and t.source_seq < $1
      $sql$, (select string_agg(format('t.%I', k), ', ') from unnest(keys) k), production)
      using snapshot.first_seq, snapshot.source_system;
      perform strata.mark_referenced(dataset);
      -- Waiting deletions of earlier snapshots are found again, or their rows have come back.
      delete from staging.quarantine q
      where q.dataset = take_snapshot.dataset and q.source_system = snapshot.source_system
        and q.operation = 'delete' and q.stage = 'transform' and q.raw_id is null;
      execute format($sql$
        insert into staging.quarantine (dataset, stage, reasons, detail, waiting, waiting_for, payload, ingest_seq, source_system, source_name, row_key, operation, run_id)
        select $1, 'transform', b.strata_reasons, strata.describe(b.strata_reasons, p.payload, $2), b.strata_reasons <@ $3, %s, p.payload,
               b.ingest_seq, b.strata_source, (select u.arguments ->> 'sourceName' from strata.runs u where u.run_id = $5), concat_ws(', ', %s), 'delete', $4
        from pg_temp.strata_batch b cross join lateral (select jsonb_build_object(%s) as payload) p
        where b.strata_reasons <> '{}'
      $sql$, strata.referrers_sql(dataset), (select string_agg(format('b.%I::text', k), ', ' order by i) from unnest(keys) with ordinality x (k, i)),
        (select string_agg(format('%L, b.%I', k, k), ', ') from unnest(keys) k))
      using dataset, words, array(select r.reason from strata.referrers(dataset) r where r.is_about_key), run_id, snapshot.run_id;
      get diagnostics rows_rejected = row_count;
      rows_deleted := strata.delete_batch(dataset);
      drop table pg_temp.strata_batch;
    exception when others or assert_failure then
      if not strata.is_fault_of_row(sqlstate) then
        raise;
      end if;
      fault := sqlerrm;
      rows_deleted := 0;
      rows_rejected := 0;
    end;
  end if;
  update strata.snapshots s set taken_at = clock_timestamp(), taken_by = take_snapshot.run_id, problem = fault
  where s.dataset = take_snapshot.dataset and s.ingest_seq = seq;
  -- Only the last applied snapshot of a source is needed.
  delete from strata.snapshots s
  where fault is null and s.dataset = take_snapshot.dataset and s.source_system = snapshot.source_system and s.taken_at is not null
    and s.problem is null and s.first_seq < snapshot.first_seq;
end
$$;

comment on function strata.take_snapshot(bigint, text, bigint, jsonb) is 'Deletes the rows of a source that its full snapshot does not hold; those that others refer to go to quarantine. Returns both counts.';

-- Retries deletions that full snapshots left waiting. A row is deleted only if the source still owns it and has not
-- sent it since.
create or replace function strata.take_waiting_deletions(run_id bigint, dataset text, words jsonb, out rows_read bigint, out rows_deleted bigint, out rows_rejected bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  production regclass := strata.production_table(dataset);
  keys text[] := strata.key_columns(production);
  given bigint[] := array(
    select q.quarantine_id from staging.quarantine q
    where q.retried_at is not null and q.dataset = take_waiting_deletions.dataset
      and q.operation = 'delete' and q.stage = 'transform' and q.raw_id is null
    order by q.quarantine_id for update
  );
  tried bigint[];
  reason text;
  deleted bigint;
  rejected bigint;
begin
  rows_read := cardinality(given);
  rows_deleted := 0;
  rows_rejected := 0;
  -- Try all at once; if a trigger rejects one, try them one by one.
  for tried in
    select given where rows_read > 0
    union all
    select array[g] from unnest(given) g where rows_read > 1
  loop
    begin
      execute format($sql$
        create temporary table strata_batch on commit drop as
        select q.quarantine_id, q.ingest_seq, q.source_system::text as strata_source, '{}'::text[] as strata_reasons, %s
        from staging.quarantine q cross join lateral jsonb_populate_record(null::%s, q.payload) p
        where q.quarantine_id = any ($1) and exists (
          select from %2$s t where %s and t.strata_source = q.source_system and t.source_seq < q.ingest_seq)
      $sql$, (select string_agg(format('p.%I', k), ', ') from unnest(keys) k), production, strata.columns_equal(production, keys, 't', 'p'))
      using tried;
      perform strata.mark_referenced(dataset);
      execute format($sql$
        update staging.quarantine q
        set reasons = b.strata_reasons, detail = strata.describe(b.strata_reasons, q.payload, $1), waiting = b.strata_reasons <@ $2, waiting_for = %s,
            run_id = $3, attempts = q.attempts + 1, last_attempt_at = clock_timestamp(), retried_at = null
        from pg_temp.strata_batch b where b.quarantine_id = q.quarantine_id and b.strata_reasons <> '{}'
      $sql$, strata.referrers_sql(dataset))
      using words, array(select r.reason from strata.referrers(dataset) r where r.is_about_key), run_id;
      get diagnostics rejected = row_count;
      deleted := strata.delete_batch(dataset);
      drop table pg_temp.strata_batch;
      delete from staging.quarantine q where q.quarantine_id = any (tried) and q.retried_at is not null;
    exception when others or assert_failure then
      if not strata.is_fault_of_row(sqlstate) then
        raise;
      end if;
      continue when cardinality(tried) > 1;
      reason := strata.error_reason(sqlstate, null);
      update staging.quarantine q
      set reasons = array[reason], detail = sqlerrm, waiting = false, waiting_for = null, run_id = take_waiting_deletions.run_id,
          attempts = q.attempts + 1, last_attempt_at = clock_timestamp(), retried_at = null
      where q.quarantine_id = any (tried);
      rejected := 1;
      deleted := 0;
    end;
    rows_deleted := rows_deleted + deleted;
    rows_rejected := rows_rejected + rejected;
    exit when cardinality(tried) = cardinality(given);
  end loop;
end
$$;

comment on function strata.take_waiting_deletions(bigint, text, jsonb) is
  'Retries the deletions of full snapshots that were requeued; those whose rows are still referred to keep waiting.';

-- ------------------------------------------------------------------------------------------------------
-- The next rows
-- ------------------------------------------------------------------------------------------------------

create or replace function strata.transform_batch(
  run_id bigint, dataset text, upper_xid xid8, batch_size integer default 20000, progress real default null,
  out rows_read bigint, out rows_written bigint, out rows_rejected bigint,
  out rows_replaced bigint, out rows_replaced_from_other_source bigint, out rows_deleted bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' as $$
declare
  mark strata.datasets;
  raw regclass := strata.raw_table(dataset);
  to_xid xid8;
  to_seq bigint;
  statements strata.merge_statements;
  words jsonb;
  part record;
  waiting_read bigint := 0;
begin
  perform strata.enter_batch(run_id);
  perform strata.check_dataset(dataset);
  -- Parents are looked up by cached plans, possibly made when the parent tables were small.
  execute 'discard plans';
  -- A deferred constraint would fail at commit, where no row can be singled out.
  set constraints all immediate;
  select * into strict mark from strata.datasets d where d.dataset = transform_batch.dataset for update;
  -- An undecided load holds back its own rows and all later ones.
  upper_xid := least(upper_xid, (select min(r.held_from) from strata.runs r where r.dataset = transform_batch.dataset and r.held_from is not null));
  execute format($sql$
    select r.ingest_xid, r.ingest_seq, count(*) over () from (
      select ingest_xid, ingest_seq from %s
      where (ingest_xid, ingest_seq) > ($1, $2) and ingest_xid < $3
      order by ingest_xid, ingest_seq limit $4
    ) r order by r.ingest_xid desc, r.ingest_seq desc limit 1
  $sql$, raw)
  into to_xid, to_seq, rows_read using mark.xid, mark.seq, upper_xid, batch_size;

  -- rows_read counts raw rows, whether or not a mapping view filters them.
  rows_read := coalesce(rows_read, 0);
  rows_written := 0;
  rows_rejected := 0;
  rows_replaced := 0;
  rows_replaced_from_other_source := 0;
  rows_deleted := 0;
  -- A trial (run_id is null) leaves out the waiting deletions of others.
  if run_id is not null and exists (select from staging.quarantine q where q.retried_at is not null and q.raw_id is null and q.dataset = transform_batch.dataset) then
    words := strata.reason_words(dataset);
    select * into part from strata.take_waiting_deletions(run_id, dataset, words);
    waiting_read := part.rows_read;
    rows_deleted := part.rows_deleted;
    rows_rejected := part.rows_rejected;
  end if;
  for part in
    select * from strata.window_parts(dataset, mark.xid, mark.seq, to_xid, to_seq, case when rows_read < batch_size then upper_xid end)
  loop
    if statements is null then
      statements := strata.merge_statements(dataset);
      words := strata.reason_words(dataset);
    end if;
    if part.operation = 'replace' then
      select transform_batch.rows_deleted + s.rows_deleted, transform_batch.rows_rejected + s.rows_rejected into rows_deleted, rows_rejected
      from strata.take_snapshot(run_id, dataset, part.last_seq, words) s;
    else
      select transform_batch.rows_written + t.rows_written, transform_batch.rows_rejected + t.rows_rejected, transform_batch.rows_replaced + t.rows_replaced,
             transform_batch.rows_replaced_from_other_source + t.rows_replaced_from_other_source, transform_batch.rows_deleted + t.rows_deleted
      into rows_written, rows_rejected, rows_replaced, rows_replaced_from_other_source, rows_deleted
      from strata.take_window(run_id, dataset, statements, words, part.after_xid, part.after_seq, part.last_xid, part.last_seq, batch_size, part.operation) t;
    end if;
  end loop;
  if to_xid is not null then
    -- A requeued record is settled now: it is in production, or it has a new quarantine entry.
    if exists (select from staging.quarantine q where q.retried_at is not null) then
      execute format($sql$
        delete from staging.quarantine q using %s r
        where q.retried_at is not null and q.dataset = $1 and r.%I = q.raw_id and (r.ingest_xid, r.ingest_seq) <= ($2, $3)
      $sql$, raw, strata.raw_id_column(dataset))
      using transform_batch.dataset, to_xid, to_seq;
    end if;
  end if;

  update strata.datasets d
  set xid = coalesce(to_xid, d.xid), seq = coalesce(to_seq, d.seq), run_id = transform_batch.run_id, updated_at = clock_timestamp()
  where d.dataset = transform_batch.dataset;
  perform strata.count_batch(run_id, rows_read + waiting_read, rows_written, rows_rejected, rows_deleted, progress, dataset,
                             rows_replaced, rows_replaced_from_other_source);
end
$$;

comment on function strata.transform_batch(bigint, text, xid8, integer, real) is 'Transforms the next rows of a dataset; rows_read = 0 means that none are left below the given transaction.';

-- ------------------------------------------------------------------------------------------------------
-- Replays
-- ------------------------------------------------------------------------------------------------------

-- Replays transform raw rows again with the current mapping and rules. A record replaces what it or an older record
-- wrote, and the watermark stays.
create or replace function strata.replay_batch(
  run_id bigint, dataset text, since timestamp, until timestamp, inout after_xid xid8, inout after_seq bigint,
  batch_size integer default 20000, out rows_read bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' as $$
declare
  mark strata.datasets;
  raw regclass := strata.raw_table(dataset);
  statements strata.merge_statements;
  words jsonb;
  first_xid xid8;
  first_seq bigint;
  last_xid xid8;
  last_seq bigint;
  part record;
  done record;
begin
  perform strata.enter_batch(run_id);
  perform strata.check_dataset(dataset);
  execute 'discard plans';
  set constraints all immediate;
  select * into strict mark from strata.datasets d where d.dataset = replay_batch.dataset for update;
  -- The next rows of the time range, up to the first row outside it.
  execute format($sql$
    with first as (
      select r.ingest_xid, r.ingest_seq from %1$s r
      where (r.ingest_xid, r.ingest_seq) > ($1, $2) and (r.ingest_xid, r.ingest_seq) <= ($3, $4)
        and r.ingested_at >= coalesce($5, r.ingested_at) and r.ingested_at < coalesce($6, 'infinity')
      order by r.ingest_xid, r.ingest_seq limit 1
    ), next as (
      select r.ingest_xid, r.ingest_seq, r.ingested_at >= coalesce($5, r.ingested_at) and r.ingested_at < coalesce($6, 'infinity') as is_asked
      from %1$s r, first f
      where (r.ingest_xid, r.ingest_seq) >= (f.ingest_xid, f.ingest_seq) and (r.ingest_xid, r.ingest_seq) <= ($3, $4)
      order by r.ingest_xid, r.ingest_seq limit $7
    ), asked as (
      select n.*, bool_and(n.is_asked) over (order by n.ingest_xid, n.ingest_seq) as is_in, row_number() over (order by n.ingest_xid, n.ingest_seq) as place
      from next n
    )
    select f.ingest_xid, f.ingest_seq - 1, a.ingest_xid, a.ingest_seq, a.place
    from first f, asked a where a.is_in order by a.place desc limit 1
  $sql$, raw)
  into first_xid, first_seq, last_xid, last_seq, rows_read using after_xid, after_seq, mark.xid, mark.seq, since, until, batch_size;
  rows_read := coalesce(rows_read, 0);
  if rows_read = 0 then
    return;
  end if;
  statements := strata.merge_statements(dataset, true);
  words := strata.reason_words(dataset);
  for part in select * from strata.window_parts(dataset, first_xid, first_seq, last_xid, last_seq, null) where operation is distinct from 'replace' loop
    select * into done
    from strata.take_window(run_id, dataset, statements, words, part.after_xid, part.after_seq, part.last_xid, part.last_seq, batch_size, part.operation);
    perform strata.count_batch(run_id, done.rows_read, done.rows_written, done.rows_rejected, done.rows_deleted, null, dataset,
                               done.rows_replaced, done.rows_replaced_from_other_source);
  end loop;
  -- Remove entries that this replay has settled; requeued ones are left to the transform.
  execute format($sql$
    delete from staging.quarantine q using %s r
    where q.dataset = $1 and q.stage = 'transform' and q.retried_at is null and q.raw_id = r.%I and q.run_id is distinct from $6
      and (r.ingest_xid, r.ingest_seq) > ($2, $3) and (r.ingest_xid, r.ingest_seq) <= ($4, $5)
  $sql$, raw, strata.raw_id_column(dataset))
  using dataset, first_xid, first_seq, last_xid, last_seq, run_id;
  after_xid := last_xid;
  after_seq := last_seq;
end
$$;

comment on function strata.replay_batch(bigint, text, timestamp, timestamp, xid8, bigint, integer) is
  'Transforms the next raw rows of a time range again, after a place in the order of arrival; rows_read = 0 means that none are left.';

-- ------------------------------------------------------------------------------------------------------
-- Trial runs
-- ------------------------------------------------------------------------------------------------------

-- Runs the transform on the rows of one run, in a transaction that the caller rolls back. Rows of other runs that have
-- not been transformed yet, such as parents, are not visible to it; "waiting" in the result counts them by dataset.
create or replace function strata.try_load(run_id bigint, sample_size integer default 3)
returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' as $$
#variable_conflict use_variable
declare
  own xid8 := pg_current_xact_id();
  run strata.runs := strata.finish_run(run_id);
  production regclass := strata.production_table(run.dataset);
  raw regclass := strata.raw_table(run.dataset);
  keys text[] := strata.key_columns(production);
  key_list text := (select string_agg(format('b.%I', k), ', ' order by i) from unnest(keys) with ordinality x (k, i));
  key_text text := (select format('concat_ws('', '', %s)', string_agg(format('p.%I::text', k), ', ' order by i)) from unnest(keys) with ordinality x (k, i));
  hidden text := format('%L::text[]', strata.provenance_columns() || '{updated_at}'::text[]);
  found_rows text;
  done record;
  replaced jsonb;
  deleted jsonb;
  rejected jsonb;
  reasons jsonb;
begin
  update strata.runs r set held_from = null where r.dataset = run.dataset and r.held_from is not null;
  update strata.datasets d set xid = own, seq = 0 where d.dataset = run.dataset;
  found_rows := format($sql$
    create temporary table strata_found on commit drop as
    select distinct on (%1$s) %1$s, b.ingest_seq, t.strata_source as source, to_jsonb(t) - %2$s as before
    from pg_temp.strata_batch b join %3$s t on %4$s order by %1$s, b.ingest_seq desc
  $sql$, key_list, hidden, production, strata.columns_equal(production, keys, 't', 'b'));
  begin
    execute (strata.merge_statements(run.dataset)).judge using own, 0::bigint, own, 9223372036854775807, 2147483647;
    execute found_rows;
    drop table pg_temp.strata_batch;
  exception when others then
    -- A row cannot be judged; the transform will find it. Samples of replaced and deleted rows are unavailable.
    if not strata.is_fault_of_row(sqlstate) then
      raise;
    end if;
    execute format('create temporary table strata_found on commit drop as select %s, null::bigint as ingest_seq, ''''::text as source, ''{}''::jsonb as before from %s b where false',
                   key_list, production);
  end;
  select * into done from strata.transform_batch(null, run.dataset, (own::text::bigint + 1)::text::xid8, 1000000);
  execute format($sql$
    select jsonb_agg(x.sample order by x.ingest_seq) from (
      select p.ingest_seq, jsonb_build_object('line', (select r.ingest_line from %1$s r where r.ingest_seq = p.ingest_seq and r.ingest_run = $1),
               'key', %2$s, 'source', p.source,
               'before', (select jsonb_object_agg(e.key, e.value) from jsonb_each(p.before) e where n.after -> e.key is distinct from e.value),
               'after', (select jsonb_object_agg(e.key, e.value) from jsonb_each(n.after) e where p.before -> e.key is distinct from e.value)) as sample
      from pg_temp.strata_found p join %3$s t on %4$s cross join lateral (select to_jsonb(t) - %5$s as after) n
      where n.after <> p.before order by p.ingest_seq limit $2
    ) x
  $sql$, raw, key_text, production, strata.columns_equal(production, keys, 't', 'p'), hidden)
  into replaced using run_id, sample_size;
  if run.arguments ->> 'operation' = 'replace' then
    select jsonb_agg(jsonb_build_object('key', x.key)) into deleted
    from (
      select (select string_agg(d.key ->> k, ', ' order by i) from unnest(keys) with ordinality k (k, i)) as key
      from strata.deletions d where d.dataset = run.dataset and d.deleted_at = current_timestamp order by d.deletion_id limit sample_size
    ) x;
  else
    execute format($sql$
      select jsonb_agg(x.sample order by x.ingest_seq) from (
        select p.ingest_seq, jsonb_build_object('line', (select r.ingest_line from %1$s r where r.ingest_seq = p.ingest_seq and r.ingest_run = $1),
                 'key', %2$s, 'source', p.source) as sample
        from pg_temp.strata_found p where not exists (select from %3$s t where %4$s) order by p.ingest_seq limit $2
      ) x
    $sql$, raw, key_text, production, strata.columns_equal(production, keys, 't', 'p'))
    into deleted using run_id, sample_size;
  end if;
  execute format($sql$
    with entries as (
      select q.* from staging.quarantine q join %1$s r on r.%2$I = q.raw_id where r.ingest_run = $1
      union all
      select q.* from staging.quarantine q where q.dataset = $2 and q.ingest_seq = $3
    )
    select (select jsonb_object_agg(c.reason, c.amount) from (select reason, count(*) as amount from entries e, unnest(e.reasons) reason group by 1) c),
           (select jsonb_agg(jsonb_build_object('line', s.source_line, 'key', s.row_key, 'reasons', s.reasons, 'detail', s.detail) order by s.quarantine_id)
            from (select e.*, row_number() over (partition by e.reasons order by e.quarantine_id) as place from entries e) s where s.place <= $4)
  $sql$, raw, strata.raw_id_column(run.dataset))
  into reasons, rejected using run_id, run.dataset, run.first_seq, sample_size;
  drop table pg_temp.strata_found;
  return jsonb_build_object(
    'rowsRead', done.rows_read, 'rowsWritten', done.rows_written, 'rowsReplaced', done.rows_replaced,
    'rowsReplacedFromOtherSource', done.rows_replaced_from_other_source, 'rowsDeleted', done.rows_deleted, 'rowsRejected', done.rows_rejected,
    'reasons', coalesce(reasons, '{}'), 'replaced', coalesce(replaced, '[]'), 'deleted', coalesce(deleted, '[]'), 'rejected', coalesce(rejected, '[]'),
    'problem', (select s.problem from strata.snapshots s where s.run_id = run_id and s.dataset = run.dataset),
    'waiting', (select coalesce(jsonb_object_agg(p, b.row_count), '{}') from unnest(strata.parents(run.dataset)) p cross join lateral strata.rows_behind(p) b
                where b.row_count > 0));
end
$$;

comment on function strata.try_load(bigint, integer) is
  'What the transform would do with the rows of an ingest run of this transaction, which the caller has to roll back: counts, reasons and up to sample_size rows of each kind.';

create or replace function strata.may_try(role_name text, dataset text)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return role_name is null or (has_table_privilege(role_name, strata.production_table(dataset), 'SELECT')
  and not (select c.relrowsecurity from pg_class c where c.oid = strata.production_table(dataset)));

comment on function strata.may_try(text, text) is 'Whether a role may see which rows of a dataset a load would replace: it must be able to read all of them.';
