import { applySchema, currentVersion, installedVersion } from "../database/migrate.ts";
import { migrateWorker } from "../worker/worker.ts";
import { withDatabase } from "./with-database.ts";

export async function migrate(options: { json?: boolean }): Promise<void> {
  const result = await withDatabase(
    async ({ pool }) => {
      const from = await installedVersion(pool);
      const to = currentVersion();
      if (from !== undefined && from > to)
        throw new Error(
          `The database has schema version ${from}, newer than this Strata's ${to}; nothing was changed`,
        );
      await applySchema(pool);
      await migrateWorker(pool);
      return { from: from ?? null, to };
    },
    { schema: false },
  );
  const from =
    result.from === null
      ? "to an empty database"
      : result.from === result.to
        ? "again"
        : `over version ${result.from}`;
  console.log(
    options.json ? JSON.stringify({ migration: result }) : `Applied schema version ${result.to} ${from}.`,
  );
}
