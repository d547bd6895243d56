// Counts what callers hold at this moment (subscriptions, slow bodies), in all processes of the server together (PROCESSES).
import type { Siblings } from "../processes/siblings.ts";

/** Returns a function that releases what the caller holds; undefined if the limit is reached. */
export type Hold = (kind: string, caller: string, limit: number) => (() => void) | undefined;

export function createHold(siblings?: Pick<Siblings, "reportHeld" | "heldElsewhere">): Hold {
  const own = new Map<string, number>();

  function change(key: string, by: 1 | -1): void {
    const count = (own.get(key) ?? 0) + by;
    if (count > 0) own.set(key, count);
    else own.delete(key);
    siblings?.reportHeld(key, count);
  }

  return (kind, caller, limit) => {
    const key = `${kind} ${caller}`;
    if ((own.get(key) ?? 0) + (siblings?.heldElsewhere(key) ?? 0) >= limit) return undefined;
    change(key, 1);
    let isHeld = true;
    return () => {
      if (isHeld) change(key, -1);
      isHeld = false;
    };
  };
}
