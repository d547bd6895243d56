// Records to rows of a raw table. PostgreSQL decides what a value may be: here only the values that it certainly
// takes are let through at once; every other one is a doubt, which the database is asked about.
import { fieldNames, type Dataset, type Field } from "./dataset.ts";
import type { DateFormat } from "./dates.ts";
import { badInput, badOption, quoted, type Fault } from "./faults.ts";
import { isObject, parseJson } from "./json.ts";
import { findNumberFault } from "./numbers.ts";
import { fieldsOf, type Format, type SourceRecord } from "./read.ts";
import { judgeCsv, judgeValue, type Judged } from "./values.ts";

export interface Row {
  line: number;
  text: string;
  /** As COPY takes it, without the end of the line; undefined while there are doubts, or for good if faulty. */
  copy: string | undefined;
  faults: readonly Fault[];
  /** Cells that the database has to be asked about. */
  doubts?: Doubts;
}

export interface Doubts {
  cells: (string | null)[];
  places: number[];
}

/** The cells of a row, in the order of the dataset's fields. */
export interface Cells extends Doubts {
  faults: Fault[];
}

export interface Formatter {
  format: (record: SourceRecord) => Row;
  /** The row by field name, for the quarantine; null if it cannot be read. */
  payload: (text: string) => Record<string, unknown> | null;
}

/** Many rows wait in memory at a time: what most of them have in common exists once. */
const NO_FAULTS: readonly Fault[] = [];

/** Columns of a CSV file. A table has at most 1,600; the rest becomes JSON, row by row. */
const MAX_COLUMNS = 2000;

/** "column=field" pairs; "column=" leaves a column out. */
export function parseMap(pairs: Iterable<string>, dataset: Dataset): Map<string, string> {
  const map = new Map<string, string>();
  for (const pair of pairs) {
    const [, column, field] = /^(.+)=(.*)$/s.exec(pair) ?? [];
    if (column === undefined || field === undefined)
      throw badOption(`"${pair}" is not of the form column=field, such as "customer=user_id"`);
    if (field !== "" && !dataset.extras && !dataset.places.has(field))
      throw badOption(
        `"${pair}" maps to an unknown field of ${dataset.name}; allowed: ${quoted(fieldNames(dataset))}`,
      );
    map.set(column, field);
  }
  return map;
}

export interface FormatOptions {
  dataset: Dataset;
  format: Format;
  map: Map<string, string>;
  dates?: DateFormat;
}

/** Looks at the first record: rejects columns that cannot be placed, and gives what formats the records. */
export function createFormatter(options: FormatOptions, first: SourceRecord): Formatter {
  const { dataset, format, map } = options;
  if (first.broken && format === "csv") throw badInput(`The header cannot be read: ${first.broken.detail}`);
  // Only an array of objects means "JSON, not NDJSON". Any other bad first line is quarantined like any bad row.
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
    rejectUnplaced(dataset, columns, fields, format);
  }
  return format === "csv" ? csvFormatter(options, fields!) : ndjsonFormatter(options);
}

function columnsOf(record: SourceRecord): string[] | undefined {
  try {
    const value: unknown = JSON.parse(record.text);
    return isObject(value) ? Object.keys(value) : undefined;
  } catch {
    return undefined;
  }
}

function rejectUnplaced(dataset: Dataset, columns: string[], fields: string[], format: Format): void {
  const allowed = `allowed for ${dataset.name}: ${quoted(fieldNames(dataset))}`;
  const unknown = columns.filter((_, index) => fields[index] !== "" && !dataset.places.has(fields[index]!));
  if (unknown.length > 0 && !dataset.extras)
    throw badInput(
      `Unknown ${unknown.length === 1 ? "column" : "columns"} ${quoted(unknown)}; ${allowed}; ` +
        `map a column with column=field, or leave it out with column=`,
    );
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const field of fields) (seen.has(field) && field !== "" ? twice : seen).add(field);
  if (twice.size > 0) throw badInput(`More than one column for ${quoted(twice)}; ${allowed}`);
  if (format !== "csv") return;
  const lacking = dataset.fields.filter(({ name, isRequired }) => isRequired && !seen.has(name));
  if (lacking.length > 0)
    throw badInput(
      `No column for ${quoted(lacking.map(({ name }) => name))}, the key of ${dataset.name}; ` +
        `the input has: ${quoted(columns)}; ${allowed}`,
    );
}

