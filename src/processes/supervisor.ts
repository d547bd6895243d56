// Supervises the serving processes: starts them, restarts those that end, replaces them one by one on SIGHUP, stops
// them on a signal, distributes what callers have spent and hold, and adds up metrics. It serves no requests itself.
import cluster, { type Worker } from "node:cluster";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { AggregatorRegistry } from "prom-client";
import type { Config } from "../config.ts";
import { keepConnectionsOf } from "./hand-over.ts";
import { applyHeld, isMessage, type ToProcess, type ToSupervisor } from "./messages.ts";

interface SupervisorOptions {
  processes: number;
  /** Whether the first process runs scheduled and background work. */
  hasJobs: boolean;
  config: Pick<Config, "SHUTDOWN_TIMEOUT_MS" | "SHUTDOWN_DELAY_MS">;
  logger: Logger;
  /** Answers on the port until the first process takes it. */
  starting: { close(): Promise<void> };
}

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 30_000;
/** Time in ms that a process has beyond SHUTDOWN_TIMEOUT_MS before it is killed. */
const GRACE_MS = 2_000;

export async function supervise({
  processes,
  hasJobs,
  config,
  logger,
  starting,
}: SupervisorOptions): Promise<void> {
  const members: Worker[] = [];
  const ready = new Set<Worker>();
  const metrics = new AggregatorRegistry();
  /** Resources held by callers, by process, for processes that start later. */
  const holdings = new Map<number, Map<string, number>>();
  let portIsFree: Promise<void> | undefined;
  let hasServed = false;
  let isStopping = false;
  let isReplacing = false;

  const send = (worker: Worker, message: ToProcess): void => {
    if (worker.isConnected()) worker.send(message);
  };
  const sendAll = (message: ToProcess, except?: Worker): void => {
    for (const worker of Object.values(cluster.workers ?? {}))
      if (worker && worker !== except) send(worker, message);
  };
  const tellServing = (): void => sendAll({ strata: "serving", count: ready.size });

  /** Resolves when the process is ready, or has ended. */
  function start(place: number): Promise<Worker> {
    const worker = cluster.fork();
    keepConnectionsOf(worker);
    const orders = {
      processes,
      runsJobs: hasJobs && place === 0,
      announces: !hasServed && place === 0,
    };
    return new Promise((resolve) => {
      worker.on("message", (message: unknown) => {
        if (!isMessage<ToSupervisor>(message)) return;
        if (message.strata === "joined") {
          send(worker, { strata: "begin", orders });
          for (const [process, held] of holdings)
            send(worker, { strata: "held", process, held: Object.fromEntries(held) });
        } else if (message.strata === "held") {
          applyHeld(holdings, worker.id, message.held);
          sendAll({ strata: "held", process: worker.id, held: message.held }, worker);
        } else if (message.strata === "spent") sendAll(message, worker);
        else if (message.strata === "metrics") void answerScrape(worker, message.id);
        else if (message.strata === "listens") void leavePort(worker);
        else {
          hasServed = true;
          ready.add(worker);
          tellServing();
          resolve(worker);
        }
      });
      // Sending to a process that has just ended fails; its exit event follows and is handled below.
      worker.on("error", (error) => logger.debug({ error }, "A message did not reach a process"));
      worker.once("exit", () => {
        if (ready.delete(worker)) tellServing();
        if (holdings.delete(worker.id)) sendAll({ strata: "left", process: worker.id });
        resolve(worker);
      });
    });
  }

  async function leavePort(worker: Worker): Promise<void> {
    await (portIsFree ??= starting.close());
    send(worker, { strata: "listen" });
  }

  async function answerScrape(worker: Worker, id: number): Promise<void> {
    // If a process ends meanwhile, this scrape fails and has no metrics of the processes.
    const text = await metrics.clusterMetrics().catch(() => "");
    send(worker, { strata: "metrics", id, text });
  }

  /** Keeps one place filled for as long as the server runs. */
  async function keep(place: number): Promise<void> {
    for (let pause = FIRST_PAUSE_MS; !isStopping;) {
      const worker = await start(place);
      members[place] = worker;
      if (ready.has(worker)) {
        pause = FIRST_PAUSE_MS;
        await followed(place);
        if (isStopping) return;
        logger.error(`Process ${place + 1} of ${processes} ended; starting it again`);
      } else {
        if (isStopping) return;
        // The process has printed the reason of its exit.
        if (!hasServed) process.exit(worker.process.exitCode ?? 1);
        logger.error(`Process ${place + 1} of ${processes} did not start; next try in ${pause} ms`);
        await sleep(pause);
        pause = Math.min(pause * 2, MAX_PAUSE_MS);
      }
    }
  }

  /** Resolves when the process of a place has ended and is not replaced. */
  async function followed(place: number): Promise<void> {
    for (let worker = members[place]!; ; worker = members[place]!) {
      await end(worker);
      if (worker === members[place]) return;
    }
  }

  /** Replaces the processes one by one: each is stopped once its successor serves. */
  async function replaceAll(): Promise<void> {
    if (isReplacing || isStopping || ready.size < processes) return;
    isReplacing = true;
    for (const [place, old] of members.entries()) {
      const worker = await start(place);
      if (!ready.has(worker)) {
        logger.error(`Process ${place + 1} of ${processes} could not be replaced; the old ones go on`);
        break;
      }
      members[place] = worker;
      send(old, { strata: "stop" });
      await end(old);
      logger.info(`Process ${place + 1} of ${processes} was replaced`);
    }
    isReplacing = false;
  }

  async function stop(signal: string): Promise<void> {
    if (isStopping) {
      logger.warn(`${signal} again: ending at once`);
      process.exit(1);
    }
    isStopping = true;
    logger.info(`${signal}: finishing what is running`);
    const workers = Object.values(cluster.workers ?? {}).filter((worker) => worker !== undefined);
    const ends = workers.map(end);
    // Only processes that were ready count: one that is stopped while starting may exit with a failure.
    const served = [...ready];
    sendAll({ strata: "stop" });
    const deadline = config.SHUTDOWN_DELAY_MS + config.SHUTDOWN_TIMEOUT_MS + GRACE_MS;
    await Promise.race([Promise.all(ends), sleep(deadline, undefined, { ref: false })]);
    const hasFailed = served.some((worker) => worker.process.exitCode !== 0);
    for (const worker of workers) worker.process.kill("SIGKILL");
    process.exit(hasFailed ? 1 : 0);
  }

  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => void stop(signal));
  process.on("SIGHUP", () => {
    logger.info("SIGHUP: replacing the processes one by one");
    void replaceAll();
  });

  // Start the first process alone: it reports faults of the configuration and the database.
  const first = keep(0);
  while (!hasServed && !isStopping) await sleep(50);
  await Promise.all([first, ...Array.from({ length: processes - 1 }, (_, i) => keep(i + 1))]);
}

/** Resolves when the process has ended. `once` of node:events would reject on its error event. */
async function end(worker: Worker): Promise<void> {
  if (!worker.isDead()) await new Promise<void>((resolve) => worker.once("exit", () => resolve()));
}
