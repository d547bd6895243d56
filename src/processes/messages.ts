// Messages between the processes of one server (PROCESSES) and the process that supervises them.

/** Instructions for a process before it starts. */
export interface Orders {
  /** Processes that share the limits. */
  processes: number;
  /** Whether this process runs scheduled and background work; exactly one does. */
  runsJobs: boolean;
  /** Whether this process prints the addresses when it is ready; exactly one does. */
  announces: boolean;
}

/** Cost spent, by caller. */
export type Spent = Record<string, number>;

/** Counts of held resources, by kind and caller. A message has only changed ones; 0 means none. */
export type Held = Record<string, number>;

export type ToProcess =
  | { strata: "begin"; orders: Orders }
  | { strata: "stop" }
  | { strata: "listen" }
  | { strata: "serving"; count: number }
  | { strata: "spent"; spent: Spent }
  | { strata: "held"; process: number; held: Held }
  | { strata: "left"; process: number }
  | { strata: "metrics"; id: number; text: string };

export type ToSupervisor =
  | { strata: "joined" }
  | { strata: "listens" }
  | { strata: "ready" }
  | { strata: "spent"; spent: Spent }
  | { strata: "held"; held: Held }
  | { strata: "metrics"; id: number };

/** Merges a process's report into the counts of all. */
export function applyHeld(all: Map<number, Map<string, number>>, process: number, held: Held): void {
  let counts = all.get(process);
  if (!counts) all.set(process, (counts = new Map()));
  for (const [key, count] of Object.entries(held))
    if (count > 0) counts.set(key, count);
    else counts.delete(key);
}

/** Identifies Strata's messages, since libraries use the same channel. */
export const isMessage = <T extends ToProcess | ToSupervisor>(message: unknown): message is T =>
  typeof message === "object" && message !== null && "strata" in message;
