// One LISTEN connection for the whole process. When it is lost, it reconnects and tells every subscriber to catch up
// on what was announced meanwhile.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { cut } from "./connect.ts";

const CHANNELS = ["strata:run", "strata:refresh", "strata:schema", "strata:rows"];
/** Announcements queued for a subscriber; one that falls further behind is told to catch up instead. */
const QUEUE_LIMIT = 1000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;
const PROBE_MS = 30_000;

/** Passed in place of an announcement when some may have been missed. */
const MISSED = "";

interface Subscriber {
  channel: string;
  push(announcement: string): void;
  end(): void;
}

export interface Notifications {
  subscribe(channel: string): AsyncGenerator<string, void>;
  /** Whether announcements arrive at this moment. */
  isListening(): boolean;
  release(): Promise<void>;
}

export function createNotifications(
  connection: pg.ClientConfig,
  /** Called before an announcement is passed on. */
  before?: (client: pg.ClientBase) => Promise<void>,
): Notifications {
  const subscribers = new Set<Subscriber>();
  const released = new AbortController();
  let client: pg.Client | undefined;
  let isListening = false;

  async function connect(): Promise<pg.Client> {
    // Set before connecting, since it may be released meanwhile.
    const created = (client = new pg.Client({
      ...connection,
      application_name: "strata listen",
      keepAlive: true,
    }));
    created.on("error", () => undefined);
    let order: Promise<unknown> = Promise.resolve();
    created.on("notification", ({ channel, payload }) => {
      const push = (): void => {
        for (const subscriber of subscribers)
          if (subscriber.channel === channel) subscriber.push(payload ?? MISSED);
      };
      if (!before) return push();
      // If the connection is lost meanwhile, it reconnects, and all subscribers catch up.
      order = order.then(() => before(created)).then(push, () => cut(created));
    });
    try {
      await created.connect();
      for (const channel of CHANNELS) await created.query(`listen ${created.escapeIdentifier(channel)}`);
    } catch (error) {
      await created.end().catch(() => undefined);
      throw error;
    }
    return created;
  }

  /** Resolves when the connection is lost; a probe detects a peer that vanished silently. */
  async function lost(current: pg.Client): Promise<void> {
    const ended = new Promise<void>((resolve) => current.once("end", resolve));
    const probe = setInterval(() => {
      const answer = current.query("select 1");
      const late = sleep(PROBE_MS / 2, undefined, { ref: false }).then(() =>
        Promise.reject(new Error("late")),
      );
      Promise.race([answer, late]).catch(() => cut(current));
    }, PROBE_MS);
    probe.unref();
    await ended;
    clearInterval(probe);
  }

  async function listen(): Promise<void> {
    let delay = 0;
    while (!released.signal.aborted) {
      try {
        const current = await connect();
        await before?.(current);
        isListening = true;
        delay = 0;
        for (const subscriber of subscribers) subscriber.push(MISSED);
        await lost(current);
      } catch {
        // The next attempt reports the same, and requests report that the database is unavailable.
      }
      isListening = false;
      delay = Math.min(Math.max(delay * 2, FIRST_RETRY_MS), LAST_RETRY_MS);
      await sleep(delay, undefined, { signal: released.signal, ref: false }).catch(() => undefined);
    }
  }

  const listening = listen();
  return {
    isListening: () => isListening,
    subscribe(channel) {
      return subscription(channel, subscribers);
    },
    async release() {
      released.abort();
      for (const subscriber of subscribers) subscriber.end();
      // Ending pg's client while it connects would leave that promise pending.
      if (client) cut(client);
      await listening;
    },
  };
}

/** Subscribed from the call on, not from the first `next`. */
function subscription(channel: string, subscribers: Set<Subscriber>): AsyncGenerator<string, void> {
  let queue: string[] = [];
  let ended = false;
  let wake = (): void => undefined;
  const subscriber: Subscriber = {
    channel,
    push(announcement) {
      queue = queue.length < QUEUE_LIMIT ? [...queue, announcement] : [MISSED];
      wake();
    },
    end() {
      ended = true;
      subscribers.delete(subscriber);
      wake();
    },
  };
  subscribers.add(subscriber);

  const next = async (): Promise<IteratorResult<string, void>> => {
    while (queue.length === 0 && !ended) await new Promise<void>((resolve) => (wake = resolve));
    return ended ? { value: undefined, done: true } : { value: queue.shift()!, done: false };
  };
  const stop = (): Promise<IteratorResult<string, void>> => {
    subscriber.end();
    return Promise.resolve({ value: undefined, done: true });
  };
  return {
    next,
    return: stop,
    throw: stop,
    [Symbol.asyncIterator]() {
      return this;
    },
    async [Symbol.asyncDispose]() {
      await stop();
    },
  };
}
