// What subscriptions have in common: announcements of the database, read under the client's role, and passed on in turn.
import { setImmediate } from "node:timers/promises";
import type { WithPgClient } from "@dataplan/pg";
import { context, lambda, listen, type FieldArgs, type Step } from "grafast";

interface Subscriber {
  /** Payloads of notifications; an empty one when some may have been missed. */
  subscribe(channel: string): Announcements;
}
export type Announcements = AsyncGenerator<string>;

export interface Source {
  pgSubscriber: Subscriber;
  withPgClient: WithPgClient;
  pgSettings: Record<string, string> | null;
  /** Ends what is done for the subscription at this moment. */
  abort: () => void;
  /** Resolves when there is room for it beside the client's other operations, with what to call at its end. */
  enterLane: (work: "statement" | "event") => Promise<() => void>;
}

/** Under the client's role: it is told of what it may read, and refused if that is nothing. */
export async function query<Row>(
  { withPgClient, pgSettings, enterLane }: Source,
  text: string,
  values: unknown[],
): Promise<readonly Row[]> {
  const leave = await enterLane("statement");
  try {
    // The transaction of the event before ends in a turn of its own; what was announced since is not in its snapshot.
    await setImmediate();
    const { rows } = await withPgClient(pgSettings, (client) => client.query<Row & object>({ text, values }));
    return rows;
  } finally {
    leave();
  }
}

type Updates<Args> = (source: Source, announcements: Announcements, args: Args) => AsyncGenerator<object>;

/** The selection of an event is an operation of its own, which is over when the next event is requested. */
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
  // Before the first query, so that nothing falls in between.
  const announcements = source.pgSubscriber.subscribe(channel);
  const events = inTurn(source, updates(source, announcements, args));
  const end = events.return.bind(events);
  // A generator's own end would wait for the announcement that it waits for.
  const stop = async () => {
    source.abort();
    await announcements.return(undefined);
    return end(undefined);
  };
  return Object.assign(events, { return: stop, throw: stop });
}

/** The subscribePlan of a field: what `updates` makes of the announcements on a channel. */
export const subscribe =
  <Args extends object>(channel: string, updates: Updates<Args>) =>
  (_$root: Step, args: FieldArgs) => {
    const $updates = lambda([context(), args.getRaw()] as const, ([source, given]) => ({
      subscribe: () => follow(source as unknown as Source, channel, updates, given as Args),
    }));
    return listen($updates as never, channel, ($event) => $event);
  };
