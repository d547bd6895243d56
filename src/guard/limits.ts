// What a document may look like, decided before it is validated: validation itself can be made to take seconds.
import {
  GraphQLError,
  Kind,
  Lexer,
  OperationTypeNode,
  parse,
  Source,
  specifiedRules,
  TokenKind,
  validate,
  type DefinitionNode,
  type DocumentNode,
  type FragmentDefinitionNode,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
} from "grafast/graphql";

const MAX_TOKENS = 5_000;
const MAX_ALIASES = 30;
const MAX_DIRECTIVES = 50;
const MAX_FIELDS = 500;
/** Fields with selections of their own: planning takes milliseconds for each. */
const MAX_OBJECTS = 100;
const MAX_NESTING = 100;
const MAX_VALUE_DEPTH = 50;
const MAX_VALUES = 20_000;
const MAX_VALIDATION_ERRORS = 20;
/** Parsed, each may take 125 bytes. */
const MAX_CACHED_CHARACTERS = 500_000;

const OPENING = new Set<TokenKind>([TokenKind.BRACE_L, TokenKind.BRACKET_L, TokenKind.PAREN_L]);
const CLOSING = new Set<TokenKind>([TokenKind.BRACE_R, TokenKind.BRACKET_R, TokenKind.PAREN_R]);

export const MAX_BODY_BYTES = 500_000;

export interface Limits {
  maxDepth: number;
}

export interface CheckedDocument {
  document?: DocumentNode;
  errors?: readonly GraphQLError[];
  /** Asks for __schema or __type. */
  introspects?: boolean;
}

interface Measure {
  depth: number;
  fields: number;
  objects: number;
  aliases: number;
  directives: number;
}

const nothing = (): Measure => ({ depth: 0, fields: 0, objects: 0, aliases: 0, directives: 0 });

/** Measures a document with its fragments spelled out, in time linear in its length. */
function measure(document: DocumentNode) {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  const known = new Map<string, Measure>();
  let introspects = false;

  const ofFragment = (name: string): Measure => {
    const measured = known.get(name);
    if (measured) return measured;
    const fragment = fragments.get(name);
    // Entered before it is measured: a fragment that contains itself is for validation to refuse.
    known.set(name, nothing());
    const result = fragment ? ofSelections(fragment.selectionSet) : known.get(name)!;
    known.set(name, result);
    return result;
  };

  const ofSelections = ({ selections }: SelectionSetNode): Measure => {
    const total = nothing();
    for (const selection of selections) {
      total.directives += selection.directives?.length ?? 0;
      let inner: Measure | undefined;
      if (selection.kind === Kind.FIELD) {
        total.fields += 1;
        if (selection.alias && selection.alias.value !== selection.name.value) total.aliases += 1;
        const isMeta = selection.name.value === "__schema" || selection.name.value === "__type";
        introspects ||= isMeta;
        inner = selection.selectionSet && ofSelections(selection.selectionSet);
        // Introspection is not planned.
        if (inner && isMeta) inner.objects = 0;
        else if (inner) total.objects += 1;
        // Validation has a rule of its own for how deep introspection may go.
        total.depth = Math.max(total.depth, 1 + (isMeta ? 0 : (inner?.depth ?? 0)));
      } else {
        inner =
          selection.kind === Kind.FRAGMENT_SPREAD
            ? ofFragment(selection.name.value)
            : ofSelections(selection.selectionSet);
        total.depth = Math.max(total.depth, inner.depth);
      }
      if (!inner) continue;
      total.fields += inner.fields;
      total.objects += inner.objects;
      total.aliases += inner.aliases;
      total.directives += inner.directives;
    }
    return total;
  };

  const operations = document.definitions
    .filter((definition) => definition.kind === Kind.OPERATION_DEFINITION)
    .map(({ selectionSet, directives }) => {
      const result = ofSelections(selectionSet);
      return { ...result, directives: result.directives + (directives?.length ?? 0) };
    });
  return { operations, introspects };
}

const refuse = (code: string, message: string, details: Record<string, number>): GraphQLError =>
  new GraphQLError(message, { extensions: { code, ...details } });

function check(document: DocumentNode, { maxDepth }: Limits): CheckedDocument {
  const { operations, introspects } = measure(document);
  const worst = (key: keyof Measure): number => Math.max(0, ...operations.map((operation) => operation[key]));
  const limits: [key: keyof Measure, limit: number, code: string, things: string][] = [
    ["depth", maxDepth, "QUERY_TOO_DEEP", "levels of fields"],
    ["aliases", MAX_ALIASES, "TOO_MANY_ALIASES", "aliases"],
    ["directives", MAX_DIRECTIVES, "TOO_MANY_DIRECTIVES", "directives"],
    ["objects", MAX_OBJECTS, "TOO_MANY_FIELDS", "fields with selections of their own"],
    ["fields", MAX_FIELDS, "TOO_MANY_FIELDS", "fields"],
  ];
  const errors = limits
    .filter(([key, limit]) => worst(key) > limit)
    .map(([key, limit, code, things]) =>
      refuse(code, `The operation has ${worst(key)} ${things}; at most ${limit} are allowed`, {
        limit,
        given: worst(key),
      }),
    );
  return errors.length > 0 ? { errors } : { document, introspects };
}

