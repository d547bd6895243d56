import { STOP_SIGNALS } from "../lifecycle.ts";

/**
 * Calls `act` on the first stop signal; a second one of the same kind ends the process. Returns a function that
 * removes the listener.
 */
export function onStopSignal(act: () => void): () => void {
  for (const signal of STOP_SIGNALS) process.once(signal, act);
  return () => {
    for (const signal of STOP_SIGNALS) process.off(signal, act);
  };
}

/** Runs work that the first stop signal ends in order; a second one ends the process at once. */
export async function stoppable<T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const forget = onStopSignal(() => stop.abort(new Error(`The ${what} was cancelled`)));
  try {
    return await work(stop.signal);
  } finally {
    forget();
  }
}
