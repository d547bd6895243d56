import pino from "pino";
import { startWorker } from "../worker.ts";
import { withDatabase } from "./with-database.ts";

export async function worker(): Promise<void> {
  await withDatabase(async ({ pool }, config) => {
    const logger = pino({ level: config.LOG_LEVEL });
    const runner = await startWorker({
      config,
      pool,
      log: (level, message) => (level === "error" ? logger.error(message) : logger.info(message)),
    });
    logger.info("the worker is waiting for jobs");
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.once(signal, () => {
        process.once(signal, () => process.exit(1));
        logger.info(`${signal}: finishing what is running`);
        void runner.stop();
      });
    }
    await runner.promise;
  });
}
