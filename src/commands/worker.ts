import { openDatabase } from "../database/connect.ts";
import { loadConfig } from "../config.ts";
import { ensureSchema } from "../database/migrate.ts";
import { keepWorker } from "../keep-worker.ts";
import { createLifecycle } from "../lifecycle.ts";
import { createLogger } from "../logger.ts";

export async function worker(): Promise<void> {
  const config = loadConfig();
  const logger = await createLogger(config);
  const lifecycle = createLifecycle(logger, config);
  const database = await openDatabase(config);
  lifecycle.onStop(() => database.close());
  await ensureSchema(database);
  const { stop } = keepWorker(
    {
      config,
      pool: database.pool,
      log: (level, message) => (level === "error" ? logger.error(message) : logger.info(message)),
    },
    lifecycle.stopping,
  );
  lifecycle.onStop(stop);
  void database.failed.then((error) => {
    logger.fatal(error.message);
    void lifecycle.stop(1);
  });
}
