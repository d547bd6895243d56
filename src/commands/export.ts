import { createWriteStream } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { userInfo } from "node:os";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { InvalidArgumentError, Option, type Command } from "commander";
import { isRole, toRole, type Config } from "../config.ts";
import { createPool, type Database } from "../database/connect.ts";
import { EXPORT_FORMATS, isExportFormat, openExport, type ExportFormat } from "../export/export.ts";
import type { ExportRequest } from "../export/select.ts";
import { createGraphql, settings } from "../graphql/graphql.ts";
import type { Claims } from "../http/auth.ts";
import { createFindRole } from "../http/database-roles.ts";
import { badOption } from "../ingest/faults.ts";
import { parseCount, parseName, parseObject } from "./options.ts";
import { stoppable } from "./stop-signal.ts";
import { note, withDatabase } from "./with-database.ts";

interface ExportCommandOptions {
  format?: ExportFormat;
  filter?: string;
  orderBy?: string[];
  columns?: string[];
  limit?: number;
  output?: string;
  role: string;
  sub?: string;
  json?: boolean;
}

async function claimsOf(
  { pool }: Database,
  { role: given, sub = userInfo().username }: ExportCommandOptions,
): Promise<Claims> {
  const known = toRole(given);
  const role = isRole(known) ? known : await createFindRole(pool)(given);
  if (role === undefined)
    throw badOption(
      `--role is "${given}"; allowed: reader, ingestor, operator, or a database role that is a member of one of them`,
    );
  const databaseRole = isRole(known) ? known : given;
  return {
    role,
    databaseRole,
    json: JSON.stringify({ role: databaseRole, sub }),
    subject: sub,
    isAnonymous: false,
    expiresAt: undefined,
  };
}

const WRONG_USAGE = ["NOT_FOUND", "BAD_REQUEST", "BAD_USER_INPUT"];

/** Turns faults of the arguments into usage errors, which end with exit code 2. */
function explain(error: unknown): unknown {
  const { extensions, message } = error as { extensions?: { code?: string }; message: string };
  return WRONG_USAGE.includes(extensions?.code ?? "") ? badOption(message) : error;
}

/** Writes to a temporary file and renames it, so that an incomplete file never has the given name. */
async function writeWhole(
  bytes: AsyncIterable<Uint8Array>,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  const part = `${file}.part-${process.pid}`;
  try {
    await pipeline(Readable.from(bytes, { objectMode: false }), createWriteStream(part, { flush: true }), {
      signal,
    });
    await rename(part, file);
  } catch (error) {
    await rm(part, { force: true });
    const { code, syscall } = error as NodeJS.ErrnoException;
    throw syscall === undefined ? error : new Error(`Cannot write "${file}" (${code})`, { cause: error });
  }
}

async function work(
  database: Database,
  config: Config,
  request: ExportRequest,
  options: ExportCommandOptions & { format: ExportFormat },
  signal: AbortSignal,
): Promise<number> {
  const claims = await claimsOf(database, options);
  const graphql = createGraphql({ config, database });
  const pool = createPool(database.connection, { max: 1, application_name: "strata export" });
  try {
    const { bytes, rows } = await openExport({
      pool,
      schema: await graphql.instance.getSchema(),
      request,
      format: options.format,
      settings: { ...settings(config, claims), statement_timeout: "0" },
      signal,
    }).catch((error: unknown) => {
      throw explain(error);
    });
    if (options.output === undefined) await pipeline(bytes, process.stdout, { signal, end: false });
    else await writeWhole(bytes, options.output, signal);
    return rows();
  } finally {
    await Promise.all([graphql.release(), pool.end()]);
  }
}

function formatOf({ format, output }: ExportCommandOptions): ExportFormat {
  const extension = /\.(\w+)$/.exec(output ?? "")?.[1]?.toLowerCase();
  return format ?? (isExportFormat(extension) ? extension : "csv");
}

/** Writes a table or metric to a file or standard output, as a role. */
export async function exportRows(name: string, options: ExportCommandOptions): Promise<void> {
  const { filter, orderBy, columns, limit, output, json } = options;
  const format = formatOf(options);
  if (json && output === undefined)
    throw badOption("--json prints what was written and where: name a file with --output");
  if (format === "parquet" && output === undefined && process.stdout.isTTY)
    throw badOption("Parquet is not for a terminal: name a file with --output");
  const request = {
    name,
    filter: filter === undefined ? undefined : (JSON.parse(filter) as unknown),
    orderBy,
    columns,
    limit,
  };
  const rows = await stoppable("export", (signal) =>
    withDatabase((database, config) => work(database, config, request, { ...options, format }, signal)),
  );
  if (json) console.log(JSON.stringify({ file: output, format, rows }));
  else note(`${rows} rows exported${output === undefined ? "" : ` to ${output}`}`);
}

function parseList(value: string): string[] {
  const names = value.split(",").map((name) => name.trim());
  if (names.every(Boolean)) return names;
  throw new InvalidArgumentError("Allowed: names separated by commas.");
}

export const exportCommand = (command: Command): Command =>
  command
    .argument("<name>", "a table or metric, such as transactions or daily_revenue")
    .addOption(
      new Option(
        "--format <format>",
        "csv, ndjson or parquet (default: by the file's name, else csv)",
      ).choices(EXPORT_FORMATS),
    )
    .option("--filter <json>", "filter of the API, as JSON", parseObject)
    .option("--order-by <list>", "order of the API, such as AMOUNT_DESC, separated by commas", parseList)
    .option(
      "--columns <list>",
      "fields of the API, such as userId,amount (default: all that the role may read)",
      parseList,
    )
    .option("--limit <rows>", "maximum number of rows", parseCount)
    .option(
      "-o, --output <file>",
      "file to write, which is created when complete (default: standard output)",
      parseName,
    )
    .option("--role <role>", "role that reads: reader, ingestor, operator, or a member of one", "operator")
    .option("--sub <name>", "subject (sub) for policies", parseName)
    .action(exportRows);
