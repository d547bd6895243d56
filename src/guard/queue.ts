// The one queue of GraphQL operations, fair by caller. An operation waits in it for a place in this process when it
// arrives, and for a turn at the database when it is planned or large. Both are counted by caller: nobody takes all
// places, and a caller's heavy operations run one after the other, so that connections are left for everybody else.
import type { Server, ServerResponse } from "node:http";
import type { FastifyRequest } from "fastify";
import { apiError } from "../graphql/errors.ts";
import type { Hold } from "./holds.ts";
import { identityOf } from "./rate-limit.ts";

declare module "fastify" {
  interface FastifyRequest {
    place?: Place;
  }
}

/** An operation's place in the process, from its arrival to its response. */
interface Place {
  /** Gives the place up while the operation waits for something else. */
  leave(): void;
  /** Takes a place again without waiting, since the operation was admitted before. */
  back(): void;
}

/**
 * Resolves when it is the operation's turn at the database, with what ends the turn. A patient one (an event of a
 * subscription) is never rejected, and does not count among those that wait.
 */
export type EnterTurn = (
  caller: string,
  cost: number,
  options?: { signal?: AbortSignal | undefined; place?: Place | undefined; isPatient?: boolean },
) => Promise<() => void>;

interface QueueOptions {
  /** Operations in this process at once (MAX_CONCURRENT_OPERATIONS); more of them take more memory. */
  maxPlaces: number;
  /** Turns of one caller at once; with more, fewer connections are left for others. */
  maxTurns: number;
  /** Cost of one caller's turns together (MAX_QUERY_COST); one operation always fits. */
  maxCost: number;
  hold: Hold;
}

/** Maximum time in ms to wait for a place. Bursts clear within it; a higher limit delays the 503 of an overload. */
const MAX_WAIT_MS = 250;
/** Time in ms from which on the newest are admitted first: most responses are fast then, instead of all slow. Higher values raise the latency under overload. */
const PATIENCE_MS = 30;
/** Operations of all callers that wait for a place; each more takes the memory of a request. */
const MAX_ARRIVALS = 1000;
/** Operations of one caller that wait for a turn; lower values reject pages that send many heavy queries at once. */
const MAX_TURNS_WAITING = 40;
/** Time in ms for which a body that is still arriving holds a place; higher values let slow uploads keep others out. */
const MAX_BODY_WAIT_MS = 100;
/** Bodies of one caller that arrive more slowly than that, in all processes; a further one keeps its place. Each more takes the memory of a body. */
const MAX_SLOW_BODIES = 50;

/** Connections accepted for each operation that starts meanwhile; lower values leave new connections waiting, unseen. */
const ACCEPTS_PER_START = 16;
/** Time in ms without a new connection after which none is taken to be waiting; higher values delay the queue. */
const CALM_MS = 100;

const cancelled = () => apiError("CANCELLED", "The client disconnected");

interface Arrival {
  caller: string;
  since: number;
  admit: () => void;
  reject: () => void;
}
interface Turn {
  cost: number;
  isPatient: boolean;
  start: () => void;
}
/** Places that one caller holds and waits for. */
interface Load {
  places: number;
  turns: number;
  cost: number;
  waiting: Turn[];
}

