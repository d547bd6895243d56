// Applies the machinery (sql/) and the model (schema.sql), and tells whether a database has them.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { DatabaseError, Pool, PoolClient } from "pg";
import type { Database } from "./connect.ts";
import { root } from "../paths.ts";
import { indexOfPosition, lineAt } from "./sql-text.ts";
import { inTransaction } from "./transaction.ts";

/**
 * The lock keeps two processes from changing the schema at once. JIT is off because the planner overestimates queries
 * on the catalogue: compiling them would take most of a migration's time.
 */
export const BEGIN_SCHEMA =
  "begin; set local jit = off; select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('strata:schema', 0))";

/** Returns the schema's files in the order in which they are applied. */
const schemaFiles = (): { name: string; sql: string }[] =>
  [
    ...readdirSync(new URL("sql", root))
      .filter((name) => name.endsWith(".sql"))
      .sort()
      .map((name) => `sql/${name}`),
    "schema.sql",
  ].map((name) => ({ name, sql: readFileSync(fileURLToPath(new URL(name, root)), "utf8") }));

const VERSION = /function strata\.schema_version\(\)[^;]*?'select (\d+)'/;

/** The version that the files declare and install as `strata.schema_version()`. */
export function currentVersion(): number {
  // Read once per process: probes ask for it every second, and later changes to the files belong to another version.
  version ??= readVersion();
  return version;
}

let version: number | undefined;

function readVersion(): number {
  for (const { sql } of schemaFiles()) {
    const match = VERSION.exec(sql);
    if (match) return Number(match[1]);
  }
  throw new Error("Neither sql/ nor schema.sql declares strata.schema_version()");
}

/** The version a database has; undefined when Strata's schema is not there. */
export async function installedVersion(pool: Pool): Promise<number | undefined> {
  // Up to version 11 the function was in schema analytics.
  const found = await pool.query<{ name: string | null }>(
    `select coalesce(pg_catalog.to_regprocedure('strata.schema_version()'),
                     pg_catalog.to_regprocedure('analytics.schema_version()'))::text as name`,
  );
  const { name } = found.rows[0]!;
  if (name === null) return undefined;
  const { rows } = await pool.query<{ version: number }>(`select ${name} as version`);
  return rows[0]!.version;
}

/** Applies all files in one transaction, so that a failure changes nothing. */
export async function applySchema(pool: Pool): Promise<void> {
  const applyAll = async (client: PoolClient): Promise<void> => {
    for (const { name, sql } of schemaFiles())
      await client.query(sql).catch((error: unknown) => {
        const { position } = error as DatabaseError;
        const line = position ? `:${lineAt(sql, indexOfPosition(sql, Number(position)))}` : "";
        throw Object.assign(error as Error, { message: `${name}${line}: ${(error as Error).message}` });
      });
  };
  await inTransaction(pool, applyAll, BEGIN_SCHEMA);
}

/** Migrates the embedded database automatically; a server's schema is changed by `strata migrate` only. */
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
      ? "The database does not have Strata's schema; run: npx strata-graphql migrate"
      : `The database has schema version ${found}, this Strata needs ${wanted}; run: npx strata-graphql migrate`,
  );
}
