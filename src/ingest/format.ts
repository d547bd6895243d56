// Converts records to rows of a raw table. PostgreSQL decides which values are valid: those that are certain pass
// here at once, every other one is a doubt, about which the database is asked.
import { fieldNames, type Dataset, type Field } from "./dataset.ts";
import { badInput, quoted, type Fault } from "./faults.ts";
import { isObject, numberOf, parseJson } from "./json.ts";
import {
  Computed,
  Failure,
  make,
  placeColumns,
  renamed,
  textValue,
  withSets,
  type Placement,
  type Sets,
} from "./mapping.ts";
import { findNumberFault } from "./numbers.ts";
import { NO_RULES, type Rules } from "./options.ts";
import { fieldsOf, type Format, type SourceRecord } from "./read.ts";
import { judgeCsv, judgeNumber, judgeValue, type Judged } from "./values.ts";

export interface Row {
  line: number;
  text: string;
  /** The line for COPY, without its end; undefined while there are doubts, and if the row is faulty. */
  copy: string | undefined;
  faults: readonly Fault[];
  /** Cells about which the database has to be asked. */
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
  /** The row by field name, for the quarantine; null if it cannot be parsed. */
  payload: (text: string) => Record<string, unknown> | null;
}

/** Shared by all rows without faults, many of which are in memory at a time. */
const NO_FAULTS: readonly Fault[] = [];

/** Maximum columns of a CSV file. A table has at most 1,600; further ones go to the field for extras. */
const MAX_COLUMNS = 2000;

export interface FormatOptions {
  dataset: Dataset;
  format: Format;
  map: Map<string, string>;
  sets?: Sets | undefined;
  rules: Rules;
  delimiter?: string | undefined;
}

/** Examines the first record, rejects columns that cannot be assigned, and returns a function that formats records. */
export function createFormatter(options: FormatOptions, first: SourceRecord): Formatter {
  const { dataset, format, map, sets } = options;
  if (first.broken && format === "csv") throw badInput(`The header cannot be read: ${first.broken.detail}`);
  // Only an array of objects means "JSON, not NDJSON". Any other bad first line is quarantined like any bad row.
  if (format === "ndjson" && /^\s*\[\s*(?:[{\]]|$)/.test(first.text))
    throw badInput(
      "The input is a JSON array; NDJSON has one object a line, without brackets and commas around",
    );
  if (format === "csv" && first.text.includes("\r") && first.fields!.some((name) => name.includes("\r")))
    throw badInput("The lines of the input end with CR alone; allowed: LF, or CR and LF");
  const columns = format === "csv" ? first.fields!.map((name) => name.trim()) : columnsOf(first);
  let placement: Placement | undefined;
  if (columns) {
    if (format === "csv" && columns.length > MAX_COLUMNS)
      throw badInput(`The header has ${columns.length} columns; allowed: ${MAX_COLUMNS}`);
    const present = new Set(columns);
    const missing = [...map.keys()].filter((column) => !present.has(column));
    if (format === "csv" && missing.length > 0)
      throw badInput(`The input has no column ${quoted(missing)} to map; it has: ${quoted(columns)}`);
    // Columns are assigned row by row in NDJSON, where rows may lack some.
    if (format === "csv") placement = placeColumns(columns, dataset, map, sets);
    const made = sets?.fields.map(({ name }) => name) ?? [];
    const fields = placement?.fields ?? fieldsOfRow(columns, options);
    rejectUnplaced(dataset, columns, fields, made, format);
  }
  return format === "csv" ? csvFormatter(options, placement!) : ndjsonFormatter(options);
}

function columnsOf(record: SourceRecord): string[] | undefined {
  try {
    const value: unknown = JSON.parse(record.text);
    return isObject(value) ? Object.keys(value) : undefined;
  } catch {
    return undefined;
  }
}

function fieldsOfRow(columns: string[], { dataset, map, sets }: FormatOptions): string[] {
  const row = Object.fromEntries(columns.map((column) => [column, null]));
  const kept = renamed(row, map, sets);
  const fields = Object.keys(sets ? withSets(kept, dataset, sets, false) : kept);
  return columns.map((column) => {
    const field = map.get(column) ?? column;
    const isMade = sets?.fields.some(({ name }) => name === field);
    return fields.includes(field) && !isMade ? field : "";
  });
}

function rejectUnplaced(
  dataset: Dataset,
  columns: string[],
  fields: string[],
  made: string[],
  format: Format,
): void {
  const allowed = `allowed for ${dataset.name}: ${quoted(fieldNames(dataset))}`;
  const unknown = columns.filter((_, index) => fields[index] !== "" && !dataset.places.has(fields[index]!));
  if (unknown.length > 0 && !dataset.extras)
    throw badInput(
      `Unknown ${unknown.length === 1 ? "column" : "columns"} ${quoted(unknown)}; ${allowed}; ` +
        `map a column with column=field, or leave it out with column=` +
        (format === "csv" && columns.length === 1 && /[;\t|]/.test(columns[0]!)
          ? "; if another character than a comma separates columns, say which, by --delimiter or delimiter"
          : ""),
    );
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const field of fields) (seen.has(field) && field !== "" ? twice : seen).add(field);
  if (twice.size > 0) throw badInput(`More than one column for ${quoted(twice)}; ${allowed}`);
  if (format !== "csv") return;
  for (const field of made) seen.add(field);
  const lacking = dataset.fields.filter(({ name, isRequired }) => isRequired && !seen.has(name));
  if (lacking.length > 0)
    throw badInput(
      `No column for ${quoted(lacking.map(({ name }) => name))}, the key of ${dataset.name}; ` +
        `the input has: ${quoted(columns)}; ${allowed}`,
    );
}

