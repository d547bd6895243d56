// Cursors in PostGraphile's format: a digest of the order, and the row's values of it.
import { createHash } from "node:crypto";
import { TYPES, type PgCodec } from "@dataplan/pg";
import { sql, type SQL } from "pg-sql2";
import { jsonOf, verbatim, type Order } from "./select.ts";

const digestOf = (orders: readonly Order[]): string =>
  createHash("sha256")
    .update(JSON.stringify(orders.map(({ fragment }) => sql.compile(fragment).text)))
    .digest("hex")
    .slice(0, 10);

const TIMES: readonly PgCodec[] = [TYPES.timestamp, TYPES.timestamptz, TYPES.date];

function valueOf(codec: PgCodec, value: SQL): SQL | undefined {
  // Written as the codec reads it, which differs from the API's scalar.
  if (TIMES.includes(codec)) return sql`coalesce('"' || ${codec.castFromPg!(value)} || '"', 'null')`;
  return jsonOf(codec, value);
}

/** JSON text of a row's cursor; undefined if the order is not supported here. */
export function cursorOf(orders: readonly Order[], valueAt: (index: number) => SQL): SQL | undefined {
  const values = orders.map(({ codec }, i) => valueOf(codec, valueAt(i)));
  if (values.length === 0 || values.includes(undefined)) return undefined;
  const tuple = sql.join([verbatim(`'["${digestOf(orders)}"'`), ...(values as SQL[])], " || ',' || ");
  return sql`'"' || replace(encode(convert_to(${tuple} || ']', 'UTF8'), 'base64'), chr(10), '') || '"'`;
}

/** Condition for rows after a cursor; undefined if the cursor belongs to another order. */
export function isAfter(orders: readonly Order[], cursor: string): SQL | undefined {
  let decoded: unknown;
  try {
    decoded = JSON.parse(Buffer.from(cursor, "base64").toString("utf8"));
  } catch {
    return undefined;
  }
  if (!Array.isArray(decoded) || decoded.length !== orders.length + 1 || orders.length === 0)
    return undefined;
  if (decoded[0] !== digestOf(orders) || decoded.some((value) => typeof value === "object" && value !== null))
    return undefined;
  const given = decoded.slice(1) as (string | number | boolean | null)[];
  const values = orders.map(({ codec }, i) => sql`${sql.value(given[i]!)}::${codec.sqlType}`);
  const isMixed = orders.some(({ direction }) => direction !== orders[0]!.direction);
  if (orders.length > 1 && !isMixed && !orders.some(({ isNullable }) => isNullable)) {
    const fragments = orders.map(({ fragment }) => fragment);
    const comparator = verbatim(orders[0]!.direction === "ASC" ? ">" : "<");
    return sql`(${sql.join(fragments, ", ")}) ${comparator} (${sql.join(values, ", ")})`;
  }
  const behind = (i: number): SQL => {
    const { fragment, direction, isNullable, nulls } = orders[i]!;
    const value = values[i]!;
    const isFirst = nulls ? nulls === "FIRST" : direction === "DESC";
    let condition = sql`${fragment} ${verbatim(direction === "ASC" ? ">" : "<")} ${value}`;
    if (isNullable) {
      const [isNull, isNotNull] = [verbatim("is null"), verbatim("is not null")];
      const [here, there] = isFirst ? [isNull, isNotNull] : [isNotNull, isNull];
      condition = sql`((${condition}) or (${fragment} ${here} and ${value} ${there}))`;
    }
    if (i === orders.length - 1) return condition;
    const equals = verbatim(isNullable ? "is not distinct from" : "=");
    return sql`(${condition}) or (${fragment} ${equals} ${value} and (${behind(i + 1)}))`;
  };
  return behind(0);
}