export function createQueue({ maxPlaces, maxTurns, maxCost, hold }: QueueOptions) {
  const loads = new Map<string, Load>();
  const arrivals: Arrival[] = [];
  let places = 0;
  let waitingSince = 0;
  let connections = 0;
  let connectedAt = -Infinity;
  let accepted = 0;
  let pending: NodeJS.Immediate | undefined;

  function change(caller: string, apply: (load: Load) => void): Load {
    const load = loads.get(caller) ?? { places: 0, turns: 0, cost: 0, waiting: [] };
    apply(load);
    if (load.places + load.turns + load.waiting.length > 0) loads.set(caller, load);
    else loads.delete(caller);
    return load;
  }

  /** A caller never takes more than it leaves free: the first gets half of all places, the second half of the rest. */
  const hasPlace = (caller: string): boolean => (loads.get(caller)?.places ?? 0) < maxPlaces - places;

  function takePlace(caller: string) {
    let isInside = false;
    let hasEnded = false;
    const move = (by: 1 | -1): void => {
      if (hasEnded || isInside === by > 0) return;
      isInside = by > 0;
      places += by;
      change(caller, (load) => (load.places += by));
      if (by < 0) admitNext();
    };
    move(1);
    return { back: () => move(1), leave: () => move(-1), end: () => (move(-1), (hasEnded = true)) };
  }

  function nextArrival(): Arrival | undefined {
    const now = performance.now();
    if (now - (arrivals[0]?.since ?? now) <= PATIENCE_MS)
      return arrivals.find(({ caller }) => hasPlace(caller));
    // A queue that was not empty for MAX_WAIT_MS is no burst: those that have waited long would be rejected soon
    // anyway.
    const limit = now - waitingSince > MAX_WAIT_MS ? PATIENCE_MS : MAX_WAIT_MS;
    return arrivals.findLast(({ since, caller }) => now - since <= limit && hasPlace(caller));
  }

  /** The event loop accepts one connection a turn: while connections arrive, the queue leaves most turns to them. */
  function watch(server: Server): void {
    server.on("connection", () => {
      connections++;
      connectedAt = performance.now();
    });
  }

  function admitNext(): void {
    if (arrivals.length === 0 || places >= maxPlaces) return;
    if (performance.now() - connectedAt > CALM_MS) nextArrival()?.admit();
    else pending ??= setImmediate(admitInTurn, connections);
  }

  function admitInTurn(connectionsBefore: number): void {
    pending = undefined;
    const next = nextArrival();
    if (!next) return;
    if (connections === connectionsBefore || ++accepted % ACCEPTS_PER_START === 0) next.admit();
    admitNext();
  }

  /** Calls back when the request has a place, or with an error if it gets none. */
  function arrive(request: FastifyRequest, response: ServerResponse, done: (error?: Error) => void): void {
    const caller = identityOf(request);
    const admit = (): void => {
      const place = (request.place = takePlace(caller));
      response.once("close", place.end);
      if (request.method === "POST") awaitBody(request, place, () => hold("body", caller, MAX_SLOW_BODIES));
      done();
    };
    if (arrivals.length === 0 && hasPlace(caller)) return admit();
    const remove = (): void => {
      clearTimeout(timer);
      response.off("close", remove);
      arrivals.splice(arrivals.indexOf(arrival), 1);
    };
    const reject = (): void => {
      remove();
      const error = apiError("SERVICE_UNAVAILABLE", "The server is overloaded; try again in 1 s", {
        retryAfter: 1,
      });
      // The request's own log line is enough under overload.
      done(Object.assign(error, { isRepeated: true }));
    };
    const timer = setTimeout(reject, MAX_WAIT_MS);
    const arrival = { caller, since: performance.now(), admit: () => (remove(), admit()), reject };
    if (arrivals.length === 0) waitingSince = arrival.since;
    arrivals.push(arrival);
    response.once("close", remove);
    if (arrivals.length > MAX_ARRIVALS) arrivals[0]!.reject();
    admitNext();
  }

  const hasTurn = ({ turns, cost }: Load, more: number): boolean =>
    turns === 0 || (turns < maxTurns && cost + more <= maxCost);

  function startTurns(load: Load): void {
    for (let next = load.waiting[0]; next && hasTurn(load, next.cost); next = load.waiting[0]) {
      load.waiting.shift();
      load.turns += 1;
      load.cost += next.cost;
      next.start();
    }
  }

  const enterTurn: EnterTurn = async (caller, cost, { signal, place, isPatient = false } = {}) => {
    if (signal?.aborted) throw cancelled();
    const waiting = loads.get(caller)?.waiting.filter((turn) => !turn.isPatient).length ?? 0;
    if (!isPatient && waiting >= MAX_TURNS_WAITING)
      throw apiError(
        "SERVICE_UNAVAILABLE",
        `${waiting} of your operations are waiting already, which is the limit; wait for some of the responses`,
        { retryAfter: 1, limit: MAX_TURNS_WAITING },
      );
    await new Promise<void>((resolve, reject) => {
      const start = (): void => {
        signal?.removeEventListener("abort", cancel);
        place?.back();
        resolve();
      };
      const cancel = (): void => {
        change(caller, (load) => load.waiting.splice(load.waiting.indexOf(turn), 1));
        reject(cancelled());
      };
      const turn = { cost, isPatient, start };
      const load = change(caller, (own) => (own.waiting.push(turn), startTurns(own)));
      if (!load.waiting.includes(turn)) return;
      // It waits for its own caller's heavy operations, and leaves its place to others meanwhile.
      if (load.turns < maxTurns) place?.leave();
      signal?.addEventListener("abort", cancel, { once: true });
    });
    return () =>
      void change(caller, (load) => {
        load.turns -= 1;
        load.cost -= cost;
        startTurns(load);
      });
  };

  return { watch, arrive, enterTurn };
}

function awaitBody({ raw }: FastifyRequest, place: Place, holdSlow: () => (() => void) | undefined): void {
  // Clear timers at once, since they keep their request in memory.
  const timer = setTimeout(() => {
    const giveBack = holdSlow();
    if (!giveBack) return;
    place.leave();
    raw.once("end", () => {
      giveBack();
      place.back();
    });
    raw.once("close", giveBack);
  }, MAX_BODY_WAIT_MS).unref();
  raw.once("end", () => clearTimeout(timer));
}
