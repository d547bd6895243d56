// Decodes bytes to text, in whole lines. Lines with bytes that are invalid in their encoding are marked.
import { isUtf8 } from "node:buffer";
import { badInput, badOption, quoted } from "./faults.ts";

/** Maximum characters of a record. A quote that is not closed within it counts as a stray one. */
export const MAX_RECORD = 1024 * 1024;
const SHOWN_OF_TOO_LONG = 8192;
/** Marks invalid bytes. NUL is free for that, since PostgreSQL accepts none in text. */
export const BAD = "\0";
export const CUT = `${BAD}[cut]`;
const NEWLINE = 0x0a;

interface Encoding {
  /** Decodes the bytes; undefined if some are invalid. */
  strict: (bytes: Buffer) => string | undefined;
  /** Decodes the bytes, with BAD in place of invalid ones. */
  marked: (bytes: Buffer) => string;
}

const UTF_8: Encoding = {
  strict: (bytes) => (isUtf8(bytes) ? bytes.toString("utf8") : undefined),
  marked: (bytes) => bytes.toString("utf8").replaceAll("\uFFFD", BAD),
};

/** Control characters of single-byte encodings, which show that a text is in another encoding. */

const CONTROL = /[\x80-\x9f]/;
const CONTROLS = new RegExp(CONTROL, "g");
/** Characters of windows-1252 in place of the C1 controls, five of which it keeps. */
const WINDOWS = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ";

function oneByte(decode: (bytes: Buffer) => string): Encoding {
  return {
    strict(bytes) {
      const text = decode(bytes);
      return CONTROL.test(text) ? undefined : text;
    },
    marked: (bytes) => decode(bytes).replace(CONTROLS, BAD).replaceAll("\uFFFD", BAD),
  };
}

const asLatin1 = (bytes: Buffer): string => bytes.toString("latin1");
const asWindows1252 = (bytes: Buffer): string => {
  const text = asLatin1(bytes);
  return CONTROL.test(text)
    ? text.replace(CONTROLS, (character) => WINDOWS[character.charCodeAt(0) - 0x80]!)
    : text;
};
/** Decodes with one of Node's own decoders. */
function decoded(label: string): (bytes: Buffer) => string {
  const decoder = new TextDecoder(label, { ignoreBOM: true });
  return (bytes) => decoder.decode(bytes);
}

function severalBytes(label: string): Encoding {
  const decode = decoded(label);
  const fatal = new TextDecoder(label, { fatal: true, ignoreBOM: true });
  return {
    strict(bytes) {
      try {
        return fatal.decode(bytes);
      } catch {
        return undefined;
      }
    },
    marked: (bytes) => decode(bytes).replaceAll("\uFFFD", BAD),
  };
}

/**
 * Encodings by name, created on first use. UTF-16 is converted to UTF-8 before lines are split, since its newline has
 * two bytes.
 */
const ENCODINGS: Record<string, () => Encoding> = {
  "utf-8": () => UTF_8,
  "utf-16": () => UTF_8,
  "utf-16le": () => UTF_8,
  "utf-16be": () => UTF_8,
  "latin-1": () => oneByte(asLatin1),
  "windows-1252": () => oneByte(asWindows1252),
  "windows-1250": () => oneByte(decoded("windows-1250")),
  "windows-1251": () => oneByte(decoded("windows-1251")),
  "iso-8859-2": () => oneByte(decoded("iso-8859-2")),
  "iso-8859-15": () => oneByte(decoded("iso-8859-15")),
  shift_jis: () => severalBytes("shift_jis"),
  gb18030: () => severalBytes("gb18030"),
  big5: () => severalBytes("big5"),
  "euc-kr": () => severalBytes("euc-kr"),
};
const ALIASES: Record<string, string> = {
  utf8: "utf-8",
  "us-ascii": "utf-8",
  utf16: "utf-16",
  utf16le: "utf-16le",
  utf16be: "utf-16be",
  latin1: "latin-1",
  "iso-8859-1": "latin-1",
  cp1252: "windows-1252",
};

/** Returns the name used here: "latin-1" for ISO-8859-1. */
export function parseEncoding(text: string): string {
  const lower = text.toLowerCase();
  const name = Object.hasOwn(ALIASES, lower) ? ALIASES[lower]! : lower;
  if (Object.hasOwn(ENCODINGS, name)) return name;
  throw badOption(
    `"${text.slice(0, 100)}" is not an encoding that is read; allowed: ${quoted(Object.keys(ENCODINGS))}`,
  );
}

