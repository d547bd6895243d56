import type { AddressInfo } from "node:net";
import { styleText } from "node:util";
import pino from "pino";
import { loadConfig, type Config } from "../config.ts";
import { openDatabase, type Database } from "../database/connect.ts";
import { ensureSchema } from "../database/migrate.ts";
import { ensureSampleData } from "../pipeline/sample.ts";
import { createApp } from "../server/app.ts";
import { createToken } from "../server/auth.ts";
import { migrateWorker, startWorker } from "../worker.ts";

const say = (line: string): void => void process.stdout.write(`${line}\n`);

export async function serve(options: { worker: boolean }): Promise<void> {
  const config = loadConfig();
  const startedAt = Date.now();
  if (!config.DATABASE_URL) say(`Opening the embedded database in ${config.DATA_DIR} …`);
  const database = await openDatabase(config);
  try {
    if (database.shared)
      throw new Error(
        `The data folder "${config.DATA_DIR}" is served by another process; stop it or set DATA_DIR`,
      );
    await ensureSchema(database);
    if (database.embedded) {
      await migrateWorker(database.pool);
      await ensureSampleData(database.pool, say);
    }
    await listen(config, database, options, startedAt);
  } catch (error) {
    await database.close();
    throw error;
  }
}

async function listen(
  config: Config,
  database: Database,
  options: { worker: boolean },
  startedAt: number,
): Promise<void> {
  const logger = pino(
    { level: config.LOG_LEVEL },
    process.stdout.isTTY ? (await import("pino-pretty")).default({ ignore: "pid,hostname" }) : process.stdout,
  );
  const app = await createApp({ config, database, logger });
  const worker = options.worker
    ? await startWorker({
        config,
        pool: database.pool,
        log: (level, message) => (level === "error" ? logger.error(message) : logger.debug(message)),
      })
    : undefined;

  const stop = async (exitCode: number): Promise<void> => {
    await app.close();
    await worker?.stop();
    await database.close();
    process.exit(exitCode);
  };
  try {
    await app.listen({ host: config.HOST, port: config.PORT });
  } catch (error) {
    await worker?.stop();
    await app.close();
    throw explainListenError(error, config);
  }
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      process.once(signal, () => process.exit(1));
      logger.info(`${signal}: finishing what is running`);
      void stop(0);
    });
  }
  void database.failed.then((error) => {
    logger.fatal(error.message);
    void stop(1);
  });
  await announce(config, database, (app.server.address() as AddressInfo).port, startedAt);
}

async function announce(config: Config, database: Database, port: number, startedAt: number): Promise<void> {
  const host = ["0.0.0.0", "::", "127.0.0.1"].includes(config.HOST) ? "localhost" : config.HOST;
  const origin = `http://${host}:${port}`;
  const link = (text: string): string => styleText(["cyan", "underline"], text);
  say("");
  say(`Strata is ready after ${((Date.now() - startedAt) / 1000).toFixed(1)} s.`);
  say("");
  say(`  GraphiQL   ${link(`${origin}/graphiql`)}`);
  say(`  GraphQL    ${origin}/graphql`);
  if (database.embedded) {
    const token = await createToken(config, { role: "strata_operator", subject: "operator", ttl: "7d" });
    say("");
    say("An operator token for 7 days (more: npx strata token --role operator), and a mutation with it:");
    say("");
    say(`  TOKEN=${token}`);
    say("");
    say(
      `  curl -s ${origin}/graphql -H "authorization: Bearer $TOKEN" -H "content-type: application/json" ` +
        `-d '{"query":"mutation { refreshAnalytics { run { status durationMs rowsWritten } } }"}'`,
    );
  }
  say("");
  say("Stop it with Ctrl-C.");
}

function explainListenError(error: unknown, { HOST, PORT }: Config): Error {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return new Error(`Port ${PORT} on ${HOST} is in use; set PORT to a free one`);
  if (code === "EACCES")
    return new Error(`Port ${PORT} needs more rights than this user has; set PORT above 1023`);
  if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND")
    return new Error(`HOST "${HOST}" is not an address of this machine`);
  return new Error(`Cannot listen on ${HOST}:${PORT}: ${message}`);
}
