// Plans are kept, so that an operation that comes again is not planned again; Grafast counts them, whatever their size.
import type { OperationPlan } from "grafast";

/** Of the heap. Beyond it all plans are forgotten: those in use are soon made again. */
const MAX_KEPT_BYTES = 100_000_000;
// Measured, rounded up.
const BYTES_PER_STEP = 5_000;
const BYTES_PER_CHARACTER = 150;

export function createPlansPlugin(): GraphileConfig.Plugin {
  const known = new WeakSet<object>();
  let kept = 0;
  return {
    name: "PlansPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        establishOperationPlan(next, { schema, operation }) {
          const keep = (made: object, steps: number): void => {
            if (known.has(made)) return;
            known.add(made);
            kept += steps * BYTES_PER_STEP + (operation.loc?.source.body.length ?? 0) * BYTES_PER_CHARACTER;
            if (kept <= MAX_KEPT_BYTES) return;
            kept = 0;
            // They are under a symbol.
            const grafast = Object.fromEntries(Object.entries(schema.extensions.grafast ?? {}));
            Object.assign(schema.extensions, { grafast });
          };
          try {
            const plan = next();
            keep(plan, stepsOf(plan));
            return plan;
          } catch (error) {
            // Kept, too, and its document with it.
            keep(error as object, 0);
            throw error;
          }
        },
      },
    },
  };
}

const stepsOf = (plan: OperationPlan): number =>
  (plan as unknown as { stepTracker: { stepCount: number } }).stepTracker.stepCount;
