// A request that does not come to its end is cut off. An ingest that was let in may take hours to come.
import type { IncomingMessage } from "node:http";
import type { Server, Socket } from "node:net";
import type { FastifyInstance } from "fastify";

/** Milliseconds for a whole request. Not less than Node's limit for headers, which would be shortened to it. */
export const REQUEST_TIMEOUT_MS = 60_000;
export const CHECK_MS = 5_000;

const streaming = new WeakSet<Socket>();

type Handler = (error: NodeJS.ErrnoException, socket: Socket) => void;

export function addSlowRequests({ server }: FastifyInstance): void {
  const handlers = server.listeners("clientError") as Handler[];
  server.removeAllListeners("clientError");
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    // Said once of a request, which then goes on.
    if (error.code === "ERR_HTTP_REQUEST_TIMEOUT" && streaming.has(socket)) return;
    for (const handle of handlers) handle(error, socket);
  });
}

/** Exempts a request from the timeout until the returned function is called. */
export function mayTakeLong({ server }: FastifyInstance, { socket }: IncomingMessage): () => void {
  streaming.add(socket);
  // Fastify listens on another address of "localhost" by a server without such handlers.
  const own = (socket as Socket & { server?: Server }).server;
  if (own?.listenerCount("clientError") === 0)
    for (const handle of server.listeners("clientError")) own.on("clientError", handle as Handler);
  return () => streaming.delete(socket);
}
