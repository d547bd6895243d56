// Shared code of subscriptions: receives announcements of the database, reads under the client's role, and passes
// events on in turn.
import { setImmediate } from "node:timers/promises";
import type { WithPgClient } from "@dataplan/pg";
import { context, lambda, listen, type FieldArgs, type Step } from "grafast";

interface Subscriber {
  /** Yields payloads of notifications; an empty one if some may have been missed. */
  subscribe(channel: string): Announcements;
}
export type Announcements = AsyncGenerator<string>;

export interface Source {
  pgSubscriber: Subscriber;
  withPgClient: WithPgClient;
  pgSettings: Record<string, string> | null;
  /** Cancels the subscription's current work. */
  abort: () => void;
  /** Resolves when it is the work's turn among the client's operations, with a function that ends the turn. */
  enterLane: (work: "statement" | "event") => Promise<() => void>;
}

/** Queries under the client's role, so that it gets only what it may read, and an error if that is nothing. */
export async function query<Row>(
  { withPgClient, pgSettings, enterLane }: Source,
  text: string,
  values: unknown[],
): Promise<readonly Row[]> {
  const leave = await enterLane("statement");
  try {
    // The previous event's transaction ends in the next turn of the event loop; its snapshot lacks later
    // announcements.
    await setImmediate();
    const { rows } = await withPgClient(pgSettings, (client) => client.query<Row & object>({ text, values }));
    return rows;
  } finally {
    leave();
  }
}

type Updates<Args> = (source: Source, announcements: Announcements, args: Args) => AsyncGenerator<object>;

/** Each event's selection is an operation of its own, which has ended when the next event is requested. */
async function* inTurn({ enterLane }: Source, events: AsyncGenerator<object>): AsyncGenerator<object> {
  for await (const event of events) {
    const leave = await enterLane("event");
    try {
      yield event;
    } finally {
      leave();
    }
  }
}

function follow<Args>(
  source: Source,
  channel: string,
  updates: Updates<Args>,
  args: Args,
): AsyncGenerator<object> {
  // Subscribe before the first query, so that no announcement is missed.
  const announcements = source.pgSubscriber.subscribe(channel);
  const events = inTurn(source, updates(source, announcements, args));
  const end = events.return.bind(events);
  // The generator's return would wait for the pending announcement.
  const stop = async () => {
    source.abort();
    await announcements.return(undefined);
    return end(undefined);
  };
  return Object.assign(events, { return: stop, throw: stop });
}

/** Makes a field's subscribePlan, whose events are those that `updates` makes of a channel's announcements. */
export const subscribe =
  <Args extends object>(channel: string, updates: Updates<Args>) =>
  (_$root: Step, args: FieldArgs) => {
    const $updates = lambda([context(), args.getRaw()] as const, ([source, given]) => ({
      subscribe: () => follow(source as unknown as Source, channel, updates, given as Args),
    }));
    return listen($updates as never, channel, ($event) => $event);
  };
