import {
  TYPES,
  type PgCodec,
  type PgCodecAttribute,
  type PgCodecWithAttributes,
  type PgOrderSpec,
  type PgResource,
  type PgSelectQueryBuilder,
  type PgSelectStep,
} from "@dataplan/pg";
import { constant, lambda, type ConnectionStep } from "grafast";
import type { GraphQLEnumValueConfigMap } from "grafast/graphql";
import { sql, type SQL } from "pg-sql2";
import type {} from "postgraphile";

type Direction = "ASC" | "DESC";
type Nulls = "FIRST" | "LAST";

/** Marks an order that only separates NULLs from values, with the place of the following column's NULLs. */
export const NULLS = Symbol("nulls");

export interface NullsOrder {
  [NULLS]?: Nulls;
}

// Codecs must read NULL for cursors: upstream returns 0 for a number and an error for a boolean.
for (const codec of [TYPES.int, TYPES.int2, TYPES.boolean] as PgCodec[]) {
  const { fromPg } = codec;
  codec.fromPg = (text: string | null) => (text === null ? null : fromPg(text));
}

type Rows = Pick<PgSelectQueryBuilder, "alias" | "orderBy" | "setOrderIsUnique">;

/**
 * @dataplan/pg 1.1 swaps the two NULL cases in a cursor's condition, so the page after the last value loses the rows
 * with NULL. Therefore rows are first ordered by whether the value is NULL, and then by the value.
 */
function orderByNulls(rows: Rows, fragment: SQL, order: PgOrderSpec, nulls: Nulls): void {
  rows.orderBy({
    fragment: sql`(${fragment} is null)`,
    codec: TYPES.boolean,
    direction: nulls === "LAST" ? "ASC" : "DESC",
    nullable: false,
    [NULLS]: nulls,
  } as PgOrderSpec & NullsOrder);
  rows.orderBy(order);
}

const orderBy = (rows: Rows, attribute: string, direction: Direction, nulls: Nulls): void =>
  orderByNulls(rows, sql`${rows.alias}.${sql.identifier(attribute)}`, { attribute, direction }, nulls);

const keyOf = ({ uniques }: PgResource): readonly string[] =>
  uniques.find(({ isPrimary }) => isPrimary)?.attributes ?? [];

const hasNullableKey = (resource: PgResource): boolean =>
  keyOf(resource).some((column) => !(resource.codec as PgCodecWithAttributes).attributes[column]?.notNull);

/** Queries whose order includes a key. */
const ordered = new WeakSet<object>();

function orderByKey(rows: Rows, key: readonly string[], direction: Direction, nulls: Nulls): void {
  if (ordered.has(rows)) return;
  ordered.add(rows);
  for (const attribute of key) orderBy(rows, attribute, direction, nulls);
  rows.setOrderIsUnique();
}

/** Makes an order unique by a nullable key, which upstream treats as not null. */
export function completeOrder(rows: Rows, resource: PgResource): void {
  if (hasNullableKey(resource)) orderByKey(rows, keyOf(resource), "ASC", "LAST");
}

const value = (description: string, apply: (rows: PgSelectQueryBuilder) => void) => ({
  description,
  extensions: { grafast: { apply } },
});

/** A function that orders rows by a subquery, as pg-aggregates has. */
type Apply = (rows: { alias: SQL; orderBy(order: Extract<PgOrderSpec, { fragment: SQL }>): void }) => void;

const directions = [
  ["ASC", "LAST"],
  ["DESC", "FIRST"],
] as const;

/**
 * Orders by nullable columns: with a choice of nulls first or last on small tables, and not at all on those that need
 * an index.
 */
