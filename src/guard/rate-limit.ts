// Limits the cost that one caller may use per minute.
import type { FastifyRequest } from "fastify";
import { createBoundedMap } from "../bounded-map.ts";
import type { Caller } from "../config.ts";
import { apiError } from "../graphql/errors.ts";
import type { Siblings } from "../processes/siblings.ts";

/** A token's subject, or the address of a caller without one (an IPv6 network counts as one caller). */
export function identityOf({ claims, ip }: FastifyRequest): string {
  if (!claims.isAnonymous) return `${claims.databaseRole} ${claims.subject}`;
  return ip.includes(":") && !ip.startsWith("::ffff:") ? ip.split(":").slice(0, 4).join(":") : ip;
}

/** Throws RATE_LIMITED if the caller's budget does not cover the cost. */
export type Spend = (request: FastifyRequest, cost: number) => void;

const WINDOW_MS = 60_000;
/**
 * Callers whose budgets are stored, about 200 bytes each; beyond it the least active start again with a full budget.
 */
const MAX_CALLERS = 100_000;

/** With siblings, the budget is that of all processes together. */
export function createRateLimit(
  costPerMinute: Record<Caller, number>,
  siblings?: Pick<Siblings, "reportSpent" | "onSpent">,
): Spend {
  const budgets = createBoundedMap<string, { spent: number; until: number }>(MAX_CALLERS);

  function add(caller: string, cost: number): { spent: number; until: number } {
    const now = performance.now();
    let budget = budgets.get(caller);
    if (!budget || budget.until <= now) budgets.set(caller, (budget = { spent: 0, until: now + WINDOW_MS }));
    budget.spent += cost;
    return budget;
  }

  siblings?.onSpent(add);
  return (request, given) => {
    const limit = costPerMinute[request.claims.isAnonymous ? "anonymous" : request.claims.role!];
    if (limit === 0) return;
    const caller = identityOf(request);
    const cost = Math.ceil(given);
    const budget = add(caller, cost);
    siblings?.reportSpent(caller, cost);
    if (budget.spent <= limit) return;
    const retryAfter = Math.ceil((budget.until - performance.now()) / 1000);
    throw apiError(
      "RATE_LIMITED",
      `You have used up the ${limit} cost units of this minute; try again in ${retryAfter} s`,
      { retryAfter, limit },
    );
  };
}
