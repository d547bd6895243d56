// Reads records from bytes: gunzip, text, then CSV (RFC 4180) or NDJSON. Each record has its text and line number.
//
// Tests compare this reader with csv-parse. That library is not used here because, with the position of each record, it
// is slower than PostgreSQL stores rows, and it cannot resume at the next line after an unclosed quote.
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { BAD, CUT, MAX_RECORD, withHead, type Text } from "./encoding.ts";

/** Default separator of CSV fields. */
const COMMA = ",";

export type Format = "csv" | "ndjson";

export interface SourceRecord {
  line: number;
  text: string;
  /** CSV fields in file order; undefined for NDJSON and for broken records. */
  fields?: string[];
  /** Set if the record cannot be parsed. */
  broken?: { reason: string; detail: string };
}

/** Decompresses the input if its first two bytes are those of gzip. */
export async function* plainBytes(input: Readable, onBytes: (count: number) => void): AsyncGenerator<Buffer> {
  const { head, all: rest } = await withHead(counted(input, onBytes), 2);
  if (head[0] !== 0x1f || head[1] !== 0x8b) return yield* rest;
  const gunzip = createGunzip();
  // Errors of both streams reach the loop below through the destroyed gunzip.
  pipeline(Readable.from(rest), gunzip, () => undefined);
  yield* gunzip as AsyncIterable<Buffer>;
}

async function* counted(input: Readable, onBytes: (count: number) => void): AsyncGenerator<Buffer> {
  for await (const block of input as AsyncIterable<Buffer | string>) {
    const bytes = typeof block === "string" ? Buffer.from(block) : block;
    onBytes(bytes.length);
    yield bytes;
  }
}

function brokenText(text: string, encoding: string): SourceRecord["broken"] {
  if (text.includes(CUT))
    return { reason: "too_long", detail: `The record is longer than ${MAX_RECORD} bytes.` };
  return {
    reason: "invalid_encoding",
    detail:
      `The record holds a NUL character or bytes that are not ${encoding.toUpperCase()}; ` +
      "if the input is in another encoding, say which, by --encoding or encoding.",
  };
}

/** Yields arrays of records: a promise for each record would cost more than reading it. */
export async function* readNdjson({ pieces, encoding }: Text): AsyncGenerator<SourceRecord[]> {
  let line = 0;
  for await (const text of pieces) {
    const records: SourceRecord[] = [];
    for (let start = 0; start < text.length;) {
      const newline = text.indexOf("\n", start);
      const end = newline === -1 ? text.length : newline;
      const record: SourceRecord = { line: ++line, text: text.slice(start, lineEnd(text, start, end)) };
      start = end + 1;
      if (record.text.includes(BAD)) record.broken = brokenText(record.text, encoding);
      if (record.text.trim() !== "") records.push(record);
    }
    yield records;
  }
}

/** Yields CSV records, which must have as many fields as the first one; empty lines are skipped. */
export async function* readCsv(
  { pieces: texts, encoding }: Text,
  delimiter = COMMA,
): AsyncGenerator<SourceRecord[]> {
  let line = 1;
  let width = 0;
  let text = "";
  const pieces = texts[Symbol.asyncIterator]();
  for (let done = false; !done;) {
    const piece = await pieces.next();
    done = piece.done === true;
    if (!done) text = text === "" ? (piece.value as string) : text + piece.value;
    const records: SourceRecord[] = [];
    let start = 0;
    let quote = text.indexOf('"');
    while (start < text.length) {
      const newline = text.indexOf("\n", start);
      // Pieces end with whole lines, so only the last line of the input may lack its newline.
      const end = newline === -1 ? text.length : newline;
      if (quote !== -1 && quote < start) quote = text.indexOf('"', start);
      const last = lineEnd(text, start, end);
      let record: SourceRecord = { line, text: text.slice(start, last) };
      let next = end + 1;
      let lines = 1;
      if (quote === -1 || quote > end) record.fields = record.text.split(delimiter);
      else {
        const parsed = parseQuoted(text, start, delimiter);
        if (parsed.fault === "open" && !done && text.length - start < MAX_RECORD) break;
        record = { line, text: parsed.text, fields: parsed.fields };
        ({ next, lines } = parsed);
        if (parsed.fault) record.broken = { reason: "unparseable", detail: explain(parsed.fault, done) };
      }
      if (record.text.includes(BAD)) {
        record.broken = brokenText(record.text, encoding);
        delete record.fields;
      }
      start = next;
      line += lines;
      if (record.text === "") continue;
      if (width === 0) width = record.fields?.length ?? 0;
      else if (record.fields && record.fields.length !== width) {
        record.broken = wrongWidth(record.fields.length, width);
        delete record.fields;
      }
      records.push(record);
    }
    yield records;
    text = text.slice(start);
  }
}

