// Records to rows of the raw tables. PostgreSQL decides what a value may be: here only the values that it
// certainly takes are let through at once; every other one is a doubt, which the database is asked about.
import { findNumberFault, LOSSY } from "./numbers.ts";
import { fieldsOf, type Format, type SourceRecord } from "./read.ts";

export type Dataset = "users" | "transactions" | "events";

/** Type of a field, as strata.typed_values knows them; text has its longest length. */
type Kind = "integer" | "bigint" | "numeric" | "double precision" | "timestamp" | "jsonb" | number;

const INTEGER = "integer";
const TIMESTAMP = "timestamp";

/** Fields of each dataset, in the order they are copied; the first one is the key and has to be there. */
export const FIELDS = {
  users: { user_id: INTEGER, username: 100, email: 255, created_at: TIMESTAMP, country: 100 },
  transactions: {
    transaction_id: INTEGER,
    user_id: INTEGER,
    amount: "numeric",
    status: 50,
    transaction_date: TIMESTAMP,
  },
  events: {
    event_id: "bigint",
    user_id: INTEGER,
    event_type: 50,
    event_data: "jsonb",
    event_time: TIMESTAMP,
    latitude: "double precision",
    longitude: "double precision",
  },
} as const satisfies Record<Dataset, Record<string, Kind>>;

export const DATASETS = Object.keys(FIELDS) as Dataset[];

interface Fault {
  reason: string;
  detail: string;
}

export interface Row {
  line: number;
  text: string;
  /** As COPY takes it, without the end of the line; undefined while there are doubts, or for good if faulty. */
  copy: string | undefined;
  faults: readonly Fault[];
  /** Cells that the database has to be asked about. */
  doubts?: Doubts;
}

interface Doubts {
  cells: (string | null)[];
  indexes: number[];
}

export interface Formatter {
  format: (record: SourceRecord) => Row;
  /** The row by field name, for the quarantine; null if it cannot be read. */
  payload: (text: string) => Record<string, unknown> | null;
}

/** Many rows wait in memory at a time: what most of them have in common exists once. */
const NO_FAULTS: readonly Fault[] = [];

/** The input as a whole cannot be taken; nothing of it has landed. */
export const badInput = (message: string): Error => Object.assign(new Error(message), { code: "BAD_INPUT" });
export const isBadInput = (error: unknown): error is Error =>
  error instanceof Error && (error as { code?: unknown }).code === "BAD_INPUT";

/** Names in a message; more would only hide what it says. */
const MAX_NAMES = 50;

function quoted(names: Iterable<string>): string {
  const all = [...names];
  const shown = all.slice(0, MAX_NAMES).map((name) => `"${name.slice(0, 100)}"`);
  return shown.join(", ") + (all.length > MAX_NAMES ? ` and ${all.length - MAX_NAMES} more` : "");
}

/** Columns of a CSV file. A table has at most 1,600; the rest becomes JSON, row by row. */
const MAX_COLUMNS = 2000;

/** "column=field" pairs; "column=" leaves a column out. */
export function parseMap(pairs: Iterable<string>, dataset: Dataset): Map<string, string> {
  const map = new Map<string, string>();
  for (const pair of pairs) {
    const [, column, field] = /^(.+)=(.*)$/s.exec(pair) ?? [];
    if (column === undefined || field === undefined)
      throw badInput(`"${pair}" is not of the form column=field, such as "customer=user_id"`);
    if (field !== "" && dataset !== "events" && !Object.hasOwn(FIELDS[dataset], field))
      throw badInput(
        `"${pair}" maps to an unknown field of ${dataset}; allowed: ${quoted(Object.keys(FIELDS[dataset]))}`,
      );
    map.set(column, field);
  }
  return map;
}

