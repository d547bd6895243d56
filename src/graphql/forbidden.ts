// Makes fields null that the role may not read, each with an error, and keeps the rest of the response. PostgreSQL
// rejects a statement as a whole, so a query is executed again without the forbidden fields. Mutations and
// subscriptions cannot be, so their rights are checked before (./visible.ts).
import type pg from "pg";
import {
  getNamedType,
  getOperationAST,
  GraphQLError,
  isCompositeType,
  isNonNullType,
  isObjectType,
  isUnionType,
  Kind,
  visit,
  type DocumentNode,
  type ExecutionResult,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLCompositeType,
  type GraphQLOutputType,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
} from "grafast/graphql";
import { isOfFunction, sourceOf, type ReadTarget } from "../../plugins/SourcesPlugin.ts";
import { apiError } from "./errors.ts";

/** The forbidden fields, and the document with `__typename` in place of those that are nullable. */
export interface Forbidden {
  document: DocumentNode | undefined;
  operation: OperationDefinitionNode;
  hidden: Hidden[];
  /** Fields that cannot be hidden, since they are not null or the operation needs them. */
  others: Hidden[];
}

interface Hidden {
  type: string;
  field: string;
  /** The type, if the role may read nothing of it. */
  of: string | undefined;
  node: FieldNode;
}

const hidden = new WeakMap<FieldNode, Hidden>();

/** True for a placeholder of a forbidden field. */
export const isHidden = (node: FieldNode): boolean => hidden.has(node);

export function isMissingRight(error: unknown): boolean {
  let cause = error;
  while (cause instanceof GraphQLError && cause.originalError) cause = cause.originalError;
  return (cause as { code?: unknown }).code === "42501";
}

// A right on any column is enough for counting rows. Composite types, as functions return them, have no rights.
const FORBIDDEN_FIELDS = `
  select target.place::integer as place
  from unnest($2::text[], $3::text[], $4::text[]) with ordinality as target (schema_name, relation, column_name, place)
    join pg_catalog.pg_namespace n on n.nspname = target.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = target.relation and c.relkind <> 'c'
  where not pg_catalog.has_schema_privilege($1, n.oid, 'usage')
     or case when target.column_name is null then not pg_catalog.has_any_column_privilege($1, c.oid, 'select')
             else not pg_catalog.has_column_privilege($1, c.oid, target.column_name, 'select') end`;

const keyOf = ({ schema, relation, column = "" }: ReadTarget): string =>
  JSON.stringify([schema, relation, column]);

/** A field of the operation that reads from a relation. */
interface Reader {
  target: ReadTarget;
  key: string;
  parent: string;
  type: GraphQLOutputType;
}

export interface Operated {
  schema: GraphQLSchema;
  document: DocumentNode;
  operationName?: string | null | undefined;
}

/** Cached knowledge of one operation of a document. */
interface Known {
  operation: OperationDefinitionNode;
  readers: Map<FieldNode, Reader>;
  /** Documents without the forbidden fields, by the fields' keys; reused, so that their plans stay cached. */
  made: Map<string, Forbidden>;
}
const known = new WeakMap<DocumentNode, Map<string, Known>>();

function knownOf({ schema, document, operationName }: Operated): Known | undefined {
  const operation = getOperationAST(document, operationName);
  if (!operation) return undefined;
  let operations = known.get(document);
  if (!operations) known.set(document, (operations = new Map()));
  const name = operation.name?.value ?? "";
  let found = operations.get(name);
  if (!found) {
    found = { operation, readers: readersOf(schema, document, operation), made: new Map() };
    operations.set(name, found);
  }
  return found;
}

function fragmentsOf({ definitions }: DocumentNode): Map<string, FragmentDefinitionNode> {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  return fragments;
}

/**
 * Lists the operation's fields with the relations that they read. Fields of a function's rows are left out: they need
 * no rights.
 */
function readersOf(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
): Map<FieldNode, Reader> {
  const readers = new Map<FieldNode, Reader>();
  const fragments = fragmentsOf(document);
  const done = new Set<string>();

  function walk(set: SelectionSetNode, type: GraphQLCompositeType, isFunction: boolean): void {
    for (const selection of set.selections) {
      if (selection.kind === Kind.FRAGMENT_SPREAD) {
        const fragment = fragments.get(selection.name.value)!;
        const visited = `${selection.name.value} ${isFunction}`;
        if (done.has(visited)) continue;
        done.add(visited);
        walk(fragment.selectionSet, named(fragment.typeCondition.name.value), isFunction);
      } else if (selection.kind === Kind.INLINE_FRAGMENT) {
        const condition = selection.typeCondition;
        walk(selection.selectionSet, condition ? named(condition.name.value) : type, isFunction);
      } else enter(selection, type, isFunction);
    }
  }
  const named = (name: string) => schema.getType(name) as GraphQLCompositeType;

  function enter(node: FieldNode, parent: GraphQLCompositeType, isFunction: boolean): void {
    // `__typename` and introspection fields read nothing.
    const field = isUnionType(parent) ? undefined : parent.getFields()[node.name.value];
    if (!field) return;
    const target = sourceOf(field);
    if (target && !(isFunction && target.column !== undefined))
      readers.set(node, { target, key: keyOf(target), parent: parent.name, type: field.type });
    const type = getNamedType(field.type);
    if (!node.selectionSet || !isCompositeType(type)) return;
    const isOwn = target !== undefined && target.column === undefined;
    walk(node.selectionSet, type, isOfFunction(field) || (isFunction && !isOwn));
  }

  walk(operation.selectionSet, schema.getRootType(operation.operation)!, false);
  return readers;
}