const MARKS: [encoding: string, mark: number[]][] = [
  ["utf-8", [0xef, 0xbb, 0xbf]],
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];

export interface Text {
  /** Name of the encoding, for messages. */
  encoding: string;
  /** The text in pieces of whole lines; the last one may lack its newline. */
  pieces: AsyncGenerator<string>;
}

/** Decodes by the given encoding, else by the byte order mark, else as UTF-8. */
export async function openText(blocks: AsyncIterable<Buffer>, given?: string): Promise<Text> {
  const { head, all } = await withHead(blocks, 3);
  const [marked, mark = []] =
    MARKS.find(([, bytes]) => bytes.every((byte, index) => head[index] === byte)) ?? [];
  if (marked !== undefined && given !== undefined && !marked.startsWith(given))
    throw badInput(
      `The input begins with the byte order mark of ${marked}, but its encoding is said to be ${given}`,
    );
  const encoding = marked ?? given ?? "utf-8";
  const content = without(all, mark.length);
  const bytes = encoding.startsWith("utf-16") ? fromUtf16(content, encoding === "utf-16be") : content;
  return { encoding, pieces: textOfLines(bytes, ENCODINGS[encoding]!()) };
}

/** Returns the first bytes, and a stream of all bytes including them. */
export async function withHead(
  blocks: AsyncIterable<Buffer>,
  length: number,
): Promise<{ head: Buffer; all: AsyncGenerator<Buffer> }> {
  const rest = blocks[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < length) {
    const { value, done } = await rest.next();
    if (done) break;
    head = head.length === 0 ? value : Buffer.concat([head, value]);
  }
  const all = (async function* () {
    if (head.length > 0) yield head;
    yield* { [Symbol.asyncIterator]: () => rest };
  })();
  return { head, all };
}

async function* without(blocks: AsyncIterable<Buffer>, bytes: number): AsyncGenerator<Buffer> {
  let left = bytes;
  for await (const block of blocks) {
    yield left === 0 ? block : block.subarray(left);
    left = 0;
  }
}

/** Converts UTF-16; a lone surrogate, or a single last byte, becomes BAD. */
async function* fromUtf16(blocks: AsyncIterable<Buffer>, isBigEndian: boolean): AsyncGenerator<Buffer> {
  let odd: Buffer = Buffer.alloc(0);
  let high = "";
  for await (const block of blocks) {
    const bytes = odd.length > 0 ? Buffer.concat([odd, block]) : block;
    const even = bytes.length & ~1;
    odd = bytes.subarray(even);
    // Copy the bytes, since swap16 works in place.
    const pairs = isBigEndian ? Buffer.from(bytes.subarray(0, even)).swap16() : bytes.subarray(0, even);
    let text = high + pairs.toString("utf16le");
    high = /[\ud800-\udbff]$/.exec(text)?.[0] ?? "";
    if (high !== "") text = text.slice(0, -1);
    yield Buffer.from(wellFormed(text));
  }
  if (odd.length > 0 || high !== "") yield Buffer.from(BAD);
}

const wellFormed = (text: string): string =>
  text.isWellFormed() ? text : text.replace(/\p{Surrogate}/gu, BAD);

/** Yields whole lines; lines beyond the limit are cut. */
async function* textOfLines(blocks: AsyncIterable<Buffer>, encoding: Encoding): AsyncGenerator<string> {
  let carry: Buffer[] = [];
  let carried = 0;
  let cutting = false;
  for await (let block of blocks) {
    const end = block.lastIndexOf(NEWLINE) + 1;
    if (end > 0) {
      let whole = block.subarray(0, end);
      if (cutting) whole = whole.subarray(whole.indexOf(NEWLINE));
      cutting = false;
      yield decode(carry.length === 0 ? whole : Buffer.concat([...carry, whole]), encoding);
      carry = [];
      carried = 0;
      block = block.subarray(end);
    }
    if (block.length === 0 || cutting) continue;
    carry.push(block);
    carried += block.length;
    if (carried > MAX_RECORD) {
      carry = [Buffer.concat(carry).subarray(0, SHOWN_OF_TOO_LONG), Buffer.from(CUT)];
      cutting = true;
    }
  }
  if (carry.length > 0) yield decode(Buffer.concat(carry), encoding);
}

function decode(bytes: Buffer, { strict, marked }: Encoding): string {
  const whole = strict(bytes);
  if (whole !== undefined) return whole;
  let text = "";
  for (let start = 0; start < bytes.length;) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline === -1 ? bytes.length : newline + 1;
    const line = bytes.subarray(start, end);
    text += strict(line) ?? marked(line);
    start = end;
  }
  return text;
}