/** Looks at the first record: refuses columns that cannot be placed, and gives what formats the records. */
export function createFormatter(
  dataset: Dataset,
  format: Format,
  first: SourceRecord,
  map: Map<string, string>,
): Formatter {
  if (first.broken && format === "csv") throw badInput(`The header cannot be read: ${first.broken.detail}`);
  // Of rows, that is; any other first line that is no row is a bad neighbour, for the quarantine.
  if (format === "ndjson" && /^\s*\[\s*(?:[{\]]|$)/.test(first.text))
    throw badInput(
      "The input is a JSON array; NDJSON has one object a line, without brackets and commas around",
    );
  const columns = format === "csv" ? first.fields!.map((name) => name.trim()) : columnsOf(first);
  const fields = columns?.map((column) => map.get(column) ?? column);
  if (columns && fields) {
    if (format === "csv" && columns.length > MAX_COLUMNS)
      throw badInput(`The header has ${columns.length} columns; allowed: ${MAX_COLUMNS}`);
    const present = new Set(columns);
    const missing = [...map.keys()].filter((column) => !present.has(column));
    if (format === "csv" && missing.length > 0)
      throw badInput(`The input has no column ${quoted(missing)} to map; it has: ${quoted(columns)}`);
    refuseUnplaced(dataset, columns, fields, format);
  }
  return format === "csv" ? csvFormatter(dataset, fields!) : ndjsonFormatter(dataset, map);
}

function columnsOf(record: SourceRecord): string[] | undefined {
  try {
    const value: unknown = JSON.parse(record.text);
    return isObject(value) ? Object.keys(value) : undefined;
  } catch {
    return undefined;
  }
}

function refuseUnplaced(dataset: Dataset, columns: string[], fields: string[], format: Format): void {
  const known: string[] = Object.keys(FIELDS[dataset]);
  const allowed = `allowed for ${dataset}: ${quoted(known)}`;
  const unknown = columns.filter((_, index) => fields[index] !== "" && !known.includes(fields[index]!));
  if (unknown.length > 0 && dataset !== "events")
    throw badInput(
      `Unknown ${unknown.length === 1 ? "column" : "columns"} ${quoted(unknown)}; ${allowed}; ` +
        `map a column with column=field, or leave it out with column=`,
    );
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const field of fields) (seen.has(field) && field !== "" ? twice : seen).add(field);
  if (twice.size > 0) throw badInput(`More than one column for ${quoted(twice)}; ${allowed}`);
  const [key] = known;
  if (format === "csv" && !fields.includes(key!))
    throw badInput(
      `No column for "${key}", the key of ${dataset}; the input has: ${quoted(columns)}; ${allowed}`,
    );
}

function csvFormatter(dataset: Dataset, fields: string[]): Formatter {
  const known = Object.entries<Kind>(FIELDS[dataset]);
  const positions = known.map(([name]) => fields.indexOf(name));
  const extras = [...fields.entries()].filter(
    ([, field]) => field !== "" && !Object.hasOwn(FIELDS[dataset], field),
  );
  return {
    format(record) {
      const values = record.fields;
      if (!values) return faulty(record, [record.broken!]);
      // An empty field is an absent one, quoted or not: many writers quote everything.
      const cells = positions.map((position) => values[position] || null);
      const faults: Fault[] = [];
      if (dataset === "events") {
        const extra = extras.flatMap(([index, field]) =>
          values[index] ? [[field, values[index]] as const] : [],
        );
        try {
          const text = cells[EVENT_DATA];
          cells[EVENT_DATA] = encodeEventData(text == null ? undefined : parseJson(text), extra);
        } catch (error) {
          faults.push({
            reason: "invalid_json",
            detail: `event_data is not JSON: ${(error as Error).message}.`,
          });
          cells[EVENT_DATA] = null;
        }
      }
      return checkedRow(record, known, cells, faults);
    },
    payload(text) {
      const values = fieldsOf(text);
      if (values?.length !== fields.length) return null;
      return Object.fromEntries(
        fields.flatMap((field, i) => (field === "" ? [] : [[field, values[i] || null]])),
      );
    },
  };
}

