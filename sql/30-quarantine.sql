-- ======================================================================================================
-- Quarantine: rows that could not be taken over, and the way back
--
-- A retry puts the record back into staging, with its place in the order of arrival and a new transaction, so
-- that the next transform takes it like any other. Its entry stays, hidden, until the transform has decided.
-- ======================================================================================================

create table if not exists staging.quarantine (
  quarantine_id bigint generated always as identity primary key,
  dataset text not null,
  stage text not null,
  reasons text[] not null,
  detail text,
  waiting boolean not null default false,
  payload jsonb,
  raw_text text,
  raw_id uuid,
  ingest_seq bigint,
  source_system varchar(50),
  source_name text,
  source_line bigint,
  run_id bigint,
  attempts integer not null default 1,
  quarantined_at timestamptz not null default current_timestamp,
  last_attempt_at timestamptz not null default current_timestamp,
  retried_at timestamptz,
  constraint known_stage check (stage in ('ingest', 'transform')),
  constraint has_reason check (cardinality(reasons) > 0)
);

alter table staging.quarantine add column if not exists source_format text;
alter table staging.quarantine add column if not exists waiting_for jsonb;
alter table staging.quarantine add column if not exists retried_by bigint;
alter table staging.quarantine add column if not exists row_key text;
alter table staging.quarantine add column if not exists operation text;
alter table staging.quarantine add column if not exists read_options jsonb;

create index if not exists idx_quarantine_reasons on staging.quarantine using gin (reasons);
create index if not exists idx_quarantine_dataset on staging.quarantine (dataset, quarantine_id);
create index if not exists idx_quarantine_run on staging.quarantine (run_id);
create index if not exists idx_quarantine_waiting on staging.quarantine (quarantine_id) where waiting and retried_at is null;
create index if not exists idx_quarantine_retried on staging.quarantine (raw_id) where retried_at is not null;
create index if not exists idx_quarantine_retried_by on staging.quarantine (retried_by) where retried_by is not null;
create unique index if not exists idx_quarantine_raw_id on staging.quarantine (raw_id);

comment on table staging.quarantine is 'Records that could not be taken over, with every reason; one row per record.';
comment on column staging.quarantine.quarantine_id is 'Identity of the entry.';
comment on column staging.quarantine.dataset is 'Dataset of the record.';
comment on column staging.quarantine.stage is 'Where it failed: ingest (could not be typed) or transform (broke a rule).';
comment on column staging.quarantine.reasons is 'Every reason, as stable codes.';
comment on column staging.quarantine.detail is 'The reasons in words, with the values found.';
comment on column staging.quarantine.waiting is 'Waits for another record, for example its user, and is retried by every run.';
comment on column staging.quarantine.payload is 'The record, field by field; empty if it could not be read at all.';
comment on column staging.quarantine.raw_text is 'The text as received, if the record could not be typed.';
comment on column staging.quarantine.raw_id is 'Identity of the record in staging.';
comment on column staging.quarantine.ingest_seq is 'Its place in the order of arrival, kept by a retry.';
comment on column staging.quarantine.source_system is 'Where the record came from.';
comment on column staging.quarantine.source_name is 'File or stream the record came from.';
comment on column staging.quarantine.source_line is 'Line in that file.';
comment on column staging.quarantine.run_id is 'Run that rejected the record last.';
comment on column staging.quarantine.attempts is 'How often the record was tried.';
comment on column staging.quarantine.quarantined_at is 'When the record was rejected first.';
comment on column staging.quarantine.last_attempt_at is 'When the record was tried last.';
comment on column staging.quarantine.retried_at is 'When the record was given back to the transform, which has not decided yet.';

comment on column staging.quarantine.source_format is 'How the raw text is written: csv or ndjson; empty if the fields of the payload have their types already.';
comment on column staging.quarantine.read_options is 'How its values are written, as the ingest was told: decimal separator, time zone and so on. A retry reads the payload in the same way.';
comment on column staging.quarantine.waiting_for is 'Rows it waits for: by foreign key, the columns and values that the parent row will have, or that no row may refer to any more.';
comment on column staging.quarantine.row_key is 'Key of the row that the record is about, as far as it is known; the values of several columns are separated by a comma.';
comment on column staging.quarantine.operation is 'What was to be done with that row: empty to write it, or delete.';
comment on column staging.quarantine.retried_by is 'Run that retried it last on request: an entry that is still here has come back from it.';

