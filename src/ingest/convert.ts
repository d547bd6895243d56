// Converts Excel and Parquet files to NDJSON. The first row of an Excel sheet names the fields. Only the command line
// offers this, since reading such files would block a server's event loop.
import { Readable } from "node:stream";
import type { AsyncBuffer, FileMetaData, SchemaElement } from "hyparquet";
import { badInput, badOption } from "./faults.ts";

export type FileFormat = "xlsx" | "parquet";

/** Maximum bytes of a workbook, which is read into memory, where its sheets take about twenty times as much. */
const MAX_WORKBOOK = 50 * 1024 * 1024;
/** Rows of a Parquet file read at a time; more take more memory. */
const ROWS = 10_000;

/** Throws at once if the file is not of the format. */
export async function asNdjson(
  format: FileFormat,
  file: string,
  sheet: string | undefined,
): Promise<Readable> {
  if (format === "parquet" && sheet !== undefined) throw badOption("A Parquet file has no --sheet");
  return Readable.from(format === "xlsx" ? await openSheet(file, sheet) : await openParquet(file));
}

type Cell = string | number | boolean | Date | null;

async function openSheet(file: string, sheet: string | undefined): Promise<Iterable<string>> {
  const { stat } = await import("node:fs/promises");
  const { size } = await stat(file);
  if (size > MAX_WORKBOOK)
    throw badInput(
      `The workbook has ${size} bytes; allowed: ${MAX_WORKBOOK}. Save the sheet as CSV, which may have any size`,
    );
  const { default: readWorkbook } = await import("read-excel-file/node");
  const sheets = await readWorkbook(file).catch((error: unknown) => {
    throw badInput(`The file cannot be read as an Excel workbook (.xlsx): ${(error as Error).message}`);
  });
  const place = sheet !== undefined && /^\d+$/.test(sheet) ? Number(sheet) - 1 : undefined;
  const found =
    sheet === undefined ? sheets[0] : (sheets.find((one) => one.sheet === sheet) ?? sheets[place!]);
  if (!found) {
    const names = sheets.map((one) => `"${one.sheet}"`).join(", ");
    throw badOption(`The workbook has no sheet "${sheet}"; it has: ${names}`);
  }
  const [head = [], ...rows] = found.data;
  const fields = head.map((name, i) => ({ name: name === null ? "" : String(textOf(name)).trim(), i }));
  const named = fields.filter(({ name }) => name !== "");
  if (named.length === 0)
    throw badInput(`The first row of the sheet "${found.sheet}" is empty; it has to name the fields`);
  const twice = named.find(({ name }, i) => named.findIndex((other) => other.name === name) !== i);
  if (twice) throw badInput(`The sheet "${found.sheet}" has more than one column "${twice.name}"`);
  const nameless = fields.find(({ name, i }) => name === "" && rows.some((row) => row[i] != null));
  if (nameless)
    throw badInput(
      `Column ${nameless.i + 1} of the sheet "${found.sheet}" has values, but no name in the first row`,
    );
  return linesOf(named, rows as Cell[][]);
}

function* linesOf(named: { name: string; i: number }[], rows: Cell[][]): Generator<string> {
  // An empty line for the header, so that line numbers are those of the sheet's rows.
  yield "\n";
  for (const row of rows) {
    if (row.every((value) => value === null)) yield "\n";
    else {
      const values = named.map(({ name, i }) => [name, textOf(row[i] ?? null)]);
      yield `${JSON.stringify(Object.fromEntries(values))}\n`;
    }
  }
}

/** A sheet's times have no zone. */
function textOf(value: unknown): unknown {
  if (!(value instanceof Date)) return value;
  const text = value.toISOString().replace(/(\.000)?Z$/, "");
  return text.endsWith("T00:00:00") ? text.slice(0, 10) : text;
}

async function openParquet(file: string): Promise<AsyncIterable<string>> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetSchema } = await import("hyparquet");
  const buffer = await asyncBufferFromFile(file);
  const metadata = await parquetMetadataAsync(buffer).catch((error: unknown) => {
    throw badInput(`The file cannot be read as Parquet: ${(error as Error).message}`);
  });
  const columns = parquetSchema(metadata).children.map(({ element }) => element);
  const decimals = columns.filter((element) => element.converted_type === "DECIMAL");
  // The reader returns decimals as doubles, which have 15 reliable digits.
  const long = decimals.find(({ precision = 0 }) => precision > 15);
  if (long)
    throw badInput(
      `The column "${long.name}" has decimals of ${long.precision} digits; at most 15 can be read exactly. Write it as text`,
    );
  return rowsOfParquet(buffer, metadata, columns, decimals);
}

async function* rowsOfParquet(
  buffer: AsyncBuffer,
  metadata: FileMetaData,
  columns: SchemaElement[],
  decimals: SchemaElement[],
): AsyncGenerator<string> {
  const { parquetReadObjects } = await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  const inUtc = columns.filter(
    ({ logical_type: type }) => type?.type === "TIMESTAMP" && type.isAdjustedToUTC,
  );
  const total = Number(metadata.num_rows);
  for (let rowStart = 0; rowStart < total; rowStart += ROWS) {
    const rows = await parquetReadObjects({
      file: buffer,
      metadata,
      compressors,
      rowStart,
      rowEnd: Math.min(rowStart + ROWS, total),
      parsers: PARSERS,
    });
    for (const row of rows) {
      for (const { name, scale } of decimals)
        if (typeof row[name] === "number") row[name] = row[name].toFixed(scale ?? 0);
      for (const { name } of inUtc) if (typeof row[name] === "string") row[name] += "Z";
      yield `${JSON.stringify(row, plain)}\n`;
    }
  }
}

/** Long integers become text, to stay exact; bytes become PostgreSQL's text for bytea. */
const plain = (_name: string, value: unknown): unknown =>
  typeof value === "bigint"
    ? String(value)
    : value instanceof Uint8Array
      ? `\\x${Buffer.from(value).toString("hex")}`
      : value;

const timeOf = (seconds: bigint, fraction: string): string =>
  `${new Date(Number(seconds) * 1000).toISOString().slice(0, -5)}.${fraction}`;
/** Formats a time with all of its digits; the reader's own conversion would cut it to milliseconds. */
const timeIn = (perSecond: bigint, digits: number) => (units: bigint) => {
  const rest = ((units % perSecond) + perSecond) % perSecond;
  return timeOf((units - rest) / perSecond, String(rest).padStart(digits, "0").slice(0, 6));
};
const PARSERS = {
  timestampFromMilliseconds: timeIn(1_000n, 3),
  timestampFromMicroseconds: timeIn(1_000_000n, 6),
  timestampFromNanoseconds: timeIn(1_000_000_000n, 9),
  dateFromDays: (days: number) => new Date(days * 86_400_000).toISOString().slice(0, 10),
};
