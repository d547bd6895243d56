// Too much at once is refused at once: whoever is let in has an answer in a bearable time.
import type { FastifyInstance } from "fastify";
import { refusal } from "./errors.ts";

declare module "fastify" {
  interface FastifyRequest {
    admitted?: boolean;
  }
}

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
    request.admitted = true;
    done();
  });
  app.addHook("onResponse", (request, _reply, done) => {
    if (request.admitted) admitted--;
    done();
  });
}
