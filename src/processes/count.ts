// Number of processes: PROCESSES, or as many as cores and free connections allow.
import { availableParallelism } from "node:os";
import pg from "pg";
import type { Config } from "../config.ts";
import { connectionsOf } from "../database/connections.ts";

/** Time in ms for the database to answer; without an answer the number of cores decides. */
const PATIENCE_MS = 5_000;

const FREE = `
  select pg_catalog.current_setting('max_connections')::int
       - pg_catalog.current_setting('superuser_reserved_connections')::int
       - (select pg_catalog.count(*)::int from pg_catalog.pg_stat_activity where backend_type = 'client backend') as free`;

export async function countProcesses(config: Config): Promise<number> {
  if (config.PROCESSES !== "auto") return config.PROCESSES;
  if (!config.DATABASE_URL) return 1;
  const cores = availableParallelism();
  const free = await freeConnections(config.DATABASE_URL).catch(() => Infinity);
  return Math.max(1, Math.min(cores, Math.floor(free / connectionsOf(config))));
}

async function freeConnections(connectionString: string): Promise<number> {
  const client = new pg.Client({
    connectionString,
    connectionTimeoutMillis: PATIENCE_MS,
    query_timeout: PATIENCE_MS,
  });
  client.on("error", () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<{ free: number }>(FREE);
    return rows[0]!.free;
  } finally {
    await client.end();
  }
}
