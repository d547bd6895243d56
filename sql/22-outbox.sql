-- ======================================================================================================
-- Outbox: messages to external receivers, written in the transaction of the change that they report
--
-- A message and the job that delivers it commit together with the change, or not at all, and only the worker waits for
-- a receiver. A job delivers all messages of its receiver in order, so each receiver sees the changes of a run or an
-- incident in order, too. The queue retries a job that fails.
-- ======================================================================================================

create table if not exists strata.receivers (
  receiver text constraint receivers_pkey primary key,
  is_on boolean not null default false,
  constraint known_receiver check (receiver in ('alerts', 'lineage'))
);

comment on table strata.receivers is 'Receivers that the workers deliver messages to; one row per kind of receiver.';
comment on column strata.receivers.receiver is 'alerts: incidents, to a webhook; lineage: run events in the OpenLineage format.';
comment on column strata.receivers.is_on is 'Whether the worker that started last has this receiver configured; if false, no messages are written for it.';

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

comment on table strata.outbox is 'Messages that are not delivered yet; one row per message.';
comment on column strata.outbox.message_id is 'Identifier of the message; a receiver gets its messages in this order.';
comment on column strata.outbox.receiver is 'Receiver of the message: alerts or lineage.';
comment on column strata.outbox.event is 'Type of the event: incident.opened, incident.resolved, test, or START, COMPLETE, FAIL of a run.';
comment on column strata.outbox.run_id is 'Run that a lineage event is about; null for other messages.';
comment on column strata.outbox.body is 'Content of the message; null for a lineage event until a worker has composed it.';
comment on column strata.outbox.created_at is 'When the event happened.';
comment on column strata.outbox.public_id is 'Identifier of the message for its receiver, the same in every attempt.';
comment on column strata.outbox.rejected is 'Why the receiver rejected the message, which is not sent again; null if it did not.';

-- Each message gets a job of its own, without a key: with one, transactions that write messages would wait for each
-- other. The jobs of a receiver run one after the other (queue_name).
create or replace function strata.queue_delivery(receiver text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass('graphile_worker.jobs') is not null then
    perform graphile_worker.add_job('deliver_' || queue_delivery.receiver, '{}', queue_name => 'outbox:' || queue_delivery.receiver);
  end if;
end
$$;

comment on function strata.queue_delivery(text) is 'Adds the job that delivers the messages of a receiver.';

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

comment on function strata.tell(text, text, bigint, jsonb) is 'Writes a message to the outbox if its receiver is on.';

-- Messages may have lost their jobs, because these were given up or the schema of the queue was recreated.
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

comment on function strata.set_receiver(text, boolean) is 'Switches a receiver on or off; a worker does so when it starts.';

-- A delivery takes at most 2 minutes. A job locked for longer belongs to a worker that died, and the queue would free
-- it only after 4 hours.
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

comment on function strata.free_deliveries() is 'Frees delivery jobs of workers that died, so that another worker runs them.';
