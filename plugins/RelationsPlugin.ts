// Adds keys and relations that PostgreSQL cannot declare, and decides which columns may filter and order.
import { gatherConfig } from "graphile-build";
import type { Introspection, PgAttribute, PgClass, PgIndex } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { isPointType } from "./support/geometry.ts";
import { addBehavior, columnsOf, isRelation, namesIn, tagsOf, valuesOf } from "./support/tags.ts";

const DATE_OID = "1082";
const LIVE = /_live$/;

/** Whether a name can be written in a smart tag. */
const isPlain = ({ attname }: PgAttribute): boolean => !/[",()|]/.test(attname);

const constraintsOf = (relation: PgClass, type: string) =>
  relation.getConstraints().filter(({ contype }) => contype === type);

const isNotNull = (column: PgAttribute): boolean => column.attnotnull || Boolean(tagsOf(column).notNull);

interface Key {
  columns: PgAttribute[];
  /** True if key columns may be NULL (NULLS NOT DISTINCT). */
  isNullable: boolean;
}

/**
 * Finds a key among the unique indexes without predicate and expressions. Columns of materialized views are never
 * declared not null.
 */
function keyOfIndex(relation: PgClass): Key | undefined {
  const found = relation.getIndexes().flatMap((index): Key[] => {
    const { indisunique, indisvalid, indpred, indnkeyatts } = index;
    const columns = index.getKeys().slice(0, indnkeyatts ?? undefined);
    if (!indisunique || !indisvalid || indpred || !columns.every((column) => column && isPlain(column)))
      return [];
    const isNullable = Boolean((index as PgIndex & { indnullsnotdistinct?: boolean }).indnullsnotdistinct);
    const key = { columns: columns as PgAttribute[], isNullable };
    const isKey = relation.relkind === "m" || isNullable || key.columns.every(isNotNull);
    return isKey ? [{ ...key, isNullable: isNullable && !key.columns.every(isNotNull) }] : [];
  });
  return found.find(({ isNullable }) => !isNullable) ?? found[0];
}

const hasKey = (relation: PgClass): boolean =>
  constraintsOf(relation, "p").length > 0 || tagsOf(relation).primaryKey !== undefined;

function addKey(relation: PgClass): void {
  if (hasKey(relation)) return;
  const key = keyOfIndex(relation);
  if (!key) return;
  tagsOf(relation).primaryKey = key.columns.map(({ attname }) => attname).join();
  if (!key.isNullable) return;
  tagsOf(relation).nullableKey = true;
  // A key would make all of its columns not null, so mark those that are.
  for (const column of columnsOf(relation)) if (column.attnotnull) tagsOf(column).notNull = true;
}

/** A live view gets the key and the not-null columns of its metric's table. */
function followMetric(live: PgClass, metric: PgClass): void {
  const [primary] = constraintsOf(metric, "p");
  const tags = tagsOf(live);
  tags.liveOf ??= metric.relname;
  if (!hasKey(live)) {
    const key =
      primary
        ?.getAttributes()
        ?.map(({ attname }) => attname)
        .join() ?? tagsOf(metric).primaryKey;
    if (key !== undefined) tags.primaryKey = key;
    if (tagsOf(metric).nullableKey) tags.nullableKey = true;
  }
  for (const column of columnsOf(metric)) {
    const same = live.getAttribute({ name: column.attname });
    if (same && (column.attnotnull || tagsOf(column).notNull)) tagsOf(same).notNull = true;
  }
}

/** Relates a date column to the calendar's day. */
function joinCalendar(relation: PgClass, calendar: PgClass): void {
  const columns = columnsOf(relation);
  const isReadable = (column: PgAttribute) => !valuesOf(column, "behavior").includes("-*");
  const dates = columns.filter(
    (column) => column.atttypid === DATE_OID && isReadable(column) && isPlain(column),
  );
  const declared = constraintsOf(relation, "f").map((constraint) => ({
    columns: constraint
      .getAttributes()!
      .map(({ attname }) => attname)
      .join(),
    isCalendar: constraint.confrelid === calendar._id,
  }));
  const tagged = valuesOf(relation, "foreignKey");
  const isTagged = (column: PgAttribute) =>
    tagged.some((tag) => tag.replaceAll('"', "").startsWith(`(${column.attname})`));
  const hasName =
    declared.some(({ isCalendar }) => isCalendar) || columns.some(({ attname }) => attname === "dim_date");
  const added = dates
    .filter((date) => !declared.some((key) => key.columns === date.attname) && !isTagged(date))
    .map((date) => {
      const field = dates.length === 1 && !hasName ? "dimDate" : `${date.attname}_dim_date`;
      const name = field.replace(/_+([a-z0-9])/gi, (_, letter: string) => letter.toUpperCase());
      return `("${date.attname}") references production.dim_date (full_date)|@fieldName ${name}|@backwardBehavior -* -filterBy -aggregates`;
    });
  if (added.length > 0) tagsOf(relation).foreignKey = [...tagged, ...added];
}

const TEXTS = /^(text|varchar|bpchar|citext)$/;

const INTEGERS = ["20", "21", "23"];
/** Types without an order, some without equality. */
const OPAQUE = /^(json|xml|point|line|lseg|box|path|polygon|circle|tsquery)$/;
/** Types whose indexes serve other operators than = and <. */
const HAS_OPERATORS = /^(jsonb|geometry|tsvector|_.+)$/;
const NO_COMPARISON =
  "-orderBy -groupBy -aggregate -attribute:aggregate:orderBy -attribute:aggregate:filterBy";

/** Limits filters, orders and aggregates to columns where they are fast. */
function boundColumns(relation: PgClass): void {
  // A view has no indexes: a tag names those of its table, and without it the view counts as small.
  const indexed = tagsOf(relation).indexed === undefined ? undefined : namesIn(relation, "indexed");
  const isSmall = tagsOf(relation).refreshed || (relation.relkind === "v" && !indexed);
  const keys = [...constraintsOf(relation, "p"), ...constraintsOf(relation, "f")].flatMap(
    (constraint) => constraint.getAttributes() ?? [],
  );
  const hasIndex = (column: PgAttribute, method: RegExp) =>
    relation.getIndexes().some((index) => method.test(methodOf(index)) && index.getKeys().includes(column));
  const hasPlainIndex = (column: PgAttribute) => isArray(column) && hasIndex(column, /^btree$/);
  const hasIndexOfItsOwn = (column: PgAttribute) => hasIndex(column, /^gi(n|st)$/);
  for (const column of columnsOf(relation)) {
    if (isSmall) tagsOf(column).isIndexed ??= true;
    if (indexed && !indexed.includes(column.attname)) addBehavior(column, "-filterBy -orderBy -groupBy");
    const type = column.getType()?.typname ?? "";
    const isOpaque =
      OPAQUE.test(type) || type === "geography" || (type === "geometry" && !isPointType(column.atttypmod));
    if (TEXTS.test(type)) {
      if (!isSmall && !tagsOf(column).trigrams)
        tagsOf(column).lacksTrigrams = relation.relkind === "v" ? "view" : "table";
      // A trigram index does not serve orders.
      if (!isSmall && tagsOf(column).trigrams && !hasIndex(column, /^btree$/))
        addBehavior(column, "-orderBy");
    }
    if (isOpaque) addBehavior(column, `-filterBy ${NO_COMPARISON}`);
    else if (HAS_OPERATORS.test(type) && relation.relkind !== "v" && !hasPlainIndex(column))
      addBehavior(column, `${hasIndexOfItsOwn(column) ? "+" : "-"}attribute:filterBy ${NO_COMPARISON}`);
    // Identifiers have only a count, no sum or mean.
    if (column.attname.endsWith("_id") || (INTEGERS.includes(column.atttypid) && keys.includes(column)))
      addBehavior(
        column,
        "-attribute:aggregate -attribute:aggregate:orderBy -attribute:aggregate:filterBy +distinctCount:attribute:aggregate",
      );
  }
}

const isArray = (column: PgAttribute): boolean => column.getType()?.typcategory === "A";

const methodOf = (index: PgIndex): string => index.getIndexClass()?.getAccessMethod()?.amname ?? "";

function complete(introspection: Introspection, schemas: readonly string[]): void {
  const relations = introspection.classes.filter((relation) => isRelation(relation, schemas));
  const find = (schema: string, name: string) =>
    relations.find((relation) => relation.relname === name && relation.getNamespace()!.nspname === schema);
  for (const relation of relations) {
    for (const name of namesIn(relation, "notNull")) {
      const column = relation.getAttribute({ name });
      if (column) tagsOf(column).notNull = true;
    }
    addKey(relation);
  }
  for (const relation of relations) {
    const metric =
      LIVE.test(relation.relname) &&
      find(relation.getNamespace()!.nspname, relation.relname.replace(LIVE, ""));
    if (metric) followMetric(relation, metric);
  }
  const calendar = find("production", "dim_date");
  for (const relation of relations) {
    // A nullable key cannot be given as arguments; such rows are read by node id or filter.
    if (tagsOf(relation).nullableKey) addBehavior(relation, "-query:resource:single");
    if (calendar && relation !== calendar) joinCalendar(relation, calendar);
    boundColumns(relation);
  }
}

export const RelationsPlugin: GraphileConfig.Plugin = {
  name: "RelationsPlugin",
  version: "1.0.0",
  after: ["TagFilesPlugin", "RightsPlugin", "CataloguePlugin"],
  before: ["smart-tags"],
  gather: gatherConfig({
    hooks: {
      pgIntrospection_introspection({ resolvedPreset }, { introspection, serviceName }) {
        const { schemas = [] } = resolvedPreset.pgServices!.find(({ name }) => name === serviceName)!;
        complete(introspection, schemas);
      },
    },
  }),
};
