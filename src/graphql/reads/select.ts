// Reads one table as JSON text: its columns, filter and order.
import {
  LIST_TYPES,
  PgCondition,
  TYPES,
  type PgCodec,
  type PgCodecAttribute,
  type PgOrderSpec,
  type PgResource,
} from "@dataplan/pg";
import { bakedInputRuntime } from "grafast";
import {
  GraphQLInputObjectType,
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputFieldConfigMap,
  type GraphQLSchema,
} from "grafast/graphql";
import { $$toSQL, sql, type SQL } from "pg-sql2";
import { hasPlainNames } from "../../../plugins/EnumsPlugin.ts";
import { completeOrder, NULLS, type NullsOrder } from "../../../plugins/NullOrderPlugin.ts";
import { hasPlainYear } from "../../../plugins/support/times.ts";

/** A row that an expression can refer to, with the columns it uses. */
export interface Row {
  alias: SQL;
  columns: Set<string>;
}

export const rowOf = ({ name }: PgResource): Row => ({
  alias: sql.identifier(Symbol(name)),
  columns: new Set(),
});

export function columnOf(row: Row, name: string): SQL {
  row.columns.add(name);
  return sql`${row.alias}.${sql.identifier(name)}`;
}

/** Uses text as SQL, unescaped: it must contain no input of a client but validated names. */
export const verbatim = (text: string): SQL => sql(Object.assign([text], { raw: [text] }));

export const conjunction = (conditions: readonly SQL[]): SQL =>
  conditions.length > 0
    ? sql` where ${sql.join(
        conditions.map((one) => sql`(${one})`),
        " and ",
      )}`
    : sql.blank;

const escaped = (value: SQL): SQL => sql`to_json(${value}::text)::text`;
const quoted = (value: SQL): SQL => sql`'"' || ${value}::text || '"'`;
const bare = (value: SQL): SQL => sql`${value}::text`;

/** Returns the text if the condition holds; otherwise the statement fails, and the planner answers. */
const only = (condition: SQL, value: SQL, text: SQL): SQL =>
  sql`case when ${condition} then ${text} when ${value} is not null then ('not written here: ' || ${value}::text)::int::text end`;
const number = (value: SQL): SQL =>
  only(sql`${value}::float8 between '-1e308' and '1e308'`, value, bare(value));
const list = (value: SQL): SQL =>
  only(sql`coalesce(array_ndims(${value}), 1) = 1`, value, sql`to_json(${value})::text`);
// Formats times independently of the database's settings.
const timeAs = (format: string) => (value: SQL) =>
  only(hasPlainYear(value), value, sql`'"' || to_char(${value}, ${sql.literal(format)}) || '"'`);
