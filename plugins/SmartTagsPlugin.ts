import { gatherConfig } from "graphile-build";
import type { PgClass } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { pgSmartTags } from "postgraphile/utils";

interface Table {
  tags?: Record<string, string>;
  /** Columns that the roles may write (schema.sql grants them); keys and derived values are the database's. */
  writable?: string[];
  /** What a view does not tell of its columns. */
  notNull?: string[];
  /** Bounded by days, countries or runs: any column may filter and order, index or not. */
  isSmall?: true;
  /** A stored date, and the time that it is the day of. */
  day?: [column: string, of: string];
  /** A view shows no indexes: these columns have one in its table, others may not filter. */
  indexed?: string[];
}

const readOnly = "-insert -update -delete";
const toDimDate = (column: string) =>
  `(${column}) references production.dim_date (full_date)|@fieldName dimDate\n@backwardBehavior -* -filterBy -aggregates`;
const metrics: Table = {
  tags: {
    primaryKey: "date,country",
    nullableKey: "true",
    foreignKey: toDimDate("date"),
    // Its key may be NULL, which arguments cannot say: read such a row by node id or filter.
    behavior: `${readOnly} -query:resource:single`,
  },
  notNull: ["active_users"],
  isSmall: true,
};

/** What the API shows of the two schemas, with the keys and relations that PostgreSQL cannot declare. */
const tables: Record<string, Table> = {
  "production.users": { writable: ["username", "email", "email_verified", "created_at", "country"] },
  "production.transactions": {
    tags: { foreignKey: toDimDate("transaction_day") },
    writable: ["user_id", "amount", "status", "transaction_date"],
    day: ["transaction_day", "transaction_date"],
  },
  "production.events": {
    tags: { foreignKey: toDimDate("event_day") },
    writable: ["user_id", "event_type", "event_data", "event_time", "position"],
    day: ["event_day", "event_time"],
  },
  "production.dim_date": { tags: { behavior: "-insert -delete" }, writable: ["is_holiday"], isSmall: true },
  "analytics.daily_user_metrics": metrics,
  "analytics.daily_user_metrics_live": {
    ...metrics,
    tags: { ...metrics.tags, name: "daily_user_metric_live" },
  },
  "analytics.quarterly_revenue": {
    tags: { primaryKey: "year,quarter", behavior: readOnly },
    notNull: ["total_revenue", "weekend_revenue", "active_days"],
    isSmall: true,
  },
  "analytics.freshness": {
    tags: { primaryKey: "dataset", behavior: `${readOnly} -query:resource:single` },
    notNull: ["rows_behind", "lag_seconds"],
    isSmall: true,
  },
  "analytics.quarantine": {
    tags: {
      name: "quarantined_row",
      primaryKey: "quarantine_id",
      foreignKey:
        "(run_id) references analytics.pipeline_runs (run_id)|@fieldName run\n@foreignFieldName quarantinedRows",
      behavior: readOnly,
    },
    notNull: ["dataset", "stage", "reasons", "waiting", "attempts", "quarantined_at", "last_attempt_at"],
    indexed: ["quarantine_id", "dataset", "reasons", "run_id"],
  },
  "analytics.pipeline_runs": { tags: { behavior: readOnly }, isSmall: true },
};

const nameOf = (table: PgClass) => `${table.getNamespace()?.nspname}.${table.relname}`;

function tagsOf(table: Table, column: string): Record<string, string | true> {
  const behavior: string[] = [];
  // Where a row came from in staging: of no meaning to a client.
  if (column === "source_seq") behavior.push("-*");
  if (!table.writable?.includes(column)) behavior.push("-attribute:insert -attribute:update");
  if (table.indexed && !table.indexed.includes(column)) behavior.push("-filterBy -orderBy -groupBy");
  // Not comparable by = and <, but their indexes serve operators of their own.
  if (column === "position" || column === "event_data") {
    behavior.push("+attribute:filterBy -orderBy -groupBy -aggregate");
    behavior.push("-attribute:aggregate:orderBy -attribute:aggregate:filterBy");
  }
  // Of identifiers, only how many there are says something.
  if (column.endsWith("_id")) {
    behavior.push("-attribute:aggregate -attribute:aggregate:orderBy -attribute:aggregate:filterBy");
    behavior.push("+distinctCount:attribute:aggregate");
  }
  return {
    ...(behavior.length > 0 && { behavior: behavior.join(" ") }),
    ...(table.notNull?.includes(column) && { notNull: true as const }),
    ...(table.isSmall && { isIndexed: true as const }),
    ...(table.day?.[0] === column && { dayOf: table.day[1] }),
  };
}

const ColumnTagsPlugin: GraphileConfig.Plugin = {
  name: "ColumnTagsPlugin",
  version: "1.0.0",
  before: ["smart-tags"],
  gather: gatherConfig({
    hooks: {
      pgIntrospection_introspection(_info, { introspection }) {
        for (const column of introspection.attributes) {
          const table = column.getClass();
          const exposed = table && tables[nameOf(table)];
          if (exposed) Object.assign(column.getTagsAndDescription().tags, tagsOf(exposed, column.attname));
        }
      },
    },
  }),
};

/** Functions that are mutations; the database decides who may call them. */
const mutations = ["retry_quarantined", "discard_quarantined"];

const TableTagsPlugin = pgSmartTags([
  { kind: "class", match: (table) => !(nameOf(table) in tables), tags: { behavior: "-*" } },
  { kind: "procedure", match: ({ proname }) => !mutations.includes(proname), tags: { behavior: "-*" } },
  ...Object.entries(tables).flatMap(([match, { tags }]) =>
    tags ? [{ kind: "class" as const, match, tags }] : [],
  ),
  {
    kind: "constraint",
    match: "analytics.pipeline_runs.fk_parent_run",
    tags: { fieldName: "parentRun", foreignFieldName: "childRuns" },
  },
]);

export const SmartTagsPreset: GraphileConfig.Preset = { plugins: [TableTagsPlugin, ColumnTagsPlugin] };