-- For payloads whose fields have the right types. A deletion that a full snapshot left waiting has no record of its own:
-- strata.take_waiting_deletions finds it by its entry.
drop function if exists strata.requeue(text, bigint[]);
create or replace function strata.requeue(dataset text, ids bigint[], by_run bigint default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  raw regclass := strata.raw_table(dataset);
  raw_id text := strata.raw_id_column(dataset);
  fields text[] := array(select quote_ident(f.field) from strata.fields(dataset) f);
  requeued integer;
begin
  update staging.quarantine q
  set retried_at = clock_timestamp(),
      raw_id = case when q.operation = 'delete' and q.stage = 'transform' then q.raw_id else coalesce(q.raw_id, public.uuid_generate_v4()) end,
      retried_by = coalesce(by_run, q.retried_by)
  where q.quarantine_id = any (ids) and q.dataset = requeue.dataset;
  get diagnostics requeued = row_count;
  if requeued = 0 then
    return 0;
  end if;
  execute format($sql$
    insert into %1$s as r (%2$I, source_system, ingest_seq, ingest_line, ingest_operation, %3$s)
    select q.raw_id, q.source_system, coalesce(q.ingest_seq, nextval(%6$L)), case when q.source_line <= 2147483647 then q.source_line end, q.operation, %4$s
    from staging.quarantine q, jsonb_populate_record(null::%1$s, q.payload) p
    where q.quarantine_id = any ($1) and q.dataset = $2 and q.raw_id is not null
    on conflict (%2$I) do update set ingest_xid = pg_current_xact_id(), (%3$s) = row(%5$s)
  $sql$, raw, raw_id, array_to_string(fields, ', '), 'p.' || array_to_string(fields, ', p.'),
    'excluded.' || array_to_string(fields, ', excluded.'), pg_get_serial_sequence(raw::text, 'ingest_seq'))
  using ids, requeue.dataset;
  return requeued;
end
$$;

comment on function strata.requeue(text, bigint[], bigint) is 'Gives quarantined records of a dataset back to the transform.';

-- By id, by filter, or everything: exactly one of the three, so that no slip retries or discards too much.
create or replace function strata.select_quarantined(ids bigint[], reason text, everything boolean, dataset text default null)
returns setof staging.quarantine
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if num_nonnulls(ids, coalesce(reason, dataset), nullif(everything, false)) <> 1 then
    raise exception 'Say which records: by ids, by reason or dataset, or all of them; give exactly one of these.' using errcode = 'invalid_parameter_value';
  end if;
  return query
    select * from staging.quarantine q
    where q.retried_at is null
      and (everything or q.quarantine_id = any (ids)
           or (ids is null and (select_quarantined.reason is null or q.reasons @> array[select_quarantined.reason])
                           and (select_quarantined.dataset is null or q.dataset = select_quarantined.dataset)))
    order by q.quarantine_id
    for update;
end
$$;

comment on function strata.select_quarantined(bigint[], text, boolean, text) is 'Quarantined records by id, by reason and dataset, or all of them.';

create or replace function analytics.discard_quarantined(
  ids bigint[] default null, reason text default null, everything boolean default false, dataset text default null
)
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  discarded integer;
begin
  delete from staging.quarantine q
  using strata.select_quarantined(ids, reason, everything, discard_quarantined.dataset) s where q.quarantine_id = s.quarantine_id;
  get diagnostics discarded = row_count;
  return discarded;
end
$$;

comment on function analytics.discard_quarantined(bigint[], text, boolean, text) is 'Deletes quarantined records for good and returns how many.';

-- Reasons are names of constraints, whose comments are the words. The values found are those of the columns
-- that the constraint is about, as they arrived.
create or replace function strata.reason_words(dataset text)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(jsonb_object_agg(w.reason, jsonb_build_object('words', w.words, 'columns', w.columns)), '{}')
  from (
    select k.conname::text as reason,
           coalesce(obj_description(k.oid, 'pg_constraint'), case k.contype
             when 'f' then format('There is no such row in %s (yet).', (select c.relname from pg_class c where c.oid = k.confrelid))
             when 'u' then 'Another row has the same value.'
             when 'x' then 'The row excludes another one.'
             else format('The rule %s is broken.', k.conname) end) as words,
           array(select a.attname from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)) as columns
    from pg_constraint k where k.oid in (select strata.enforced_constraints(strata.production_table(dataset))) and k.contype in ('c', 'f', 'u', 'x')
    union all
    -- A domain's constraint is about every column of the domain.
    select k.conname::text, coalesce(obj_description(k.oid, 'pg_constraint'), format('The rule %s is broken.', k.conname)),
           array(select c.name from strata.table_columns(strata.production_table(dataset)) c where c.type_id = k.contypid)
    from pg_constraint k
    where k.contype = 'c' and k.contypid in (select c.type_id from strata.table_columns(strata.production_table(dataset)) c where c.type_id <> c.base_type)
    union all
    select c.relname::text, coalesce(obj_description(c.oid, 'pg_class'), 'Another row has the same value.'),
           array(select a.attname from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[]))
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = strata.production_table(dataset) and i.indisunique and not i.indisprimary
      and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = i.indrelid)
    union all
    -- Of deletions.
    select distinct on (r.reason) r.reason, format('Rows of %s refer to it.', substr(r.reason, length('referenced_by_') + 1)), r.theirs::name[] from strata.referrers(dataset) r
  ) w;
