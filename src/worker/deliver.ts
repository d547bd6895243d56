// Delivers the outbox's messages in order. A temporary failure fails the job, which the queue retries.
import type { Pool } from "pg";
import { Rejected } from "./post.ts";

export type Receiver = "alerts" | "lineage";

export interface Message {
  id: string;
  /** Identifier of the message for its receiver, the same in every attempt. */
  publicId: string;
  event: string;
  runId: string | null;
  body: unknown;
  createdAt: string;
}

/** Time in ms after which a job leaves the rest to the next one: strata.free_deliveries considers longer ones dead. */
const MAX_JOB_MS = 60_000;

export async function deliver(
  pool: Pool,
  receiver: Receiver,
  send: (message: Message) => Promise<unknown>,
  signal?: AbortSignal,
): Promise<void> {
  const end = Date.now() + MAX_JOB_MS;
  while (!signal?.aborted) {
    const { rows } = await pool.query<Message>(
      `select message_id as id, public_id as "publicId", event, run_id as "runId", body, strata.iso_time(created_at) as "createdAt"
       from strata.outbox where receiver = $1 and rejected is null order by message_id limit 1`,
      [receiver],
    );
    const message = rows[0];
    if (!message) return;
    if (Date.now() > end) return void (await pool.query("select strata.queue_delivery($1)", [receiver]));
    try {
      await send(message);
      await pool.query("delete from strata.outbox where message_id = $1", [message.id]);
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      await pool.query("update strata.outbox set rejected = $2 where message_id = $1", [
        message.id,
        error.message,
      ]);
    }
  }
  // Another worker retries the job.
  signal.throwIfAborted();
}