function ndjsonFormatter(dataset: Dataset, map: Map<string, string>): Formatter {
  const known = Object.entries<Kind>(FIELDS[dataset]);
  const read = (text: string): Record<string, unknown> => {
    const value = parseJson(text);
    if (!isObject(value)) throw new Error("it is not an object");
    return map.size === 0 ? value : renamed(value, map);
  };
  return {
    format(record) {
      if (record.broken) return faulty(record, [record.broken]);
      let row: Record<string, unknown>;
      try {
        row = read(record.text);
      } catch (error) {
        const detail = `The line is not a JSON object: ${(error as Error).message}.`;
        return faulty(record, [{ reason: "unparseable", detail }]);
      }
      const extras = Object.entries(row).filter(([name]) => !Object.hasOwn(FIELDS[dataset], name));
      const faults: Fault[] = [];
      const cells = known.map(([name, kind]) => {
        const content = Object.hasOwn(row, name) ? row[name] : undefined;
        if (kind === "jsonb") return encodeEventData(content, extras);
        // Of an array, PostgreSQL would read a time in spite of the brackets.
        const isText = typeof kind === "number" || kind === TIMESTAMP;
        if (isText && (isObject(content) || Array.isArray(content)))
          faults.push({
            reason: "invalid_text",
            detail: `${name} is an object or array; it has to be text.`,
          });
        return textOf(content);
      });
      if (extras.length > 0 && dataset !== "events")
        faults.push({
          reason: "unknown_field",
          detail: `Unknown ${quoted(extras.map(([name]) => name))}; allowed: ${quoted(known.map(([name]) => name))}.`,
        });
      return checkedRow(record, known, cells, faults);
    },
    payload(text) {
      try {
        return read(text);
      } catch {
        return null;
      }
    },
  };
}

const faulty = ({ line, text }: SourceRecord, faults: Fault[]): Row => ({
  line,
  text,
  copy: undefined,
  faults,
});

const renamed = (value: Record<string, unknown>, map: Map<string, string>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(value).flatMap(([column, content]) => {
      const field = map.get(column) ?? column;
      return field === "" ? [] : [[field, content]];
    }),
  );

const EVENT_DATA = Object.keys(FIELDS.events).indexOf("event_data");

/**
 * Fields without a column of their own join event_data. If it is no object, or has a field of the same name, it
 * stays whole under its own name beside them, so that no value displaces another. A retry does the same.
 */
function encodeEventData(data: unknown, extras: (readonly [string, unknown])[]): string | null {
  const absent = data === undefined || data === null;
  if (extras.length === 0) return absent ? null : JSON.stringify(data);
  const joins = isObject(data) && !extras.some(([name]) => Object.hasOwn(data, name));
  const own = absent ? [] : joins ? Object.entries(data) : [["event_data", data] as const];
  // An assignment instead of an entry would lose a field called __proto__.
  return JSON.stringify(Object.fromEntries([...own, ...extras]));
}

function checkedRow(
  record: SourceRecord,
  known: [string, Kind][],
  cells: (string | null)[],
  faults: Fault[],
): Row {
  const indexes: number[] = [];
  if (cells[0] === null)
    faults.push({ reason: "missing_key", detail: `${known[0]![0]} is missing; it is the key of the row.` });
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i];
    if (cell == null) continue;
    const [name, kind] = known[i]!;
    const fault = kind === "jsonb" ? findNumberFault(cell) : undefined;
    if (fault) {
      faults.push({ reason: fault.reason, detail: `${name}: ${fault.problem}.` });
      continue;
    }
    const certain = certainText(cell, kind);
    if (certain !== undefined) cells[i] = certain;
    else if (cell.includes("\0") || !cell.isWellFormed())
      faults.push({
        reason: "invalid_encoding",
        detail: `${name} holds a NUL character or half of a surrogate pair.`,
      });
    else indexes.push(i);
  }
  const { line, text } = record;
  if (indexes.length > 0) return { line, text, copy: undefined, faults, doubts: { cells, indexes } };
  if (faults.length > 0) return faulty(record, faults);
  return { line, text, copy: encodeCopy(cells), faults: NO_FAULTS };
}

const ESCAPED: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** One line of COPY's text format, without its end. */
export function encodeCopy(cells: readonly (string | null)[]): string {
  let line = "";
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i]!;
    if (i > 0) line += "\t";
    if (cell === null) line += "\\N";
    else if (/[\\\n\r\t]/.test(cell)) line += cell.replace(/[\\\n\r\t]/g, (character) => ESCAPED[character]!);
    else line += cell;
  }
  return line;
}

