import {
  TYPES,
  type PgCodecAttribute,
  type PgCodecWithAttributes,
  type PgOrderSpec,
  type PgSelectQueryBuilder,
} from "@dataplan/pg";
import type { GraphQLEnumValueConfigMap } from "grafast/graphql";
import { sql } from "pg-sql2";
import type {} from "postgraphile";

type Direction = "ASC" | "DESC";
type Nulls = "FIRST" | "LAST";

/** On an order that only tells NULLs from values: where the NULLs of the column that follows belong. */
export const NULLS = Symbol("nulls");

export interface NullsOrder {
  [NULLS]?: Nulls;
}

/**
 * A cursor's condition in @dataplan/pg 1.1 has its two NULL cases swapped: a page that follows the last
 * value loses the rows with NULL. Whether a value is NULL is therefore an order of its own, before it.
 */
function orderBy(rows: PgSelectQueryBuilder, attribute: string, direction: Direction, nulls: Nulls): void {
  rows.orderBy({
    fragment: sql`(${rows.alias}.${sql.identifier(attribute)} is null)`,
    codec: TYPES.boolean,
    direction: nulls === "LAST" ? "ASC" : "DESC",
    nullable: false,
    [NULLS]: nulls,
  } as PgOrderSpec & NullsOrder);
  rows.orderBy({ attribute, direction });
}

const value = (description: string, apply: (rows: PgSelectQueryBuilder) => void) => ({
  description,
  extensions: { grafast: { apply } },
});

const directions = [
  ["ASC", "LAST"],
  ["DESC", "FIRST"],
] as const;

/** Orders by columns that may be NULL: nulls first or last on small tables, none on those an index must serve. */
export const NullOrderPlugin: GraphileConfig.Plugin = {
  name: "NullOrderPlugin",
  version: "1.0.0",
  after: ["PgOrderAllAttributesPlugin", "PgOrderByPrimaryKeyPlugin"],
  schema: {
    hooks: {
      GraphQLEnumType_values(values, build, { scope: { isPgRowSortEnum, pgCodec } }) {
        const codec = isPgRowSortEnum ? (pgCodec as PgCodecWithAttributes) : undefined;
        const resource = codec && build.pgTableResource(codec);
        if (!resource) return values;
        const { inflection } = build;
        const attributes = codec.attributes as Record<string, PgCodecAttribute>;
        const result: GraphQLEnumValueConfigMap = { ...values };

        for (const [attribute, { notNull, extensions }] of Object.entries(attributes)) {
          const name = inflection.constantCase(attribute);
          if (notNull || !result[`${name}_ASC`]) continue;
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

        const key = resource.uniques.find(({ isPrimary }) => isPrimary)?.attributes ?? [];
        if (key.some((attribute) => !attributes[attribute]?.notNull)) {
          for (const [direction, nulls] of directions) {
            const description = `By \`${key.join("`, `")}\`, ${direction === "ASC" ? "ascending" : "descending"}.`;
            result[`PRIMARY_KEY_${direction}`] = value(description, (rows) => {
              for (const attribute of key) orderBy(rows, attribute, direction, nulls);
              rows.setOrderIsUnique();
            });
          }
        }
        return result;
      },
    },
  },
};