end;

comment on function strata.reason_words(text) is 'Words and columns of each reason that a constraint of a dataset gives.';

-- Called for each record that is rejected. Expressions without a query of their own take a quarter of the time.
create or replace function strata.describe(reasons text[], payload jsonb, words jsonb, notes text[] default '{}')
returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  parts text[] = '{}';
  reason text;
  field text;
  given text;
begin
  foreach reason in array coalesce(reasons, '{}') loop
    if words ? reason then
      given := null;
      for i in 0 .. coalesce(jsonb_array_length(words #> array[reason, 'columns']), 0) - 1 loop
        field := words #>> array[reason, 'columns', i::text];
        if payload ? field then
          given := concat_ws(', ', given, field || ' = ' || left((payload -> field)::text, 200));
        end if;
      end loop;
      parts := parts || concat_ws(' ', words #>> array[reason, 'words'], 'Given: ' || given || '.');
    elsif reason ~ '_(missing|too_long|out_of_range|invalid)$' then
      field := regexp_replace(reason, '_(missing|too_long|out_of_range|invalid)$', '');
      given := left((payload -> field)::text, 200);
      parts := parts || concat_ws(' ', format('The %s %s.', field, case
          when reason ~ '_missing$' then 'is missing'
          when reason ~ '_too_long$' then 'is too long'
          when reason ~ '_out_of_range$' then 'is out of range'
          else 'is not valid' end),
        case when reason !~ '_missing$' then 'Given: ' || given || '.' end);
    else
      parts := parts || coalesce((select substr(n, length(reason) + 3) from unnest(notes) n where starts_with(n, reason || ': ') limit 1), reason);
    end if;
  end loop;
  return array_to_string(nullif(parts, '{}'), ' ');
end
$$;

comment on function strata.describe(text[], jsonb, jsonb, text[]) is 'Says in words why a record was rejected, with the values found.';

-- Records whose parents exist by now go back to the transform.
create or replace function strata.requeue_waiting(run_id bigint, dataset text, batch_size integer)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  arrived text;
  ready bigint[];
begin
  perform strata.enter_batch(run_id);
  -- In the types of the dataset, which took the values.
  select string_agg(format('(not q.waiting_for ? %L or exists (select from %s p cross join lateral (select %s) v where %s))',
           k.conname, k.confrelid::regclass,
           (select string_agg(format('(q.waiting_for #>> array[%L, %L])::%s as %I', k.conname, p.attname, format_type(b.base, b.base_typmod), p.attname), ', ')
            from unnest(k.conkey, k.confkey) c (own, theirs)
            join pg_attribute o on o.attrelid = k.conrelid and o.attnum = c.own
            join pg_attribute p on p.attrelid = k.confrelid and p.attnum = c.theirs
            cross join lateral strata.base_type(o.atttypid, o.atttypmod) b),
           strata.columns_equal(k.confrelid, array(select a.attname::text from unnest(k.confkey) c join pg_attribute a on a.attrelid = k.confrelid and a.attnum = c),
                                'p', 'v')), ' and ')
  into arrived
  from pg_constraint k
  where k.contype = 'f' and k.oid in (select strata.enforced_constraints(strata.production_table(requeue_waiting.dataset)));
  -- Deletions wait until nobody refers to their rows any more.
  select concat_ws(' and ', arrived, string_agg(format('(not q.waiting_for ? %L or not exists (select from %s c cross join lateral (select %s) v where %s))',
           r.waiting_key, r.child,
           (select string_agg(format('(q.waiting_for #>> array[%L, %L])::%s as %I', r.waiting_key, a.attname, format_type(b.base, b.base_typmod), a.attname), ', ')
            from pg_attribute a cross join lateral strata.base_type(a.atttypid, a.atttypmod) b
            where a.attrelid = strata.production_table(requeue_waiting.dataset) and a.attname = any (r.theirs)),
           strata.columns_equal(r.child, r.own, 'c', 'v', r.theirs)), ' and '))
  into arrived
  from strata.referrers(requeue_waiting.dataset) r where r.is_about_key;
  arrived := nullif(arrived, '');
  if arrived is null then
    return 0;
  end if;
  execute format($sql$
    select array_agg(r.quarantine_id) from (
      select q.quarantine_id from staging.quarantine q
      where q.waiting and q.retried_at is null and q.dataset = $1
        -- One that is rejected although its parents exist is not tried again and again within a run.
        and (q.attempts < 5 or q.run_id is distinct from $3) and %s
      order by q.quarantine_id limit $2
      for update skip locked
    ) r
  $sql$, arrived)
  into ready using requeue_waiting.dataset, batch_size, requeue_waiting.run_id;
  return strata.requeue(requeue_waiting.dataset, ready);
end
$$;

comment on function strata.requeue_waiting(bigint, text, integer) is 'Gives records of a dataset back to the transform whose parents exist by now, and returns how many.';
