// Reads a whole file in bounded memory and collects the statistics of each column that a declaration needs.
import { createReadStream } from "node:fs";
import { basename } from "node:path";
import { badInput } from "../ingest/faults.ts";
import { openRecords } from "../ingest/open.ts";
import { NO_RULES, type Dialect, type Rules } from "../ingest/options.ts";
import type { Format, SourceRecord } from "../ingest/read.ts";
import { createDistinct, type Distinct, type Room } from "./distinct.ts";
import { hashOf, kindOf, type Kind } from "./values.ts";

export interface Example {
  line: number;
  value: string;
}

export interface Column {
  header: string;
  /** Number of values that are not empty. */
  filled: number;
  kinds: Partial<Record<Kind, number>>;
  /** First values of each kind, to name those that do not fit. */
  examples: Partial<Record<Kind, Example[]>>;
  maxLength: number;
  /** Range of the integers and decimals. */
  min: number;
  max: number;
  integerDigits: number;
  scale: number;
  notPositive: Example[];
  notPositiveCount: number;
  negativeCount: number;
  /** Counts of the values while they are few; undefined when there are too many. */
  few: Map<string, number> | undefined;
  distinct: Distinct;
}

export interface Profile {
  rows: number;
  columns: Column[];
  broken: { count: number; examples: (Example & { detail: string })[] };
  /** Distinct sample values of each group of columns. */
  samples: Sample[];
}

interface Sample {
  headers: string[];
  /** Values of a row, joined by NUL, with their hash. */
  values: Map<string, number>;
  every: number;
}

const MAX_EXAMPLES = 3;
const MAX_FEW = 12;
/**
 * Sample values of a group that are looked up in the table it may reference. More give a surer answer and take more
 * memory.
 */
const MAX_SAMPLE = 5_000;
const MAX_KEY_LENGTH = 1_000;
const MAX_COLUMNS = 1_600;

export interface Reading {
  file: string;
  format: Format | undefined;
  /** How the file writes its values. */
  dialect?: Dialect | undefined;
  /** Groups of columns whose values are to be looked up in the database. */
  referencesOf: (headers: string[]) => string[][];
  /** Bounds the memory for finding repeated values; undefined is what each column may take at most. */
  room?: Room | undefined;
  /** Called after each piece of the file; what it throws ends the reading. */
  onProgress?: (bytes: number, rows: number) => void;
}

const SHOWN = 40;
export const shown = (value: string): string =>
  JSON.stringify(value.length > SHOWN ? `${value.slice(0, SHOWN)}…` : value);

export async function profileFile(reading: Reading): Promise<Profile> {
  const columns = new Map<string, Column>();
  const broken: Profile["broken"] = { count: 0, examples: [] };
  let headers: string[] | undefined;
  let rows = 0;
  let samples: Sample[] | undefined;
  const rules = reading.dialect?.rules ?? NO_RULES;
  const columnOf = (header: string): Column => {
    let column = columns.get(header);
    if (!column) {
      if (columns.size >= MAX_COLUMNS) throw badInput(`The file has more than ${MAX_COLUMNS} columns`);
      columns.set(header, (column = createColumn(header, reading.room)));
    }
    return column;
  };
  await eachRecord(reading, (record, format) => {
    if (format === "csv" && !headers) {
      headers = headerOf(record);
      headers.forEach(columnOf);
      samples = startSamples(reading, headers);
      return;
    }
    const row = record.broken ? undefined : format === "csv" ? record.fields : objectOf(record.text);
    rows++;
    if (!row) {
      broken.count++;
      const detail = record.broken?.detail ?? "The line is not a JSON object.";
      if (broken.examples.length < MAX_EXAMPLES)
        broken.examples.push({ line: record.line, value: record.text, detail });
      return;
    }
    if (Array.isArray(row)) {
      for (let i = 0; i < row.length; i++) take(columns.get(headers![i]!)!, row[i]!, record.line, rules);
    } else {
      for (const [header, value] of Object.entries(row)) take(columnOf(header), value, record.line, rules);
      samples ??= startSamples(reading, Object.keys(row));
    }
    for (const sample of samples ?? []) takeSample(sample, valuesOf(row, headers, sample.headers));
  });
  if (columns.size === 0) throw badInput(`"${basename(reading.file)}" is empty`);
  return { rows, columns: [...columns.values()], broken, samples: samples ?? [] };
}

const startSamples = ({ referencesOf }: Reading, headers: string[]): Sample[] =>
  referencesOf(headers).map((group) => ({ headers: group, values: new Map(), every: 1 }));

type FileRow = string[] | Record<string, string>;

/** The values of some columns as one text; undefined if one of them is empty. */
function valuesOf(row: FileRow, headers: string[] | undefined, names: string[]): string | undefined {
  let joined = "";
  for (const name of names) {
    const value = (Array.isArray(row) ? row[headers!.indexOf(name)] : row[name])?.trim();
    if (!value) return undefined;
    joined = joined === "" ? value : `${joined}\0${value}`;
  }
  return joined;
}