/** The text to copy for a value that PostgreSQL certainly takes; undefined when only it can tell. */
export function certainText(value: string, kind: Kind): string | undefined {
  switch (kind) {
    case "integer":
      return /^-?\d{1,10}$/.test(value) && Math.abs(Number(value)) < 2 ** 31 ? value : undefined;
    case "bigint":
      if (/^-?\d{1,18}$/.test(value)) return value;
      return /^-?\d{19}$/.test(value) && BigInt.asIntN(64, BigInt(value)) === BigInt(value)
        ? value
        : undefined;
    case "numeric":
    case "double precision":
      return /^-?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?$/.test(value) ? value : undefined;
    case "timestamp":
      return certainTimestamp(value);
    case "jsonb":
      // Escapes left by JSON.stringify are control characters and lone surrogates, some refused by jsonb.
      return value.includes("\\u") || value.length > 100_000 ? undefined : value;
    default:
      return value.length <= kind && !value.includes("\0") && value.isWellFormed() ? value : undefined;
  }
}

const TIME =
  /^(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?:[T ]((?:[01]\d|2[0-3]):[0-5]\d)(?::([0-5]\d)(\.\d{1,9})?)?)?(?: ?(Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?))?$/;

/** A column without a zone drops an offset unseen, so it is applied here. */
function certainTimestamp(value: string): string | undefined {
  const [, year, month, day, minutes, seconds = "00", fraction = "", zone] = TIME.exec(value) ?? [];
  if (year === undefined || year === "0000") return undefined;
  if (
    Number(day) > 28 &&
    new Date(Date.UTC(2000 + (Number(year) % 400), Number(month) - 1, Number(day))).getUTCDate() !==
      Number(day)
  )
    return undefined;
  if (zone === undefined || zone === "Z" || minutes === undefined)
    return zone !== undefined && minutes === undefined ? undefined : value;
  const [, sign, hours, rest = "00"] = /^([+-])(\d\d):?(\d\d)?$/.exec(zone)!;
  const shifted = new Date(
    `${year}-${month}-${day}T${minutes}:${seconds}${sign}${hours}:${rest}`,
  ).toISOString();
  return /^\d{4}-/.test(shifted) && !shifted.startsWith("0000")
    ? shifted.slice(0, 19).replace("T", " ") + fraction
    : undefined;
}

// JSON.parse rounds long numbers and loses very large ones; those keep the text they were sent with.
const { rawJSON, isRawJSON } = JSON as unknown as {
  rawJSON: (text: string) => object;
  isRawJSON: (value: unknown) => value is { rawJSON: string };
};
const DEEPEST = 1000;

function parseJson(text: string): unknown {
  if (text.length > DEEPEST && isDeep(text)) throw new Error(`it is nested deeper than ${DEEPEST} levels`);
  if (!LOSSY.test(text)) return JSON.parse(text);
  const keep = (_key: string, value: unknown, context?: { source: string }): unknown =>
    typeof value === "number" && context && String(value) !== context.source
      ? rawJSON(context.source)
      : value;
  return JSON.parse(text, keep);
}

/** Deep nesting overflows the stack of whoever takes the value apart, here or in the database. */
function isDeep(text: string): boolean {
  let depth = 0;
  for (const [bracket] of text.matchAll(/[[\]{}]/g)) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    if (depth > DEEPEST) return true;
  }
  return false;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !isRawJSON(value);

function textOf(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "string") return value;
  return isRawJSON(value) ? value.rawJSON : JSON.stringify(value);
}

/**
 * JSON for the quarantine, whatever the row holds: jsonb takes neither NUL nor half a surrogate pair. A row with
 * numbers that nobody could read back has its text only.
 */
export function encodePayload(payload: Record<string, unknown> | null): string | null {
  if (payload === null) return null;
  const text = JSON.stringify(payload);
  if (findNumberFault(text)) return null;
  return text.replace(/(?<!\\)((?:\\\\)*)\\u(?:0000|d[89a-f][0-9a-f]{2})/g, "$1\\ufffd");
}
