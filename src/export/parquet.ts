// Converts COPY's text to Parquet, in row groups of bounded size.
import type { SchemaElement } from "hyparquet";
import { ByteWriter, ParquetWriter } from "hyparquet-writer";
import type { Column } from "./select.ts";

type Value = string | number | bigint | boolean | null;

interface Kind {
  element: Omit<SchemaElement, "name">;
  read: (text: string) => Value;
}

/**
 * Rows of a row group. More make files slightly smaller, and block the event loop for longer: about 30 ms at this
 * number.
 */
const GROUP_ROWS = 10_000;
/** Characters of a row group. More take several times as much memory while it is written. */
const GROUP_CHARACTERS = 8_000_000;

const MS_PER_DAY = 86_400_000;

function misfit(text: string, what: string): never {
  throw new Error(`"${text.slice(0, 60)}" is no ${what} that Parquet has; csv and ndjson have it`);
}

const TIME = /^(\d{4})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?$/;

/** Splits a time into the milliseconds of its whole seconds, and microseconds. */
function timeOf(text: string, what: string): [ms: number, micros: number] {
  const [, year, month, day, hour = 0, minute = 0, second = 0, fraction = ""] =
    TIME.exec(text) ?? misfit(text, what);
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  date.setUTCHours(Number(hour), Number(minute), Number(second));
  return [date.getTime(), Number(fraction.padEnd(6, "0"))];
}

/** Cache of recent days in ms: neighbouring rows mostly share them. */
const days = new Map<string, number>();
const MAX_DAYS = 1_000;

function dayOf(day: string): number {
  let ms = days.get(day);
  if (ms === undefined) {
    ms = timeOf(day, "time")[0];
    if (days.size >= MAX_DAYS) days.clear();
    days.set(day, ms);
  }
  return ms;
}

const twoDigits = (text: string, at: number): number =>
  (text.charCodeAt(at) - ZERO) * 10 + text.charCodeAt(at + 1) - ZERO;
const ZERO = 48;
/** Matches "2026-01-31 12:30:00+00", the most frequent form, several times as fast as a regular expression. */
const isWholeSecond = (text: string): boolean =>
  text.length === 22 && text[4] === "-" && text[10] === " " && text[19] === "+";

function microsOf(text: string): bigint {
  if (isWholeSecond(text)) {
    const seconds = twoDigits(text, 11) * 3600 + twoDigits(text, 14) * 60 + twoDigits(text, 17);
    return BigInt((dayOf(text.slice(0, 10)) + seconds * 1000) * 1000);
  }
  const [ms, micros] = timeOf(text, "time");
  return BigInt(ms) * 1000n + BigInt(micros);
}

const MAX_DECIMAL_DIGITS = 38;
const MAX_INT64_DIGITS = 18;

function decimal(precision: number, scale: number): Kind {
  const physical =
    precision <= MAX_INT64_DIGITS
      ? ({ type: "INT64" } as const)
      : ({ type: "FIXED_LEN_BYTE_ARRAY", type_length: 16 } as const);
  const logical = { type: "DECIMAL", precision, scale } as const;
  return {
    element: { ...physical, converted_type: "DECIMAL", precision, scale, logical_type: logical },
    read(text) {
      // PostgreSQL writes as many decimals as are declared.
      const unscaled = scale === 0 ? text : text.slice(0, -scale - 1) + text.slice(-scale);
      const number = Number(unscaled);
      if (Number.isSafeInteger(number)) return BigInt(number);
      return /^-?\d+$/.test(unscaled) ? BigInt(unscaled) : misfit(text, "decimal number");
    },
  };
}

const TEXT: Kind = {
  element: { type: "BYTE_ARRAY", converted_type: "UTF8", logical_type: { type: "STRING" } },
  read: (text) => text,
};
const INT32: Kind = { element: { type: "INT32" }, read: Number };
const TIMESTAMP: Kind = {
  element: {
    type: "INT64",
    converted_type: "TIMESTAMP_MICROS",
    logical_type: { type: "TIMESTAMP", isAdjustedToUTC: true, unit: "MICROS" },
  },
  read: microsOf,
};
const KINDS: Record<string, Kind> = {
  bool: { element: { type: "BOOLEAN" }, read: (text) => text === "t" },
  int2: INT32,
  int4: INT32,
  int8: { element: { type: "INT64" }, read: BigInt },
  float4: { element: { type: "FLOAT" }, read: Number },
  float8: { element: { type: "DOUBLE" }, read: Number },
  uuid: {
    element: { type: "FIXED_LEN_BYTE_ARRAY", type_length: 16, logical_type: { type: "UUID" } },
    read: String,
  },
  date: {
    element: { type: "INT32", converted_type: "DATE", logical_type: { type: "DATE" } },
    read: (text) => timeOf(text, "date")[0] / MS_PER_DAY,
  },
  timestamp: TIMESTAMP,
  timestamptz: TIMESTAMP,
};

/**
 * Types without a counterpart in Parquet are written as PostgreSQL's text: `numeric` without precision, JSON, lists.
 */
function kindOf({ type, precision, scale }: Column): Kind {
  if (type !== "numeric") return KINDS[type] ?? TEXT;
  const fits =
    precision !== undefined &&
    scale !== undefined &&
    precision <= MAX_DECIMAL_DIGITS &&
    scale >= 0 &&
    scale <= precision;
  return fits ? decimal(precision, scale) : TEXT;
}

const ESCAPES: Record<string, string> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" };
const unescape = (text: string): string =>
  text.includes("\\") ? text.replace(/\\(.)/gs, (_, letter: string) => ESCAPES[letter] ?? letter) : text;

const NEWLINE = 0x0a;

/** Yields text that ends with whole lines. */
async function* linesOf(chunks: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let rest: Buffer[] = [];
  for await (const chunk of chunks) {
    const end = chunk.lastIndexOf(NEWLINE);
    if (end < 0) rest.push(chunk);
    else {
      yield Buffer.concat([...rest, chunk.subarray(0, end)]).toString();
      rest = [chunk.subarray(end + 1)];
    }
  }
}

/** `rows` is COPY's text format. */
export async function* toParquet(columns: Column[], rows: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  const kinds = columns.map(kindOf);
  const bytes = new ByteWriter() as ByteWriter & { index: number };
  const writer = new ParquetWriter({
    writer: bytes,
    schema: [
      { name: "rows", num_children: columns.length },
      ...columns.map(({ field }, i): SchemaElement => ({
        name: field,
        repetition_type: "OPTIONAL",
        ...kinds[i]!.element,
      })),
    ],
    createdBy: "Strata",
  });
  const take = (): Uint8Array => {
    const taken = bytes.getBytes().slice();
    bytes.index = 0;
    return taken;
  };
  let group: Value[][] = columns.map(() => []);
  let characters = 0;
  const flush = async (): Promise<Uint8Array> => {
    const columnData = columns.map(({ field }, i) => ({ name: field, data: group[i]! }));
    await writer.write({ columnData, rowGroupSize: GROUP_ROWS });
    group = columns.map(() => []);
    characters = 0;
    return take();
  };
  for await (const lines of linesOf(rows))
    for (const line of lines.split("\n")) {
      const cells = line.split("\t");
      for (const [i, cell] of cells.entries())
        group[i]!.push(cell === "\\N" ? null : kinds[i]!.read(unescape(cell)));
      characters += line.length;
      if (group[0]!.length >= GROUP_ROWS || characters >= GROUP_CHARACTERS) yield await flush();
    }
  if (group[0]!.length > 0) yield await flush();
  await writer.finish();
  yield take();
}
