import type { Command } from "commander";
import type { Pool } from "pg";
import { applyDatasetFiles, type AppliedFile } from "../database/dataset-files.ts";
import { applySchema, currentVersion, installedVersion } from "../database/migrate.ts";
import { migrateWorker } from "../worker/worker.ts";
import { withDatabase } from "./with-database.ts";

/**
 * Applies the schema in one transaction, then each dataset file in its own; stops at the first file that fails and
 * keeps those before it.
 */
export async function migrate(options: { json?: boolean }): Promise<void> {
  await withDatabase(
    async ({ pool }, { DATASETS_DIR }) => {
      const version = await migrateSchema(pool);
      if (!options.json) console.log(describe(version));
      const files: AppliedFile[] = [];
      const onFile = (applied: AppliedFile): void => {
        files.push(applied);
        if (options.json) return;
        console.log(`Applied ${applied.file}${applied.changed ? "" : " again"}.`);
        for (const { line, message } of applied.warnings)
          console.log(`  Warning, ${applied.file}:${line}: ${message}`);
      };
      const print = (failure: object | null): void => {
        if (options.json) console.log(JSON.stringify({ migration: { ...version, files, failure } }));
      };
      await applyDatasetFiles(pool, DATASETS_DIR, { onFile }).catch((error: Error & { failure?: object }) => {
        print(error.failure ?? { problem: error.message });
        throw error;
      });
      print(null);
    },
    { schema: false },
  );
}

interface Version {
  from: number | null;
  to: number;
}

async function migrateSchema(pool: Pool): Promise<Version> {
  const from = await installedVersion(pool);
  const to = currentVersion();
  if (from !== undefined && from > to)
    throw new Error(
      `The database has schema version ${from}, newer than this Strata's ${to}; nothing was changed`,
    );
  await applySchema(pool);
  await migrateWorker(pool);
  return { from: from ?? null, to };
}

function describe({ from, to }: Version): string {
  const over = from === null ? "to an empty database" : from === to ? "again" : `over version ${from}`;
  return `Applied schema version ${to} ${over}.`;
}

export const migrateCommand = (command: Command): Command => command.action(migrate);
