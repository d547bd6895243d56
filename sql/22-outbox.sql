-- ======================================================================================================
-- Outbox: what receivers outside are told, written in the transaction that it is about
--
-- A message and the job that delivers it commit with what they tell of, or not at all. Nobody but the worker
-- waits for a receiver. A job delivers all messages of its receiver in their order, so that what one receiver
-- hears of a run or an incident is in order, too; one that fails is retried by the queue.
-- ======================================================================================================

create table if not exists strata.receivers (
  receiver text constraint receivers_pkey primary key,
  is_on boolean not null default false,
  constraint known_receiver check (receiver in ('alerts', 'lineage'))
);

comment on table strata.receivers is 'Whom the workers deliver messages to; one row per kind of receiver.';
comment on column strata.receivers.receiver is 'alerts: incidents, to a webhook; lineage: events of runs, in the format of OpenLineage.';
comment on column strata.receivers.is_on is 'Whether the worker that started last was configured to deliver them: else no messages are written.';

insert into strata.receivers (receiver) values ('alerts'), ('lineage') on conflict do nothing;

create table if not exists strata.outbox (
  message_id bigint generated always as identity constraint outbox_pkey primary key,
  receiver text not null,
  event text not null,
  run_id bigint,
  body jsonb,
  created_at timestamptz not null default clock_timestamp(),
  public_id uuid not null default gen_random_uuid(),
  rejected text,
  constraint fk_receiver foreign key (receiver) references strata.receivers (receiver) on delete cascade,
  constraint fk_run foreign key (run_id) references strata.runs (run_id) on delete cascade
);

create index if not exists idx_outbox_receiver on strata.outbox (receiver, message_id);
create index if not exists idx_outbox_run on strata.outbox (run_id);

comment on table strata.outbox is 'Messages that are not delivered yet; one row each.';
comment on column strata.outbox.message_id is 'Identity of the message, in the order in which a receiver gets them.';
comment on column strata.outbox.receiver is 'Kind of receiver.';
comment on column strata.outbox.event is 'What happened: incident.opened, incident.resolved, test, or START, COMPLETE, FAIL of a run.';
comment on column strata.outbox.run_id is 'Run that an event of lineage tells of.';
comment on column strata.outbox.body is 'What is sent; empty for an event of lineage until a worker has put it together.';
comment on column strata.outbox.created_at is 'When it happened.';
comment on column strata.outbox.public_id is 'Identity for the receiver, the same in every attempt.';
comment on column strata.outbox.rejected is 'Why the receiver will not take this message; it is not sent again.';

-- A job a message, without a key: two transactions that tell of something never wait for each other. Jobs of a receiver
-- run one after the other (queue_name).
create or replace function strata.queue_delivery(receiver text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass('graphile_worker.jobs') is not null then
    perform graphile_worker.add_job('deliver_' || queue_delivery.receiver, '{}', queue_name => 'outbox:' || queue_delivery.receiver);
  end if;
end
$$;

comment on function strata.queue_delivery(text) is 'Adds the job that delivers what waits for a receiver.';

create or replace function strata.tell(receiver text, event text, run_id bigint default null, body jsonb default null)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  insert into strata.outbox (receiver, event, run_id, body)
  select r.receiver, tell.event, tell.run_id, tell.body from strata.receivers r where r.receiver = tell.receiver and r.is_on;
  if found then
    perform strata.queue_delivery(tell.receiver);
  end if;
end
$$;

comment on function strata.tell(text, text, bigint, jsonb) is 'Writes a message into the outbox, if its receiver is on.';

-- What waits may have lost its jobs: they were given up, or the schema of the queue was created again.
create or replace function strata.set_receiver(receiver text, is_on boolean)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  update strata.receivers r set is_on = set_receiver.is_on
  where r.receiver = set_receiver.receiver and r.is_on is distinct from set_receiver.is_on;
  if set_receiver.is_on and exists (select from strata.outbox o where o.receiver = set_receiver.receiver and o.rejected is null) then
    perform strata.queue_delivery(set_receiver.receiver);
  end if;
end
$$;

comment on function strata.set_receiver(text, boolean) is 'Says whether messages for a receiver are written; a worker does at its start.';

-- A delivery takes two minutes at most. One that is locked for longer belongs to a worker that died, and the queue would
-- wait four hours for it.
create or replace function strata.free_deliveries()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  dead text[];
begin
  if to_regclass('graphile_worker.jobs') is null then
    return;
  end if;
  select array_agg(distinct j.locked_by) into dead
  from graphile_worker.jobs j
  where j.queue_name like 'outbox:%' and j.locked_at < clock_timestamp() - interval '3 minutes';
  if dead is not null then
    perform graphile_worker.force_unlock_workers(dead);
  end if;
end
$$;

comment on function strata.free_deliveries() is 'Gives deliveries of dead workers back to the queue.';
