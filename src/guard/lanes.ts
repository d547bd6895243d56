// Each caller waits behind its own operations only: whoever sends many heavy ones at once gets them one after the
// other, and there are connections and time left for everybody else.
import type { Place } from "./admission.ts";
import { refusal } from "../graphql/errors.ts";

interface Entry {
  cost: number;
  isPatient: boolean;
  start: () => void;
}
interface Lane {
  running: number;
  cost: number;
  waiting: Entry[];
}

export interface LaneOptions {
  /** Operations of one caller that may run at once, and what they may cost together. */
  maxRunning: number;
  maxCost: number;
  maxWaiting: number;
}

/**
 * Resolves when it is the operation's turn, with what to call at its end. A patient one is never refused, nor are
 * others because it waits.
 */
export type EnterLane = (
  caller: string,
  cost: number,
  waiter?: { signal?: AbortSignal | undefined; place?: Place | undefined; isPatient?: boolean },
) => Promise<() => void>;

const gone = () => refusal("CANCELLED", "The client has gone away");

export function createLanes({ maxRunning, maxCost, maxWaiting }: LaneOptions): EnterLane {
  const lanes = new Map<string, Lane>();

  const hasRoom = (lane: Lane, cost: number): boolean =>
    lane.running === 0 || (lane.running < maxRunning && lane.cost + cost <= maxCost);

  const startNext = (lane: Lane): void => {
    for (let next = lane.waiting[0]; next && hasRoom(lane, next.cost); next = lane.waiting[0]) {
      lane.waiting.shift();
      lane.running += 1;
      lane.cost += next.cost;
      next.start();
    }
  };

  return async (caller, cost, { signal, place, isPatient = false } = {}) => {
    if (signal?.aborted) throw gone();
    let lane = lanes.get(caller);
    if (!lane) lanes.set(caller, (lane = { running: 0, cost: 0, waiting: [] }));
    if (!isPatient && lane.waiting.filter((entry) => !entry.isPatient).length >= maxWaiting)
      throw refusal(
        "SERVICE_UNAVAILABLE",
        `You have ${maxWaiting} operations waiting already; wait for some of their answers`,
        { retryAfter: 1, limit: maxWaiting },
      );
    await new Promise<void>((resolve, reject) => {
      const start = (): void => {
        signal?.removeEventListener("abort", giveUp);
        place?.back();
        resolve();
      };
      const giveUp = (): void => {
        lane.waiting.splice(lane.waiting.indexOf(entry), 1);
        reject(gone());
      };
      const entry = { cost, isPatient, start };
      lane.waiting.push(entry);
      startNext(lane);
      if (!lane.waiting.includes(entry)) return;
      // Its caller's heavy work is for the caller to wait for, and takes no place from anybody meanwhile.
      if (lane.running < maxRunning) place?.leave();
      signal?.addEventListener("abort", giveUp, { once: true });
    });
    return () => {
      lane.running -= 1;
      lane.cost -= cost;
      startNext(lane);
      if (lane.running === 0) lanes.delete(caller);
    };
  };
}
