import { sql } from "pg-sql2";
import { access, type Step } from "grafast";
import { gatherConfig } from "graphile-build";
import type {} from "postgraphile";

/** Allows NULL in key columns of views tagged `@nullableKey`: the group of users without transactions has no date. */
export const NullableKeysPlugin: GraphileConfig.Plugin = {
  name: "NullableKeysPlugin",
  version: "1.0.0",
  after: ["PgTableNodePlugin", "PgFakeConstraintsPlugin"],
  gather: gatherConfig({
    hooks: {
      pgCodecs_attribute(_info, { pgClass, pgAttribute, attribute }) {
        if (!pgClass.getTags().nullableKey) return;
        // PostGraphile detects existing rows by a column that is not null.
        attribute.notNull = Boolean(pgAttribute.getTags()?.notNull);
      },
    },
  }),
  schema: {
    hooks: {
      init(_, build) {
        for (const resource of Object.values(build.pgResources)) {
          const handler =
            resource.extensions?.tags?.nullableKey &&
            build.getNodeIdHandler!(build.inflection.tableType(resource.codec));
          const key = resource.uniques.find(({ isPrimary }) => isPrimary)?.attributes;
          if (!handler || !key) continue;
          handler.getSpec = ($list) =>
            Object.fromEntries(key.map((column, index) => [column, access($list, [index + 1])]));
          handler.get = (spec: Record<string, Step>) => {
            const $rows = resource.find();
            for (const column of key) {
              const ref = sql`${$rows.alias}.${sql.identifier(column)}`;
              const value = $rows.placeholder(spec[column]!, resource.codec.attributes[column]!.codec);
              // An index serves this condition, but not `is not distinct from`.
              $rows.where(sql`(${ref} = ${value} or (${ref} is null and ${value} is null))`);
            }
            return $rows.single();
          };
        }
        return _;
      },
    },
  },
};
