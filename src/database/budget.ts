// Bounds the bytes that PostgreSQL sends for one operation while they arrive, before they become rows and text: a
// JavaScript string holds at most 512 MB, and a message that is longer ends the process in the socket's handler.
import type pg from "pg";
import { cancel } from "./cancel.ts";

export const BYTES_PER_MB = 1024 * 1024;

export class ResponseTooLarge extends Error {
  readonly megabytes: number;

  constructor(maxBytes: number, outcome = "") {
    const megabytes = maxBytes / BYTES_PER_MB;
    super(
      `The response is larger than ${megabytes} MB (MAX_RESPONSE_MB); ask for fewer rows, smaller pages or fewer fields${outcome}`,
    );
    this.megabytes = megabytes;
  }
}

/** Counts what one operation receives, over all of its statements and connections. */
export interface Budget {
  readonly maxBytes: number;
  received: number;
}

export const createBudget = (maxBytes: number): Budget => ({ maxBytes, received: 0 });

export const isExceeded = ({ received, maxBytes }: Budget): boolean => received > maxBytes;

interface Stream {
  prependListener(event: "data", listener: (chunk: Buffer) => void): void;
  destroy(error: Error): void;
}
interface Internals {
  connection: { stream: Stream };
}

const budgets = new WeakMap<Stream, Budget>();

/** Closes a connection whose operation receives more than its budget, and cancels the statement. */
export function meter(pool: pg.Pool): void {
  pool.on("connect", (client) => {
    const { stream } = (client as unknown as Internals).connection;
    stream.prependListener("data", (chunk) => {
      const budget = budgets.get(stream);
      if (!budget) return;
      budget.received += chunk.length;
      if (!isExceeded(budget)) return;
      budgets.delete(stream);
      // Close the connection: reading to the end of the statement would take as long as the whole result.
      stream.destroy(new ResponseTooLarge(budget.maxBytes));
      void cancel(client);
    });
  });
}

/** Charges the bytes that the connection receives to this budget, until another one or none is set. */
export function charge(client: pg.ClientBase, budget: Budget | undefined): void {
  const { stream } = (client as unknown as Internals).connection;
  if (budget) budgets.set(stream, budget);
  else budgets.delete(stream);
}

/** Resets the count, between statements that are bounded one by one. */
export function startAnew({ stream }: { stream: unknown }): void {
  const budget = budgets.get(stream as Stream);
  if (budget) budget.received = 0;
}
