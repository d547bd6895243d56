// Fields that the role may not read are null, each with an error; the rest of the response stands. PostgreSQL refuses a
// statement as a whole, so the operation is executed once more without the refused fields.
import type pg from "pg";
import {
  getNamedType,
  GraphQLError,
  isNonNullType,
  isObjectType,
  Kind,
  TypeInfo,
  visit,
  visitWithTypeInfo,
  type DocumentNode,
  type ExecutionResult,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLSchema,
  type SelectionSetNode,
} from "grafast/graphql";
import { sourceOf, type Asked } from "../../plugins/SourcesPlugin.ts";
import { refusal } from "./errors.ts";

/** The fields that PostgreSQL refuses, and the document with `__typename` in the places of those that can be null. */
export interface Forbidden {
  document: DocumentNode | undefined;
  hidden: Hidden[];
  /** Fields that cannot be null, and others where the operation needs them. */
  others: Hidden[];
}

interface Hidden {
  type: string;
  field: string;
  /** The type that the role may read nothing of. */
  of: string | undefined;
  node: FieldNode;
}

const hidden = new WeakMap<FieldNode, Hidden>();

/** Stands for a field that the role may not read. */
export const isHidden = (node: FieldNode): boolean => hidden.has(node);

export function isRefused(error: unknown): boolean {
  let cause = error;
  while (cause instanceof GraphQLError && cause.originalError) cause = cause.originalError;
  return (cause as { code?: unknown }).code === "42501";
}

// A right on any column lets rows be counted.
const REFUSED = `
  select asked.place::integer as place
  from unnest($2::text[], $3::text[], $4::text[]) with ordinality as asked (schema_name, relation, column_name, place)
    join pg_catalog.pg_namespace n on n.nspname = asked.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = asked.relation
  where not pg_catalog.has_schema_privilege($1, n.oid, 'usage')
     or case when asked.column_name is null then not pg_catalog.has_any_column_privilege($1, c.oid, 'select')
             else not pg_catalog.has_column_privilege($1, c.oid, asked.column_name, 'select') end`;

const keyOf = ({ schema, relation, column = "" }: Asked): string =>
  JSON.stringify([schema, relation, column]);

/** Which of its fields the operation was refused for; undefined if it was for something else. */
export async function findForbidden(
  pool: pg.Pool,
  { schema, document }: { schema: GraphQLSchema; document: DocumentNode },
  role: string,
): Promise<Forbidden | undefined> {
  const asked = new Map<string, Asked>();
  const types = new TypeInfo(schema);
  const enter = (): void => {
    const one = sourceOf(types.getFieldDef());
    if (one) asked.set(keyOf(one), one);
  };
  visit(document, visitWithTypeInfo(types, { Field: enter }));
  const list = [...asked.values()];
  const { rows } = await pool.query<{ place: number }>(REFUSED, [
    role,
    list.map((one) => one.schema),
    list.map((one) => one.relation),
    list.map((one) => one.column ?? null),
  ]);
  if (rows.length === 0) return undefined;
  const refused = new Set(rows.map(({ place }) => keyOf(list[place - 1]!)));
  // The same document each time: what is compiled and planned of it lasts as long as the one that was asked.
  let known = made.get(document);
  if (!known) made.set(document, (known = new Map()));
  const key = [...refused].sort().join();
  let forbidden = known.get(key);
  if (!forbidden) known.set(key, (forbidden = without(schema, document, refused)));
  return forbidden;
}

const made = new WeakMap<DocumentNode, Map<string, Forbidden>>();

function without(schema: GraphQLSchema, document: DocumentNode, refused: Set<string>): Forbidden {
  const types = new TypeInfo(schema);
  const others: Hidden[] = [];
  const replaced: Hidden[] = [];
  const changed = visit(
    document,
    visitWithTypeInfo(types, {
      Field(node) {
        const one = sourceOf(types.getFieldDef());
        if (!one || !refused.has(keyOf(one))) return undefined;
        const named = getNamedType(types.getType()!);
        const entry: Hidden = {
          type: types.getParentType()!.name,
          field: node.name.value,
          of: one.column === undefined && isObjectType(named) ? named.name : undefined,
          node,
        };
        if (isNonNullType(types.getType())) return void others.push(entry);
        replaced.push(entry);
        const { alias = node.name, directives, loc } = node;
        const name = { kind: Kind.NAME, value: "__typename" } as const;
        const stand: FieldNode = { kind: Kind.FIELD, alias, name, directives, loc };
        hidden.set(stand, entry);
        return stand;
      },
    }),
  );
  return { document: replaced.length > 0 ? changed : undefined, hidden: replaced, others };
}

const errorOf = ({ type, field, of, node }: Hidden, role: string, path?: readonly (string | number)[]) =>
  new GraphQLError("", {
    nodes: node,
    path,
    originalError: refusal(
      "FORBIDDEN",
      of === undefined
        ? `Your role (${role}) may not read \`${field}\` of \`${type}\``
        : `Your role (${role}) may not read \`${of}\` (\`${field}\` of \`${type}\`)`,
      { role, type, field },
    ),
  });

/** Makes the hidden fields null, wherever they are in the data, and returns an error for each. */
export function hideFields(forbidden: Forbidden, data: unknown, role: string): GraphQLError[] {
  const document = forbidden.document!;
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
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

  for (const definition of document.definitions)
    if (definition.kind === Kind.OPERATION_DEFINITION) walk(definition.selectionSet, data, []);
  // Whether there are rows makes no difference to what is allowed.
  return errors.size > 0 ? [...errors.values()] : forbidden.hidden.map((entry) => errorOf(entry, role));
}

/** Names a field that could not be null alone in the errors that PostgreSQL's refusal led to. */
export function nameForbidden(
  result: ExecutionResult,
  [first]: readonly Hidden[],
  role: string,
): ExecutionResult {
  if (!first || !result.errors) return result;
  const named = (error: GraphQLError) => (isRefused(error) ? errorOf(first, role, error.path ?? []) : error);
  return { ...result, errors: result.errors.map(named) };
}
