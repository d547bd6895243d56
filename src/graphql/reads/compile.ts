// Compiles a query to one SQL statement whose result is the response's text. The planner executes every operation
// that this compiler does not support; both give the same response.
import { sqlValueWithCodec, type PgResource } from "@dataplan/pg";
import {
  getArgumentValues,
  getNamedType,
  getVariableValues,
  isObjectType,
  Kind,
  OperationTypeNode,
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLField,
  type GraphQLObjectType,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
} from "grafast/graphql";
import { sql, type SQL } from "pg-sql2";
import type {} from "../../../plugins/SourcesPlugin.ts";
import { isHidden } from "../forbidden.ts";
import { createShapes, type Statement, type Variables } from "./shapes.ts";
import { cursorOf, isAfter } from "./cursor.ts";
import { columnOf, conjunction, jsonOf, orderBy, rowOf, selectionOf, verbatim, type Row } from "./select.ts";

export interface Read {
  /** Response keys of the root fields that are read. */
  keys: string[];
  /** Response if the read failed. */
  nothing: Record<string, string | null>;
  /** Undefined if these variables need the planner. */
  statementFor(this: void, variables: Variables): Statement | undefined;
}

interface PageSizes {
  defaultPageSize: number;
  maxPageSize: number;
}

/** JSON text in pieces, given the variables: constants, expressions, and values read from rows. */
type Json = (variables: Variables) => Piece[];
type Piece = string | SQL | Selected;

/** Pieces that are selected from one row. */
interface Selected {
  pieces: Piece[];
  from: SQL;
}

/** Thrown where the planner is needed; never leaves this file. */
class NotCompiled extends Error {}
const leaveToPlanner = (what: string): never => {
  throw new NotCompiled(what);
};

export function compileRead(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
  sizes: PageSizes,
): Read | undefined {
  if (operation.operation !== OperationTypeNode.QUERY || operation.directives?.length) return undefined;
  const query = schema.getQueryType()!;
  let json: Json;
  let nothing: Read["nothing"];
  try {
    const { collect, rowObject } = compiler(schema, document, sizes);
    const fields = collect(query, operation.selectionSet, new Map());
    const isRead = ({ name }: FieldNode): boolean => name.value !== "__typename";
    if (![...fields.values()].some(isRead)) return undefined;
    nothing = Object.fromEntries([...fields].map(([key, node]) => [key, isRead(node) ? null : query.name]));
    json = rowObject(query, operation.selectionSet, undefined);
  } catch (error) {
    if (error instanceof NotCompiled) return undefined;
    throw error;
  }
  const build = (variables: Variables): Statement | undefined => {
    try {
      return sql.compile(statementOf(json(variables)));
    } catch (error) {
      if (error instanceof NotCompiled) return undefined;
      throw error;
    }
  };
  const definitions = operation.variableDefinitions ?? [];
  const prepared = createShapes(operation, build);
  return {
    keys: Object.keys(nothing).filter((key) => nothing[key] === null),
    nothing,
    statementFor(given) {
      const { coerced, errors } = getVariableValues(schema, definitions, given);
      return errors ? undefined : prepared(coerced);
    },
  };
}

