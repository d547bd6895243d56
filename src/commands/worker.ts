import type { Command } from "commander";
import { openDatabase } from "../database/connect.ts";
import { loadConfig } from "../config.ts";
import { ensureSchema } from "../database/migrate.ts";
import { keepWorker } from "../worker/keep-worker.ts";
import { createLifecycle } from "../lifecycle.ts";
import { createLogger } from "../logger.ts";
import { whenAvailable } from "./when-available.ts";

export async function worker(options: { json?: boolean }): Promise<void> {
  const config = loadConfig();
  const logger = await createLogger(config, options);
  const lifecycle = createLifecycle(logger, config);
  const database = await whenAvailable(config, logger, async () => {
    const opened = await openDatabase(config);
    try {
      await ensureSchema(opened);
      return opened;
    } catch (error) {
      await opened.close();
      throw error;
    }
  });
  lifecycle.onStop(() => database.close({ hurry: lifecycle.hurry }));
  const kept = keepWorker(
    {
      config,
      pool: database.pool,
      log: (level, message) => (level === "error" ? logger.error(message) : logger.info(message)),
    },
    lifecycle.stopping,
  );
  lifecycle.onStop(() => kept.stop());
  void database.failed.then((error) => {
    logger.fatal(error.message);
    void lifecycle.stop(1);
  });
}

export const workerCommand = (command: Command): Command => command.action(worker);
