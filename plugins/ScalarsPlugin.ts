import { TYPES, type PgCodec } from "@dataplan/pg";
import { SafeError } from "grafast";
import { getNullableType, Kind, type ValueNode } from "grafast/graphql";
import type {} from "postgraphile";
import { geoPoint } from "./support/geometry.ts";
import "./support/json.ts";
import { isoTime } from "./support/times.ts";

const form = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?))?\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i;
const example = "2026-01-31T12:30:00Z";

const badInput = (value: unknown, wanted: string): SafeError =>
  new SafeError(`${shortened(JSON.stringify(value) ?? "This")} is not ${wanted}.`, {
    code: "BAD_USER_INPUT",
  });

const MAX_QUOTED = 100;
const shortened = (text: string): string =>
  text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text;

/** Fast path for the usual form; parsing takes ten times as long. */
const plain = /^(\d{4}-\d\d-\d\d)T((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?)Z$/;

/** Whether a day exists: JavaScript turns 30 February into 1 March, and PostgreSQL has no year 0. */
function isDay(date: unknown): date is string {
  if (typeof date !== "string" || !/^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/.test(date))
    return false;
  return date.slice(8) < "29" || new Date(`${date}T00:00Z`).toISOString().startsWith(date);
}

/** PostgreSQL accepts more, such as "today", which would be wrong in a cached response. */
function toDay(value: unknown): string {
  if (isDay(value)) return value;
  throw badInput(value, 'a date such as "2026-01-31"');
}

/** Converts an instant to UTC, since PostgreSQL would drop the offset of a value for a `timestamp` column. */
function toUtc(value: unknown): string {
  const [, day, clockTime] = (typeof value === "string" && plain.exec(value)) || [];
  if (isDay(day)) return `${day}T${clockTime}Z`;
  const [, date = "", time = "00:00", offset = "Z"] = (typeof value === "string" && form.exec(value)) || [];
  const [clock = "", fraction] = time.split(".");
  const zone = offset.replace(
    /^([+-]\d\d):?(\d\d)?$/,
    (_, hours: string, minutes = "00") => `${hours}:${minutes}`,
  );
  const instant = new Date(`${date}T${clock}${zone.toUpperCase()}`);
  const utc = Number.isNaN(instant.getTime()) ? "" : instant.toISOString().slice(0, 19);
  // The offset may lead beyond years of four digits.
  if (!isDay(date) || !isDay(utc.slice(0, 10))) throw badInput(value, `a date and time such as "${example}"`);
  return `${utc}${fraction ? `.${fraction}` : ""}Z`;
}

/** Formats times in UTC with "Z", whether their column has a time zone or not. */
function toClient(value: unknown): string {
  const text = String(value);
  return text.endsWith("infinity") ? text : isoTime(text.replace(/(?:Z|[+-]00(?::?00)?)?( BC)?$/, "Z$1"));
}

/** Accepts numbers as text, because JavaScript would round them, and as plain numbers. */
function toNumberText(wanted: string, pattern: RegExp, fits = (_digits: string) => true) {
  return (value: unknown): string => {
    const text = String(value);
    if ((typeof value === "string" || typeof value === "number") && pattern.test(text) && fits(text))
      return text;
    throw badInput(value, wanted);
  };
}

/**
 * Rejects numbers that JSON.parse may have rounded: whole numbers from 2^53 on, and those beyond a double, which
 * became infinite. Fractions with more than 17 digits cannot be detected in a variable.
 */
function rejectRounded(value: unknown): unknown {
  const found = [value];
  for (let i = 0; i < found.length; i++) {
    const part = found[i];
    if (typeof part === "number" && !(Math.abs(part) <= Number.MAX_SAFE_INTEGER))
      throw new SafeError(
        `A number in JSON (about ${part}) is beyond ${Number.MAX_SAFE_INTEGER}, above which digits are lost; ` +
          "give it as a string, or send the rows to POST /ingest, which keeps every digit.",
        { code: "BAD_USER_INPUT" },
      );
    if (typeof part === "object" && part !== null) for (const inner of Object.values(part)) found.push(inner);
  }
  return value;
}

/** Significant digits of a number, without leading and trailing zeros. */
const digitsOf = (text: string): string =>
  text.replace(/e.*$/i, "").replaceAll(/[-.]/g, "").replace(/^0+/, "").replace(/0+$/, "");

/** Maximum characters of a number; removing zeros from a longer one would take too long. */
const MAX_NUMBER_LENGTH = 400;

/** A literal's text is available, so that lost digits of a fraction are detected as well. */
function rejectRoundedLiteral(node: ValueNode): void {
  const found = [node];
  for (let i = 0; i < found.length; i++) {
    const part = found[i]!;
    if (part.kind === Kind.LIST) for (const item of part.values) found.push(item);
    if (part.kind === Kind.OBJECT) for (const field of part.fields) found.push(field.value);
    if (part.kind !== Kind.INT && part.kind !== Kind.FLOAT) continue;
    if (
      part.value.length > MAX_NUMBER_LENGTH ||
      digitsOf(part.value) !== digitsOf(String(Number(part.value)))
    )
      throw new SafeError(
        `The number ${part.value.slice(0, 40)} has more digits than a JSON number can hold; ` +
          "give it as a string, or send the rows to POST /ingest, which keeps every digit.",
        { code: "BAD_USER_INPUT" },
      );
  }
}

const parsers: Record<string, (value: unknown) => string> = {
  Date: toDay,
  Datetime: toUtc,
  BigInt: toNumberText(
    "a whole number from -9223372036854775808 to 9223372036854775807",
    /^[+-]?\d{1,19}$/,
    (digits) => BigInt.asIntN(64, BigInt(digits)) === BigInt(digits),
  ),
  BigFloat: toNumberText("a number", /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,4})?$/i),
};

