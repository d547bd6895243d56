import { LIST_TYPES, sqlValueWithCodec, TYPES } from "@dataplan/pg";
import { SafeError } from "grafast";
import { sql, type SQL } from "pg-sql2";
import type {} from "postgraphile";
import type {} from "postgraphile-plugin-connection-filter";
import { extendSchema, gql } from "postgraphile/utils";

interface PathInput {
  path: string[];
  exists?: boolean | null;
  equalTo?: unknown;
  in?: unknown[] | null;
  lessThan?: unknown;
  lessThanOrEqualTo?: unknown;
  greaterThan?: unknown;
  greaterThanOrEqualTo?: unknown;
}

const comparisons = {
  lessThan: "<",
  lessThanOrEqualTo: "<=",
  greaterThan: ">",
  greaterThanOrEqualTo: ">=",
} as const;

const invalid = (message: string) => new SafeError(message, { code: "BAD_USER_INPUT" });

/** Maximum keys of a path; longer ones would exhaust JavaScript's stack. */
const MAX_KEYS = 50;

/** Uses containment for equality and jsonpath for the rest, which a GIN index serves, unlike `->>`. */
function matchesPath(column: SQL, input: PathInput): SQL {
  const { path } = input;
  if (path.length === 0) throw invalid("`path` must name at least one key.");
  if (path.length > MAX_KEYS)
    throw invalid(`\`path\` has ${path.length} keys; at most ${MAX_KEYS} are allowed.`);
  const document = (value: unknown) => path.reduceRight((inner, key) => ({ [key]: inner }), value);
  const accessor = `$${path.map((key) => `.${JSON.stringify(key)}`).join("")}`;
  const finds = (jsonpath: string) => sql`${column} @? ${sqlValueWithCodec(jsonpath, TYPES.text)}::jsonpath`;

  const conditions: SQL[] = [];
  if (input.equalTo !== undefined)
    conditions.push(sql`${column} @> ${sqlValueWithCodec(document(input.equalTo), TYPES.jsonb)}`);
  // All values are one parameter; each leads to one search of the index.
  if (input.in)
    conditions.push(sql`${column} @> any(${sqlValueWithCodec(input.in.map(document), LIST_TYPES.jsonb)})`);
  for (const [name, operator] of Object.entries(comparisons)) {
    const value = input[name as keyof typeof comparisons];
    if (value == null) continue;
    if (typeof value !== "number" && typeof value !== "string") {
      throw invalid(`\`${name}\` compares numbers or texts, not ${JSON.stringify(value)}.`);
    }
    conditions.push(finds(`${accessor} ? (@ ${operator} ${JSON.stringify(value)})`));
  }
  if (input.exists != null) {
    conditions.push(input.exists ? finds(accessor) : sql`not (${finds(accessor)})`);
  }
  if (conditions.length === 0) {
    throw invalid(`Say what to compare the value at ${path.join(".")} with.`);
  }
  return sql.join(
    conditions.map((condition) => sql.parens(condition, true)),
    " and ",
  );
}

const offered = ["contains", "hasKey", "hasAllKeys", "hasAnyKeys", "path"];

const JsonPathTypesPlugin = extendSchema(
  {
    typeDefs: gql`
      """
      A comparison with the value at a path of a JSON document. All fields are combined with a logical ‘and.’
      """
      input JSONPathInput {
        """
        The keys that lead to the value, outermost first.
        """
        path: [String!]!
        """
        Whether there is a value.
        """
        exists: Boolean
        """
        Equal to this value; an object or list contains it.
        """
        equalTo: JSON
        """
        Equal to one of these values.
        """
        in: [JSON!]
        """
        Less than this number or text.
        """
        lessThan: JSON
        """
        Less than or equal to this number or text.
        """
        lessThanOrEqualTo: JSON
        """
        Greater than this number or text.
        """
        greaterThan: JSON
        """
        Greater than or equal to this number or text.
        """
        greaterThanOrEqualTo: JSON
      }
    `,
  },
  "JsonPathTypesPlugin",
);

const JsonFilterPlugin: GraphileConfig.Plugin = {
  name: "JsonFilterPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      init(_, build) {
        build.addConnectionFilterOperator("JSON", "path", {
          description: "Compares the values at these paths.",
          resolveType: () =>
            new build.graphql.GraphQLList(
              new build.graphql.GraphQLNonNull(build.getInputTypeByName("JSONPathInput")),
            ),
          resolveSqlValue: () => sql.null,
          resolve: (column, _value, given) => {
            const conditions = (given as PathInput[]).map((input) => matchesPath(column, input));
            return conditions.length > 0 ? sql.join(conditions, " and ") : sql.true;
          },
        });
        return _;
      },
      GraphQLInputObjectType_fields(fields, build, { Self }) {
        if (Self.name !== build.inflection.filterType("JSON")) return fields;
        return Object.fromEntries(Object.entries(fields).filter(([name]) => offered.includes(name)));
      },
    },
  },
};

/** Filters on JSON documents that a GIN index serves. */
export const JsonFilterPreset: GraphileConfig.Preset = {
  plugins: [JsonPathTypesPlugin, JsonFilterPlugin],
  schema: {
    connectionFilterOperatorNames: {
      containsKey: "hasKey",
      containsAllKeys: "hasAllKeys",
      containsAnyKeys: "hasAnyKeys",
    },
  },
};