const day = timeAs("YYYY-MM-DD");
const time = timeAs('YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

/** Formats values as the schema's scalars do. */
const JSON_OF = new Map<unknown, (value: SQL) => SQL>([
  ...[TYPES.text, TYPES.varchar, TYPES.bpchar].map((codec) => [codec, escaped] as const),
  ...[TYPES.int, TYPES.int2, TYPES.boolean].map((codec) => [codec, bare] as const),
  ...[TYPES.bigint, TYPES.numeric, TYPES.uuid].map((codec) => [codec, quoted] as const),
  ...[TYPES.float, TYPES.float4].map((codec) => [codec, number] as const),
  [TYPES.jsonb, bare],
  [LIST_TYPES.text, list],
  [TYPES.date, day],
  [TYPES.timestamp, time],
  [TYPES.timestamptz, (value) => time(sql`(${value} at time zone 'UTC')`)],
]);

/** JSON text of a column, `null` included; undefined for types that are not supported here. */
export function jsonOf(codec: PgCodec, value: SQL): SQL | undefined {
  const json = (hasPlainNames(codec) ? quoted : JSON_OF.get(codec))?.(value);
  return json && sql`coalesce(${json}, 'null')`;
}

interface Selection {
  conditions: SQL[];
  orders: Order[];
}

/** One term of an order. */
export interface Order {
  fragment: SQL;
  codec: PgCodec;
  isNullable: boolean;
  direction: "ASC" | "DESC";
  nulls: "FIRST" | "LAST" | undefined;
  /** Set where the fragment is a column. */
  column: string | undefined;
  /** Set if the term only decides where NULLs of the next column are sorted. */
  tells: "FIRST" | "LAST" | undefined;
}

type Select = (given: Record<string, unknown>) => Selection;

/** Applies a connection's arguments with the functions that PostGraphile's plugins attached to their types. */
export function selectionOf(
  schema: GraphQLSchema,
  field: GraphQLField<unknown, unknown>,
  resource: PgResource,
  alias: SQL,
): Select {
  const argument = (name: string): GraphQLArgument | undefined => field.args.find((one) => one.name === name);
  const [filter, orderBy] = [argument("filter"), argument("orderBy")];
  const fields: GraphQLInputFieldConfigMap = {};
  if (filter)
    fields.filter = {
      type: filter.type,
      extensions: { grafast: { apply: (rows) => new PgCondition(rows) } },
    };
  if (orderBy)
    fields.orderBy = { type: orderBy.type, extensions: { grafast: { apply: (rows: unknown) => rows } } };
  const extensions = { grafast: { baked: () => createRows(alias) } };
  const type = new GraphQLInputObjectType({ name: "Arguments", fields, extensions });
  return (given) => {
    const rows = bakedInputRuntime(schema, type, given) as Rows;
    completeOrder(rows, resource);
    return { conditions: rows.conditions, orders: ordersOf(resource, alias, rows) };
  };
}

type Rows = ReturnType<typeof createRows>;

/**
 * The part of pg's query builder that filters and orders may use. Any other use throws, and the planner executes the
 * operation.
 */
function createRows(alias: SQL) {
  const conditions: SQL[] = [];
  const orders: PgOrderSpec[] = [];
  return {
    alias,
    [$$toSQL]: () => alias,
    mode: "normal",
    conditions,
    orders,
    isOrderUnique: false,
    where(condition: SQL | { attribute: string; callback: (column: SQL) => SQL }) {
      if (sql.isSQL(condition)) conditions.push(condition);
      else conditions.push(condition.callback(sql`${alias}.${sql.identifier(condition.attribute)}`));
    },
    orderBy(order: PgOrderSpec) {
      orders.push(order);
    },
    setOrderIsUnique() {
      this.isOrderUnique = true;
    },
  };
}

/** Makes the order unique as PostGraphile does: by the first unique key, in the direction of the first term. */
function ordersOf(resource: PgResource, alias: SQL, { orders, isOrderUnique }: Rows): Order[] {
  const attributes = (resource.codec.attributes ?? {}) as Record<string, PgCodecAttribute>;
  const ofColumn = (column: string): Pick<Order, "fragment" | "codec" | "column"> => ({
    fragment: sql`${alias}.${sql.identifier(column)}`,
    codec: attributes[column]!.codec,
    column,
  });
  const terms = orders.map((order): Order => {
    const how = { direction: order.direction, nulls: order.nulls ?? undefined };
    if (order.attribute === undefined) {
      const { fragment, codec, nullable = false } = order;
      const tells = (order as NullsOrder)[NULLS];
      return { ...how, fragment, codec, isNullable: nullable, column: undefined, tells };
    }
    if (order.callback) throw new Error("An order of its own making");
    const { notNull, codec } = attributes[order.attribute]!;
    return { ...how, ...ofColumn(order.attribute), isNullable: !notNull && !codec.notNull, tells: undefined };
  });
  const [unique] = resource.uniques;
  if (isOrderUnique || !unique) return terms;
  const how = { isNullable: false, nulls: undefined, tells: undefined };
  const direction = orders[0]?.direction ?? "ASC";
  return [...terms, ...unique.attributes.map((name) => ({ ...how, ...ofColumn(name), direction }))];
}

/** Writes the order as short as possible, so that an index can serve it. */
export function orderBy(orders: readonly Order[]): SQL {
  const terms: SQL[] = [];
  const columns = new Set<string>();
  let told: Order["tells"];
  for (const { fragment, direction, nulls = told, column, tells } of orders) {
    told = tells;
    if (tells || (column !== undefined && columns.has(column))) continue;
    if (column !== undefined) columns.add(column);
    terms.push(
      sql`${fragment} ${verbatim(`${direction.toLowerCase()}${nulls ? ` nulls ${nulls.toLowerCase()}` : ""}`)}`,
    );
  }
  return terms.length > 0 ? sql` order by ${sql.join(terms, ", ")}` : sql.blank;
}
