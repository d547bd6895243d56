// Messages between the processes of one server (PROCESSES) and the process that supervises them.

/** Instructions for a process before it starts. */
export interface Orders {
  /** Processes that share the limits. */
  processes: number;
  /** One of them runs scheduled and background work. */
  runsJobs: boolean;
  /** Prints the addresses when it is ready; one of them does. */
  announces: boolean;
}

/** Cost by caller. */
export type Spent = Record<string, number>;

export type ToProcess =
  | { strata: "begin"; orders: Orders }
  | { strata: "stop" }
  | { strata: "listen" }
  | { strata: "serving"; count: number }
  | { strata: "spent"; spent: Spent }
  | { strata: "metrics"; id: number; text: string };

export type ToSupervisor =
  | { strata: "joined" }
  | { strata: "listens" }
  | { strata: "ready" }
  | { strata: "spent"; spent: Spent }
  | { strata: "metrics"; id: number };

/** Other libraries send messages over the same channel. */
export const isMessage = <T extends ToProcess | ToSupervisor>(message: unknown): message is T =>
  typeof message === "object" && message !== null && "strata" in message;
