// Lands a batch in one transaction: COPY for valid rows, quarantine for the others, counts on the run.
import { pipeline } from "node:stream/promises";
import pg from "pg";
import { from as copyFrom } from "pg-copy-streams";
import { inTransaction } from "../database/transaction.ts";
import { fieldNames, type Dataset } from "./dataset.ts";
import { doubtsOf } from "./doubts.ts";
import { encodeCopy, encodePayload, type Formatter, type Row } from "./format.ts";
import type { Format } from "./read.ts";

export interface Source {
  runId: string;
  dataset: Dataset;
  format: Format;
  sourceSystem: string;
  sourceName: string | null;
  /** True if the rows name rows to delete. */
  isDelete: boolean;
  formatter: Formatter;
  /** Read options of the input, if any were given, so that a retry reads its rows alike. */
  readOptions?: object | undefined;
}

export interface Landed {
  written: number;
  rejected: Row[];
}

/** onCopying is called once PostgreSQL is copying: reading on before that would delay each round trip. */
export async function landBatch(
  pool: pg.Pool,
  source: Source,
  rows: Row[],
  progress: number | null,
  onCopying: () => void,
): Promise<Landed> {
  return inTransaction(pool, async (client) => {
    await client.query("select strata.enter_batch($1)", [source.runId]);
    await resolveDoubts(client, source.dataset, rows);
    return landRows(client, source, rows, progress, onCopying);
  });
}

/** Lands rows whose doubts are settled. */
export async function landRows(
  client: pg.PoolClient,
  source: Source,
  rows: Row[],
  progress: number | null = null,
  onCopying: () => void = () => undefined,
): Promise<Landed> {
  const rejected = rows.filter((row) => row.faults.length > 0);
  const accepted = rows.filter((row) => row.faults.length === 0);
  await quarantine(client, source, rejected);
  onCopying();
  const refused = await copyRows(client, source, accepted);
  await quarantine(client, source, refused);
  const landed = { written: accepted.length - refused.length, rejected: [...rejected, ...refused] };
  await client.query("select strata.count_batch($1, $2, $3, $4, progress => $5)", [
    source.runId,
    rows.length,
    landed.written,
    landed.rejected.length,
    progress,
  ]);
  return landed;
}

export async function resolveDoubts(client: pg.PoolClient, dataset: Dataset, rows: Row[]): Promise<void> {
  const doubtful = rows.filter((row) => row.doubts);
  const faults = await doubtsOf(
    client,
    dataset,
    doubtful.map((row) => row.doubts!),
  );
  for (const [i, row] of doubtful.entries()) {
    row.faults = [...row.faults, ...faults[i]!];
    if (row.faults.length === 0) row.copy = encodeCopy(row.doubts!.cells);
  }
}

/** Copies the rows and returns those that the database rejected, with the reason. */
async function copyRows(client: pg.PoolClient, source: Source, rows: Row[]): Promise<Row[]> {
  const given = [
    "source_system",
    "ingest_run",
    ...(source.isDelete ? ["ingest_operation"] : []),
    "ingest_line",
  ];
  const columns = [...fieldNames(source.dataset), ...given].map((name) => pg.escapeIdentifier(name));
  const { sourceSystem, runId, isDelete } = source;
  const same = encodeCopy([sourceSystem, runId, ...(isDelete ? ["delete"] : [])]);
  const tail = `\t${same}\t`;
  return copyWithout(
    client,
    `copy ${source.dataset.table} (${columns.join(", ")}) from stdin`,
    rows,
    (row) => `${row.copy}${tail}${row.line <= MAX_LINE ? row.line : "\\N"}\n`,
    (row, problem) =>
      (row.faults = [{ reason: "invalid_value", detail: `The database rejected the row: ${problem}.` }]),
  );
}

/** Characters of a key that the quarantine shows; the row is stored as well. */
const MAX_KEY_LENGTH = 200;

/** Largest line number, that of an integer column; later rows have none. */
const MAX_LINE = 2 ** 31 - 1;

const QUARANTINE_COLUMNS =
  "dataset, stage, reasons, detail, payload, raw_text, source_format, ingest_seq, source_system, source_name, source_line, run_id, row_key, operation, read_options";

