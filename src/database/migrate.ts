// Applies the machinery (sql/) and the model (schema.sql), and tells whether a database has them.
import { readdirSync, readFileSync } from "node:fs";
import type { Pool } from "pg";
import type { Database } from "./connect.ts";

const root = new URL("../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");

const files = (): string[] => [
  ...readdirSync(new URL("sql/", root))
    .filter((name) => name.endsWith(".sql"))
    .sort()
    .map((name) => `sql/${name}`),
  "schema.sql",
];

/** Two servers that start together must not apply the files at the same time. */
const LOCK = "select pg_advisory_xact_lock(hashtextextended('strata:schema', 0))";

/** The version that the files install as `strata.schema_version()`. */
export function currentVersion(): number {
  const match = /function strata\.schema_version\(\)[^;]*?'select (\d+)'/.exec(read("sql/00-foundation.sql"));
  if (!match) throw new Error("sql/00-foundation.sql does not declare strata.schema_version()");
  return Number(match[1]);
}

/** The version a database has; undefined when Strata's schema is not there. */
export async function installedVersion(pool: Pool): Promise<number | undefined> {
  const exists = await pool.query<{ found: boolean }>(
    "select pg_catalog.to_regprocedure('strata.schema_version()') is not null as found",
  );
  if (!exists.rows[0]!.found) return undefined;
  const { rows } = await pool.query<{ version: number }>("select strata.schema_version() as version");
  return rows[0]!.version;
}

/** All of it or nothing. */
export async function applySchema(pool: Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query(["begin", LOCK, ...files().map(read), "commit"].join(";\n"));
    client.release();
  } catch (error) {
    // The transaction may be open still: a pooled connection must not carry it on.
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
