// Too much at once is refused at once: whoever is let in has an answer in a bearable time.
import type { FastifyInstance } from "fastify";
import { refusal } from "./errors.ts";

/** At most `limit` operations are worked on or waiting, of everybody together; answers from memory do not count. */
export function addAdmission(app: FastifyInstance, limit: number): void {
  let admitted = 0;
  app.addHook("preHandler", (request, reply, done) => {
    if (request.method !== "POST") return done();
    if (admitted >= limit) {
      reply.header("retry-after", "1");
      return done(
        refusal("SERVICE_UNAVAILABLE", "The server has more to do than it can; try again", { retryAfter: 1 }),
      );
    }
    admitted++;
    // Not onResponse: that is not called for a client that went away.
    reply.raw.once("close", () => void admitted--);
    done();
  });
}
