// How much one caller may use up: a budget of cost that fills up again every minute.
import { RateLimiterMemory, type RateLimiterRes } from "rate-limiter-flexible";
import type { FastifyRequest } from "fastify";
import { refusal } from "./errors.ts";

/** A token's subject, or the address of a caller without one (an IPv6 network counts as one caller). */
export function identityOf({ claims, ip }: FastifyRequest): string {
  if (!claims.isAnonymous) return `${claims.role} ${claims.subject}`;
  return ip.includes(":") && !ip.startsWith("::ffff:") ? ip.split(":").slice(0, 4).join(":") : ip;
}

export type RateLimit = (request: FastifyRequest, cost: number) => Promise<void>;

export function createRateLimit(costPerMinute: number): RateLimit {
  if (costPerMinute === 0) return () => Promise.resolve();
  const limiter = new RateLimiterMemory({ points: costPerMinute, duration: 60 });
  return async (request, cost) => {
    try {
      await limiter.consume(identityOf(request), Math.ceil(cost));
    } catch (error) {
      const { msBeforeNext } = error as RateLimiterRes;
      const retryAfter = Math.ceil(msBeforeNext / 1000);
      throw refusal(
        "RATE_LIMITED",
        `You have used up the ${costPerMinute} cost units of this minute; try again in ${retryAfter} s`,
        { retryAfter, limit: costPerMinute },
      );
    }
  };
}
