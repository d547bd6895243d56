// Too much at once is refused soon: whoever is let in has an answer in a bearable time.
import type { FastifyInstance, FastifyRequest } from "fastify";

declare module "fastify" {
  interface FastifyRequest {
    /** Gives its place to the next one; for operations that will wait for something else for long. */
    leave?: () => void;
  }
}

/** A burst is over by then; what waits longer is load that does not end by waiting. */
const MAX_WAIT_MS = 100;
const MAX_WAITING = 1000;
const RETRY_AFTER_S = "1";

interface Waiting {
  caller: string;
  enter: () => void;
}

/** Not yet checked, but nobody gets another's places by it: who it is comes later. */
const callerOf = ({ headers, ip }: FastifyRequest): string => headers.authorization ?? ip;

/**
 * At most `limit` operations at once, a quarter of them out of reach for any single caller; the others wait for a
 * moment, then are refused.
 */
export function addAdmission(app: FastifyInstance, path: string, limit: number): void {
  const share = Math.ceil(limit * 0.75);
  const running = new Map<string, number>();
  const waiting = new Set<Waiting>();
  let total = 0;

  const hasRoom = (caller: string): boolean => total < limit && (running.get(caller) ?? 0) < share;

  function occupy(caller: string): void {
    total++;
    running.set(caller, (running.get(caller) ?? 0) + 1);
  }

  function leave(caller: string): void {
    total--;
    const rest = running.get(caller)! - 1;
    if (rest > 0) running.set(caller, rest);
    else running.delete(caller);
    for (const entry of waiting) {
      if (total >= limit) return;
      if (hasRoom(entry.caller)) entry.enter();
    }
  }

  // Before anything that takes time, so that a refusal costs next to nothing.
  app.addHook("onRequest", (request, reply, done) => {
    if (request.method !== "POST" || !request.url.startsWith(path)) return done();
    const caller = callerOf(request);
    const start = (): void => {
      occupy(caller);
      let left = false;
      request.leave = () => {
        if (left) return;
        left = true;
        leave(caller);
      };
      reply.raw.once("close", request.leave);
      done();
    };
    const refuse = (): void => {
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
    if (hasRoom(caller)) return start();
    if (waiting.size >= MAX_WAITING) return refuse();
    const forget = (): void => {
      clearTimeout(timer);
      waiting.delete(entry);
      reply.raw.off("close", forget);
    };
    const entry: Waiting = { caller, enter: () => (forget(), start()) };
    const timer = setTimeout(() => (forget(), refuse()), MAX_WAIT_MS);
    waiting.add(entry);
    reply.raw.once("close", forget);
  });
}
