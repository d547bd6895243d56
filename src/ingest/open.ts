// Reads records from an input of any format.
import type { Readable } from "node:stream";
import { openText, type Text } from "./encoding.ts";
import { badInput } from "./faults.ts";
import { plainBytes, readCsv, readNdjson, type Format, type SourceRecord } from "./read.ts";

interface Opening {
  /** Default: decided by the first character. */
  format?: Format | undefined;
  delimiter?: string | undefined;
  encoding?: string | undefined;
  /** Called with the number of bytes read from the input, compressed or not. */
  onBytes: (count: number) => void;
}

export interface Opened {
  format: Format;
  records: AsyncGenerator<SourceRecord[]>;
}

export async function openRecords(input: Readable, opening: Opening): Promise<Opened> {
  const { delimiter, encoding } = opening;
  const text = await openText(plainBytes(input, opening.onBytes), encoding);
  const { format, all } = await withFormat(text, opening.format);
  if (format === "csv") return { format, records: readCsv(all, delimiter) };
  if (delimiter !== undefined)
    throw badInput("A delimiter applies to CSV only; the input is NDJSON, one JSON object per line");
  return { format, records: readNdjson(all) };
}

async function withFormat(text: Text, given: Format | undefined): Promise<{ format: Format; all: Text }> {
  if (given) return { format: given, all: text };
  const { value, done } = await text.pieces.next();
  const first = done ? "" : value;
  const pieces = (async function* () {
    yield first;
    yield* text.pieces;
  })();
  return { format: /^\s*[{[]/.test(first) ? "ndjson" : "csv", all: { ...text, pieces } };
}
