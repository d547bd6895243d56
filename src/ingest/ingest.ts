// Source files and streams into staging. Memory is flat: the input is read only as fast as PostgreSQL takes it,
// one batch being copied while the next one is read.
import type { Readable } from "node:stream";
import type pg from "pg";
import {
  badInput,
  createFormatter,
  isBadInput,
  parseMap,
  type Dataset,
  type Formatter,
  type Row,
} from "./format.ts";
import { landBatch, type Source } from "./land.ts";
import { plainBytes, readCsv, readNdjson, textOfLines, type Format } from "./read.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { inTransaction, readRun, type Run } from "../pipeline/runs.ts";
import { patiently } from "../pipeline/batch.ts";

export interface IngestProgress {
  /** Of the input as it was sent, compressed if it was. */
  bytesRead: number;
  rowsRead: number;
  rowsWritten: number;
  rowsRejected: number;
}

export interface IngestOptions {
  /** Default: told apart by the first character. */
  format?: Format;
  sourceSystem?: string;
  sourceName?: string;
  /** "column=field" pairs; "column=" leaves a column out. */
  map?: string[];
  /** Size of the input, if known, for the run's progress. */
  totalBytes?: number;
  trigger: "cli" | "api" | "sample";
  actor?: string;
  /** Role under which the run is started: the database refuses those who may not. */
  role?: string;
  onStart?: (runId: string) => void;
  onProgress?: (progress: IngestProgress) => void;
  signal?: AbortSignal;
}

/** The database waits for a moment between batches: few large ones. */
const BATCH_ROWS = 50_000;
const BATCH_CHARACTERS = 4 * 1024 * 1024;
/** Rows of a slow source land after this time. */
const FLUSH_MS = 2_000;

export interface Ingested {
  run: Run;
  /** Why the run failed: its input, a database that may be back soon, or a fault that would come again. */
  failedBy?: "source" | "database" | "fault";
}

/** Resolves once rows may have landed, whatever happens then: the run says how it ended. Throws before that. */
export async function ingest(
  pool: pg.Pool,
  dataset: Dataset,
  input: Readable,
  options: IngestOptions,
): Promise<Run> {
  return (await receive(pool, dataset, input, options)).run;
}

/** Refuses what is wrong whatever the input holds. */
export function checkOptions(
  dataset: Dataset,
  { sourceSystem = "api", map = [] }: Pick<IngestOptions, "sourceSystem" | "map">,
): { sourceSystem: string; map: Map<string, string> } {
  if (sourceSystem === "" || sourceSystem.length > 50 || sourceSystem.includes("\0"))
    throw badInput(
      `The source system "${sourceSystem}" has ${sourceSystem.length} characters; allowed: 1 to 50`,
    );
  return { sourceSystem, map: parseMap(map, dataset) };
}

