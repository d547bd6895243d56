// Adds `group` to grouped aggregates: the values by which rows were grouped, with names and types. `keys` has the
// same as texts, in the order of `groupBy`.
import {
  assertPgClassSingleStep,
  TYPES,
  type PgCodec,
  type PgGroupSpec,
  type PgResource,
  type PgSelectQueryBuilder,
  type PgSelectSingleStep,
} from "@dataplan/pg";
import { lambda, type Step } from "grafast";
import type { GraphQLEnumType, GraphQLEnumValueConfig, GraphQLOutputType } from "grafast/graphql";
import { sql } from "pg-sql2";
import type {} from "@graphile/pg-aggregates";
import type {} from "postgraphile";

declare global {
  namespace DataplanPg {
    interface PgCodecExtensions {
      /** Name of the grouping that the codec belongs to. */
      strataGroup?: string;
    }
  }
}

type Rows = Pick<PgSelectQueryBuilder, "alias" | "singleRelation"> & { groupBy(group: PgGroupSpec): void };
type Apply = (rows: Rows) => void;

const applyOf = ({ extensions }: { extensions?: GraphQLEnumValueConfig["extensions"] }): Apply | undefined =>
  (extensions as { grafast?: { apply?: Apply } } | undefined)?.grafast?.apply;

/** Finds the codec of a grouping's values by applying it to a recorder. */
function codecOf(apply: Apply): PgCodec {
  let found: PgCodec | undefined;
  apply({
    alias: sql.blank,
    singleRelation: () => sql.blank,
    groupBy: ({ codec }: PgGroupSpec) => void (found = codec),
  });
  return found!;
}

/** Original functions of groupings that were wrapped to tell their name. */
const unnamed = new WeakMap<Apply, Apply>();

/** Wraps a grouping so that it tells its name with its value. */
function named(name: string, apply: Apply): Apply {
  const withName: Apply = (rows) =>
    apply({
      alias: rows.alias,
      singleRelation: (...args) => rows.singleRelation(...args),
      groupBy: ({ fragment, codec }) =>
        rows.groupBy({
          fragment,
          codec: { ...codec, extensions: { ...codec.extensions, strataGroup: name } } as PgCodec,
        }),
    });
  unnamed.set(withName, apply);
  return withName;
}

interface Details {
  indicies?: readonly { index: number; codec: PgCodec }[];
}

function planValue($group: Step, name: string): Step {
  const $details = ($group as PgSelectSingleStep).getClassStep().getGroupDetails() as Step<
    Details | undefined
  >;
  return lambda([$details, $group] as const, ([details, row]) => {
    const found = details?.indicies?.find(({ codec }) => codec.extensions?.strataGroup === name);
    const text = found && (row as readonly (string | null)[] | null)?.[found.index];
    return text == null ? null : (found!.codec.fromPg(text) as unknown);
  }) as Step;
}

export const GroupKeysPlugin: GraphileConfig.Plugin = {
  name: "GroupKeysPlugin",
  version: "1.0.0",
  after: ["AggregatesPlugin", "EnumsPlugin", "PgAggregatesAddGroupByAggregateEnumValuesForAttributesPlugin"],
  schema: {
    hooks: {
      init(value, build) {
        const { inflection, behavior } = build;
        const typeOf = (apply: Apply): GraphQLOutputType => {
          const codec = codecOf(unnamed.get(apply) ?? apply);
          // Truncated times have a codec of their own; the API shows them as ordinary times.
          const known = codec.name === TYPES.timestamp.name ? TYPES.timestamp : codec;
          return build.getGraphQLTypeByPgCodec(known, "output") as GraphQLOutputType;
        };
        for (const resource of Object.values(build.pgResources) as PgResource[]) {
          if (resource.parameters || !resource.codec.attributes) continue;
          if (!behavior.pgResourceMatches(resource, "resource:groupedAggregates")) continue;
          build.registerObjectType(
            groupTypeOf(build, resource),
            { pgTypeResource: resource },
            () => ({
              description: `What a group of ${inflection.pluralize(inflection.tableType(resource.codec as never))} has in common; values that it was not grouped by are null.`,
              assertStep: assertPgClassSingleStep,
              fields: () => {
                const values = groupingsOf(build, resource)?.getValues() ?? [];
                const columns = new Map(
                  Object.entries(resource.codec.attributes!).map(([attributeName, { description }]) => {
                    const field = inflection.attribute({ codec: resource.codec as never, attributeName });
                    return [inflection.constantCase(field), { field, description }];
                  }),
                );
                return Object.fromEntries(
                  values.map((grouping) => [
                    inflection.camelCase(grouping.name.toLowerCase()),
                    {
                      description: grouping.description ?? wordsOf(grouping.name, columns),
                      type: typeOf(applyOf(grouping)!),
                      plan: ($group: Step) => planValue($group, grouping.name),
                    },
                  ]),
                );
              },
            }),
            `Group of ${resource.name}`,
          );
        }
        return value;
      },
      GraphQLEnumType_values(values, _build, { scope: { isPgAggregateGroupEnum } }) {
        if (!isPgAggregateGroupEnum) return values;
        return Object.fromEntries(
          Object.entries(values).map(([name, value]) => {
            const apply = applyOf(value);
            return [
              name,
              apply ? { ...value, extensions: { grafast: { apply: named(name, apply) } } } : value,
            ];
          }),
        );
      },
      GraphQLObjectType_fields(fields, build, { scope: { isPgAggregateContainerType, pgTypeResource } }) {
        if (!isPgAggregateContainerType || !pgTypeResource) return fields;
        if (!groupingsOf(build, pgTypeResource as PgResource)?.getValues().length) return fields;
        const type = build.getOutputTypeByName(groupTypeOf(build, pgTypeResource as PgResource));
        return build.extend(
          fields,
          {
            group: {
              description:
                "Values that the group was formed by, with names and types; null for aggregates of all rows.",
              type,
              plan: ($group: Step) => $group,
            },
          },
          "Adding the group of grouped aggregates",
        );
      },
    },
  },
};

/** Describes a grouping by a column or by a truncated time. */
function wordsOf(name: string, columns: Map<string, { field: string; description?: string }>): string {
  const column = columns.get(name);
  if (column) return column.description ?? `The \`${column.field}\`.`;
  const [, time = "", unit = ""] = /^(.*)_TRUNCATED_TO_(.*)$/.exec(name) ?? [];
  return `Start of the ${unit.toLowerCase()} of \`${columns.get(time)?.field ?? time}\`.`;
}

const groupTypeOf = ({ inflection }: GraphileBuild.Build, resource: PgResource): string =>
  inflection.upperCamelCase(`${inflection.tableType(resource.codec as never)}-aggregates-group`);

function groupingsOf(build: GraphileBuild.Build, resource: PgResource): GraphQLEnumType | undefined {
  // pg-aggregates' inflectors have no types.
  const inflection = build.inflection as unknown as {
    aggregateGroupByType(details: { resource: PgResource }): string;
  };
  return build.getTypeByName(inflection.aggregateGroupByType({ resource })) as GraphQLEnumType | undefined;
}
