// Messages between the processes of one server (PROCESSES) and the process that supervises them.

/** Instructions for a process before it starts. */
export interface Orders {
  /** Processes that share the limits. */
  processes: number;
  /** Whether this process runs scheduled and background work; one of them does. */
  runsJobs: boolean;
  /** Prints the addresses when it is ready; one of them does. */
  announces: boolean;
}

/** Cost by caller. */
export type Spent = Record<string, number>;

/** Counts of what is held, by kind and caller. A message has only those that changed; 0 means that nothing is held any more. */
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

/** Adds a process's report to what is known of all. */
export function applyHeld(all: Map<number, Map<string, number>>, process: number, held: Held): void {
  let counts = all.get(process);
  if (!counts) all.set(process, (counts = new Map()));
  for (const [key, count] of Object.entries(held))
    if (count > 0) counts.set(key, count);
    else counts.delete(key);
}

/** Other libraries send messages over the same channel. */
export const isMessage = <T extends ToProcess | ToSupervisor>(message: unknown): message is T =>
  typeof message === "object" && message !== null && "strata" in message;
