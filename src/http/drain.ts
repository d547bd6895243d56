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
  app.server.on("connection", (socket) => {
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
  });
  for (const event of ["request", "upgrade"])
    app.server.on(event, ({ socket }: IncomingMessage) => unused.delete(socket));
  app.addHook("preClose", (done) => {
    // The request of one that was accepted a moment ago may be on its way.
    setTimeout(() => {
      for (const socket of unused) socket.destroy();
    }, FIRST_REQUEST_MS);
    done();
  });
}