function compiler(schema: GraphQLSchema, document: DocumentNode, sizes: PageSizes) {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);

  function collect(
    type: GraphQLObjectType,
    { selections }: SelectionSetNode,
    fields: Map<string, FieldNode>,
  ) {
    for (const selection of selections) {
      if (selection.directives?.length) leaveToPlanner("a directive");
      if (selection.kind === Kind.FIELD) {
        const key = (selection.alias ?? selection.name).value;
        const other = fields.get(key);
        if (other && (selection.selectionSet || selection.arguments?.length))
          leaveToPlanner("fields to merge");
        fields.set(key, other ?? selection);
      } else {
        const fragment =
          selection.kind === Kind.FRAGMENT_SPREAD ? fragments.get(selection.name.value)! : selection;
        if (fragment.typeCondition && fragment.typeCondition.name.value !== type.name)
          leaveToPlanner("a type condition");
        collect(type, fragment.selectionSet, fields);
      }
    }
    return fields;
  }

  function object(
    type: GraphQLObjectType,
    selectionSet: SelectionSetNode,
    json: (node: FieldNode, field: GraphQLField<unknown, unknown>) => Json,
  ): Json {
    const parts: (string | Json)[] = [];
    for (const [key, node] of collect(type, selectionSet, new Map())) {
      const name = node.name.value;
      // Keys are GraphQL names, which need no escaping.
      parts.push(`${parts.length > 0 ? "," : "{"}"${key}":`);
      const field = type.getFields()[name];
      if (isHidden(node)) parts.push("null");
      else if (name === "__typename") parts.push(`"${type.name}"`);
      else parts.push(field ? json(node, field) : leaveToPlanner(name));
    }
    parts.push("}");
    return (variables) =>
      parts.flatMap<Piece>((part) => (typeof part === "function" ? part(variables) : part));
  }

  const typeOf = ({ type }: GraphQLField<unknown, unknown>): GraphQLObjectType => {
    const named = getNamedType(type);
    return isObjectType(named) ? named : leaveToPlanner(named.name);
  };

  function rowObject(type: GraphQLObjectType, selectionSet: SelectionSetNode, row: Row | undefined): Json {
    return object(type, selectionSet, (node, field) => {
      const source = field.extensions.strataSource ?? leaveToPlanner(node.name.value);
      if (source.kind === "row") {
        const other = rowOf(source.resource);
        const one = rowObject(typeOf(field), node.selectionSet!, other);
        return (variables) => {
          const given = getArgumentValues(field, node, variables);
          const isKey = source.key.map(
            ({ argument, column, codec }) =>
              sql`${columnOf(other, column)} = ${sqlValueWithCodec(given[argument], codec)}`,
          );
          return [first(one(variables), source.resource, other, isKey)];
        };
      }
      if (source.kind === "rows") return connection(node, field, source.resource, () => []);
      if (!row) return leaveToPlanner("a value of no row");
      if (source.kind === "column") {
        const value = columnOf(row, source.column);
        const json = jsonOf(source.codec, value) ?? leaveToPlanner(source.codec.name);
        return () => [json];
      }
      if (source.kind === "payloadRow") return leaveToPlanner(node.name.value);
      const { remoteResource, localAttributes, remoteAttributes } = source.relation;
      const local = localAttributes.map((name) => columnOf(row, name));
      const isRelated = (other: Row): SQL[] =>
        remoteAttributes.map((name, i) => sql`${columnOf(other, name)} = ${local[i]!}`);
      if (source.kind === "relatedRows") return connection(node, field, remoteResource, isRelated);
      const other = rowOf(remoteResource);
      const one = rowObject(typeOf(field), node.selectionSet!, other);
      return (variables) => [first(one(variables), remoteResource, other, isRelated(other))];
    });
  }

  /**
   * The inner select filters, orders and limits the rows, so that an index can end the scan; the outer one turns them
   * into text.
   */
  function connection(
    node: FieldNode,
    field: GraphQLField<unknown, unknown>,
    resource: PgResource,
    isRelated: (row: Row) => SQL[],
  ): Json {
    for (const { name } of node.arguments ?? [])
      if (!PAGED.has(name.value)) leaveToPlanner(`the argument ${name.value}`);
    const inside = rowOf(resource);
    const outside = rowOf(resource);
    const select = selectionOf(schema, field, resource, inside.alias);
    const needs = { rows: false, cursor: false, page: false };
    let now: { conditions: SQL[]; from: SQL; size: number; start: SQL | undefined; cursor: SQL | undefined };

    const list = (one: Json): Json => {
      needs.rows = true;
      return (variables) => [
        "[",
        sql`coalesce(string_agg(${concatenation(one(variables))}, ',')${
          needs.page ? sql` filter (where ${NUMBER} <= ${sql.literal(now.size)})` : sql.blank
        }, '')`,
        "]",
      ];
    };
    const cursor = (): Json => {
      needs.rows = needs.cursor = true;
      return () => [now.cursor ?? leaveToPlanner("an order without cursors")];
    };
    const edge = (inner: FieldNode, innerField: GraphQLField<unknown, unknown>): Json => {
      if (inner.name.value === "cursor") return cursor();
      if (inner.name.value !== "node") return leaveToPlanner(inner.name.value);
      return rowObject(typeOf(innerField), inner.selectionSet!, outside);
    };
    const page = (inner: FieldNode): Json => {
      needs.rows = needs.page = true;
      const cursorAt = (number: () => SQL): Json => {
        const json = cursor();
        return (variables) => [
          sql`coalesce(max(${concatenation(json(variables))}) filter (where ${NUMBER} = ${number()}), 'null')`,
        ];
      };
      switch (inner.name.value) {
        case "hasNextPage":
          return () => [now.size === 0 ? "false" : sql`(count(*) > ${sql.literal(now.size)})::text`];
        case "hasPreviousPage":
          return () => [now.size === 0 || !now.start ? "false" : sql`(${now.start}::bigint <> 0)::text`];
        case "startCursor":
          return cursorAt(() => sql.literal(Math.min(now.size, 1)));
        case "endCursor":
          return cursorAt(() => sql`least(${COUNT}, ${sql.literal(now.size)})`);
        default:
          return leaveToPlanner(inner.name.value);
      }
    };
    const json = object(typeOf(field), node.selectionSet!, (inner, innerField) => {
      switch (inner.name.value) {
        case "totalCount":
          return () => [sql`(select count(*)::text ${now.from}${conjunction(now.conditions)})`];
        case "nodes":
          return list(rowObject(typeOf(innerField), inner.selectionSet!, outside));
        case "edges":
          return list(object(typeOf(innerField), inner.selectionSet!, edge));
        case "pageInfo":
          return object(typeOf(innerField), inner.selectionSet!, page);
        default:
          return leaveToPlanner(inner.name.value);
      }
    });

    return (variables) => {
      const { first: given, offset, after, ...others } = getArgumentValues(field, node, variables);
      // The planner rejects these: their code is not called here.
      const { filter } = others;
      if (filter === null || (filter && Object.keys(filter).length === 0)) leaveToPlanner("an empty filter");
      const { size, start } = pageOf(given, offset);
      const { conditions: filters, orders } = select(others);
      const conditions = [...isRelated(inside), ...filters];
      const from = sql`from ${resource.from as SQL} as ${inside.alias}`;
      now = {
        conditions,
        from,
        size,
        start,
        cursor: needs.cursor ? cursorOf(orders, (i) => sql`${outside.alias}.${ordinal(i)}`) : undefined,
      };
      if (!needs.rows) {
        // The planner validates these arguments, although the page is empty.
        if (after != null || offset != null) leaveToPlanner("a page of nothing");
        return json(variables);
      }
      const behind = after == null ? [] : [isAfter(orders, after as string) ?? leaveToPlanner("a cursor")];
      const answer = json(variables);
      const columns = [
        ...[...outside.columns].map((name) => sql`${inside.alias}.${sql.identifier(name)}`),
        ...(needs.cursor ? orders.map(({ fragment }, i) => sql`${fragment} as ${ordinal(i)}`) : []),
      ];
      const limit = sql` limit ${sql.literal(size + Number(needs.page))}`;
      const skip = start ? sql` offset ${start}` : sql.blank;
      const rows = sql`select ${sql.join(columns, ", ")} ${from}${conjunction([...conditions, ...behind])}${orderBy(orders)}${limit}${skip}`;
      // One further row shows whether there is a next page.
      const numbered = needs.page
        ? sql`select rows.*, row_number() over () as ${NUMBER}, count(*) over () as ${COUNT} from (${rows}) as rows`
        : rows;
      return [{ pieces: answer, from: sql`(${numbered}) as ${outside.alias}` }];
    };
  }

  function pageOf(first: unknown, offset: unknown): { size: number; start: SQL | undefined } {
    const size = Number(first ?? sizes.defaultPageSize);
    if (!(size >= 0 && size <= sizes.maxPageSize && Number(offset ?? 0) >= 0)) leaveToPlanner("a page size");
    return { size, start: offset == null ? undefined : sql.value(offset as number) };
  }

  return { collect, rowObject };
}

