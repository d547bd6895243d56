import { TYPES } from "@dataplan/pg";
import type {} from "@graphile/pg-aggregates";
import { sql } from "pg-sql2";
import type {} from "postgraphile";

const offered = new Set(["sum", "distinctCount", "min", "max", "average"]);
const times: unknown[] = [TYPES.timestamp, TYPES.timestamptz, TYPES.date];
const isTime = (codec: unknown) => times.includes(codec);
const units = ["hour", "day", "week", "month", "quarter", "year"];

/** Minimum and maximum of dates and times, and grouping by every unit a report asks for. */
export const AggregatesPlugin: GraphileConfig.Plugin = {
  name: "AggregatesPlugin",
  version: "1.0.0",
  after: ["PgAggregatesSpecsPlugin"],
  schema: {
    hooks: {
      build(build) {
        build.pgAggregateSpecs = build
          .pgAggregateSpecs!.filter((spec) => offered.has(spec.id))
          .map((spec) =>
            spec.id === "min" || spec.id === "max"
              ? { ...spec, isSuitableType: (codec) => isTime(codec) || spec.isSuitableType(codec) }
              : spec,
          );
        build.pgAggregateGroupBySpecs = units.map((unit) => ({
          id: `truncated-to-${unit}`,
          isSuitableType: (codec) => isTime(codec) && !(codec === TYPES.date && /^(hour|day)$/.test(unit)),
          sqlWrap: (expression) => sql`date_trunc(${sql.literal(unit)}, ${expression}::timestamp)`,
          sqlWrapCodec: () => TYPES.timestamp,
        }));
        return build;
      },
    },
  },
};