export const NullOrderPlugin: GraphileConfig.Plugin = {
  name: "NullOrderPlugin",
  version: "1.0.0",
  after: ["PgOrderAllAttributesPlugin", "PgOrderByPrimaryKeyPlugin", "PgAggregatesOrderByAggregatesPlugin"],
  schema: {
    hooks: {
      GraphQLEnumType_values(values, build, { scope: { isPgRowSortEnum, pgCodec } }) {
        const codec = isPgRowSortEnum ? (pgCodec as PgCodecWithAttributes) : undefined;
        const resource = codec && build.pgTableResource(codec);
        if (!resource) return values;
        const { inflection } = build;
        const attributes = codec.attributes as Record<string, PgCodecAttribute>;
        const result: GraphQLEnumValueConfigMap = { ...values };

        const replace = (name: string, apply: (rows: PgSelectQueryBuilder) => void): void => {
          result[name] = { ...result[name], extensions: { grafast: { apply } } };
        };

        for (const [attribute, { notNull, extensions }] of Object.entries(attributes)) {
          const name = inflection.constantCase(attribute);
          if (!result[`${name}_ASC`]) continue;
          // Upstream treats the first column of a composite key as unique.
          if (
            notNull &&
            resource.uniques.some(({ attributes: [first, second] }) => second && first === attribute)
          )
            for (const [direction] of directions)
              replace(`${name}_${direction}`, (rows) => rows.orderBy({ attribute, direction }));
          if (notNull) continue;
          const isSmall = extensions?.tags?.isIndexed;
          const field = inflection.attribute({ codec, attributeName: attribute });
          for (const [direction, nulls] of directions) {
            delete result[`${name}_${direction}`];
            if (!isSmall) continue;
            const other = nulls === "LAST" ? "FIRST" : "LAST";
            const order = `By \`${field}\`, ${direction === "ASC" ? "ascending" : "descending"}, nulls`;
            result[`${name}_${direction}`] = value(`${order} ${nulls.toLowerCase()}.`, (rows) =>
              orderBy(rows, attribute, direction, nulls),
            );
            result[`${name}_${direction}_NULLS_${other}`] = value(
              `${order} ${other.toLowerCase()}.`,
              (rows) => orderBy(rows, attribute, direction, other),
            );
          }
        }

        // Aggregates such as minimum and mean are NULL without related rows.
        for (const [name, { extensions }] of Object.entries(values)) {
          const direction = /_(?:MIN|MAX|AVERAGE)_\w+_(ASC|DESC)$/.exec(name)?.[1];
          if (!direction) continue;
          const apply = extensions!.grafast!.apply as Apply;
          const nulls = direction === "ASC" ? "LAST" : "FIRST";
          replace(name, (rows) =>
            apply({
              alias: rows.alias,
              orderBy: (order) => orderByNulls(rows, order.fragment, { ...order, nullable: true }, nulls),
            }),
          );
        }

        if (hasNullableKey(resource)) {
          const key = keyOf(resource);
          for (const [direction, nulls] of directions) {
            const description = `By \`${key.join("`, `")}\`, ${direction === "ASC" ? "ascending" : "descending"}.`;
            result[`PRIMARY_KEY_${direction}`] = value(description, (rows) =>
              orderByKey(rows, key, direction, nulls),
            );
          }
        }
        return result;
      },

      GraphQLObjectType_fields_field_args_arg(arg, _build, { scope: { argName, pgFieldResource } }) {
        const resource = pgFieldResource as PgResource | undefined;
        const { applyPlan } = arg;
        if (argName !== "orderBy" || !applyPlan || !resource || !hasNullableKey(resource)) return arg;
        const complete = () => (rows: Rows) => completeOrder(rows, resource);
        return {
          ...arg,
          applyPlan: (($parent, $connection: ConnectionStep<never>, given, info) => {
            applyPlan($parent, $connection, given, info);
            const $rows = $connection.getSubplan() as unknown as PgSelectStep;
            // A lambda is applied at execution, after an order given by a variable; a constant would be applied
            // before it.
            if (!ordered.has($rows)) $rows.apply(lambda(constant(null), complete));
          }) as typeof applyPlan,
        };
      },
    },
  },
};