function csvFormatter(
  { dataset, rules, delimiter, sets }: FormatOptions,
  { fields, kept, read }: Placement,
): Formatter {
  const extras = [...fields.entries()].filter(([, field]) => field !== "" && !dataset.places.has(field));
  const setOf = new Map(sets?.fields.map(({ name }, i) => [name, i]));
  /** For each field of the dataset, its column or its expression. */
  const sources = dataset.fields.map(({ name }) => ({ column: fields.indexOf(name), set: setOf.get(name) }));
  const extrasOf = (values: string[]): Extras =>
    extras.flatMap(([index, field]) => (values[index] ? [[field, values[index]] as const] : []));
  const placeless = (sets?.fields ?? []).flatMap(({ name }, i) =>
    dataset.places.has(name) ? [] : [[name, i] as const],
  );
  const extrasMade = (made: unknown[]): Extras =>
    placeless.flatMap(([name, i]) => (made[i] === undefined ? [] : [[name, made[i]] as const]));
  const judge = (values: string[]): Cells => {
    const made = sets
      ? make(
          sets,
          read.map((index) => textValue(values[index]!, rules.nulls, true)),
        )
      : [];
    // An empty field is absent, quoted or not, since many programs quote everything.
    const given = sources.map(({ column, set }) =>
      set === undefined ? values[column] || undefined : made[set],
    );
    const others = extras.length + placeless.length > 0 ? [...extrasOf(values), ...extrasMade(made)] : [];
    return judgeCells(dataset, given, true, others, rules);
  };
  return {
    format(record) {
      if (!record.fields) return faulty(record, [record.broken!]);
      return toRow(record, judge(record.fields));
    },
    payload(text) {
      const values = fieldsOf(text, delimiter);
      if (values?.length !== fields.length) return null;
      return Object.fromEntries(kept.flatMap((name, i) => (name === "" ? [] : [[name, values[i] || null]])));
    },
  };
}

