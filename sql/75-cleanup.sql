-- ======================================================================================================
-- Cleanup: deletes old raw rows, runs, quarantined records and tombstones
-- ======================================================================================================

create or replace function strata.check_days_to_keep(days integer)
returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if days is null or days not between 0 and 36500 then
    raise exception 'days_to_keep must be from 0 to 36500, not %.', coalesce(days::text, 'null') using errcode = 'invalid_parameter_value';
  end if;
end
$$;

comment on function strata.check_days_to_keep(integer) is 'Raises an error unless a retention in days is from 0 to 36500.';

-- Rows beyond the watermark stay, however old: they are not transformed yet.
create or replace function strata.cleanup_batch(run_id bigint, days_to_keep integer, batch_size integer default 20000)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  mark strata.datasets;
  deleted integer;
  total integer := 0;
begin
  perform strata.check_days_to_keep(days_to_keep);
  perform strata.enter_batch(run_id);
  for mark in select * from strata.datasets d where strata.raw_table(d.dataset) is not null order by d.dataset loop
    execute format($sql$
      delete from %1$s where %2$I in (
        select %2$I from %1$s
        where (ingest_xid, ingest_seq) <= ($1, $2) and ingested_at < (current_timestamp at time zone 'UTC') - make_interval(days => $3)
        order by ingest_xid, ingest_seq limit $4
      )
    $sql$, strata.raw_table(mark.dataset), strata.raw_id_column(mark.dataset))
    using mark.xid, mark.seq, days_to_keep, batch_size - total;
    get diagnostics deleted = row_count;
    total := total + deleted;
    perform strata.count_batch(run_id, deleted, 0, 0, deleted, null, mark.dataset);
    exit when total >= batch_size;
  end loop;
  return total;
end
$$;

comment on function strata.cleanup_batch(bigint, integer, integer) is 'Deletes a batch of old raw rows and returns their number; 0 means that none are left.';

-- Deletes finished runs, and quarantined records not tried for long. The last finished run of each step stays.
create or replace function strata.prune_batch(run_id bigint, run_days integer, quarantine_days integer, batch_size integer default 20000)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  runs integer;
  entries integer;
  deletions integer;
begin
  perform strata.check_days_to_keep(run_days), strata.check_days_to_keep(quarantine_days);
  perform strata.enter_batch(prune_batch.run_id);
  delete from strata.runs r where r.run_id in (
    select o.run_id from strata.runs o
    where o.finished_at < current_timestamp - make_interval(days => run_days)
      and exists (select from strata.runs l where l.step = o.step and l.run_id > o.run_id and l.finished_at is not null)
    order by o.run_id limit batch_size
  );
  get diagnostics runs = row_count;
  delete from staging.quarantine q where q.quarantine_id in (
    select o.quarantine_id from staging.quarantine o
    where o.retried_at is null and o.last_attempt_at < current_timestamp - make_interval(days => quarantine_days)
    order by o.quarantine_id limit batch_size
  );
  get diagnostics entries = row_count;
  delete from strata.snapshots s where s.problem is not null and s.taken_at < current_timestamp - make_interval(days => run_days);
  -- Tombstones may go: records older than these deletions have left quarantine, too.
  delete from strata.deletions d where d.deletion_id in (
    select o.deletion_id from strata.deletions o
    where o.deleted_at < current_timestamp - make_interval(days => quarantine_days) order by o.deletion_id limit batch_size
  );
  get diagnostics deletions = row_count;
  perform strata.count_batch(prune_batch.run_id, runs, 0, 0, runs, null, 'pipeline_runs');
  perform strata.count_batch(prune_batch.run_id, entries, 0, 0, entries, null, 'quarantine');
  return runs + entries + deletions;
end
$$;

comment on function strata.prune_batch(bigint, integer, integer, integer) is 'Deletes a batch of old runs, quarantined records and tombstones and returns their number; 0 means that none are left.';

create or replace function staging.cleanup_old_data(days_to_keep integer default 30)
returns integer
language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
  select strata.cleanup_batch(null, cleanup_old_data.days_to_keep, 2147483647);
end;

comment on function staging.cleanup_old_data(integer) is 'Deletes transformed raw rows older than a number of days and returns their number.';
