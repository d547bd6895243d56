// Opens the database that this process works on, and explains in a sentence why it cannot be reached.
import pg from "pg";
import type { Config } from "../config.ts";
import { CONNECTIONS } from "./connections.ts";
import { BYTES_PER_MB, meter } from "./budget.ts";
import { ANSWER_MS, openEmbedded, type CloseOptions } from "../embedded/embedded.ts";

export interface Database {
  embedded: boolean;
  /** Another process (a running `serve`) owns the embedded engine. */
  shared: boolean;
  connection: pg.PoolConfig;
  pool: pg.Pool;
  failed: Promise<Error>;
  close(options?: CloseOptions): Promise<void>;
}

// Business times are UTC in columns without a zone: a session in another zone would shift them.
const SESSION_OPTIONS = "-c timezone=UTC";

/** Short timeout for connecting to a replica: the primary answers if the replica does not. */
export const REPLICA_CONNECTIONS: pg.PoolConfig = {
  max: CONNECTIONS.operations,
  pipeline: true,
  connectionTimeoutMillis: 2_000,
};
/** Short timeouts for polling a node's role and position; a node that takes longer counts as lost. */
export const WATCH_CONNECTIONS: pg.PoolConfig = {
  max: CONNECTIONS.watch,
  application_name: "strata watch",
  connectionTimeoutMillis: 2_000,
  query_timeout: 2_000,
  idleTimeoutMillis: 60_000,
};

export function createPool(connection: pg.PoolConfig, options: pg.PoolConfig = {}): pg.Pool {
  const pool = new pg.Pool({
    application_name: "strata",
    max: CONNECTIONS.main,
    connectionTimeoutMillis: 10_000,
    options: SESSION_OPTIONS,
    ...connection,
    ...options,
  });
  // The pool replaces a lost idle connection; without a listener its error would end the process.
  pool.on("error", () => undefined);
  pool.on("connect", (client) => client.on("error", () => undefined));
  return pool;
}

/** Ends a connection at once; pg's own `end` would wait for what is still running there. */
export const cut = (client: pg.ClientBase): void =>
  void (client as unknown as { connection: pg.Connection }).connection.stream.destroy();

export function destroy(client: pg.PoolClient): void {
  client.release(true);
  cut(client);
}

/**
 * Connections for GraphQL operations. A pooler that hands out a connection per transaction knows neither session
 * options nor, in general, prepared statements; every operation sets its time zone itself.
 */
export function createOperationPool(
  { POOLED_DATABASE_URL: pooled, MAX_RESPONSE_MB }: Config,
  database: Database,
) {
  const connection = pooled ? { connectionString: pooled, options: undefined } : database.connection;
  const pool = createPool(connection, { max: CONNECTIONS.operations, pipeline: true });
  meter(pool);
  return { pool, prepare: !pooled, maxBytes: MAX_RESPONSE_MB * BYTES_PER_MB };
}

/** Only a process that serves opens the embedded database's port for others. */
export async function openDatabase(config: Config, { port }: { port?: number } = {}): Promise<Database> {
  if (!config.DATABASE_URL) {
    const engine = await openEmbedded(config.DATA_DIR, port);
    const pool = createPool(engine.connection, { connectionTimeoutMillis: ANSWER_MS });
    return {
      embedded: true,
      shared: !engine.ours,
      connection: engine.connection,
      pool,
      failed: engine.failed,
      close: async (options) => {
        await pool.end();
        await engine.close(options);
      },
    };
  }
  const connection = { connectionString: config.DATABASE_URL };
  const pool = createPool(connection);
  try {
    await checkServer(pool);
  } catch (error) {
    await pool.end();
    throw new Error(explainConnectionError(error, config.DATABASE_URL), { cause: error });
  }
  return {
    embedded: false,
    shared: false,
    connection,
    pool,
    failed: new Promise(() => undefined),
    close: () => pool.end(),
  };
}

const MINIMUM_VERSION = 150000;

async function checkServer(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ number: number; text: string; extensions: string[] }>(
    `select current_setting('server_version_num')::int as number, current_setting('server_version') as text,
            array(select name::text from pg_catalog.pg_available_extensions
                  where name in ('postgis', 'uuid-ossp')) as extensions`,
  );
  const server = rows[0]!;
  if (server.number < MINIMUM_VERSION)
    throw new Error(`The server is PostgreSQL ${server.text}; Strata needs PostgreSQL 15 or newer`);
  const missing = ["postgis", "uuid-ossp"].filter((name) => !server.extensions.includes(name));
  if (missing.length > 0)
    throw new Error(
      `The server lacks ${missing.join(" and ")}; install it there (Debian: postgresql-15-postgis-3, postgresql-contrib)`,
    );
}

/** Says in one sentence, without the password, why the database cannot be reached. */
function explainConnectionError(error: unknown, databaseUrl: string): string {
  const { code, message } = error as { code?: string; message: string };
  let where = "the database";
  let user = "";
  try {
    const parsed = new URL(databaseUrl);
    where = `${parsed.hostname || "localhost"}:${parsed.port || "5432"}`;
    user = decodeURIComponent(parsed.username);
  } catch {
    return `DATABASE_URL is not a URL; expected postgres://user:password@host:port/database`;
  }
  if (code === "28P01" || code === "28000")
    return `${where} refused the login of "${user}"; check DATABASE_URL`;
  if (code === "3D000") return `${message} on ${where}; create it or check DATABASE_URL`;
  if (code === "53300") return `${where} has no free connection: ${message}`;
  if (code === "ENOTFOUND" || code === "EAI_AGAIN")
    return `The host of DATABASE_URL cannot be found: ${where}`;
  if (code === "ECONNREFUSED") return `Nothing answers at ${where}; is PostgreSQL running there?`;
  if (code === "57P03") return `${where} is starting up or shutting down; try again`;
  return message || `Cannot connect to ${where} (${code ?? "unknown reason"})`;
}
