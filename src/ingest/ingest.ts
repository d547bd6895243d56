// Loads files and streams into staging in constant memory: the input is read only as fast as PostgreSQL copies it,
// one batch being copied while the next one is read.
import type { Readable } from "node:stream";
import type pg from "pg";
import { reasonOf } from "../abort.ts";
import { readDataset, type Dataset } from "./dataset.ts";
import { badInput, badOption, isBadInput } from "./faults.ts";
import { createFormatter, type FormatOptions, type Formatter, type Row } from "./format.ts";
import { exceeds, parseLimit, type RejectLimit } from "./limit.ts";
import { landBatch, type Source } from "./land.ts";
import { parseMap, parseSets } from "./mapping.ts";
import { openRecords } from "./open.ts";
import {
  checkReadOptions,
  givenOptions,
  readOptionsOf,
  type Dialect,
  type MapOptions,
  type ReadOptions,
} from "./options.ts";
import type { Format } from "./read.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { inTransaction } from "../database/transaction.ts";
import { dropFailedLoads } from "../pipeline/failed-loads.ts";
import { readRun, type Run } from "../pipeline/runs.ts";
import { withRetries } from "../pipeline/batch.ts";

export interface IngestProgress {
  /** Bytes of the input as sent, compressed or not. */
  bytesRead: number;
  rowsRead: number;
  rowsWritten: number;
  rowsRejected: number;
}

export type Operation = "delete" | "replace";

export interface IngestOptions extends ReadOptions, MapOptions {
  /** Default: decided by the first character. */
  format?: Format;
  sourceSystem?: string;
  sourceName?: string;
  /** "delete": the rows name rows to delete. "replace": a full snapshot, all other rows of the source are deleted. */
  operation?: Operation;
  /** Rows that may be rejected, such as "10" or "5%"; a load that exceeds it lands no row. */
  maxRejected?: string;
  /** SHA-256 of the input: if it was ingested with the same options before, nothing is done. */
  sha256?: string;
  /** Size of the input, if known, for the run's progress. */
  totalBytes?: number;
  trigger: "cli" | "api" | "sample";
  actor?: string;
  /** Database role that starts the run, which needs the right to ingest. */
  role?: string;
  onStart?: (runId: string) => void;
  onProgress?: (progress: IngestProgress) => void;
  signal?: AbortSignal;
}

/** Rows of a batch. The database idles between batches, so few large ones are faster, and take more memory. */
export const BATCH_ROWS = 50_000;
export const BATCH_CHARACTERS = 4 * 1024 * 1024;
/** Time in ms after which the rows of a slow source land. A lower value makes smaller transactions. */
const FLUSH_MS = 2_000;

/** Rejected rows by reason; a row may count for several. */
export type Reasons = Record<string, number>;

export type IngestRun = Run & {
  reasons: Reasons;
  /** Set if the run is an earlier one that has ingested the same input. */
  skipped?: true;
};

export interface Ingested {
  run: IngestRun;
  /** Why the run failed: its input, a database that may recover, or a permanent fault. "rows": all were rejected. */
  failedBy?: "source" | "rows" | "database" | "fault";
}

/** Throws for faults before the first row; from then on it resolves, and the run tells how it ended. */
export async function ingest(
  pool: pg.Pool,
  dataset: string,
  input: Readable,
  options: IngestOptions,
): Promise<IngestRun> {
  return (await receive(pool, dataset, input, options)).run;
}

type Reading = Omit<FormatOptions, "format"> & Dialect;

/** Checks options independently of the input. */
export function checkOptions(
  dataset: Dataset,
  options: IngestOptions,
): Reading & { sourceSystem: string; limit: RejectLimit | undefined } {
  const { sourceSystem = "api", map: pairs = [], set = [], maxRejected } = options;
  if (sourceSystem === "" || sourceSystem.length > 50 || sourceSystem.includes("\0"))
    throw badOption(
      `The source system "${sourceSystem}" has ${sourceSystem.length} characters; allowed: 1 to 50`,
    );
  const dialect = checkReadOptions(readOptionsOf(options));
  const map = parseMap(pairs, dataset);
  const limit = maxRejected === undefined ? undefined : parseLimit(maxRejected);
  return { dataset, sourceSystem, map, sets: parseSets(set, dataset, map, dialect.rules), ...dialect, limit };
}

