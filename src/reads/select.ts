// One table read as JSON text: what is selected of it, by which filter, in which order.
import {
  LIST_TYPES,
  PgCondition,
  TYPES,
  type PgCodec,
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
import { NULLS, type NullsOrder } from "../../plugins/NullOrderPlugin.ts";

/** A row in reach of an expression, and the columns that it takes of it. */
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

/** Text that holds nothing of a client's but names. */
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
const time = (value: SQL): SQL => sql`'"' || ${TYPES.timestamp.castFromPg!(value)} || 'Z"'`;

/** As the scalars of the schema write them. Others, floats among them, are written by JavaScript in its own way. */
const JSON_OF = new Map<unknown, (value: SQL) => SQL>([
  ...[TYPES.text, TYPES.varchar, TYPES.bpchar].map((codec) => [codec, escaped] as const),
  ...[TYPES.int, TYPES.int2, TYPES.boolean].map((codec) => [codec, bare] as const),
  ...[TYPES.bigint, TYPES.numeric, TYPES.uuid, TYPES.date].map((codec) => [codec, quoted] as const),
  [TYPES.jsonb, bare],
  [LIST_TYPES.text, (value) => sql`to_json(${value})::text`],
  [TYPES.timestamp, time],
  [TYPES.timestamptz, (value) => time(sql`(${value} at time zone 'UTC')`)],
]);

/** JSON text of a column, `null` included; undefined for types that are not written here. */
export function jsonOf(codec: PgCodec, value: SQL): SQL | undefined {
  const json = JSON_OF.get(codec);
  return json && sql`coalesce(${json(value)}, 'null')`;
}

export interface Selection {
  conditions: SQL[];
  orderBy: SQL;
}

type Select = (given: Record<string, unknown>) => Selection;

/** Applies a connection's own arguments, by what PostGraphile's plugins attached to their types. */
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
    return { conditions: rows.conditions, orderBy: orderSql(resource, alias, rows) };
  };
}

type Rows = ReturnType<typeof createRows>;

/** What filters and orders know of a query; what else they might do with one fails, and the planner does it. */
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

/** As PostGraphile does: what is not yet in a unique order is, by the first unique key, in the first direction. */
function orderSql(resource: PgResource, alias: SQL, { orders, isOrderUnique }: Rows): SQL {
  const direction = (order: PgOrderSpec | undefined): string =>
    order?.direction === "DESC" ? "desc" : "asc";
  const terms = new Map<unknown, SQL>();
  const add = (key: unknown, value: SQL, how: string): void => {
    if (!terms.has(key)) terms.set(key, sql`${value} ${verbatim(how)}`);
  };
  let nulls: string | undefined;
  for (const order of orders) {
    if (order.attribute === undefined) {
      // What tells NULLs apart comes before the column itself; said in one, an index serves both.
      const { [NULLS]: told } = order as NullsOrder;
      if (told) nulls = told;
      else add(order, order.fragment, `${direction(order)}${order.nulls ? ` nulls ${order.nulls}` : ""}`);
      continue;
    }
    if (order.callback) throw new Error("An order of its own making");
    const column = sql`${alias}.${sql.identifier(order.attribute)}`;
    nulls ??= order.nulls ?? undefined;
    add(order.attribute, column, `${direction(order)}${nulls ? ` nulls ${nulls}` : ""}`);
    nulls = undefined;
  }
  const [unique] = resource.uniques;
  if (!isOrderUnique && unique)
    for (const name of unique.attributes)
      add(name, sql`${alias}.${sql.identifier(name)}`, direction(orders[0]));
  return terms.size > 0 ? sql` order by ${sql.join([...terms.values()], ", ")}` : sql.blank;
}