export async function receive(
  pool: pg.Pool,
  dataset: Dataset,
  input: Readable,
  options: IngestOptions,
): Promise<Ingested> {
  const { sourceSystem, map } = checkOptions(dataset, options);
  const runId = await startRun(pool, dataset, { ...options, sourceSystem });
  options.onStart?.(runId);
  const source = { runId, dataset, sourceSystem, sourceName: options.sourceName ?? null };
  const { signal } = options;
  const abort = () => input.destroy(new Error(reasonOf(signal!)));
  signal?.addEventListener("abort", abort, { once: true });
  const landing = startLanding(pool, source, options);
  let failure: Error | undefined;
  let failedBy: Ingested["failedBy"];
  try {
    if (signal?.aborted) throw new Error(reasonOf(signal));
    await readRows(dataset, input, map, options.format, landing);
  } catch (error) {
    failure = error as Error;
    failedBy = "source";
    input.destroy();
  }
  try {
    await landing.finish();
  } catch (error) {
    // Reading stops because of it, so it is the first cause.
    failure = error as Error;
    failedBy = isPassing(failure) ? "database" : "fault";
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  await patiently(() =>
    pool.query("select from strata.finish_run($1, $2)", [runId, failure?.message ?? null]),
  );
  const run = await readRun(pool, runId);
  if (isBadInput(failure)) throw Object.assign(failure, { run });
  return { run, failedBy };
}

/** True when the same rows may land if they are sent again: conflicts, locks, time-outs, a run closed by others. */
const isPassing = (error: Error): boolean =>
  isUnavailable(error) || /^(40|55P03|57014|ST001)/.test(String((error as { code?: unknown }).code));

const reasonOf = ({ reason }: AbortSignal): string =>
  reason instanceof Error && reason.name !== "AbortError" ? reason.message : "The ingest was cancelled";

interface Landing {
  start(formatter: Formatter): void;
  onBytes(count: number): void;
  /** Resolves when there is room for more, and the database has enough to do. */
  add(row: Row): Promise<void> | undefined;
  finish(): Promise<void>;
}

function startLanding(pool: pg.Pool, source: Omit<Source, "formatter">, options: IngestOptions): Landing {
  const progress: IngestProgress = { bytesRead: 0, rowsRead: 0, rowsWritten: 0, rowsRejected: 0 };
  let formatter: Formatter | undefined;
  let rows: Row[] = [];
  let characters = 0;
  let failure: Error | undefined;
  let landing = Promise.resolve();
  let idle = true;

  const land = async (batch: Row[], onCopying: () => void): Promise<void> => {
    if (failure) throw failure;
    const share = options.totalBytes ? Math.min(progress.bytesRead / options.totalBytes, 1) : null;
    const { written, rejected } = await landBatch(
      pool,
      { ...source, formatter: formatter! },
      batch,
      share,
      onCopying,
    );
    progress.rowsRead += batch.length;
    progress.rowsWritten += written;
    progress.rowsRejected += rejected;
    options.onProgress?.({ ...progress });
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
  // Rows of a slow source do not wait for a full batch, and a silent source does not look dead.
  const timer = setInterval(() => {
    if (rows.length > 0 && idle) void flush();
    else pool.query("select strata.heartbeat_run($1)", [source.runId]).catch(() => undefined);
  }, FLUSH_MS);

  return {
    start: (made) => void (formatter = made),
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

async function readRows(
  dataset: Dataset,
  input: Readable,
  map: Map<string, string>,
  given: Format | undefined,
  landing: Landing,
): Promise<void> {
  const texts = textOfLines(plainBytes(input, (count) => landing.onBytes(count)));
  const { format, all } = await withFormat(texts, given);
  let formatter: Formatter | undefined;
  for await (const records of format === "csv" ? readCsv(all) : readNdjson(all)) {
    for (const record of records) {
      if (!formatter) {
        formatter = createFormatter(dataset, format, record, map);
        landing.start(formatter);
        if (format === "csv") continue;
      }
      const full = landing.add(formatter.format(record));
      if (full) await full;
    }
  }
  if (!formatter && format === "csv") throw badInput("The input is empty; a CSV file starts with a header");
}

async function withFormat(
  texts: AsyncGenerator<string>,
  given: Format | undefined,
): Promise<{ format: Format; all: AsyncIterable<string> }> {
  if (given) return { format: given, all: texts };
  const { value, done } = await texts.next();
  const first = done ? "" : value;
  const all = (async function* () {
    yield first;
    yield* texts;
  })();
  return { format: /^\s*[{[]/.test(first) ? "ndjson" : "csv", all };
}

async function startRun(pool: pg.Pool, dataset: Dataset, options: IngestOptions): Promise<string> {
  const { sourceSystem, sourceName, map, role, trigger, actor } = options;
  return inTransaction(pool, async (client) => {
    await client.query("select set_config('role', $1, true), set_config('strata.sub', $2, true)", [
      role ?? "none",
      actor ?? "",
    ]);
    const { rows } = await client.query<{ id: string }>(
      "select strata.start_ingest_run($1, $2, $3, $4) as id",
      [dataset, trigger, actor ?? null, { sourceSystem, sourceName, map }],
    );
    return rows[0]!.id;
  });
}
