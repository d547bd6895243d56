-- ======================================================================================================
-- Quarantine: rejected records, and how they are retried
--
-- A retry puts the record back into staging with a new transaction id but its old ingest_seq, so that the next
-- transform processes it like any other. The entry stays, hidden, until the transform has accepted or rejected it.
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

comment on table staging.quarantine is 'Rejected records with all reasons; one row per record.';
comment on column staging.quarantine.quarantine_id is 'Identifier of the entry.';
comment on column staging.quarantine.dataset is 'Dataset of the record.';
comment on column staging.quarantine.stage is 'Stage that rejected the record: ingest (it could not be read or typed) or transform (it broke a rule).';
comment on column staging.quarantine.reasons is 'All reasons as stable codes: names of constraints or fixed codes, such as email_missing.';
comment on column staging.quarantine.detail is 'The reasons in sentences, with the given values; null if there are none.';
comment on column staging.quarantine.waiting is 'Whether the record waits for other rows, such as its user; each pipeline run retries it when they exist.';
comment on column staging.quarantine.payload is 'Fields of the record as an object; null if it could not be read at all.';
comment on column staging.quarantine.raw_text is 'Text of the record as received; null if the ingest could read and type the record.';
comment on column staging.quarantine.raw_id is 'Identifier of the record in staging; null if it is not there.';
comment on column staging.quarantine.ingest_seq is 'Place of the record in the order of arrival, which a retry preserves; null if it has none yet.';
comment on column staging.quarantine.source_system is 'Source system that sent the record.';
comment on column staging.quarantine.source_name is 'File or stream that the record came from; null if unknown.';
comment on column staging.quarantine.source_line is 'Line of the file at which the record begins; null if unknown.';
comment on column staging.quarantine.run_id is 'Run that last rejected the record.';
comment on column staging.quarantine.attempts is 'Number of attempts to process the record.';
comment on column staging.quarantine.quarantined_at is 'When the record was first rejected.';
comment on column staging.quarantine.last_attempt_at is 'When the record was last tried.';
comment on column staging.quarantine.retried_at is 'When the record was requeued for the transform, which has not processed it yet; null otherwise.';

comment on column staging.quarantine.source_format is 'Format of the received text: csv or ndjson; null if the fields of the payload are typed already.';
comment on column staging.quarantine.read_options is 'Options with which the ingest read the values, such as decimal separator and time zone; a retry uses them again. Null if there were none.';
comment on column staging.quarantine.waiting_for is 'Rows that the record waits for: an object that maps a foreign key to the columns and values of the missing parent, or of the row that others still refer to.';
comment on column staging.quarantine.row_key is 'Key of the row that the record describes, as far as it is known; values of several columns are separated by commas.';
comment on column staging.quarantine.operation is 'What the record does with its row: null writes it, delete deletes it.';
comment on column staging.quarantine.retried_by is 'Run that last retried the record on request; null if none did. If the entry is still here, that retry failed.';

-- Expects payloads whose fields are typed. A deletion that a full snapshot left waiting has no raw row;
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

comment on function strata.requeue(text, bigint[], bigint) is 'Requeues quarantined records of a dataset for the transform; returns their number.';

-- Exactly one of the three ways to select must be given, so that a mistake cannot retry or discard too much.
create or replace function strata.select_quarantined(ids bigint[], reason text, everything boolean, dataset text default null)
returns setof staging.quarantine
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if num_nonnulls(ids, coalesce(reason, dataset), nullif(everything, false)) <> 1 then
    raise exception 'Select the records by ids, by reason or dataset (or both), or by everything; give exactly one of these.' using errcode = 'invalid_parameter_value';
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

comment on function strata.select_quarantined(bigint[], text, boolean, text) is 'Quarantined records by ids, by reason and dataset, or all of them; locks their rows.';

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

comment on function analytics.discard_quarantined(bigint[], text, boolean, text) is 'Deletes quarantined records permanently and returns their number.';

-- Reasons are names of constraints, and their comments explain them. The given values are those of the constraint's
-- columns, as they arrived.
create or replace function strata.reason_words(dataset text)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(jsonb_object_agg(w.reason, jsonb_build_object('words', w.words, 'columns', w.columns)), '{}')
  from (
    select k.conname::text as reason,
           coalesce(obj_description(k.oid, 'pg_constraint'), case k.contype
             when 'f' then format('The row in %s that it refers to does not exist, or has not arrived yet.', (select c.relname from pg_class c where c.oid = k.confrelid))
             when 'u' then 'Another row has the same value.'
             when 'x' then 'The row conflicts with another row.'
             else format('The row violates the constraint %s.', k.conname) end) as words,
           array(select a.attname from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey)) as columns
    from pg_constraint k where k.oid in (select strata.enforced_constraints(strata.production_table(dataset))) and k.contype in ('c', 'f', 'u', 'x')
    union all
    -- A domain's constraint applies to every column of the domain.
    select k.conname::text, coalesce(obj_description(k.oid, 'pg_constraint'), format('The row violates the constraint %s.', k.conname)),
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
    -- Reasons that reject a deletion.
    select distinct on (r.reason) r.reason, format('Rows of %s refer to the row.', substr(r.reason, length('referenced_by_') + 1)), r.theirs::name[] from strata.referrers(dataset) r
  ) w;
end;

comment on function strata.reason_words(text) is 'Object of each reason that a constraint of a dataset can give, with its explanation (words) and columns.';

-- Runs for every rejected record. Simple expressions instead of a query per reason make it four times as fast.
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

comment on function strata.describe(text[], jsonb, jsonb, text[]) is 'Explains in sentences why a record was rejected, with the given values; null without reasons.';

create or replace function strata.requeue_waiting(run_id bigint, dataset text, batch_size integer)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  arrived text;
  ready bigint[];
begin
  perform strata.enter_batch(run_id);
  -- The values are cast to the child's types, in which they were accepted.
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
  -- A deletion waits until no row refers to its row any more.
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
        -- After 5 attempts, a record that is rejected although its parents exist is not retried again in the same run.
        and (q.attempts < 5 or q.run_id is distinct from $3) and %s
      order by q.quarantine_id limit $2
      for update skip locked
    ) r
  $sql$, arrived)
  into ready using requeue_waiting.dataset, batch_size, requeue_waiting.run_id;
  return strata.requeue(requeue_waiting.dataset, ready);
end
$$;

comment on function strata.requeue_waiting(bigint, text, integer) is 'Requeues records of a dataset whose parents exist now, or whose rows are no longer referred to; returns their number.';