function csvFormatter({ dataset, dates }: FormatOptions, fields: string[]): Formatter {
  const positions = dataset.fields.map(({ name }) => fields.indexOf(name));
  const extras = [...fields.entries()].filter(([, field]) => field !== "" && !dataset.places.has(field));
  return {
    format(record) {
      const values = record.fields;
      if (!values) return faulty(record, [record.broken!]);
      const cells = judgeCells(
        dataset,
        // An empty field is an absent one, quoted or not: many writers quote everything.
        (place) => values[positions[place]!] || undefined,
        true,
        extras.flatMap(([index, field]) => (values[index] ? [[field, values[index]] as const] : [])),
        dates,
      );
      return toRow(record, cells);
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

function ndjsonFormatter({ dataset, map, dates }: FormatOptions): Formatter {
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
      return toRow(record, judgeFields(dataset, row, "ndjson", dates));
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

/** A row by field name, of whatever source: from NDJSON, and from the quarantine. */
export function judgeFields(
  dataset: Dataset,
  row: Record<string, unknown>,
  format: Format,
  dates?: DateFormat,
): Cells {
  const isCsv = format === "csv";
  return judgeCells(
    dataset,
    (place) => {
      const { name } = dataset.fields[place]!;
      const value = Object.hasOwn(row, name) ? row[name] : undefined;
      return isCsv && value === "" ? undefined : value;
    },
    isCsv,
    Object.entries(row).filter(
      ([name, value]) => !dataset.places.has(name) && !(isCsv && (value === "" || value === null)),
    ),
    dates,
  );
}

type Extras = (readonly [name: string, value: unknown])[];

function judgeCells(
  dataset: Dataset,
  valueAt: (place: number) => unknown,
  isCsv: boolean,
  extras: Extras,
  dates?: DateFormat,
): Cells {
  // A value of a CSV row that is no text comes from a correction in the quarantine, which is JSON.
  const judge = (field: Field, value: unknown): Judged =>
    isCsv && typeof value === "string" ? judgeCsv(field, value, dates) : judgeValue(field, value, dates);
  const result: Cells = { cells: new Array<string | null>(dataset.fields.length), places: [], faults: [] };
  for (let place = 0; place < dataset.fields.length; place++) {
    const field = dataset.fields[place]!;
    const value = valueAt(place);
    const joins = extras.length > 0 && field === dataset.extras;
    if (value == null && !joins) {
      result.cells[place] = null;
      if (field.isRequired)
        result.faults.push({
          reason: "missing_key",
          detail: `${field.name} is missing; it is the key of the row.`,
        });
      continue;
    }
    const judged = joins ? judgeExtras(field, value, extras, isCsv) : judge(field, value);
    result.cells[place] = "text" in judged ? judged.text : "doubt" in judged ? judged.doubt : null;
    if ("fault" in judged) result.faults.push(judged.fault);
    else if ("doubt" in judged) result.places.push(place);
  }
  if (extras.length > 0 && !dataset.extras)
    result.faults.push({
      reason: "unknown_field",
      detail: `Unknown ${quoted(extras.map(([name]) => name))}; allowed: ${quoted(fieldNames(dataset))}.`,
    });
  return result;
}

function judgeExtras(field: Field, value: unknown, extras: Extras, isCsv: boolean): Judged {
  try {
    const own = isCsv && typeof value === "string" ? parseJson(value) : value;
    return judgeValue(field, join(field, own, extras));
  } catch (error) {
    const detail = `${field.name} is not JSON: ${(error as Error).message}.`;
    return { fault: { reason: "invalid_json", detail } };
  }
}

/**
 * Fields without a column of their own join the one for extras. If that is no object, or has a field of the same
 * name, it stays whole under its own name beside them, so that no value displaces another.
 */
function join(field: Field, own: unknown, extras: Extras): unknown {
  const absent = own === undefined || own === null;
  const joins = isObject(own) && !extras.some(([name]) => Object.hasOwn(own, name));
  const entries = absent ? [] : joins ? Object.entries(own) : [[field.name, own] as const];
  // An assignment instead of an entry would lose a field called __proto__.
  return Object.fromEntries([...entries, ...extras]);
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

function toRow(record: SourceRecord, { cells, places, faults }: Cells): Row {
  const { line, text } = record;
  if (places.length > 0) return { line, text, copy: undefined, faults, doubts: { cells, places } };
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
