// Applies schema.sql, and tells whether a database has it.
import { readFileSync } from "node:fs";
import type { Pool } from "pg";
import type { Database } from "./connect.ts";

const file = new URL("../../schema.sql", import.meta.url);

const schemaSql = (): string => readFileSync(file, "utf8");

/** The version that schema.sql declares and installs as `analytics.schema_version()`. */
export function currentVersion(): number {
  const match = /function analytics\.schema_version\(\)[^;]*?'select (\d+)'/.exec(schemaSql());
  if (!match) throw new Error("schema.sql does not declare analytics.schema_version()");
  return Number(match[1]);
}

/** The version a database has; undefined when Strata's schema is not there. */
export async function installedVersion(pool: Pool): Promise<number | undefined> {
  const exists = await pool.query<{ found: boolean }>(
    "select pg_catalog.to_regprocedure('analytics.schema_version()') is not null as found",
  );
  if (!exists.rows[0]!.found) return undefined;
  const { rows } = await pool.query<{ version: number }>("select analytics.schema_version() as version");
  return rows[0]!.version;
}

export async function applySchema(pool: Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query(schemaSql());
    client.release();
  } catch (error) {
    // The file's transaction may be open still: a pooled connection must not carry it on.
    client.release(true);
    throw error;
  }
}

/** The embedded database follows the code by itself; a server's schema is changed by `strata migrate` alone. */
export async function ensureSchema(database: Database): Promise<void> {
  const wanted = currentVersion();
  const found = await installedVersion(database.pool);
  if (found === wanted) return;
  if (found !== undefined && found > wanted)
    throw new Error(
      `The database has schema version ${found}, newer than this Strata's ${wanted}; update Strata to work on it`,
    );
  if (database.embedded) return applySchema(database.pool);
  throw new Error(
    found === undefined
      ? "The database does not have Strata's schema; run: npx strata migrate"
      : `The database has schema version ${found}, this Strata needs ${wanted}; run: npx strata migrate`,
  );
}
