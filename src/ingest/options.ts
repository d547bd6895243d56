// How an input says things: what the caller tells of it, in one shape for the command line, HTTP, mutations, and the
// quarantine, which keeps it beside a row so that a retry reads the row as the ingest did.
import { parseDateFormat, type DateFormat } from "./dates.ts";
import { parseDecimal, type NumberFormat } from "./decimals.ts";
import { parseEncoding } from "./encoding.ts";
import { badOption } from "./faults.ts";
import { parseTimezone, type Zone } from "./zone.ts";

/** How values are written. */
export interface ValueOptions {
  /** Dates that are not ISO 8601: DD/MM/YYYY. */
  dateFormat?: string;
  /** What separates the fraction of a number: a point or a comma. */
  decimal?: string;
  /** IANA name of the zone of times without an offset. */
  timezone?: string;
  /** Texts that mean that there is no value: NA. */
  null?: string[];
}

export interface ReadOptions extends ValueOptions {
  /** What separates the fields of CSV; a comma unless given. */
  delimiter?: string;
  /** UTF-8 unless given, or unless a byte order mark says another one. */
  encoding?: string;
}

/** Which column is which field. */
export interface MapOptions {
  /** "column=field" pairs; "column=" leaves a column out. */
  map?: string[];
  /** "field=expression" pairs. */
  set?: string[];
}

/** These of all the options that a caller gives. */
export const valueOptionsOf = ({
  dateFormat,
  decimal,
  timezone,
  null: nulls,
}: ValueOptions): ValueOptions => ({
  dateFormat,
  decimal,
  timezone,
  null: nulls,
});

export const readOptionsOf = (options: ReadOptions): ReadOptions => ({
  delimiter: options.delimiter,
  encoding: options.encoding,
  ...valueOptionsOf(options),
});

/** Read options that were checked. */
export interface Dialect {
  delimiter?: string;
  encoding?: string;
  rules: Rules;
}

/** How the values of a row are read; what is absent is read as everywhere: ISO 8601, a decimal point, UTC. */
export interface Rules {
  dates?: DateFormat;
  numbers?: NumberFormat;
  zone?: Zone;
  nulls?: ReadonlySet<string>;
}

export const NO_RULES: Rules = {};

/** Rejects what cannot be, whatever the input holds. */
export function checkReadOptions({ delimiter, encoding, ...values }: ReadOptions): Dialect {
  return {
    ...(delimiter !== undefined && { delimiter: parseDelimiter(delimiter) }),
    ...(encoding !== undefined && { encoding: parseEncoding(encoding) }),
    rules: checkValueOptions(values),
  };
}

export function checkValueOptions({ dateFormat, decimal, timezone, null: nulls = [] }: ValueOptions): Rules {
  return {
    ...(dateFormat !== undefined && { dates: parseDateFormat(dateFormat) }),
    ...(decimal !== undefined && { numbers: parseDecimal(decimal) }),
    ...(timezone !== undefined && { zone: parseTimezone(timezone) }),
    ...(nulls.length > 0 && { nulls: parseNulls(nulls) }),
  };
}

const NAMED: Record<string, string> = { tab: "\t", "\\t": "\t" };

function parseDelimiter(text: string): string {
  const delimiter = Object.hasOwn(NAMED, text) ? NAMED[text]! : text;
  // Letters and digits are values; what takes two units of UTF-16 is no separator either.
  if (delimiter.length === 1 && !/[\p{L}\p{N}"\r\n\0\ud800-\udfff]/u.test(delimiter)) return delimiter;
  throw badOption(
    `"${text.slice(0, 100)}" cannot separate fields; allowed: one character that is no letter, digit, quote or end of a line, such as ";", or tab`,
  );
}

/** Texts that mean "absent", and the length of one; each is looked up for every value. */
const MAX_NULLS = 100;
const MAX_NULL_LENGTH = 100;

function parseNulls(texts: string[]): ReadonlySet<string> {
  const tooLong = texts.find((text) => text.length > MAX_NULL_LENGTH);
  if (tooLong !== undefined)
    throw badOption(
      `A text that means "absent" has ${tooLong.length} characters; allowed: ${MAX_NULL_LENGTH}`,
    );
  if (texts.length > MAX_NULLS)
    throw badOption(`${texts.length} texts that mean "absent" are given; allowed: ${MAX_NULLS}`);
  return new Set(texts);
}

/** Only what is given, to be kept as JSON; undefined if nothing is. */
export function givenOptions<T extends object>(options: T): Partial<T> | undefined {
  const given = Object.entries(options).filter(
    ([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0),
  );
  return given.length === 0 ? undefined : (Object.fromEntries(given) as Partial<T>);
}
