// Read options of an input, in one shape for the command line, HTTP, mutations and the quarantine, which stores them
// with a row so that a retry reads it as the ingest did.
import { parseDateFormat, type DateFormat } from "./dates.ts";
import { parseDecimal, type NumberFormat } from "./decimals.ts";
import { parseEncoding } from "./encoding.ts";
import { badOption } from "./faults.ts";
import { parseTimezone, type Zone } from "./zone.ts";

/** Notation of values. */
export interface ValueOptions {
  /** Format of dates that are not ISO 8601, such as DD/MM/YYYY. */
  dateFormat?: string;
  /** Decimal separator: a point or a comma. */
  decimal?: string;
  /** Time zone (IANA name) of times without an offset. */
  timezone?: string;
  /** Texts that mean an absent value, such as NA. */
  null?: string[];
}

export interface ReadOptions extends ValueOptions {
  /** Separator of CSV fields; a comma by default. */
  delimiter?: string;
  /** Encoding; by default that of the byte order mark, else UTF-8. */
  encoding?: string;
}

/** Assignment of columns to fields. */
export interface MapOptions {
  /** "column=field" pairs; "column=" leaves a column out. */
  map?: string[];
  /** "field=expression" pairs. */
  set?: string[];
}

/** Picks the value options from a caller's options. */
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

/** Checked read options. */
export interface Dialect {
  delimiter?: string;
  encoding?: string;
  rules: Rules;
}

/** Rules for reading values; the defaults are ISO 8601, a decimal point and UTC. */
export interface Rules {
  dates?: DateFormat;
  numbers?: NumberFormat;
  zone?: Zone;
  nulls?: ReadonlySet<string>;
}

export const NO_RULES: Rules = {};

/** Checks read options independently of the input. */
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
  // Letters, digits and characters of two UTF-16 units cannot be separators.
  if (delimiter.length === 1 && !/[\p{L}\p{N}"\r\n\0\ud800-\udfff]/u.test(delimiter)) return delimiter;
  throw badOption(
    `"${text.slice(0, 100)}" cannot separate fields; allowed: one character that is no letter, digit, quote or end of a line, such as ";", or tab`,
  );
}

/** Maximum number of null texts, and characters of one; each is compared with every value. */
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

/** Returns the given options, to be stored as JSON; undefined if there are none. */
export function givenOptions<T extends object>(options: T): Partial<T> | undefined {
  const given = Object.entries(options).filter(
    ([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0),
  );
  return given.length === 0 ? undefined : (Object.fromEntries(given) as Partial<T>);
}
