// Own tables and metrics: the files of DATASETS_DIR, each applied in a transaction of its own.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { DatabaseError, Pool, PoolClient } from "pg";
import type { NoticeMessage } from "pg-protocol/dist/messages.js";
import { BEGIN_SCHEMA, currentVersion } from "./migrate.ts";
import { faultAt, indexOfPosition, lineAt, splitStatements, type Statement } from "./sql-text.ts";
import { inTransaction } from "./transaction.ts";

export interface AppliedFile {
  /** Its path, as error messages show it. */
  file: string;
  /** New, edited, or applied by another version of Strata before. */
  changed: boolean;
  /** Warnings of PostgreSQL, and of `raise warning`, each with its line. */
  warnings: { line: number; message: string }[];
}

interface File {
  name: string;
  path: string;
  text: string;
  hash: string;
}

/**
 * Maximum time in ms that a file's statement waits for a lock. Later requests for the table queue behind it: a higher
 * limit blocks the API for longer, a lower one fails beside ordinary transactions.
 */
const LOCK_TIMEOUT_MS = 5_000;

/** Files of SQL, and of smart tags. */
export const isDatasetFile = (name: string): boolean => /^[^.].*\.(sql|json5)$/.test(name);

function readFolder(folder: string): File[] {
  let names: string[];
  try {
    names = readdirSync(folder).filter(isDatasetFile);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return [];
    throw new Error(`DATASETS_DIR "${folder}" is not a folder that can be read (${code})`);
  }
  return names.sort().map((name) => {
    const path = join(folder, name);
    const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
    return { name, path, text, hash: createHash("sha256").update(text).digest("hex") };
  });
}

/** Returns the SQL files in the order in which they are applied; none if there is no folder. */
export const readDatasetFiles = (folder: string): File[] =>
  readFolder(folder).filter(({ name }) => name.endsWith(".sql"));

/**
 * Applies the files one by one and stops at the first that fails: the files before it stay applied. `onFile` is
 * called for each file that was applied.
 */
export async function applyDatasetFiles(
  pool: Pool,
  folder: string,
  options: { onlyChanged?: boolean; onFile?: (applied: AppliedFile) => void } = {},
): Promise<AppliedFile[]> {
  const files = readDatasetFiles(folder);
  const version = currentVersion();
  const { rows } = await pool.query<{ file: string; hash: string; version: number }>(
    "select file, hash, schema_version as version from strata.applied_files",
  );
  const known = new Map(rows.map((row) => [row.file, row]));
  const isChanged = ({ name, hash }: File): boolean =>
    known.get(name)?.hash !== hash || known.get(name)?.version !== version;
  const applied: AppliedFile[] = [];
  const haveTagsChanged = await noteTagFiles(pool, folder, version);
  try {
    for (const file of files) {
      const changed = isChanged(file);
      if (options.onlyChanged && !changed) continue;
      const warnings = await applyFile(pool, file, version);
      applied.push({ file: file.path, changed, warnings });
      options.onFile?.(applied.at(-1)!);
    }
  } finally {
    if (applied.length > 0 || haveTagsChanged || !options.onlyChanged) await reconcile(pool);
  }
  return applied;
}

/**
 * Servers read the tag files themselves; their hashes are part of the catalogue's digest, so that servers notice a
 * change.
 */
async function noteTagFiles(pool: Pool, folder: string, version: number): Promise<boolean> {
  const files = readFolder(folder).filter(({ name }) => name.endsWith(".json5"));
  const { rowCount } = await pool.query(
    `with noted as (
       insert into strata.applied_files as a (file, hash, schema_version)
       select f.file, f.hash, $3 from unnest($1::text[], $2::text[]) as f (file, hash)
       on conflict (file) do update set hash = excluded.hash, schema_version = excluded.schema_version, applied_at = now()
       where a.hash <> excluded.hash
       returning a.file
     ), gone as (
       delete from strata.applied_files a where a.file like '%.json5' and a.file <> all ($1::text[]) returning a.file
     )
     select file from noted union all select file from gone`,
    [files.map(({ name }) => name), files.map(({ hash }) => hash), version],
  );
  return rowCount !== 0;
}

/** Adapts the machinery to the catalogue and notifies running servers. */
const reconcile = (pool: Pool): Promise<unknown> =>
  inTransaction(pool, (client) => client.query("select strata.reconcile()"), BEGIN_SCHEMA);

