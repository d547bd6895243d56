// Adds filters on substrings, also case-insensitive, which a trigram index serves, and rejects them on columns
// without one.
import { sqlValueWithCodec, TYPES, type PgCodecAttribute } from "@dataplan/pg";
import { SafeError } from "grafast";
import { sql } from "pg-sql2";
import type {} from "postgraphile";
import type {} from "postgraphile-plugin-connection-filter";

declare module "graphile-build-pg" {
  interface PgCodecAttributeTags {
    /** Set if the column has a trigram index. */
    trigrams: true;
    /** Set if it has none; only a table can be given one. */
    lacksTrigrams: "table" | "view";
  }
}

interface Operator {
  description: string;
  isExact?: true;
  pattern: (text: string) => string;
}

const operators: Record<string, Operator> = {
  contains: { description: "Contains this text.", isExact: true, pattern: (text) => `%${text}%` },
  containsInsensitive: { description: "Contains this text, in any case.", pattern: (text) => `%${text}%` },
  startsWithInsensitive: {
    description: "Starts with this text, in any case.",
    pattern: (text) => `${text}%`,
  },
  equalToInsensitive: { description: "Is equal to this text, in any case.", pattern: (text) => text },
};

/** Minimum characters between wildcards, which make one trigram; for fewer, the whole index would be read. */
const LENGTH = 3;

const reject = (message: string): never => {
  throw new SafeError(message, { code: "BAD_USER_INPUT" });
};

/** Rejects a text that the index cannot find. PgConnectionArgFilterAttributesPlugin stores the column in `where`. */
function check(operator: string, text: string, where: unknown, field: string | null): void {
  const { pgFilterAttribute } = (where as { extensions: Record<string, unknown> }).extensions;
  const { attribute } = pgFilterAttribute as { attribute?: PgCodecAttribute };
  const { trigrams, lacksTrigrams } = attribute?.extensions?.tags ?? {};
  const asked = `\`${operator}\` of \`${field}\``;
  if (lacksTrigrams === "view")
    reject(`${asked} is served by no index, and a view can have none; \`startsWith\` and \`equalTo\` are`);
  if (lacksTrigrams !== undefined)
    reject(
      `${asked} is served by no index; \`startsWith\` and \`equalTo\` are. ` +
        "An operator of the database can add a GIN index of trigrams (gin_trgm_ops) on the column",
    );
  if (trigrams && /^contains/.test(operator) && [...text].length < LENGTH)
    reject(`${asked} needs at least ${LENGTH} characters`);
}

export const TrigramsPlugin: GraphileConfig.Plugin = {
  name: "TrigramsPlugin",
  version: "1.0.0",
  after: ["PatternsPlugin"],
  schema: {
    hooks: {
      init(_, build) {
        for (const [name, { description, isExact, pattern }] of Object.entries(operators))
          build.addConnectionFilterOperator("String", name, {
            description: `${description} Needs a trigram index on the column.`,
            resolveSqlValue: () => sql.null,
            resolve: (column, _value, given, where, { fieldName }) => {
              const text = given as string;
              check(name, text, where, fieldName);
              const value = sqlValueWithCodec(pattern(build.escapeLikeWildcards(text)), TYPES.text);
              return isExact ? sql`${column} like ${value}` : sql`${column} ilike ${value}`;
            },
          });
        return _;
      },
    },
  },
};
