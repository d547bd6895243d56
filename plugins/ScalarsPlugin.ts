import { SafeError } from "grafast";
import { Kind } from "grafast/graphql";
import type {} from "postgraphile";

const form = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?))?\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i;
const example = "2026-01-31T12:30:00Z";

const badInput = (value: unknown, wanted: string): SafeError =>
  new SafeError(`${JSON.stringify(value)} is not ${wanted}.`, { code: "BAD_USER_INPUT" });

/** A day that there is: JavaScript takes 30 February for 1 March, and PostgreSQL knows no year 0. */
function isDay(date: unknown): date is string {
  if (typeof date !== "string" || !/^(?!0000)\d{4}-\d\d-\d\d$/.test(date)) return false;
  const day = new Date(`${date}T00:00Z`);
  return !Number.isNaN(day.getTime()) && day.toISOString().startsWith(date);
}

/** PostgreSQL takes more, such as "today", which is another day in an answer that is kept. */
function toDay(value: unknown): string {
  if (isDay(value)) return value;
  throw badInput(value, 'a date such as "2026-01-31"');
}

/** An instant as UTC: PostgreSQL would cut the offset off a value for a `timestamp` column. */
function toUtc(value: unknown): string {
  const [, date = "", time = "00:00", offset = "Z"] = (typeof value === "string" && form.exec(value)) || [];
  const [clock = "", fraction] = time.split(".");
  const zone = offset.replace(
    /^([+-]\d\d):?(\d\d)?$/,
    (_, hours: string, minutes = "00") => `${hours}:${minutes}`,
  );
  const instant = new Date(`${date}T${clock}${zone.toUpperCase()}`);
  const utc = Number.isNaN(instant.getTime()) ? "" : instant.toISOString().slice(0, 19);
  // An offset can lead out of the years of four digits.
  if (!isDay(date) || !isDay(utc.slice(0, 10))) throw badInput(value, `a date and time such as "${example}"`);
  return `${utc}${fraction ? `.${fraction}` : ""}Z`;
}

/** Times are UTC and say so, whether their column has a time zone or not. */
const toClient = (value: unknown): string => String(value).replace(/(?:Z|[+-]00(?::?00)?)?$/, "Z");

/** Digits as text, because a JavaScript number would round them; a number is taken as well. */
function toNumberText(wanted: string, pattern: RegExp, fits = (_digits: string) => true) {
  return (value: unknown): string => {
    const text = String(value);
    if ((typeof value === "string" || typeof value === "number") && pattern.test(text) && fits(text))
      return text;
    throw badInput(value, wanted);
  };
}

const parsers: Record<string, (value: unknown) => string> = {
  Date: toDay,
  Datetime: toUtc,
  BigInt: toNumberText(
    "a whole number from -9223372036854775808 to 9223372036854775807",
    /^[+-]?\d{1,19}$/,
    (digits) => BigInt.asIntN(64, BigInt(digits)) === BigInt(digits),
  ),
  BigFloat: toNumberText("a number", /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?$/i),
};
const literals: string[] = [Kind.STRING, Kind.INT, Kind.FLOAT];

/** Scalars say at once what is wrong with a value, and lose nothing of it. */
export const ScalarsPlugin: GraphileConfig.Plugin = {
  name: "ScalarsPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLScalarType(config) {
        const parse = parsers[config.name];
        if (!parse) return config;
        const isDatetime = config.name === "Datetime";
        return {
          ...config,
          ...(isDatetime && {
            description: `A point in time (ISO 8601), such as \`${example}\`. Answers are in UTC; a value with another offset is converted, one without is UTC.`,
            serialize: toClient,
          }),
          parseValue: parse,
          parseLiteral(node) {
            return parse("value" in node && literals.includes(node.kind) ? node.value : undefined);
          },
        };
      },
    },
  },
};
