// Closes connections that would keep a stopping server waiting although they serve nobody.
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance } from "fastify";

/** Milliseconds that a new connection of a stopping server has for its first request. */
const FIRST_REQUEST_MS = 500;

export function addDrain(app: FastifyInstance, stopping: AbortSignal | undefined): void {
  // An idle connection that is kept would keep the process, too; and its client would miss the next instance.
  app.addHook("onSend", (_request, reply, _payload, done) => {
    if (stopping?.aborted) reply.header("connection", "close");
    done();
  });
  // Clients open connections ahead of need. Until its first request Node does not count one as idle.
  const unused = new Set<Socket>();
  let isClosing = false;
  // The request of one that was accepted a moment ago may be on its way, or has arrived and waits to be read.
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
