// Parsers of command options. An invalid value is a usage error whose message says what is allowed.
import { InvalidArgumentError, type Command } from "commander";

export function parseName(value: string): string {
  if (value.trim() !== "") return value;
  throw new InvalidArgumentError("It is empty; allowed: any other text.");
}

export function parseTtl(value: string): string {
  if (/^\d+\s?[smhd]$/.test(value)) return value;
  throw new InvalidArgumentError("Allowed: a number and s, m, h or d.");
}

/** Collects the values of an option that may be repeated. */
export const collect = (value: string, values: string[] = []): string[] => [...values, value];

export function parseCount(value: string): number {
  if (/^[1-9]\d{0,15}$/.test(value)) return Number(value);
  throw new InvalidArgumentError("Allowed: a whole number from 1.");
}

/** Returns the text unchanged: parsing would round numbers beyond 2^53. */
export function parseObject(value: string): string {
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)) return value;
  } catch {
    // Invalid JSON gets the same message as JSON that is not an object.
  }
  throw new InvalidArgumentError('Allowed: a JSON object, such as \'{"email": "ann@example.com"}\'.');
}

export function parseDate(value: string): string {
  const date = /^\d{4}-\d{2}-\d{2}$/.test(value) ? new Date(`${value}T00:00Z`) : undefined;
  if (date && !Number.isNaN(date.getTime()) && date.toISOString().startsWith(value)) return value;
  throw new InvalidArgumentError("Allowed: a day as in ISO 8601, such as 2026-01-31.");
}

/** ISO 8601; without a zone it is UTC. */
export function parseTime(value: string): string {
  const [, date, time = "00:00", zone = "Z"] =
    /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)(Z|[+-]\d{2}:\d{2})?)?$/.exec(value) ??
    [];
  const text = `${date}T${time}${zone}`;
  if (date !== undefined && !Number.isNaN(Date.parse(text))) return text;
  throw new InvalidArgumentError(
    "Allowed: a date or time as in ISO 8601, such as 2026-01-31 or 2026-01-31T08:00Z.",
  );
}

export function parseDays(value: string): number {
  const days = Number(value);
  if (/^\d+$/.test(value) && days <= 36_500) return days;
  throw new InvalidArgumentError("Allowed: a whole number of days from 0 to 36500.");
}

/** Adds the options that say how values are written, for ingest, add and retry. */
export const withValueOptions = (command: Command): Command =>
  command
    .option("--date-format <format>", "format of dates that are not ISO 8601, such as DD/MM/YYYY")
    .option("--decimal <separator>", "decimal separator: . or , (the other one may separate thousands)")
    .option("--timezone <name>", "time zone of times without an offset, such as Europe/Berlin (default: UTC)")
    .option("--null <text>", "text that stands for null, such as NA (repeatable)", collect);

export const withReadOptions = (command: Command): Command =>
  withValueOptions(
    command
      .option("--delimiter <character>", 'separator of CSV fields: ";", tab (default: comma)')
      .option(
        "--encoding <name>",
        "encoding, such as latin-1, windows-1252, utf-16le (default: by the byte order mark, else UTF-8)",
      ),
  );
