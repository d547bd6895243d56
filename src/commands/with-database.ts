// What every command that touches data does first: configuration, connection, schema.
import { loadConfig, type Config } from "../config.ts";
import { openDatabase, type Database } from "../database/connect.ts";
import { ensureSchema } from "../database/migrate.ts";

export async function withDatabase<T>(
  work: (database: Database, config: Config) => Promise<T>,
  options: { schema: boolean } = { schema: true },
): Promise<T> {
  const config = loadConfig();
  if (!config.DATABASE_URL) note(`opening the embedded database in ${config.DATA_DIR}`);
  const database = await openDatabase(config);
  try {
    if (options.schema) await ensureSchema(database);
    return await work(database, config);
  } finally {
    await database.close();
  }
}

/** Progress for people; scripts and logs stay clean. */
export function note(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`${line}\n`);
}