const wrongWidth = (found: number, expected: number): SourceRecord["broken"] => ({
  reason: "wrong_field_count",
  detail: `The record has ${found} fields; the header has ${expected}.`,
});

/** End of a line's text, without CR LF or LF. */
const lineEnd = (text: string, start: number, end: number): number =>
  end > start && text.charCodeAt(end - 1) === 13 ? end - 1 : end;

/** Parses the fields of a single record. */
export function fieldsOf(text: string, delimiter = COMMA): string[] | undefined {
  if (!text.includes('"')) return text.split(delimiter);
  return parseQuoted(text, 0, delimiter).fields;
}

const explain = (fault: Fault, done: boolean): string =>
  fault === "open"
    ? `A quote is not closed${done ? "" : ` within ${MAX_RECORD} bytes`}.`
    : "A quote stands inside an unquoted field, or text follows a closing quote.";

type Fault = "open" | "stray";

interface QuotedRecord {
  /** Undefined if the record has a fault. */
  fields?: string[];
  fault?: Fault;
  text: string;
  next: number;
  lines: number;
}

// Parses a record with quotes. A faulty record ends with the line on which the faulty field begins, so that a stray
// quote does not swallow further lines, and lines inside closed quotes do not become records.
function parseQuoted(text: string, start: number, delimiter: string): QuotedRecord {
  const fields: string[] = [];
  let lines = 1;
  for (let at = start; ;) {
    let end: number;
    if (text[at] === '"') {
      let close = text.indexOf('"', at + 1);
      let doubled = false;
      while (close !== -1 && text[close + 1] === '"') {
        doubled = true;
        close = text.indexOf('"', close + 2);
      }
      if (close === -1) return faulty("open", text, start, at);
      const value = text.slice(at + 1, close);
      fields.push(doubled ? value.replaceAll('""', '"') : value);
      for (let newline = value.indexOf("\n"); newline !== -1; newline = value.indexOf("\n", newline + 1))
        lines++;
      end = close + 1;
    } else {
      const comma = text.indexOf(delimiter, at);
      const newline = text.indexOf("\n", at);
      end = Math.min(comma === -1 ? text.length : comma, newline === -1 ? text.length : newline);
      if (text[end] !== delimiter) end = lineEnd(text, at, end);
      const value = text.slice(at, end);
      if (value.includes('"')) return faulty("stray", text, start, at);
      fields.push(value);
    }
    if (text[end] === delimiter) {
      at = end + 1;
      continue;
    }
    const stop = text[end] === "\r" && (text[end + 1] === "\n" || end + 1 === text.length) ? end + 1 : end;
    if (stop < text.length && text[stop] !== "\n") return faulty("stray", text, start, at);
    return { fields, text: text.slice(start, end), next: stop + 1, lines };
  }
}

function faulty(fault: Fault, text: string, start: number, at: number): QuotedRecord {
  const newline = text.indexOf("\n", at);
  const end = newline === -1 ? text.length : newline;
  const whole = text.slice(start, lineEnd(text, start, end));
  return { fault, text: whole, next: end + 1, lines: whole.split("\n").length };
}
