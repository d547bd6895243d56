// A serving process's connection to the others (PROCESSES): its orders, and the limits and metrics that they share.
import cluster from "node:cluster";
import { AggregatorRegistry, type Registry } from "prom-client";
import { STOP_SIGNALS } from "../lifecycle.ts";
import {
  applyHeld,
  isMessage,
  type Held,
  type Orders,
  type Spent,
  type ToProcess,
  type ToSupervisor,
} from "./messages.ts";

export interface Siblings {
  orders: Orders;
  /** Number of processes that serve now. */
  serving(this: void): number;
  /** Resolves when the supervisor has released the port, which it holds until the first process is ready. */
  takePort(): Promise<void>;
  reportReady(): void;
  /** Calls back when the supervisor ends this process. */
  onStop(stop: () => void): void;
  /** Reports what a caller has spent in this process. */
  reportSpent(caller: string, cost: number): void;
  /** Calls back with what callers have spent in other processes. */
  onSpent(add: (caller: string, cost: number) => void): void;
  /** Reports how many of a resource are held in this process. */
  reportHeld(key: string, count: number): void;
  /** How many of it other processes hold. */
  heldElsewhere(key: string): number;
  /** Adds this process's metrics to the common ones. */
  shareMetrics(own: Registry): void;
  /** Metrics of all processes together, as text. */
  metricsOfAll(): Promise<string>;
}

/** Reporting interval in ms. Within it a caller may exceed its limits; a lower value sends more messages. */
const REPORT_MS = 100;

/** Resolves with undefined in a process that serves alone. */
export async function joinSiblings(): Promise<Siblings | undefined> {
  if (!cluster.isWorker) return undefined;
  // Ignore signals, since a Ctrl-C reaches all processes of a terminal; the supervisor handles them.
  for (const signal of STOP_SIGNALS) process.on(signal, () => undefined);
  const send = (message: ToSupervisor): void => {
    if (process.connected) process.send!(message);
  };
  let serving = 0;
  let spent: Spent = {};
  let held: Held = {};
  /** Counts of the other processes: by process, then by key. */
  const elsewhere = new Map<number, Map<string, number>>();
  let isReportDue = false;
  let lastId = 0;
  let listen: (() => void) | undefined;
  let stop: (() => void) | undefined;
  let isStopDue = false;
  let addSpent: ((caller: string, cost: number) => void) | undefined;
  const scrapes = new Map<number, (text: string) => void>();
  // The constructor listens for the supervisor's scrapes, and answers them.
  new AggregatorRegistry();

  const orders = await new Promise<Orders>((begin) => {
    process.on("message", (message: unknown) => {
      if (!isMessage<ToProcess>(message)) return;
      if (message.strata === "begin") begin(message.orders);
      else if (message.strata === "listen") listen?.();
      else if (message.strata === "serving") serving = message.count;
      else if (message.strata === "metrics") {
        scrapes.get(message.id)?.(message.text);
        scrapes.delete(message.id);
      } else if (message.strata === "spent")
        for (const [caller, cost] of Object.entries(message.spent)) addSpent?.(caller, cost);
      else if (message.strata === "held") applyHeld(elsewhere, message.process, message.held);
      else if (message.strata === "left") elsewhere.delete(message.process);
      else if (stop) stop();
      else isStopDue = true;
    });
    send({ strata: "joined" });
  });

  function report(): void {
    isReportDue = false;
    if (Object.keys(spent).length > 0) send({ strata: "spent", spent });
    if (Object.keys(held).length > 0) send({ strata: "held", held });
    spent = {};
    held = {};
  }

  function reportSoon(): void {
    if (isReportDue) return;
    isReportDue = true;
    setTimeout(report, REPORT_MS).unref();
  }

  return {
    orders,
    serving: () => serving,
    takePort: () =>
      new Promise((resolve) => {
        listen = resolve;
        send({ strata: "listens" });
      }),
    reportReady: () => send({ strata: "ready" }),
    onStop(callback) {
      stop = callback;
      if (isStopDue) stop();
    },
    reportSpent(caller, cost) {
      spent[caller] = (spent[caller] ?? 0) + cost;
      reportSoon();
    },
    onSpent: (add) => void (addSpent = add),
    reportHeld(key, count) {
      held[key] = count;
      reportSoon();
    },
    heldElsewhere(key) {
      let sum = 0;
      for (const counts of elsewhere.values()) sum += counts.get(key) ?? 0;
      return sum;
    },
    shareMetrics: (own) => AggregatorRegistry.setRegistries([own]),
    metricsOfAll() {
      const id = ++lastId;
      return new Promise((resolve) => {
        scrapes.set(id, resolve);
        send({ strata: "metrics", id });
      });
    },
  };
}
