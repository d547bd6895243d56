import { pgSmartTags } from "postgraphile/utils";

const readOnly = "-insert -update -delete";
const noBackwardFields = "@backwardBehavior -* -filterBy -aggregates";
const countOnly =
  "-attribute:aggregate -attribute:aggregate:orderBy -attribute:aggregate:filterBy +distinctCount:attribute:aggregate";
const toDimDate = (column: string) =>
  `(${column}) references production.dim_date (full_date)|@fieldName dimDate\n${noBackwardFields}`;
const metrics = {
  primaryKey: "date,country",
  nullableKey: "true",
  foreignKey: toDimDate("date"),
  // Its key may be NULL, which arguments cannot say: read such a row by node id or filter.
  behavior: `${readOnly} -query:resource:single`,
};

/** What the API shows of the two schemas, with the keys and relations that views cannot declare. */
const tables: Record<string, Record<string, string>> = {
  "production.users": {},
  "production.transactions": { foreignKey: toDimDate("transaction_day") },
  "production.events": { foreignKey: toDimDate("event_day") },
  "production.dim_date": {},
  "analytics.daily_user_metrics": metrics,
  "analytics.daily_user_metrics_live": { ...metrics, name: "daily_user_metric_live" },
  "analytics.quarterly_revenue": { primaryKey: "year,quarter", behavior: readOnly },
  "analytics.freshness": { primaryKey: "dataset", behavior: `${readOnly} -query:resource:single` },
  "analytics.quarantine": {
    name: "quarantined_row",
    primaryKey: "quarantine_id",
    foreignKey:
      "(run_id) references analytics.pipeline_runs (run_id)|@fieldName run\n@foreignFieldName quarantinedRows",
    behavior: readOnly,
  },
  "analytics.pipeline_runs": { behavior: readOnly },
};

/** Bounded by days, countries or runs: any column may filter and order, index or not. */
const smallTables = new Set([
  "dim_date",
  "daily_user_metrics",
  "daily_user_metrics_live",
  "quarterly_revenue",
  "freshness",
  "pipeline_runs",
]);

/** A view shows no indexes; these columns of quarantine have one in their table. */
const indexedInQuarantine = new Set(["quarantine_id", "dataset", "reasons", "run_id"]);

/** What PostgreSQL does not know of the columns of a view. */
const notNull = new Set([
  "daily_user_metrics.active_users",
  "daily_user_metrics_live.active_users",
  "quarterly_revenue.total_revenue",
  "quarterly_revenue.weekend_revenue",
  "quarterly_revenue.active_days",
  "freshness.rows_behind",
  "freshness.lag_seconds",
  "quarantine.dataset",
  "quarantine.stage",
  "quarantine.reasons",
  "quarantine.waiting",
  "quarantine.attempts",
  "quarantine.quarantined_at",
  "quarantine.last_attempt_at",
]);

/** Columns of the machinery, of no meaning to a client. */
const internalColumns = new Set(["source_seq", "ingest_seq", "raw_id"]);

const nameOf = (table: { getNamespace(): { nspname: string } | undefined; relname: string }) =>
  `${table.getNamespace()?.nspname}.${table.relname}`;

export const SmartTagsPlugin = pgSmartTags([
  { kind: "class", match: (table) => !(nameOf(table) in tables), tags: { behavior: "-*" } },
  { kind: "procedure", match: () => true, tags: { behavior: "-*" } },
  ...Object.entries(tables).map(([match, tags]) => ({ kind: "class" as const, match, tags })),
  {
    kind: "attribute",
    match: (column) => internalColumns.has(column.attname),
    tags: { behavior: "-*" },
  },
  {
    kind: "attribute",
    match: (column) => notNull.has(`${column.getClass()?.relname}.${column.attname}`),
    tags: { notNull: true },
  },
  {
    kind: "attribute",
    match: (column) => smallTables.has(column.getClass()?.relname ?? ""),
    tags: { isIndexed: true },
  },
  {
    kind: "attribute",
    match: (column) =>
      column.getClass()?.relname === "quarantine" && !indexedInQuarantine.has(column.attname),
    tags: { behavior: "-filterBy -orderBy -groupBy" },
  },
  // Not comparable by = and <, but their indexes serve operators of their own.
  ...["position", "event_data"].map((column) => ({
    kind: "attribute" as const,
    match: `production.events.${column}`,
    tags: {
      behavior:
        "+attribute:filterBy -orderBy -groupBy -aggregate -attribute:aggregate:orderBy -attribute:aggregate:filterBy",
    },
  })),
  // Of identifiers, only how many there are says something.
  {
    kind: "attribute",
    match: (column) => /_id$/.test(column.attname) && !internalColumns.has(column.attname),
    tags: { behavior: countOnly },
  },
  {
    kind: "constraint",
    match: (constraint) =>
      constraint.contype === "f" &&
      constraint.getClass()?.relname === "pipeline_runs" &&
      constraint.getForeignClass()?.relname === "pipeline_runs",
    tags: { fieldName: "parentRun", foreignFieldName: "childRuns" },
  },
]);
