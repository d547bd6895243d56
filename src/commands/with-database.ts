// The first steps of every command that touches data: configuration, connection, schema.
import { loadConfig, type Config } from "../config.ts";
import { openDatabase, type Database } from "../database/connect.ts";
import { ensureSchema } from "../database/migrate.ts";
import { onStopSignal } from "./stop-signal.ts";

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
    closeBehind(database);
  }
}

/** Closes without waiting: the command prints its result at once, even while others still use the engine of this process. */
export function closeBehind(database: Database): void {
  const hurry = new AbortController();
  const forget = onStopSignal(() => hurry.abort());
  const onHeld = (): void =>
    note("another process works on the embedded database; it closes after that, or now on Ctrl-C");
  void database.close({ hurry: hurry.signal, onHeld }).finally(forget);
}

/** Progress for people; scripts and logs stay clean. */
export function note(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`${line}\n`);
}
