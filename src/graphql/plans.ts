// Caches plans with their documents, within one budget of memory. Grafast's own cache counts plans, whatever their
// size.
import type { OperationPlan } from "grafast";
import type { GraphQLSchema, OperationDefinitionNode } from "grafast/graphql";
import type { OperationCache } from "./operation-cache.ts";

// Bytes of a plan per step, measured and rounded up.
const BYTES_PER_STEP = 5_000;
const BYTES_PER_CHARACTER = 150;

export function createPlansPlugin({ grow }: Pick<OperationCache, "grow">): GraphileConfig.Plugin {
  const known = new WeakSet<object>();
  return {
    name: "PlansPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        establishOperationPlan(next, { schema, operation, args }) {
          const count = (made: object, steps: number): void => {
            if (known.has(made)) return;
            known.add(made);
            keepWithDocument(schema, operation);
            const length = operation.loc?.source.body.length ?? 0;
            grow(schema, args.document, steps * BYTES_PER_STEP + length * BYTES_PER_CHARACTER);
          };
          try {
            const plan = next();
            count(plan, stepsOf(plan));
            return plan;
          } catch (error) {
            // Grafast caches failures as well.
            count(error as object, 0);
            throw error;
          }
        },
      },
    },
  };
}

/** Replaces Grafast's own cache, which is under a symbol that it does not export and evicts nothing. */
function keepWithDocument(schema: GraphQLSchema, operation: OperationDefinitionNode): void {
  const grafast = (schema.extensions.grafast ?? {}) as Record<symbol, PlanCache | undefined>;
  for (const key of Object.getOwnPropertySymbols(grafast)) {
    const cache = grafast[key];
    if (key.description !== "cacheByOperation" || !cache || cache instanceof WeakMap) continue;
    const byOperation: PlanCache = new WeakMap<object, unknown>();
    byOperation.set(operation, cache.get(operation));
    grafast[key] = byOperation;
  }
}

interface PlanCache {
  get(operation: object): unknown;
  set(operation: object, plans: unknown): unknown;
}

const stepsOf = (plan: OperationPlan): number =>
  (plan as unknown as { stepTracker: { stepCount: number } }).stepTracker.stepCount;