async function applyFile(pool: Pool, file: File, version: number): Promise<AppliedFile["warnings"]> {
  const statements = checkedStatements(file);
  const client = await pool.connect();
  const warnings: AppliedFile["warnings"] = [];
  let line = 1;
  const onNotice = ({ severity, message = "" }: NoticeMessage): void => {
    if (severity === "WARNING") warnings.push({ line, message });
  };
  client.on("notice", onNotice);
  try {
    const settings = await readSettings(client);
    await client.query(`${BEGIN_SCHEMA}; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    for (const statement of statements) {
      line = statement.line;
      await client.query(statement.text).catch((error: unknown) => {
        throw explain(error as DatabaseError, file, statement);
      });
    }
    await client.query("reset role");
    await client.query(
      `insert into strata.applied_files (file, hash, schema_version) values ($1, $2, $3)
       on conflict (file) do update set hash = excluded.hash, schema_version = excluded.schema_version, applied_at = now()`,
      [file.name, file.hash, version],
    );
    // Deferred constraints are checked at COMMIT.
    await client.query("commit").catch((error: unknown) => {
      throw explain(error as DatabaseError, file);
    });
    await restoreSettings(client, settings);
    client.release();
    return warnings;
  } catch (error) {
    await client.query("rollback").catch(() => undefined);
    client.release(true);
    throw error;
  } finally {
    client.off("notice", onNotice);
  }
}

const ENDS_TRANSACTION =
  /^(begin|commit|end|abort|start\s+transaction|prepare\s+transaction|rollback(?!\s+(work\s+|transaction\s+)?to\b))\b/i;

function checkedStatements(file: File): Statement[] {
  try {
    const statements = splitStatements(file.text);
    for (const { text, line } of statements) {
      const [word] = ENDS_TRANSACTION.exec(text) ?? [];
      if (word)
        throw faultAt(
          line,
          `"${word}" is not allowed: each file is applied in a transaction of its own; leave the line out`,
        );
      if (/^copy\b[^']*\bfrom\s+stdin\b/i.test(text))
        throw faultAt(line, "COPY … FROM STDIN is for psql; land rows with: npx strata-graphql ingest");
    }
    return statements;
  } catch (error) {
    const { line, message } = error as Error & { line: number };
    throw fault(file, line, message);
  }
}

function explain(error: DatabaseError, file: File, statement?: Statement): Error {
  const { message, detail, hint, position, code } = error;
  if (!code) return error;
  const within =
    statement && position ? lineAt(statement.text, indexOfPosition(statement.text, Number(position))) : 1;
  const advice =
    code === "55P03"
      ? `Another session holds a lock that the statement waited for ${LOCK_TIMEOUT_MS / 1000} s for; try again when it has finished`
      : hint;
  return fault(file, statement && statement.line + within - 1, message, detail, advice);
}

function fault(
  { path: file }: File,
  line: number | undefined,
  problem: string,
  detail?: string,
  hint?: string,
): Error {
  const message = [
    `${file}${line === undefined ? "" : `:${line}`}: ${problem}`,
    ...(detail ? [`  Detail: ${detail}`] : []),
    ...(hint ? [`  Hint: ${hint}`] : []),
    "  Nothing of this file was applied; files before it were, those after it were not tried.",
  ].join("\n");
  return Object.assign(new Error(message), { failure: { file, line, problem, detail, hint } });
}

// Settings are compared and restored: a `set` in a file would outlast it, on the embedded engine for all connections.
const readSettings = async (client: PoolClient): Promise<Map<string, string>> => {
  const { rows } = await client.query<{ name: string; setting: string }>(
    "select name, current_setting(name) as setting from pg_catalog.pg_settings where source = 'session'",
  );
  return new Map(rows.map(({ name, setting }) => [name, setting]));
};

async function restoreSettings(client: PoolClient, before: Map<string, string>): Promise<void> {
  const now = await readSettings(client);
  for (const name of now.keys())
    if (!before.has(name)) await client.query(`reset ${client.escapeIdentifier(name)}`);
  for (const [name, setting] of before)
    if (now.get(name) !== setting) await client.query("select set_config($1, $2, false)", [name, setting]);
}