/** Which of the groups of columns have no value twice. */
export async function findUnique(reading: Reading, groups: string[][]): Promise<Distinct[]> {
  const trackers = groups.map(() => createDistinct(reading.room));
  let headers: string[] | undefined;
  await eachRecord(reading, (record, format) => {
    if (format === "csv" && !headers) return void (headers = headerOf(record));
    const row = record.broken ? undefined : format === "csv" ? record.fields : objectOf(record.text);
    if (!row) return;
    for (const [i, group] of groups.entries()) {
      if (trackers[i]!.gaveUp) continue;
      const values = valuesOf(row, headers, group);
      if (values !== undefined) trackers[i]!.add(hashOf(values));
    }
  });
  return trackers;
}

async function eachRecord(
  { file, format: given, dialect, onProgress }: Reading,
  use: (record: SourceRecord, format: Format) => void,
): Promise<void> {
  let bytes = 0;
  let rows = 0;
  const input = createReadStream(file, { highWaterMark: 1024 * 1024 });
  try {
    const { format, records: all } = await openRecords(input, {
      format: given,
      delimiter: dialect?.delimiter,
      encoding: dialect?.encoding,
      onBytes: (count) => void (bytes += count),
    });
    for await (const records of all) {
      for (const record of records) use(record, format);
      rows += records.length;
      onProgress?.(bytes, rows);
    }
  } finally {
    input.destroy();
  }
}

function headerOf(record: SourceRecord): string[] {
  if (!record.fields) throw badInput(`The header cannot be read: ${record.broken?.detail}`);
  const headers = record.fields.map((name) => name.trim());
  const separator = headers.length === 1 && /[;\t|]/.exec(headers[0]!)?.[0];
  if (separator)
    throw badInput(
      `The header has one column and ${shown(separator)} in it; if that separates columns, say so by --delimiter or delimiter`,
    );
  const unnamed = headers.indexOf("");
  if (unnamed >= 0) throw badInput(`Column ${unnamed + 1} has no name; the first line names the columns`);
  const twice = headers.find((name, i) => headers.indexOf(name) !== i);
  if (twice !== undefined) throw badInput(`Two columns are named ${shown(twice)}; give one another name`);
  return headers;
}

function objectOf(text: string): Record<string, string> | undefined {
  try {
    // JSON.parse would round long numbers: keep their source text.
    const keep = (_key: string, value: unknown, context?: { source: string }): unknown =>
      typeof value === "number" ? context!.source : value;
    const row: unknown = JSON.parse(text, keep);
    if (typeof row !== "object" || row === null || Array.isArray(row)) return undefined;
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [
        name,
        value === null ? "" : typeof value === "string" ? value : JSON.stringify(value),
      ]),
    );
  } catch {
    return undefined;
  }
}

const createColumn = (header: string, room: Room | undefined): Column => ({
  header,
  filled: 0,
  kinds: {},
  examples: {},
  maxLength: 0,
  min: Infinity,
  max: -Infinity,
  integerDigits: 0,
  scale: 0,
  notPositive: [],
  notPositiveCount: 0,
  negativeCount: 0,
  few: new Map(),
  distinct: createDistinct(room),
});

function take(column: Column, raw: string, line: number, rules: Rules): void {
  const { nulls, numbers, dates, zone } = rules;
  if (raw === "" || nulls?.has(raw)) return;
  const written = raw.trim();
  if (written === "") return;
  const value = dates?.read(written) ?? numbers?.read(written) ?? written;
  column.filled++;
  const found = kindOf(value);
  const kind = zone && found === "timestamp" ? "timestamptz" : found;
  column.kinds[kind] = (column.kinds[kind] ?? 0) + 1;
  const examples = (column.examples[kind] ??= []);
  if (examples.length < MAX_EXAMPLES) examples.push({ line, value });
  if (raw.length > column.maxLength) column.maxLength = raw.length;
  if (kind === "integer" || kind === "decimal" || kind === "float") takeNumber(column, value, line);
  if (column.few) {
    column.few.set(value, (column.few.get(value) ?? 0) + 1);
    if (column.few.size > MAX_FEW) column.few = undefined;
  }
  if (!column.distinct.gaveUp) column.distinct.add(hashOf(value));
}

function takeNumber(column: Column, text: string, line: number): void {
  const value = Number(text);
  if (value < column.min) column.min = value;
  if (value > column.max) column.max = value;
  const digits = text.replace(/^[+-]/, "");
  const point = digits.indexOf(".");
  const whole = point === -1 ? digits.length : point;
  if (whole > column.integerDigits) column.integerDigits = whole;
  if (point !== -1 && digits.length - point - 1 > column.scale) column.scale = digits.length - point - 1;
  if (value <= 0) {
    column.notPositiveCount++;
    if (value < 0) column.negativeCount++;
    if (column.notPositive.length < MAX_EXAMPLES) column.notPositive.push({ line, value: text });
  }
}

function takeSample(sample: Sample, value: string | undefined): void {
  // Longer values cannot be keys, and thousands of them would take much memory.
  if (value === undefined || value.length > MAX_KEY_LENGTH) return;
  const hash = hashOf(value);
  const isTaken = (of: number): boolean => Math.floor(of / 4294967296) % sample.every === 0;
  if (!isTaken(hash)) return;
  sample.values.set(value, hash);
  if (sample.values.size <= MAX_SAMPLE) return;
  sample.every *= 2;
  for (const [known, of] of sample.values) if (!isTaken(of)) sample.values.delete(known);
}