const PAGED = new Set(["first", "offset", "after", "filter", "orderBy"]);
// A name that no column has.
const NUMBER = sql.identifier("#");
const COUNT = sql.identifier("##");
const ordinal = (i: number): SQL => sql.identifier(`#${i}`);

const first = (json: Piece[], { from }: PgResource, { alias }: Row, conditions: readonly SQL[]): SQL =>
  sql`coalesce((select ${concatenation(json)} from ${from as SQL} as ${alias}${conjunction(conditions)}), 'null')`;

const isSelected = (piece: Piece): piece is Selected => typeof piece === "object" && "from" in piece;

/** Always returns one row, even from no rows or without columns. */
const select = ({ pieces, from }: Selected): SQL =>
  sql`select ${concatenation(pieces)} from ${from} having true`;

/** A single piece needs no select around it, which PostgreSQL would plan as well. */
function statementOf(pieces: Piece[]): SQL {
  const selected = pieces.filter(isSelected);
  const others = pieces.some((piece) => typeof piece !== "string" && !isSelected(piece));
  if (others || selected.length !== 1) return sql`select ${concatenation(pieces)}`;
  const inner = pieces.flatMap((piece) => (isSelected(piece) ? piece.pieces : piece));
  return select({ pieces: inner, from: selected[0]!.from });
}

function concatenation(pieces: Piece[]): SQL {
  const terms: SQL[] = [];
  let text = "";
  const flush = (): void => {
    if (text !== "") terms.push(verbatim(`'${text}'`));
    text = "";
  };
  for (const piece of pieces) {
    if (typeof piece === "string") text += piece;
    else {
      flush();
      terms.push(isSelected(piece) ? sql`(${select(piece)})` : piece);
    }
  }
  flush();
  return sql`(${sql.join(terms, " || ")})`;
}
