import { TYPES, type PgCodecAttribute, type PgResource, type PgSelectQueryBuilder } from "@dataplan/pg";
import type {} from "@graphile/pg-aggregates";
import type { GraphQLEnumValueConfigMap } from "grafast/graphql";
import { sql } from "pg-sql2";
import type {} from "postgraphile";
import { hasPlainNames } from "./EnumsPlugin.ts";
import { timeText } from "./support/times.ts";

declare global {
  namespace GraphileBuild {
    interface BehaviorStrings {
      "attribute:havingBy": true;
    }
  }
}

const offered = new Set(["sum", "distinctCount", "min", "max", "average"]);
const times: unknown[] = [TYPES.timestamp, TYPES.timestamptz, TYPES.date];
const isTime = (codec: unknown) => times.includes(codec);
const units = ["hour", "day", "week", "month", "quarter", "year"];

/** Groups' keys are texts, so a time ends with its zone, UTC. */
const groupTime: typeof TYPES.timestamp = {
  ...TYPES.timestamp,
  castFromPg: (time) => timeText(time, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
};

const groupDay: typeof TYPES.timestamp = {
  ...groupTime,
  castFromPg: (day) => groupTime.castFromPg!(sql`${day}::timestamp`),
};

/** Finds columns that may have few values: no keys, no times. */
function categories({ codec, uniques }: PgResource): [string, PgCodecAttribute][] {
  return Object.entries(codec.attributes as Record<string, PgCodecAttribute>).filter(
    ([name, attribute]) =>
      (hasPlainNames(attribute.codec) ||
        [TYPES.varchar, TYPES.boolean, TYPES.int].some((type) => type === attribute.codec)) &&
      !uniques.some(({ attributes }) => attributes.includes(name)),
  );
}

/** Adds minimum and maximum of dates and times, and grouping by the units that reports need. */
export const AggregatesPlugin: GraphileConfig.Plugin = {
  name: "AggregatesPlugin",
  version: "1.0.0",
  after: ["PgAggregatesSpecsPlugin"],
  schema: {
    entityBehavior: {
      // Conditions compare with numbers, which PostgreSQL does not do for money.
      pgCodecAttribute: {
        inferred: {
          provides: ["withoutMoney"],
          after: ["inferred"],
          callback: (behavior, [codec, name]) =>
            codec.attributes[name]!.codec === TYPES.money ? [behavior, "-attribute:havingBy"] : behavior,
        },
      },
    },
    hooks: {
      build(build) {
        build.pgAggregateSpecs = build
          .pgAggregateSpecs!.filter((spec) => offered.has(spec.id))
          .map((spec) => {
            if (spec.id === "min" || spec.id === "max")
              return { ...spec, isSuitableType: (codec) => isTime(codec) || spec.isSuitableType(codec) };
            // PostgreSQL has no avg(money).
            if (spec.id === "average")
              return {
                ...spec,
                isSuitableType: (codec) => codec !== TYPES.money && spec.isSuitableType(codec),
              };
            return spec;
          });
        build.pgAggregateGroupBySpecs = units.map((unit) => ({
          id: `truncated-to-${unit}`,
          isSuitableType: (codec) => isTime(codec) && !(codec === TYPES.date && /^(hour|day)$/.test(unit)),
          sqlWrap: (expression) => sql`date_trunc(${sql.literal(unit)}, ${expression}::timestamp)`,
          sqlWrapCodec: (codec) => (codec === TYPES.date ? TYPES.date : groupTime),
        }));
        return build;
      },

      // The count of no rows is 0, never null.
      GraphQLObjectType_fields_field(field, build, { Self }) {
        if (!Self.name.endsWith("DistinctCountAggregates")) return field;
        return {
          ...field,
          type: new build.graphql.GraphQLNonNull(build.graphql.getNullableType(field.type)),
        };
      },

      // Times have neither sum nor mean, and their count is not a time.
      GraphQLInputObjectType_fields(fields, _build, { Self }) {
        if (!/Having(Sum|Average|DistinctCount)Input$/.test(Self.name)) return fields;
        const isOfTimes = (type: unknown) => String(type) === "HavingDatetimeFilter";
        return Object.fromEntries(Object.entries(fields).filter(([, field]) => !isOfTimes(field.type)));
      },

      // Rows can be grouped by columns of their user or calendar day, such as quarter and weekend, which takes one
      // join and no index.
      GraphQLEnumType_values(values, build, { scope: { isPgAggregateGroupEnum, pgTypeResource } }) {
        if (!isPgAggregateGroupEnum || !pgTypeResource) return values;
        const { inflection } = build;
        const registry = build.input.pgRegistry;
        const { codec } = pgTypeResource;
        const relations = Object.entries(registry.pgRelations[codec.name] ?? {});
        const added: GraphQLEnumValueConfigMap = {};
        for (const [relationName, { isReferencee, isUnique, remoteResource }] of relations) {
          if (isReferencee || !isUnique) continue;
          const relation = inflection.singleRelation({ registry, codec, relationName });
          for (const [attributeName, attribute] of categories(remoteResource)) {
            const field = inflection.attribute({ codec: remoteResource.codec, attributeName });
            added[inflection.constantCase(`${relation}-${field}`)] = {
              description: `By \`${field}\` of \`${relation}\`.`,
              extensions: {
                grafast: {
                  apply(rows: PgSelectQueryBuilder) {
                    const other = rows.singleRelation(relationName);
                    rows.groupBy({
                      fragment: sql`${other}.${sql.identifier(attributeName)}`,
                      codec: attribute.codec,
                    });
                  },
                },
              },
            };
          }
        }
        // If a column stores a time's day, group by it: nothing is computed per row, and half as much is sorted.
        for (const [day, { extensions }] of Object.entries(
          codec.attributes as Record<string, PgCodecAttribute>,
        )) {
          const name = `${inflection.constantCase(String(extensions?.tags?.dayOf))}_TRUNCATED_TO_DAY`;
          const value = values[name];
          const apply = (rows: PgSelectQueryBuilder) =>
            rows.groupBy({ fragment: sql`${rows.alias}.${sql.identifier(day)}`, codec: groupDay });
          if (value) values = { ...values, [name]: { ...value, extensions: { grafast: { apply } } } };
        }
        // Leave out grouping by untruncated times.
        const untruncated = Object.entries(codec.attributes as Record<string, PgCodecAttribute>)
          .filter(([, attribute]) => isTime(attribute.codec) && attribute.codec !== TYPES.date)
          .map(([attributeName]) => inflection.constantCase(attributeName));
        const kept = Object.entries(values).filter(([name]) => !untruncated.includes(name));
        return build.extend(Object.fromEntries(kept), added, "AggregatesPlugin");
      },
    },
  },
};
