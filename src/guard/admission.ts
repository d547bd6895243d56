// Too much at once is refused: whoever is let in has an answer in a bearable time.
import type { IncomingMessage } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";

declare module "fastify" {
  interface FastifyRequest {
    place?: Place;
  }
}

/** What an operation takes while it is worked on. */
export interface Place {
  /** Gives it to the next one; for operations that will wait for something else for long. */
  leave(): void;
  /** Takes one again, at once: it was let in before. */
  back(): void;
}

/** A burst is over by then; what waits longer is load that does not end by waiting. Who is refused has lost no more. */
const MAX_WAIT_MS = 250;
/** When some have waited all the time for MAX_WAIT_MS, nobody is let in who has waited longer than this. */
const PATIENCE_MS = 30;
const MAX_WAITING = 1000;
const RETRY_AFTER_S = "1";
/** A body that takes longer to come takes no place from anybody meanwhile. */
const MAX_BODY_WAIT_MS = 100;
/** The event loop accepts one connection a turn: under load, new ones would wait for seconds, unseen. */
const ACCEPTS_PER_START = 16;
/** No connection for so long: none is waiting to be accepted. */
const CALM_MS = 100;

interface Waiting {
  caller: string;
  since: number;
  enter: () => void;
  refuse: () => void;
}

/** Not yet checked, but nobody gets another's places by it: who it is comes later. */
const callerOf = ({ headers, ip }: FastifyRequest): string =>
  // Without "Bearer" and the last character, which can be written in several ways.
  headers.authorization?.slice(7, -1) ?? ip;

function awaitBody(body: IncomingMessage, place: Place): void {
  // Cleared at once: a timer keeps all of its request in memory.
  const timer = setTimeout(() => {
    place.leave();
    body.once("end", () => place.back());
  }, MAX_BODY_WAIT_MS).unref();
  body.once("end", () => clearTimeout(timer));
}

/**
 * At most `limit` operations at once, of one caller never more than it leaves free: half of all places for the first,
 * half of the rest for the second. The others wait for a moment, then are refused. Once the oldest has waited for too
 * long, the newest are first: most are answered soon, instead of all late.
 */
export function addAdmission(app: FastifyInstance, path: string, limit: number): void {
  const running = new Map<string, number>();
  const waiting: Waiting[] = [];
  let total = 0;
  let busySince = 0;
  let connections = 0;
  let connectedAt = -Infinity;
  let accepted = 0;
  let turn: NodeJS.Immediate | undefined;

  const hasRoom = (caller: string): boolean => (running.get(caller) ?? 0) < limit - total;

  function move(caller: string, by: 1 | -1): void {
    total += by;
    const rest = (running.get(caller) ?? 0) + by;
    if (rest > 0) running.set(caller, rest);
    else running.delete(caller);
    if (by < 0) awaitTurn();
  }

  function takePlace(caller: string) {
    let inside = false;
    let ended = false;
    const back = (): void => {
      if (inside || ended) return;
      inside = true;
      move(caller, 1);
    };
    const leave = (): void => {
      if (!inside) return;
      inside = false;
      move(caller, -1);
    };
    back();
    return { back, leave, end: () => (leave(), (ended = true)) };
  }

  function nextToEnter(): Waiting | undefined {
    const now = performance.now();
    if (now - (waiting[0]?.since ?? now) <= PATIENCE_MS) return waiting.find(({ caller }) => hasRoom(caller));
    const patience = now - busySince > MAX_WAIT_MS ? PATIENCE_MS : MAX_WAIT_MS;
    return waiting.findLast((entry) => now - entry.since <= patience && hasRoom(entry.caller));
  }

  function awaitTurn(): void {
    if (waiting.length === 0 || total >= limit) return;
    if (performance.now() - connectedAt > CALM_MS) nextToEnter()?.enter();
    else turn ??= setImmediate(takeTurn, connections);
  }

  /** One a turn, so that what came meanwhile is seen in between. */
  function takeTurn(connectionsBefore: number): void {
    turn = undefined;
    const next = nextToEnter();
    if (!next) return;
    if (connections === connectionsBefore || ++accepted % ACCEPTS_PER_START === 0) next.enter();
    awaitTurn();
  }

  app.server.on("connection", () => {
    connections++;
    connectedAt = performance.now();
  });

  // Before anything that takes time, so that a refusal costs next to nothing.
  app.addHook("onRequest", (request, reply, done) => {
    // By its route: the same path can be written in several ways.
    if (request.ws || request.routeOptions.url !== path) return done();
    const caller = callerOf(request);
    const start = (): void => {
      const place = (request.place = takePlace(caller));
      reply.raw.once("close", place.end);
      if (request.method === "POST") awaitBody(request.raw, place);
      done();
    };
    if (waiting.length === 0 && hasRoom(caller)) return start();
    const forget = (): void => {
      clearTimeout(timer);
      reply.raw.off("close", forget);
      waiting.splice(waiting.indexOf(entry), 1);
    };
    const refuse = (): void => {
      forget();
      const message = "The server has more to do than it can; try again";
      const extensions = { code: "SERVICE_UNAVAILABLE", requestId: request.id };
      reply.hijack();
      reply.raw
        .writeHead(503, {
          ...(reply.getHeaders() as Record<string, string>),
          "content-type": "application/json; charset=utf-8",
          "retry-after": RETRY_AFTER_S,
        })
        .end(JSON.stringify({ errors: [{ message, extensions }] }));
      request.raw.resume();
    };
    const timer = setTimeout(refuse, MAX_WAIT_MS);
    const enter = (): void => (forget(), start());
    const entry: Waiting = { caller, since: performance.now(), enter, refuse };
    if (waiting.length === 0) busySince = entry.since;
    waiting.push(entry);
    reply.raw.once("close", forget);
    if (waiting.length > MAX_WAITING) waiting[0]!.refuse();
    awaitTurn();
  });
}