function ndjsonFormatter({ dataset, map, sets, rules }: FormatOptions): Formatter {
  const read = (text: string): Record<string, unknown> => {
    const value = parseJson(text);
    if (!isObject(value)) throw new Error("it is not an object");
    return renamed(value, map, sets);
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
      return toRow(record, judgeFields(dataset, row, "ndjson", rules, sets));
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

/** Checks a row that is given by field name: from NDJSON or from the quarantine. */
export function judgeFields(
  dataset: Dataset,
  kept: Record<string, unknown>,
  format: Format,
  rules = NO_RULES,
  sets?: Sets,
): Cells {
  const isCsv = format === "csv";
  const row = sets ? withSets(kept, dataset, sets, isCsv) : kept;
  return judgeCells(
    dataset,
    dataset.fields.map(({ name }) => {
      const value = Object.hasOwn(row, name) ? row[name] : undefined;
      return isCsv && value === "" ? undefined : value;
    }),
    isCsv,
    Object.entries(row).filter(
      ([name, value]) => !dataset.places.has(name) && !(isCsv && (value === "" || value === null)),
    ),
    rules,
  );
}

type Extras = (readonly [name: string, value: unknown])[];

function judgeCells(
  dataset: Dataset,
  /** Values in the order of the dataset's fields. */
  values: readonly unknown[],
  isCsv: boolean,
  extras: Extras,
  rules: Rules,
): Cells {
  const { nulls } = rules;
  const isAbsent = (value: unknown): boolean => typeof value === "string" && nulls!.has(value);
  if (nulls && extras.length > 0)
    extras = isCsv
      ? extras.filter(([, value]) => !isAbsent(value))
      : extras.map(([name, value]) => [name, isAbsent(value) ? null : value]);
  // In a CSV row, a value that is not text comes from a correction in the quarantine, which is JSON.
  const judge = (field: Field, value: unknown): Judged =>
    isCsv && typeof value === "string"
      ? judgeCsv(field, value, rules)
      : value instanceof Computed
        ? judgeNumber(field, value.text, rules)
        : judgeValue(field, value, rules);
  const failed = extras.flatMap(([, value]) => (value instanceof Failure ? value.fault : []));
  if (failed.length > 0) extras = extras.filter(([, value]) => !(value instanceof Failure));
  const result: Cells = {
    cells: new Array<string | null>(dataset.fields.length),
    places: [],
    faults: failed,
  };
  for (let place = 0; place < dataset.fields.length; place++) {
    const field = dataset.fields[place]!;
    let value = values[place];
    if (nulls && isAbsent(value)) value = undefined;
    if (value instanceof Failure) {
      result.cells[place] = null;
      result.faults.push(value.fault);
      continue;
    }
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

const asJson = (value: unknown): unknown => (value instanceof Computed ? numberOf(value.text) : value);

function judgeExtras(field: Field, value: unknown, extras: Extras, isCsv: boolean): Judged {
  try {
    const own = isCsv && typeof value === "string" ? parseJson(value) : asJson(value);
    return judgeValue(
      field,
      join(
        field,
        own,
        extras.map(([name, extra]) => [name, asJson(extra)]),
      ),
    );
  } catch (error) {
    const detail = `${field.name} is not JSON: ${(error as Error).message}.`;
    return { fault: { reason: "invalid_json", detail } };
  }
}

/**
 * Merges unknown fields into the field for extras. If that holds no object, or has a field of the same name, it is
 * stored whole under its own name beside them, so that no value is lost.
 */
function join(field: Field, own: unknown, extras: Extras): unknown {
  const absent = own === undefined || own === null;
  const joins = isObject(own) && !extras.some(([name]) => Object.hasOwn(own, name));
  const entries = absent ? [] : joins ? Object.entries(own) : [[field.name, own] as const];
  // Assigning properties would lose a field called __proto__.
  return Object.fromEntries([...entries, ...extras]);
}

const faulty = ({ line, text }: SourceRecord, faults: Fault[]): Row => ({
  line,
  text,
  copy: undefined,
  faults,
});

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

const UNESCAPED: Record<string, string> = { "\\": "\\", n: "\n", r: "\r", t: "\t" };

/** The cells of such a line. */
export const decodeCopy = (line: string): (string | null)[] =>
  line
    .split("\t")
    .map((cell) =>
      cell === "\\N" ? null : cell.replace(/\\([\\nrt])/g, (_, character: string) => UNESCAPED[character]!),
    );

/**
 * Encodes a payload as JSON that jsonb accepts: without NUL and lone surrogates. Returns null for numbers that could
 * not be read back; then only the row's text is stored.
 */
export function encodePayload(payload: Record<string, unknown> | null): string | null {
  if (payload === null) return null;
  const text = JSON.stringify(payload);
  if (findNumberFault(text)) return null;
  return text.replace(/(?<!\\)((?:\\\\)*)\\u(?:0000|d[89a-f][0-9a-f]{2})/g, "$1\\ufffd");
}
