import { STOP_SIGNALS } from "../lifecycle.ts";

/** Calls `act` on the first signal to stop; a second of the same kind ends the process. Returns what removes the listener. */
export function onStopSignal(act: () => void): () => void {
  for (const signal of STOP_SIGNALS) process.once(signal, act);
  return () => {
    for (const signal of STOP_SIGNALS) process.off(signal, act);
  };
}

/** Runs work that a signal to stop ends in order; a second signal ends the process at once. */
export async function stoppable<T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const forget = onStopSignal(() => stop.abort(new Error(`The ${what} was cancelled`)));
  try {
    return await work(stop.signal);
  } finally {
    forget();
  }
}
