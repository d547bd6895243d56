// Builds an export's SELECT: a table or metric by its name in the API, with the filter and the order of its
// connection. Both are compiled by the code of the API's own reads, so that they mean the same.
import type { PgCodec, PgResource } from "@dataplan/pg";
import {
  getNamedType,
  getVariableValues,
  isObjectType,
  parse,
  type GraphQLField,
  type GraphQLObjectType,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from "grafast/graphql";
import type pg from "pg";
import { sql, type SQL } from "pg-sql2";
import type {} from "../../plugins/SourcesPlugin.ts";
import { inline } from "../database/copy-out.ts";
import { apiError } from "../graphql/errors.ts";
import { isAboutArguments } from "../graphql/reads.ts";
import { conjunction, orderBy, selectionOf } from "../graphql/reads/select.ts";
import { checkVariables } from "../guard/document.ts";

export interface ExportRequest {
  /** A field of the API, such as `dailyRevenues`, or its table, such as `daily_revenue`. */
  name: string;
  /** The `filter` argument of the field. */
  filter?: unknown;
  /** Values of the `orderBy` argument; without any, the order of rows is undefined. */
  orderBy?: string[] | undefined;
  /** Names of fields; all that the role may read if not given. */
  columns?: string[] | undefined;
  limit?: number | undefined;
  /** True if error messages may list the existing names: the caller may read the schema. */
  mayList?: boolean | undefined;
}

/** A column as PostgreSQL has it. */
export interface Column {
  /** Name of its field in the API. */
  field: string;
  name: string;
  /** Name of the type, or of what a domain is made from. */
  type: string;
  /** PostgreSQL's letter for the kind of the type: A for arrays, C for rows. */
  category: string;
  /** Precision and scale of a `numeric` that has them. */
  precision: number | undefined;
  scale: number | undefined;
}

export interface Selection {
  /** The name that was asked for. */
  name: string;
  columns: Column[];
  /** The statement, given how each column is written. */
  select: (write: (column: Column, value: SQL) => SQL) => string;
}

interface Table {
  field: GraphQLField<unknown, unknown>;
  resource: PgResource;
  schema: string;
  relation: string;
}

function tablesOf(schema: GraphQLSchema): Table[] {
  return Object.values(schema.getQueryType()!.getFields()).flatMap((field) => {
    const source = field.extensions.strataSource;
    const { schemaName, name } = (source?.kind === "rows" && source.resource.codec.extensions?.pg) || {};
    if (source?.kind !== "rows" || schemaName === undefined || name === undefined) return [];
    return [{ field, resource: source.resource, schema: schemaName, relation: name }];
  });
}

function findTable(schema: GraphQLSchema, { name, mayList = true }: ExportRequest): Table {
  const tables = tablesOf(schema);
  const found = tables.find(({ field }) => field.name === name);
  if (found) return found;
  const [table, other] = tables.filter(({ relation }) => relation === name);
  if (table && !other) return table;
  const names = (list: Table[]): string => list.map(({ field }) => field.name).join(", ");
  if (table) throw apiError("BAD_REQUEST", `"${name}" is several tables; allowed: ${names([table, other!])}`);
  throw apiError(
    "NOT_FOUND",
    `There is no table or metric "${name.slice(0, 100)}"${mayList ? `; allowed: ${names(tables)}, or the names of their tables` : ""}`,
  );
}

/** Columns of the rows by the names of their fields. */
function fieldsOf({ field }: Table): Map<string, { column: string; codec: PgCodec }> {
  const connection = getNamedType(field.type) as GraphQLObjectType;
  const rows = getNamedType(connection.getFields().nodes!.type);
  const fields = isObjectType(rows) ? Object.values(rows.getFields()) : [];
  return new Map(
    fields.flatMap(({ name, extensions: { strataSource: source } }) =>
      source?.kind === "column" ? [[name, { column: source.column, codec: source.codec }] as const] : [],
    ),
  );
}

const COLUMNS = `
  select a.attname as name, b.typname as type, b.typcategory as category,
         case when b.typname = 'numeric' and m.typmod > 3 then ((m.typmod - 4) >> 16) & 65535 end as precision,
         case when b.typname = 'numeric' and m.typmod > 3 then (((m.typmod - 4) & 2047) # 1024) - 1024 end as scale,
         pg_catalog.has_schema_privilege($1, n.oid, 'usage')
           and pg_catalog.has_column_privilege($1, c.oid, a.attnum, 'select') as is_readable
  from pg_catalog.pg_namespace n
    join pg_catalog.pg_class c on c.relnamespace = n.oid
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type t on t.oid = a.atttypid
    cross join lateral (select case when t.typtype = 'd' then t.typtypmod else a.atttypmod end as typmod) m
    join pg_catalog.pg_type b on b.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
  where n.nspname = $2 and c.relname = $3`;

interface ColumnRow extends Omit<Column, "field"> {
  is_readable: boolean;
}

/** Names of the rows' own fields in a filter; those of related rows are left to PostgreSQL. */
function* namesIn(filter: unknown): Generator<string> {
  if (typeof filter !== "object" || filter === null) return;
  for (const [name, inner] of Object.entries(filter as Record<string, unknown>)) {
    yield name;
    if (["and", "or", "not"].includes(name)) for (const one of [inner].flat()) yield* namesIn(one);
  }
}

/** Validates filter and order as the API does, with its error messages. */
function coerced(schema: GraphQLSchema, { field }: Table, { filter, orderBy: order }: ExportRequest) {
  const given = { ...(filter !== undefined && { filter }), ...(order && { orderBy: order }) };
  const tooDeep = checkVariables(given);
  if (tooDeep) throw apiError("BAD_USER_INPUT", tooDeep.message.replace("variables", "filter"));
  const typeOf = (name: string): string | undefined =>
    field.args.find((argument) => argument.name === name)?.type.toString();
  for (const name of Object.keys(given))
    if (typeOf(name) === undefined)
      throw apiError("BAD_USER_INPUT", `\`${field.name}\` has no argument \`${name}\``);
  const isEmpty = typeof filter === "object" && (filter === null || Object.keys(filter).length === 0);
  if (isEmpty) throw apiError("BAD_USER_INPUT", "The filter is empty; leave it out instead");
  const variables = Object.keys(given).map((name) => `$${name}: ${typeOf(name)}`);
  if (variables.length === 0) return {};
  const document = parse(`query (${variables.join(", ")}) { __typename }`, { noLocation: true });
  const { variableDefinitions } = document.definitions[0] as OperationDefinitionNode;
  const { coerced: values, errors } = getVariableValues(schema, variableDefinitions ?? [], given);
  // Removes names of the schema, which the caller may not be allowed to read.
  const words = (message: string): string =>
    message.replace(/ Did you mean [^]*$/, "").replace('Variable "$', 'The parameter "');
  if (errors) throw apiError("BAD_USER_INPUT", words(errors[0]!.message));
  return values;
}

const hasNul = (value: unknown): boolean => typeof value === "string" && value.includes("\0");

export async function selectionFor(
  pool: pg.Pool,
  schema: GraphQLSchema,
  request: ExportRequest,
  role: string,
): Promise<Selection> {
  const table = findTable(schema, request);
  const { field, resource } = table;
  const fields = fieldsOf(table);
  const listed = (names: string[]): string =>
    request.mayList === false ? "" : `; allowed: ${names.join(", ")}`;
  const unknown = request.columns?.find((name) => !fields.has(name));
  if (unknown !== undefined)
    throw apiError(
      "BAD_USER_INPUT",
      `\`${field.name}\` has no column \`${unknown.slice(0, 100)}\`${listed([...fields.keys()])}`,
    );
  const { rows } = await pool.query<ColumnRow>(COLUMNS, [role, table.schema, table.relation]);
  const known = new Map(rows.map((row) => [row.name, row]));
  const isReadable = (name: string): boolean => known.get(fields.get(name)!.column)?.is_readable === true;
  const forbid = (name: string): never => {
    throw apiError("FORBIDDEN", `Your role (${role}) may not read \`${name}\` of \`${field.name}\``, {
      role,
      field: name,
    });
  };
  const readable = [...fields.keys()].filter(isReadable);
  if (readable.length === 0)
    throw apiError("FORBIDDEN", `Your role (${role}) may not read \`${field.name}\``, { role });
  const names = request.columns ?? readable;
  if (names.length === 0) throw apiError("BAD_USER_INPUT", `No column is named${listed(readable)}`);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw apiError("BAD_USER_INPUT", `The column \`${twice}\` is named twice`);
  for (const name of [...names, ...namesIn(request.filter)])
    if (fields.has(name) && !isReadable(name)) forbid(name);

  const alias = sql.identifier(Symbol(resource.name));
  const given = coerced(schema, table, request);
  let conditions: readonly SQL[];
  let order: SQL;
  try {
    const { conditions: made, orders } = selectionOf(schema, field, resource, alias)(given);
    conditions = made;
    order = request.orderBy ? orderBy(orders) : sql.blank;
    if (request.orderBy)
      for (const { column } of orders)
        for (const [name, one] of fields) if (one.column === column && !isReadable(name)) forbid(name);
  } catch (error) {
    if (isAboutArguments(error)) throw apiError("BAD_USER_INPUT", (error as Error).message);
    throw error;
  }
  const columns = names.map((name): Column => {
    const { is_readable: _, precision, scale, ...column } = known.get(fields.get(name)!.column)!;
    return { ...column, field: name, precision: precision ?? undefined, scale: scale ?? undefined };
  });
  return {
    name: request.name,
    columns,
    select(write) {
      const values = columns.map(
        (column) =>
          sql`${write(column, sql`${alias}.${sql.identifier(column.name)}`)} as ${sql.identifier(column.field)}`,
      );
      const limit = request.limit === undefined ? sql.blank : sql` limit ${sql.literal(request.limit)}`;
      const statement = sql.compile(
        sql`select ${sql.join(values, ", ")} from ${resource.from as SQL} as ${alias}${conjunction(conditions)}${order}${limit}`,
      );
      if (statement.values.some((value) => [value].flat().some(hasNul)))
        throw apiError(
          "BAD_USER_INPUT",
          "A value of the filter has a NUL character, which no text of PostgreSQL has",
        );
      return inline(statement);
    },
  };
}