export async function receive(
  pool: pg.Pool,
  name: string,
  input: Readable,
  options: IngestOptions,
): Promise<Ingested> {
  // The source may fail before it is read; without a listener its error would end the process. Reading throws it
  // later.
  input.on("error", () => undefined);
  const dataset = await readDataset(pool, name);
  const { sourceSystem, limit, ...given } = checkOptions(dataset, options);
  const { id: runId, isOld } = await inTransaction(pool, (client) =>
    startRun(client, name, { ...options, sourceSystem }),
  );
  if (isOld) {
    input.destroy();
    return { run: { ...(await readRun(pool, runId)), reasons: {}, skipped: true } };
  }
  options.onStart?.(runId);
  const { signal, operation, sourceName = null } = options;
  const { sets } = given;
  const source = {
    runId,
    dataset,
    sourceSystem,
    sourceName,
    isDelete: operation === "delete",
    // The mapping is stored only with expressions; without them the quarantine stores fields, not columns.
    readOptions: givenOptions({
      ...readOptionsOf(options),
      ...(sets && { map: options.map, set: options.set }),
    }),
  };
  const abort = () => input.destroy(new Error(reasonOf(signal!, "The ingest was cancelled")));
  signal?.addEventListener("abort", abort, { once: true });
  const landing = startLanding(pool, source, options, limit);
  let failure: Error | undefined;
  let failedBy: Ingested["failedBy"];
  try {
    if (signal?.aborted) throw new Error(reasonOf(signal, "The ingest was cancelled"));
    await readRows(input, given, options.format, landing);
  } catch (error) {
    failure = error as Error;
    failedBy = "source";
    input.destroy();
  }
  try {
    await landing.finish();
  } catch (error) {
    // This failure stops the reading, so it is the root cause.
    failure = error as Error;
    failedBy = isAboutRows(failure) ? "rows" : isPassing(failure) ? "database" : "fault";
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  if (!failure) {
    failure = findFault(landing, limit, operation);
    if (failure) failedBy = "rows";
  }
  await withRetries(() =>
    pool.query("select from strata.finish_run($1, $2)", [runId, failure?.message ?? null]),
  );
  if (failure && limit) await dropFailedLoads(pool);
  const run = { ...(await readRun(pool, runId)), reasons: landing.reasons };
  if (isBadInput(failure)) throw Object.assign(failure, { run });
  return { run, failedBy };
}

/** Finds the fault of the load as a whole, after all rows are read. */
export function findFault(
  { progress, reasons }: Pick<Landing, "progress" | "reasons">,
  limit: RejectLimit | undefined,
  operation: Operation | undefined,
): Error | undefined {
  const { rowsRead, rowsWritten, rowsRejected } = progress;
  if (rowsRead > 0 && rowsWritten === 0) {
    const all = rowsRead === 1 ? "The only row was" : `All ${rowsRead} rows were`;
    return new Error(`${all} rejected: ${describeReasons(reasons)}`);
  }
  if (limit && exceeds(limit, progress, true)) return tooManyRejected(limit, progress, reasons);
  if (operation !== "replace") return undefined;
  if (rowsRead === 0) return new Error("The snapshot is empty: it deletes nothing");
  if (rowsRejected === 0) return undefined;
  return new Error(
    `${rowsRejected} of ${rowsRead} rows were rejected (${describeReasons(reasons)}), so the snapshot deletes nothing; ` +
      (limit ? "none of its rows goes on" : "the other rows have landed"),
  );
}

function tooManyRejected(
  limit: RejectLimit,
  { rowsRead, rowsRejected }: IngestProgress,
  reasons: Reasons,
): Error {
  const message =
    `${rowsRejected} of the first ${rowsRead} rows were rejected (${describeReasons(reasons)}); ` +
    `allowed: ${limit.text}. None of the load's rows goes on; the rejected ones are in quarantine`;
  return Object.assign(new Error(message), { code: ABOUT_ROWS });
}

const ABOUT_ROWS = "TOO_MANY_REJECTED";
const isAboutRows = (error: Error): boolean => (error as { code?: unknown }).code === ABOUT_ROWS;

/**
 * True for temporary errors, after which the same rows may land: conflicts, locks, timeouts, a run closed by others.
 */
const isPassing = (error: Error): boolean =>
  isUnavailable(error) || /^(40|55P03|57014|ST001)/.test(String((error as { code?: unknown }).code));

/** Lists the reasons, the most frequent first. */
export const describeReasons = (reasons: Reasons): string =>
  Object.entries(reasons)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${reason} ${count}`)
    .join(", ");

/** Receives rows and lands them in batches. */
export interface Landing {
  readonly progress: IngestProgress;
  readonly reasons: Reasons;
  start(formatter: Formatter, format: Format): void;
  onBytes(count: number): void;
  /** Adds a row; returns a promise if the caller should wait for the batch being copied. */
  add(row: Row): Promise<void> | undefined;
  finish(): Promise<void>;
}

function startLanding(
  pool: pg.Pool,
  source: Omit<Source, "formatter" | "format">,
  options: IngestOptions,
  limit: RejectLimit | undefined,
): Landing {
  const progress: IngestProgress = { bytesRead: 0, rowsRead: 0, rowsWritten: 0, rowsRejected: 0 };
  const reasons: Reasons = {};
  let made: Pick<Source, "formatter" | "format"> | undefined;
  let rows: Row[] = [];
  let characters = 0;
  let failure: Error | undefined;
  let landing = Promise.resolve();
  let idle = true;

  const land = async (batch: Row[], onCopying: () => void): Promise<void> => {
    if (failure) throw failure;
    const share = options.totalBytes ? Math.min(progress.bytesRead / options.totalBytes, 1) : null;
    const { written, rejected } = await landBatch(pool, { ...source, ...made! }, batch, share, onCopying);
    progress.rowsRead += batch.length;
    progress.rowsWritten += written;
    progress.rowsRejected += rejected.length;
    for (const { faults } of rejected)
      for (const reason of new Set(faults.map((fault) => fault.reason)))
        reasons[reason] = (reasons[reason] ?? 0) + 1;
    options.onProgress?.({ ...progress });
    if (limit && exceeds(limit, progress, false)) throw tooManyRejected(limit, progress, reasons);
  };
  const flush = (): Promise<void> => {
    const batch = rows;
    rows = [];
    characters = 0;
    const before = landing;
    idle = false;
    return new Promise((resolve) => {
      const after = before
        .then(() => land(batch, resolve))
        .catch((error: unknown) => void (failure ??= error as Error))
        .then(() => {
          idle = landing === after;
          resolve();
        });
      landing = after;
    });
  };
  // Land a slow source's rows without waiting for a full batch, and keep the heartbeat of a silent one.
  const timer = setInterval(() => {
    if (rows.length > 0 && idle) void flush();
    else pool.query("select strata.heartbeat_run($1)", [source.runId]).catch(() => undefined);
  }, FLUSH_MS);

  return {
    progress,
    reasons,
    start: (formatter, format) => void (made = { formatter, format }),
    onBytes: (count) => void (progress.bytesRead += count),
    add(row) {
      if (failure) throw failure;
      rows.push(row);
      characters += row.text.length;
      return rows.length >= BATCH_ROWS || characters >= BATCH_CHARACTERS ? flush() : undefined;
    },
    async finish() {
      clearInterval(timer);
      if (rows.length > 0) void flush();
      await landing;
      if (failure) throw failure;
    },
  };
}

export async function readRows(
  input: Readable,
  reading: Reading,
  given: Format | undefined,
  landing: Landing,
): Promise<void> {
  const { delimiter, encoding } = reading;
  const onBytes = (count: number) => landing.onBytes(count);
  const { format, records: all } = await openRecords(input, { format: given, delimiter, encoding, onBytes });
  let formatter: Formatter | undefined;
  for await (const records of all) {
    for (const record of records) {
      if (!formatter) {
        formatter = createFormatter({ ...reading, format }, record);
        landing.start(formatter, format);
        if (format === "csv") continue;
      }
      const full = landing.add(formatter.format(record));
      if (full) await full;
    }
  }
  if (!formatter && format === "csv") throw badInput("The input is empty; a CSV file starts with a header");
}

/** Omits options that are not given, so that the same load has equal arguments however it is requested. */
function argumentsOf(options: IngestOptions): object {
  const { sourceSystem, sourceName, map, set, operation, maxRejected, sha256 } = options;
  const { null: nulls, ...reading } = readOptionsOf(options);
  return {
    ...{ sourceSystem, sourceName, map, operation, maxRejected, sha256, ...reading },
    ...(set?.length && { set }),
    ...(nulls?.length && { null: nulls }),
  };
}

/** Finds a run that has ingested the same input with the same options. */
export async function findSameLoad(
  client: pg.PoolClient,
  dataset: string,
  options: IngestOptions,
): Promise<string | null> {
  if (options.sha256 === undefined) return null;
  const { rows } = await client.query<{ id: string | null }>(
    "select strata.find_same_load($1, $2, $3) as id",
    [dataset, JSON.stringify(argumentsOf(options)), options.role ?? null],
  );
  return rows[0]!.id;
}

/** Starts the load's run, or returns one that has ingested the same input before. */
export async function startRun(
  client: pg.PoolClient,
  dataset: string,
  options: IngestOptions,
): Promise<{ id: string; isOld: boolean }> {
  const same = await findSameLoad(client, dataset, options);
  if (same !== null) return { id: same, isOld: true };
  const { role, trigger, actor } = options;
  await client.query("select set_config('role', $1, true), set_config('strata.sub', $2, true)", [
    role ?? "none",
    actor ?? "",
  ]);
  const { rows } = await client.query<{ id: string }>(
    "select strata.start_ingest_run($1, $2, $3, $4) as id",
    [dataset, trigger, actor ?? null, JSON.stringify(argumentsOf(options))],
  );
  await client.query("select set_config('role', 'none', true)");
  return { id: rows[0]!.id, isOld: false };
}