/** Values are walked by recursion all over GraphQL and PostGraphile, and each may become a part of a statement. */
export function checkVariables(variables: unknown): GraphQLError | undefined {
  let level: unknown[] = [variables];
  let count = 0;
  for (let depth = 0; level.length > 0; depth++) {
    count += level.length;
    if (depth > MAX_VALUE_DEPTH || count > MAX_VALUES)
      return refuse(
        "BAD_USER_INPUT",
        `The variables may hold at most ${MAX_VALUES} values, nested at most ${MAX_VALUE_DEPTH} levels deep`,
        { limit: depth > MAX_VALUE_DEPTH ? MAX_VALUE_DEPTH : MAX_VALUES },
      );
    level = level.flatMap((value) =>
      typeof value === "object" && value !== null ? Object.values(value) : [],
    );
  }
  return undefined;
}

/** The parser recurses, so what it is given is looked at first: how long it is and how deep its brackets go. */
function checkTokens(query: string): GraphQLError | undefined {
  const lexer = new Lexer(new Source(query, "GraphQL HTTP Request"));
  let depth = 0;
  for (let tokens = 0; tokens <= MAX_TOKENS; tokens++) {
    const { kind } = lexer.advance();
    if (kind === TokenKind.EOF) return undefined;
    if (OPENING.has(kind)) depth += 1;
    else if (CLOSING.has(kind)) depth -= 1;
    if (depth > MAX_NESTING)
      return refuse(
        "QUERY_TOO_DEEP",
        `The document has brackets nested more than ${MAX_NESTING} levels deep`,
        {
          limit: MAX_NESTING,
        },
      );
  }
  return refuse("QUERY_TOO_LARGE", `The document has more than ${MAX_TOKENS} tokens`, { limit: MAX_TOKENS });
}

function parseDocument(query: string, limits: Limits): CheckedDocument {
  try {
    const error = checkTokens(query);
    return error ? { errors: [error] } : check(parse(query), limits);
  } catch (error) {
    const { message, source, positions } = error as GraphQLError;
    const extensions = { code: "GRAPHQL_PARSE_FAILED" };
    return { errors: [new GraphQLError(message, { source, positions, extensions })] };
  }
}

const isConditional = ({ selections }: SelectionSetNode): boolean =>
  selections.some(
    (node) =>
      node.directives?.some(({ name }) => name.value === "skip" || name.value === "include") ||
      (node.kind === Kind.INLINE_FRAGMENT && isConditional(node.selectionSet)),
  );

const isSubscriptionRoot = (node: DefinitionNode): node is OperationDefinitionNode | FragmentDefinitionNode =>
  (node.kind === Kind.OPERATION_DEFINITION && node.operation === OperationTypeNode.SUBSCRIPTION) ||
  (node.kind === Kind.FRAGMENT_DEFINITION && node.typeCondition.name.value === "Subscription");

/**
 * A rule of the specification that graphql 16 lacks: nothing can be planned for a subscription without its field. Asked
 * before the others, of which one throws when the condition is a variable.
 */
function checkSubscriptions({ definitions }: DocumentNode): GraphQLError | undefined {
  if (!definitions.some((node) => isSubscriptionRoot(node) && isConditional(node.selectionSet)))
    return undefined;
  const message = "A subscription's field takes no @skip or @include: leave the subscription away instead";
  return refuse("GRAPHQL_VALIDATION_FAILED", message, {});
}

/** Parses, measures and validates; remembers documents that passed, up to a total length. */
export function createDocumentCheck(
  schema: GraphQLSchema,
  limits: Limits,
): (query: string) => CheckedDocument {
  const cache = new Map<string, CheckedDocument>();
  let cachedCharacters = 0;
  return (query) => {
    const cached = cache.get(query);
    if (cached) return cached;
    const checked = parseDocument(query, limits);
    if (!checked.document) return checked;
    const conditional = checkSubscriptions(checked.document);
    if (conditional) return { errors: [conditional] };
    const errors = validate(schema, checked.document, specifiedRules, { maxErrors: MAX_VALIDATION_ERRORS });
    if (errors.length > 0)
      return {
        errors: errors.map(
          ({ message, nodes, source, positions }) =>
            new GraphQLError(message, {
              nodes,
              source,
              positions,
              extensions: { code: "GRAPHQL_VALIDATION_FAILED" },
            }),
        ),
      };
    cachedCharacters += query.length;
    for (const oldest of cache.keys()) {
      if (cachedCharacters <= MAX_CACHED_CHARACTERS) break;
      cache.delete(oldest);
      cachedCharacters -= oldest.length;
    }
    cache.set(query, checked);
    return checked;
  };
}