/** The row's key as text for people; null if a part of it is missing. */
function keyOf({ fields }: Dataset, payload: Record<string, unknown> | null): string | null {
  const values = fields.filter(({ isKey }) => isKey).map(({ name }) => payload?.[name]);
  if (values.some((value) => value == null || typeof value === "object")) return null;
  return withoutNul(values.join(", ")).slice(0, MAX_KEY_LENGTH) || null;
}

/**
 * Called before the valid rows of a batch, so that a rejected row that is retried later never overwrites a newer one.
 */
async function quarantine(client: pg.PoolClient, source: Source, rows: Row[]): Promise<void> {
  if (rows.length === 0) return;
  const { rows: drawn } = await client.query<{ seq: string }>(
    `select nextval(pg_get_serial_sequence($1, 'ingest_seq')) as seq from generate_series(1, $2::integer)`,
    [source.dataset.table, rows.length],
  );
  const places = new Map(rows.map((row, index) => [row, drawn[index]!.seq]));
  const withoutPayload = new Set<Row>();
  const readOptions = source.readOptions ? JSON.stringify(source.readOptions) : null;
  const payloadOf = ({ text }: Row) => (text.includes("\0") ? null : source.formatter.payload(text));
  const encode = (row: Row): string => {
    const reasons = [...new Set(row.faults.map(({ reason }) => reason))];
    const payload = payloadOf(row);
    const cells = [
      source.dataset.name,
      "ingest",
      `{${reasons.join(",")}}`,
      withoutNul(row.faults.map(({ detail }) => detail).join(" ")),
      withoutPayload.has(row) ? null : encodePayload(payload),
      withoutNul(row.text),
      source.format,
      places.get(row)!,
      source.sourceSystem,
      source.sourceName,
      String(row.line),
      source.runId,
      keyOf(source.dataset, payload),
      source.isDelete ? "delete" : null,
      readOptions,
    ];
    return encodeCopy(cells) + "\n";
  };
  const statement = `copy staging.quarantine (${QUARANTINE_COLUMNS}) from stdin`;
  // If jsonb rejects a payload, a number too large for example, only the row's text is stored.
  const refused = await copyWithout(client, statement, rows, encode, (row) => withoutPayload.add(row));
  if (refused.length > 0) await copy(client, statement, refused, encode);
}

/** Copies rows, without those that the database rejects in spite of all checks: its error names the line. */
async function copyWithout(
  client: pg.PoolClient,
  statement: string,
  rows: Row[],
  encode: (row: Row) => string,
  onRefused: (row: Row, problem: string) => void,
): Promise<Row[]> {
  const refused: Row[] = [];
  const pending = rows.length === 0 ? [] : [rows];
  for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
    await client.query("savepoint landing");
    try {
      await copy(client, statement, part, encode);
    } catch (error) {
      if (!isDataError(error)) throw error;
      await client.query("rollback to savepoint landing");
      const named = Number(/, line (\d+)/.exec(error.where ?? "")?.[1] ?? 0) - 1;
      // Find the row by halving if the error names no line of the batch.
      const at = named >= 0 && named < part.length ? named : part.length >> 1;
      const culprit = part.length === 1 || at === named ? part[at] : undefined;
      if (culprit) {
        refused.push(culprit);
        onRefused(culprit, error.message);
      }
      const parts = [part.slice(0, at), part.slice(culprit ? at + 1 : at)];
      pending.push(...parts.filter((rest) => rest.length > 0).reverse());
    }
    await client.query("release savepoint landing");
  }
  return refused;
}

const PIECE = 4_000;

/** Copies the rows in pieces, so that PostgreSQL works on the first while the others are encoded. */
function copy(
  client: pg.PoolClient,
  statement: string,
  rows: Row[],
  encode: (row: Row) => string,
): Promise<void> {
  const stream = client.query(copyFrom(statement));
  const lines = function* () {
    for (let at = 0; at < rows.length; at += PIECE) {
      let piece = "";
      for (const row of rows.slice(at, at + PIECE)) piece += encode(row);
      yield Buffer.from(piece);
    }
  };
  return pipeline(lines, stream);
}

/** True for errors that are the row's fault: data exceptions, violated constraints, exceeded limits. */
export const isDataError = (error: unknown): error is Error & { where?: string } =>
  error instanceof Error && /^(22|23|54)/.test(String((error as { code?: unknown }).code));

const withoutNul = (text: string): string => text.replaceAll("\0", "\uFFFD");
