// How much one caller may use up: a budget of cost that fills up again every minute.
import { RateLimiterMemory, type RateLimiterRes } from "rate-limiter-flexible";
import type { FastifyRequest } from "fastify";
import type { Caller } from "../config.ts";
import { refusal } from "../graphql/errors.ts";

/** A token's subject, or the address of a caller without one (an IPv6 network counts as one caller). */
export function identityOf({ claims, ip }: FastifyRequest): string {
  if (!claims.isAnonymous) return `${claims.databaseRole} ${claims.subject}`;
  return ip.includes(":") && !ip.startsWith("::ffff:") ? ip.split(":").slice(0, 4).join(":") : ip;
}

export type RateLimit = (request: FastifyRequest, cost: number) => Promise<void>;

export function createRateLimit(costPerMinute: Record<Caller, number>): RateLimit {
  const limiters = Object.fromEntries(
    Object.entries(costPerMinute).map(([caller, points]) => [
      caller,
      points > 0 ? new RateLimiterMemory({ points, duration: 60 }) : undefined,
    ]),
  );
  return async (request, cost) => {
    const caller = request.claims.isAnonymous ? "anonymous" : request.claims.role!;
    try {
      await limiters[caller]?.consume(identityOf(request), Math.ceil(cost));
    } catch (error) {
      const { msBeforeNext } = error as RateLimiterRes;
      const retryAfter = Math.ceil(msBeforeNext / 1000);
      const limit = costPerMinute[caller];
      throw refusal(
        "RATE_LIMITED",
        `You have used up the ${limit} cost units of this minute; try again in ${retryAfter} s`,
        { retryAfter, limit },
      );
    }
  };
}
