import { SafeError } from "grafast";
import { Kind } from "grafast/graphql";
import type {} from "postgraphile";

const form = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?))?\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i;
const example = "2026-01-31T12:30:00Z";

/** An instant as UTC: PostgreSQL would cut the offset off a value for a `timestamp` column. */
function toUtc(value: unknown): string {
  const [, date = "", time = "00:00", offset = "Z"] = (typeof value === "string" && form.exec(value)) || [];
  const [clock = "", fraction] = time.split(".");
  const zone = offset.replace(
    /^([+-]\d\d):?(\d\d)?$/,
    (_, hours: string, minutes = "00") => `${hours}:${minutes}`,
  );
  const instant = new Date(`${date}T${clock}${zone.toUpperCase()}`);
  // Date takes 30 February for 1 March.
  const day = new Date(`${date}T00:00Z`);
  const isDay = !Number.isNaN(day.getTime()) && day.toISOString().startsWith(date);
  if (Number.isNaN(instant.getTime()) || !isDay) {
    throw new SafeError(`${JSON.stringify(value)} is not a date and time such as "${example}".`, {
      code: "BAD_USER_INPUT",
    });
  }
  return `${instant.toISOString().slice(0, 19)}${fraction ? `.${fraction}` : ""}Z`;
}

/** Times are UTC and say so, whether their column has a time zone or not. */
const toClient = (value: unknown): string => String(value).replace(/(?:Z|[+-]00(?::?00)?)?$/, "Z");

/** Digits as text, because a JavaScript number would round them; a number is taken as well. */
function toNumberText(name: string, pattern: RegExp) {
  return (value: unknown): string => {
    const text = String(value);
    if ((typeof value === "string" || typeof value === "number") && pattern.test(text)) return text;
    throw new SafeError(`${JSON.stringify(value)} is not a ${name}.`, { code: "BAD_USER_INPUT" });
  };
}

const parsers: Record<string, (value: unknown) => string> = {
  Datetime: toUtc,
  BigInt: toNumberText("whole number", /^[+-]?\d{1,19}$/),
  BigFloat: toNumberText("number", /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?$/i),
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