/** Node silently skips characters that are not base64, so that different bytes would be stored. */
function checkBase64(value: unknown): void {
  const text = typeof value === "string" ? value.replaceAll(/\s/g, "") : "?";
  if (!/^(?:[\w+/-]{4})*(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?$/.test(text))
    throw badInput(value, 'base64 such as "3q2+7w=="');
}

const endless =
  "A year beyond four digits has a sign and six digits; `infinity` and `-infinity` are possible results.";
const answers: Record<string, { description: string; serialize: (value: unknown) => unknown }> = {
  Date: {
    description: `A calendar date (ISO 8601), such as \`2026-01-31\`. ${endless}`,
    serialize: (value) => isoTime(String(value)),
  },
  Datetime: {
    description: `A point in time (ISO 8601), such as \`${example}\`. Results are in UTC; an input with another offset is converted, one without offset is UTC. ${endless}`,
    serialize: toClient,
  },
};

/** Whether a not-null column may still return null: JSON's own null, and an empty point. */
function hasOtherNull({ domainOfCodec, ...codec }: PgCodec): boolean {
  return domainOfCodec
    ? hasOtherNull(domainOfCodec as PgCodec)
    : [TYPES.json, TYPES.jsonb, geoPoint].some(({ name }) => name === codec.name);
}

/** Specifications of the scalars' formats. */
const SPECIFICATIONS: Record<string, string> = {
  BigInt: "https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-INT",
  BigFloat: "https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-NUMERIC-DECIMAL",
  Cursor: "https://relay.dev/graphql/connections.htm#sec-Cursor",
  Date: "https://scalars.graphql.org/andimarek/local-date.html",
  Datetime: "https://scalars.graphql.org/andimarek/date-time.html",
  GeoJSON: "https://www.rfc-editor.org/rfc/rfc7946",
  JSON: "https://www.rfc-editor.org/rfc/rfc8259",
  UUID: "https://www.rfc-editor.org/rfc/rfc9562",
};

const literals: string[] = [Kind.STRING, Kind.INT, Kind.FLOAT];

/** Makes scalars exact, with clear errors for invalid values. */
export const ScalarsPlugin: GraphileConfig.Plugin = {
  name: "ScalarsPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLScalarType(given) {
        const specifiedByURL = SPECIFICATIONS[given.name] ?? given.specifiedByURL;
        const config = specifiedByURL == null ? given : { ...given, specifiedByURL };
        if (config.name === "JSON") {
          const { parseValue = (value) => value, parseLiteral } = config;
          return {
            ...config,
            parseValue: (value) => rejectRounded(parseValue(value)),
            parseLiteral: (node, variables) => {
              rejectRoundedLiteral(node);
              return rejectRounded(parseLiteral!(node, variables));
            },
          };
        }
        if (config.name === "Base64EncodedBinary") {
          const { parseValue, parseLiteral } = config;
          return {
            ...config,
            parseValue: (value) => (checkBase64(value), parseValue!(value)),
            parseLiteral: (node, variables) => (
              checkBase64("value" in node ? node.value : undefined),
              parseLiteral!(node, variables)
            ),
          };
        }
        const parse = parsers[config.name];
        if (!parse) return config;
        return {
          ...config,
          ...answers[config.name],
          parseValue: parse,
          parseLiteral(node) {
            return parse("value" in node && literals.includes(node.kind) ? node.value : undefined);
          },
        };
      },

      GraphQLObjectType_fields_field(field, _build, { scope: { pgFieldAttribute } }) {
        if (!pgFieldAttribute || !hasOtherNull(pgFieldAttribute.codec)) return field;
        return { ...field, type: getNullableType(field.type) };
      },
    },
  },
};
