import type { Command } from "commander";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import { loadConfig, type Config } from "../config.ts";
import { openDatabase, type Database } from "../database/connect.ts";
import { ensureSchema } from "../database/migrate.ts";
import { readOperations } from "../graphql/persisted.ts";
import { keepWorker, type KeptWorker } from "../worker/keep-worker.ts";
import { createLifecycle } from "../lifecycle.ts";
import { captureConsole, createLogger } from "../logger.ts";
import { ensureSampleData } from "../sample/sample.ts";
import { createApp, type AppOptions } from "../http/app.ts";
import { createAuthenticator } from "../http/auth.ts";
import { countProcesses } from "../processes/count.ts";
import { joinSiblings, type Siblings } from "../processes/siblings.ts";
import { supervise } from "../processes/supervisor.ts";
import { listenWhileStarting, type StartingServer } from "../http/starting.ts";
import { startTracing } from "../tracing.ts";
import { watchWorker } from "../worker/watch-worker.ts";
import { migrateWorker, type WorkerOptions } from "../worker/worker.ts";
import { announce, say, type Say } from "./announce.ts";
import { applyChanges, lookAt, watchDatasets } from "./watch-datasets.ts";
import { whenAvailable } from "./when-available.ts";

interface Serving {
  app: FastifyInstance;
  database: Database;
}

interface ServeOptions {
  worker: boolean;
  watch?: boolean;
  json?: boolean;
}

/** Milliseconds after which the process ends although a failed start has left something open. */
const GRACE_MS = 1_000;

export async function serve(options: ServeOptions): Promise<void> {
  try {
    const siblings = await joinSiblings();
    const config = loadConfig();
    const processes = siblings ? 1 : await countProcesses(config);
    if (processes === 1) await start(options, config, siblings);
    else
      await supervise({
        processes,
        hasJobs: options.worker,
        config,
        logger: await createLogger(config, options),
        starting: await holdPort(config),
      });
  } catch (error) {
    // The timer is unreferenced, so that a process with nothing open ends at once.
    setTimeout(() => process.exit(1), GRACE_MS).unref();
    throw error;
  }
}

async function start(options: ServeOptions, given: Config, siblings: Siblings | undefined): Promise<void> {
  const { orders } = siblings ?? {};
  const config = orders ? shareOf(given, orders.processes) : given;
  const runsJobs = orders?.runsJobs ?? options.worker;
  const startedAt = Date.now();
  // Faults of authentication and of persisted operations end the start before it waits for the database.
  if (config.DATABASE_URL) createAuthenticator(config);
  if (config.PERSISTED_OPERATIONS_DIR !== undefined) readOperations(config.PERSISTED_OPERATIONS_DIR);
  const logger = await createLogger(config, options);
  const tellPeople = options.json ? (): void => undefined : say;
  captureConsole(logger);
  const lifecycle = createLifecycle(logger, config, siblings && []);
  siblings?.onStop(() => void lifecycle.stop(0));
  const tracing = await startTracing(config);
  let worker: KeptWorker | undefined;
  let watching: Promise<void> | undefined;

  // Open the port first: a server that waits for its database is alive, and reports that it is not ready. With
  // PROCESSES > 1 a process opens it only when ready, as others may serve already.
  const starting = siblings ? undefined : await holdPort(config);
  const parts = runsJobs
    ? { worker: () => worker?.state() ?? { ok: false, detail: "not started" } }
    : undefined;
  // A server's database is migrated by command only; the embedded one follows the files automatically.
  const watched =
    !config.DATABASE_URL || (options.watch && orders?.runsJobs !== false) ? config.DATASETS_DIR : undefined;
  const seen = watched && lookAt(watched);
  const { app, database } = await whenAvailable(config, logger, () =>
    open(config, { logger, lifecycle, parts, tracing, siblings }, { tellPeople, watched }),
  ).finally(() => starting?.close());
  if (tracing) lifecycle.onStop(() => tracing.stop());
  lifecycle.onStop(() =>
    database.close({
      hurry: lifecycle.hurry,
      onHeld: () => logger.info("Another process works on the embedded database; waiting for it"),
    }),
  );
  // Requests and jobs end concurrently, within SHUTDOWN_TIMEOUT_MS together.
  lifecycle.onStop(() => Promise.all([app.close(), worker?.stop(), watching]));
  const port = starting?.port ?? config.PORT;
  await siblings?.takePort();
  await app.listen({ host: config.HOST, port }).catch(async (error: unknown) => {
    await app.close();
    await database.close();
    throw explainListenError(error, config);
  });
  siblings?.reportReady();
  const jobs: WorkerOptions = {
    config,
    pool: database.pool,
    log: (level, message) =>
      level === "error"
        ? logger.error(message)
        : level === "warn"
          ? logger.warn(message)
          : logger.debug(message),
  };
  if (runsJobs) worker = keepWorker(jobs, lifecycle.stopping);
  const watch = watchWorker(jobs);
  lifecycle.onStop(() => watch.stop());
  if (watched)
    watching = watchDatasets(database.pool, watched, { logger, stopping: lifecycle.stopping, seen });
  void database.failed.then((error) => {
    logger.fatal(error.message);
    void lifecycle.stop(1);
  });
  const tell = options.json ? (facts: object) => say(JSON.stringify({ ready: facts })) : undefined;
  if (orders?.announces !== false) await announce({ config, database, port, startedAt, tell });
}

