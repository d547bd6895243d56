// Closes idle connections, for which a stopping server would wait.
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance } from "fastify";

/** Milliseconds that a new connection of a stopping server has for its first request. */
const FIRST_REQUEST_MS = 500;

export function addDrain(app: FastifyInstance, stopping: AbortSignal | undefined): void {
  // Responses of a stopping server close their connection: a kept one would delay the end, and its client would not
  // move to another instance.
  app.addHook("onSend", (_request, reply, _payload, done) => {
    if (stopping?.aborted) reply.header("connection", "close");
    done();
  });
  // Connections without a request yet, which clients open in advance. Node does not count them as idle.
  const unused = new Set<Socket>();
  let isClosing = false;
  // A new connection's request may be on its way, or wait to be read, so allow it some time.
  const endUnlessUsed = (socket: Socket): void =>
    void setTimeout(
      () => setImmediate(() => unused.has(socket) && socket.destroy()),
      FIRST_REQUEST_MS,
    ).unref();
  app.server.on("connection", (socket) => {
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
    if (isClosing) endUnlessUsed(socket);
  });
  for (const event of ["request", "upgrade"])
    app.server.on(event, ({ socket }: IncomingMessage) => unused.delete(socket));
  app.addHook("preClose", (done) => {
    isClosing = true;
    unused.forEach(endUnlessUsed);
    done();
  });
}