/** Finds the fields that the role may not read; undefined if there are none. */
export async function findForbidden(
  pool: pg.Pool,
  operated: Operated,
  role: string,
): Promise<Forbidden | undefined> {
  const own = knownOf(operated);
  if (!own || own.readers.size === 0) return undefined;
  const list = [...new Map([...own.readers.values()].map(({ key, target }) => [key, target])).values()];
  const { rows } = await pool.query<{ place: number }>(FORBIDDEN_FIELDS, [
    role,
    list.map((one) => one.schema),
    list.map((one) => one.relation),
    list.map((one) => one.column ?? null),
  ]);
  if (rows.length === 0) return undefined;
  const forbiddenKeys = new Set(rows.map(({ place }) => keyOf(list[place - 1]!)));
  const key = [...forbiddenKeys].sort().join();
  let forbidden = own.made.get(key);
  if (!forbidden) own.made.set(key, (forbidden = without(operated.document, own, forbiddenKeys)));
  return forbidden;
}

function without(
  document: DocumentNode,
  { operation, readers }: Known,
  forbiddenKeys: Set<string>,
): Forbidden {
  const others: Hidden[] = [];
  const replaced: Hidden[] = [];
  const changed: DocumentNode = visit(document, {
    Field(node) {
      const reader = readers.get(node);
      if (!reader || !forbiddenKeys.has(reader.key)) return undefined;
      const type = getNamedType(reader.type);
      const entry: Hidden = {
        type: reader.parent,
        field: node.name.value,
        of: reader.target.column === undefined && isObjectType(type) ? type.name : undefined,
        node,
      };
      if (isNonNullType(reader.type)) return void others.push(entry);
      replaced.push(entry);
      const { alias = node.name, directives, loc } = node;
      const name = { kind: Kind.NAME, value: "__typename" } as const;
      const stand: FieldNode = { kind: Kind.FIELD, alias, name, directives, loc };
      hidden.set(stand, entry);
      return stand;
    },
  });
  const own = changed.definitions[document.definitions.indexOf(operation)] as OperationDefinitionNode;
  return {
    document: replaced.length > 0 ? changed : undefined,
    operation: own,
    hidden: replaced,
    others,
  };
}

const errorOf = ({ type, field, of, node }: Hidden, role: string, path?: readonly (string | number)[]) =>
  new GraphQLError("", {
    nodes: node,
    path,
    originalError: apiError(
      "FORBIDDEN",
      of === undefined
        ? `Your role (${role}) may not read \`${field}\` of \`${type}\``
        : `Your role (${role}) may not read \`${of}\` (\`${field}\` of \`${type}\`)`,
      { role, type, field },
    ),
  });

/** Sets the hidden fields to null wherever they occur in the data, and returns an error for each. */
export function hideFields(forbidden: Forbidden, data: unknown, role: string): GraphQLError[] {
  const fragments = fragmentsOf(forbidden.document!);
  const errors = new Map<string, GraphQLError>();

  function walk(set: SelectionSetNode | undefined, value: unknown, path: (string | number)[]): void {
    if (!set || typeof value !== "object" || value === null) return;
    if (Array.isArray(value)) return value.forEach((item, i) => walk(set, item, [...path, i]));
    const fields = value as Record<string, unknown>;
    for (const selection of set.selections) {
      if (selection.kind === Kind.FRAGMENT_SPREAD)
        walk(fragments.get(selection.name.value)!.selectionSet, value, path);
      else if (selection.kind === Kind.INLINE_FRAGMENT) walk(selection.selectionSet, value, path);
      else {
        const key = (selection.alias ?? selection.name).value;
        const entry = hidden.get(selection);
        const here = [...path, key];
        // Another type's field may have the same key.
        if (!entry) walk(selection.selectionSet, fields[key], here);
        else if (fields[key] === entry.type || fields[key] === null) {
          fields[key] = null;
          errors.set(JSON.stringify(here), errorOf(entry, role, here));
        }
      }
    }
  }

  walk(forbidden.operation.selectionSet, data, []);
  return [...errors.values()];
}

/** Like `hideFields`, but also reports fields of which the data has no rows, since rights do not depend on rows. */
export function hideAlways(forbidden: Forbidden, data: unknown, role: string): GraphQLError[] {
  const errors = hideFields(forbidden, data, role);
  return errors.length > 0 ? errors : forbidden.hidden.map((entry) => errorOf(entry, role));
}

/** Names the forbidden fields that cannot be null in the errors that they caused. */
export function nameForbidden(
  result: ExecutionResult,
  [first]: readonly Hidden[],
  role: string,
): ExecutionResult {
  if (!first || !result.errors) return result;
  const named = (error: GraphQLError) =>
    isMissingRight(error) ? errorOf(first, role, error.path ?? []) : error;
  return { ...result, errors: result.errors.map(named) };
}
