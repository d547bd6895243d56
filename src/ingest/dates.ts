// Parses dates without guessing: ISO 8601, unambiguous forms, or the format that the caller gives.
import { badOption, type Fault } from "./faults.ts";

export interface DateFormat {
  /** As the caller wrote it: DD/MM/YYYY. */
  text: string;
  /** ISO 8601 for a value of that form; undefined if it is not. */
  read: (value: string) => string | undefined;
}

const TOKENS: Record<string, [group: string, pattern: string]> = {
  YYYY: ["year", "\\d{4}"],
  YY: ["shortYear", "\\d{2}"],
  MM: ["month", "\\d{1,2}"],
  DD: ["day", "\\d{1,2}"],
  HH24: ["hour", "\\d{1,2}"],
  HH12: ["hour12", "\\d{1,2}"],
  MI: ["minute", "\\d{2}"],
  SS: ["second", "\\d{2}(?:\\.\\d{1,6})?"],
  AM: ["half", "[AaPp][Mm]"],
};
const TOKEN = new RegExp(Object.keys(TOKENS).join("|"), "g");
const CLOCK = "(?:[T ](?<hour>\\d{1,2}):(?<minute>\\d{2})(?::(?<second>\\d{2}(?:\\.\\d{1,6})?))?)?";
/** Other letters are rejected: a misspelt token taken literally would silently match nothing. */
const BETWEEN = /^[\s./:,T-]*$/;

export function parseDateFormat(text: string): DateFormat {
  const tokens = text.match(TOKEN) ?? [];
  const between = text.split(TOKEN);
  const groups = tokens.map((token) => TOKENS[token]![0]);
  const complete = ["month", "day"].every((group) => groups.includes(group)) && /YY/.test(text);
  if (!complete || new Set(groups).size < groups.length || !between.every((part) => BETWEEN.test(part)))
    throw badOption(
      `"${text.slice(0, 100)}" is not a date format; allowed: YYYY or YY, MM and DD once each, then HH24 or HH12 with AM, MI and SS, ` +
        `such as "DD/MM/YYYY" or "MM/DD/YYYY HH24:MI"`,
    );
  const pattern = tokens.map((token, i) => {
    const [group, digits] = TOKENS[token]!;
    return `(?<${group}>${digits})${between[i + 1]!.replace(/[.]/g, "\\.")}`;
  });
  const hasClock = groups.some((group) => group.startsWith("hour"));
  const form = new RegExp(`^${between[0]}${pattern.join("")}${hasClock ? "" : CLOCK}$`);
  return { text, read: (value) => toIso(form.exec(value.trim())?.groups) };
}

function toIso(found: Record<string, string> | undefined): string | undefined {
  if (!found) return undefined;
  const {
    year,
    shortYear,
    month = "",
    day = "",
    hour,
    hour12,
    half = "",
    minute = "00",
    second = "00",
  } = found;
  // Two digits mean the years 1970 to 2069, as in PostgreSQL.
  const whole = year ?? (Number(shortYear) < 70 ? `20${shortYear}` : `19${shortYear}`);
  const date = `${whole}-${month.padStart(2, "0")}-${day.padStart(2, "0")}`;
  if (hour === undefined && hour12 === undefined) return date;
  if (hour12 !== undefined && (Number(hour12) < 1 || Number(hour12) > 12)) return undefined;
  const hours = hour ?? String((Number(hour12) % 12) + (/p/i.test(half) ? 12 : 0));
  return `${date} ${hours.padStart(2, "0")}:${minute}:${second}`;
}

const TIME =
  /^(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?:[T ]((?:[01]\d|2[0-3]):[0-5]\d)(?::([0-5]\d)(\.\d{1,9})?)?)?(?: ?(Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?))?$/;

/**
 * Converts a time with an offset to UTC, since a column without a zone would silently drop the offset. Undefined if
 * the value is not certain.
 */
export function certainTimestamp(value: string): string | undefined {
  const [, year, month, day, minutes, seconds = "00", fraction = "", zone] = TIME.exec(value) ?? [];
  if (year === undefined || year === "0000") return undefined;
  if (
    Number(day) > 28 &&
    new Date(Date.UTC(2000 + (Number(year) % 400), Number(month) - 1, Number(day))).getUTCDate() !==
      Number(day)
  )
    return undefined;
  if (zone === undefined) return value;
  if (minutes === undefined) return undefined;
  if (zone === "Z") return value.replace(/ ?Z$/, "");
  const [, sign, hours, rest = "00"] = /^([+-])(\d\d):?(\d\d)?$/.exec(zone)!;
  const shifted = new Date(
    `${year}-${month}-${day}T${minutes}:${seconds}${sign}${hours}:${rest}`,
  ).toISOString();
  return /^\d{4}-/.test(shifted) && !shifted.startsWith("0000")
    ? shifted.slice(0, 19).replace("T", " ") + fraction
    : undefined;
}

/** Maximum length, that of PostgreSQL; the patterns below would take long for a longer text. */
const MAX_DATE = 128;
/** Words for which PostgreSQL substitutes a date. */
const MOVING = /(?:^|[^a-z])(now|today|tomorrow|yesterday|epoch|allballs)(?![a-z])/i;
const OFFSET = /(?<=:\d\d(?:\.\d+)?\s*)[+-]\d\d?(?::?\d\d)?\s*$/;
const CLOCK_TIME = /\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?/g;
/** Ambiguous dates of numbers only: two short numbers and a third one, or 061011. */
const NUMBERS_ONLY = /^\D*(?:\d{1,2}\s*[/.\- ]\s*\d{1,2}\s*[/.\- ]\s*\d{1,4}(?!\d)|\d{6}(?!\d))/;
/** Ambiguous dates such as 10-Jun-11, in which the day or the year may come first. */
const SHORT_YEAR = /^\D*\d{1,2}\D*[a-z]{3,}\D*\d{1,2}(?!\d)\D*$|^\D*[a-z]{3,}\D*\d{1,2}\D+\d{1,2}(?!\d)\D*$/i;

/** Finds why a date is ambiguous; PostgreSQL would silently choose one reading. */
export function findDateFault(name: string, value: string, format?: DateFormat): Fault | undefined {
  const shown = `"${value.slice(0, 100)}"`;
  if (value.length > MAX_DATE)
    return {
      reason: "invalid_timestamp",
      detail: `${name}: ${shown} … has ${value.length} characters; a date has at most ${MAX_DATE}.`,
    };
  const moving = MOVING.exec(value)?.[1];
  if (moving)
    return {
      reason: "invalid_timestamp",
      detail: `${name}: ${shown} is no date: "${moving}" means another one at each reading.`,
    };
  if (format)
    return {
      reason: "invalid_timestamp",
      detail: `${name}: ${shown} is neither of the form ${format.text} nor ISO 8601.`,
    };
  const date = value.replace(OFFSET, "").replaceAll(CLOCK_TIME, "");
  if (!NUMBERS_ONLY.test(date) && !SHORT_YEAR.test(date)) return undefined;
  return {
    reason: "ambiguous_date",
    detail:
      `${name}: ${shown} may be more than one date; say how dates are written, by --date-format ` +
      `(such as DD/MM/YYYY or MM/DD/YYYY) or dateFormat, or send ISO 8601 (2011-10-06).`,
  };
}
