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
      code: "INVALID_INPUT",
    });
  }
  return `${instant.toISOString().slice(0, 19)}${fraction ? `.${fraction}` : ""}Z`;
}

/** Times are UTC and say so, whether their column has a time zone or not. */
const toClient = (value: unknown): string => String(value).replace(/(?:Z|[+-]00(?::?00)?)?$/, "Z");

export const DatetimePlugin: GraphileConfig.Plugin = {
  name: "DatetimePlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLScalarType(config, build) {
        if (config.name !== build.inflection.builtin("Datetime")) return config;
        return {
          ...config,
          description: `A point in time (ISO 8601), such as \`${example}\`. Answers are in UTC; a value with another offset is converted, one without is UTC.`,
          serialize: toClient,
          parseValue: toUtc,
          parseLiteral(node) {
            return toUtc(node.kind === Kind.STRING ? node.value : undefined);
          },
        };
      },
    },
  },
};
