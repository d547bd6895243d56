// Closes requests that take too long to arrive, except admitted ingests, which may take hours.
import type { IncomingMessage } from "node:http";
import type { Server, Socket } from "node:net";
import type { FastifyInstance } from "fastify";

/** Time in ms for a whole request. It must not be less than Node's limit for headers, which it would shorten. */
export const REQUEST_TIMEOUT_MS = 60_000;
export const CHECK_MS = 5_000;

const streaming = new WeakSet<Socket>();

type Handler = (error: NodeJS.ErrnoException, socket: Socket) => void;

export function addSlowRequests({ server }: FastifyInstance): void {
  const handlers = server.listeners("clientError") as Handler[];
  server.removeAllListeners("clientError");
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    // Node reports this once per request, which then continues.
    if (error.code === "ERR_HTTP_REQUEST_TIMEOUT" && streaming.has(socket)) return;
    for (const handle of handlers) handle(error, socket);
  });
}

/** Exempts a request from the timeout until the returned function is called. */
export function mayTakeLong({ server }: FastifyInstance, { socket }: IncomingMessage): () => void {
  streaming.add(socket);
  // For "localhost" Fastify opens further servers, which lack these handlers.
  const own = (socket as Socket & { server?: Server }).server;
  if (own?.listenerCount("clientError") === 0)
    for (const handle of server.listeners("clientError")) own.on("clientError", handle as Handler);
  return () => streaming.delete(socket);
}