/** Divides the limits of the whole server among its processes. */
function shareOf(config: Config, processes: number): Config {
  const share = (whole: number): number => Math.ceil(whole / processes);
  return {
    ...config,
    MAX_CONCURRENT_OPERATIONS: share(config.MAX_CONCURRENT_OPERATIONS),
    MAX_EXPORTS: share(config.MAX_EXPORTS),
    RESPONSE_CACHE_MB: share(config.RESPONSE_CACHE_MB),
    OPERATION_CACHE_MB: share(config.OPERATION_CACHE_MB),
  };
}

async function open(
  config: Config,
  surroundings: Omit<AppOptions, "config" | "database"> & { logger: Logger },
  { tellPeople, watched }: { tellPeople: Say; watched: string | undefined },
): Promise<Serving> {
  if (!config.DATABASE_URL) tellPeople(`Opening the embedded database in ${config.DATA_DIR} …`);
  const { EMBEDDED_PORT: databasePort } = config;
  const database = await openDatabase(config, databasePort === undefined ? {} : { port: databasePort });
  try {
    if (database.shared)
      throw new Error(
        `The data folder "${config.DATA_DIR}" is served by another process; stop it or set DATA_DIR`,
      );
    await ensureSchema(database);
    if (watched) await applyChanges(database.pool, watched, surroundings.logger);
    if (database.embedded) {
      await migrateWorker(database.pool);
      await ensureSampleData(database.pool, tellPeople);
      if (databasePort !== undefined)
        tellPeople(
          `The embedded database takes logins at 127.0.0.1:${databasePort} (npx strata-graphql login create)`,
        );
    }
    const app = await createApp({ config, database, ...surroundings });
    return { app, database };
  } catch (error) {
    await database.close();
    throw error;
  }
}

const holdPort = (config: Config): Promise<StartingServer> =>
  listenWhileStarting(config).catch((error: unknown) => {
    throw explainListenError(error, config);
  });

function explainListenError(error: unknown, { HOST, PORT }: Config): Error {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return new Error(`Port ${PORT} on ${HOST} is in use; set PORT to a free one`);
  if (code === "EACCES")
    return new Error(`Port ${PORT} needs more rights than this user has; set PORT above 1023`);
  if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND")
    return new Error(`HOST "${HOST}" is not an address of this machine`);
  return new Error(`Cannot listen on ${HOST}:${PORT}: ${message}`);
}

export const serveCommand = (command: Command): Command =>
  command
    .option("--no-worker", "leave scheduled and background work to `strata worker`")
    .option(
      "--watch",
      "apply changed files of datasets/ to DATABASE_URL as well (always done on the embedded database)",
    )
    .action(serve);
