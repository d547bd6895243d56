// Limits of a document, and the cost of its operations. One walk counts levels, fields, aliases and directives before
// validation, which alone can take seconds, and prepares the cost, which depends on the variables.
import {
  getNamedType,
  GraphQLError,
  isCompositeType,
  isListType,
  isNonNullType,
  Kind,
  Lexer,
  OperationTypeNode,
  parse,
  Source,
  specifiedRules,
  TokenKind,
  validate,
  valueFromASTUntyped,
  type DefinitionNode,
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
  type ValueNode,
} from "grafast/graphql";
import type { BoundedMap } from "../bounded-map.ts";
import { apiError } from "../graphql/errors.ts";

export const MAX_BODY_BYTES = 500_000;

// Numbers of things in a document, fragments spelled out. More of them make parsing, validation and planning, which
// nothing can interrupt, take longer than the tens of milliseconds that they take at these bounds.
const MAX_TOKENS = 5_000;
const MAX_ALIASES = 30;
const MAX_DIRECTIVES = 50;
const MAX_FIELDS = 500;
/** Fields of all operations of a document together: each is validated, whichever is asked for. */
const MAX_FIELDS_OF_DOCUMENT = 2 * MAX_FIELDS;
/** Fields with selections of their own: planning takes milliseconds for each. */
const MAX_OBJECTS = 100;
/** Levels of brackets: the parser calls itself for each. */
const MAX_NESTING = 100;
const MAX_VALIDATION_ERRORS = 20;

/** Levels and number of values in the variables: they are walked by recursion in GraphQL and PostGraphile. */
const MAX_VALUE_DEPTH = 50;
const MAX_VALUES = 20_000;

// Cost units. One is about the work for one object of a response.
/** Cost of a count, a sum or a change, which reads or writes rows that the response does not show. */
const COMPUTATION = 50;
const isComputation = /^(totalCount|aggregates|groupedAggregates)$/;
/** Orders and conditions by a relation's rows, computed for each row that is sorted or filtered. */
const isComputedOrder = /_(COUNT|SUM|AVERAGE|MIN|MAX)_/;
const isComputedCondition = /^(aggregates|some|every|none)$|Exist$/;
const isTerms = /^(orderBy|groupBy)$/;
const isConditions = /^(filter|having)$/;
/** Terms of one `orderBy` or `groupBy`: each is a part of the statement. */
const MAX_TERMS = 10;
/** Objects in all filters of an operation: each becomes a part of a statement, and that takes time here. */
const MAX_CONDITIONS = 1_000;
/** Values in all filters of an operation, a variable counted each time it is used: most cost some microseconds here. */
const MAX_FILTER_VALUES = 10_000;
const VALUES_PER_COST = 10;

const OPENING = new Set<TokenKind>([TokenKind.BRACE_L, TokenKind.BRACKET_L, TokenKind.PAREN_L]);
const CLOSING = new Set<TokenKind>([TokenKind.BRACE_R, TokenKind.BRACKET_R, TokenKind.PAREN_R]);

export interface Limits {
  maxDepth: number;
  defaultPageSize: number;
  maxPageSize: number;
}

export interface CheckedDocument {
  document?: DocumentNode;
  errors?: readonly GraphQLError[];
  /** True if it selects __schema or __type. */
  introspects?: boolean;
}

type Variables = Readonly<Record<string, unknown>>;

/** Counters of one evaluation of the cost. */
interface Evaluation {
  variables: Variables;
  conditions: number;
  values: number;
}
/** The cost of a part, given the size of the page that its lists are of. */
type Cost = (evaluation: Evaluation, page: number | undefined) => number;

interface Measure {
  depth: number;
  fields: number;
  objects: number;
  aliases: number;
  directives: number;
  cost: Cost;
}

const nothing = (): Measure => ({
  depth: 0,
  fields: 0,
  objects: 0,
  aliases: 0,
  directives: 0,
  cost: () => 0,
});

const costs = new WeakMap<OperationDefinitionNode, (variables: Variables) => number>();

export function findOperation(
  document: DocumentNode,
  operationName: string | null | undefined,
): OperationDefinitionNode | undefined {
  const operations = document.definitions.filter((node) => node.kind === Kind.OPERATION_DEFINITION);
  return operationName ? operations.find(({ name }) => name?.value === operationName) : operations[0];
}

/** The cost of an operation of a document that was checked; throws if its arguments hold too much. */
export const costOf = (operation: OperationDefinitionNode, variables: Variables): number =>
  costs.get(operation)!(variables);

/** Walks a document with its fragments spelled out, in time linear in its length. */
function measure(schema: GraphQLSchema, document: DocumentNode, limits: Limits) {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  const known = new Map<string, Measure>();
  let introspects = false;

  const ofFragment = (name: string): Measure => {
    const measured = known.get(name);
    if (measured) return measured;
    const fragment = fragments.get(name);
    // Set before it is measured, so that a fragment that contains itself ends; validation rejects it.
    known.set(name, nothing());
    if (!fragment) return nothing();
    const result = ofSelections(fragment.selectionSet, schema.getType(fragment.typeCondition.name.value));
    known.set(name, result);
    return result;
  };

  const ofSelections = ({ selections }: SelectionSetNode, type: GraphQLNamedType | undefined): Measure => {
    const total = nothing();
    const parts: Cost[] = [];
    for (const selection of selections) {
      total.directives += selection.directives?.length ?? 0;
      let inner: Measure | undefined;
      if (selection.kind === Kind.FIELD) {
        const field = type && "getFields" in type ? type.getFields()[selection.name.value] : undefined;
        total.fields += 1;
        if (selection.alias && selection.alias.value !== selection.name.value) total.aliases += 1;
        const isMeta = selection.name.value === "__schema" || selection.name.value === "__type";
        introspects ||= isMeta;
        inner =
          selection.selectionSet && ofSelections(selection.selectionSet, field && getNamedType(field.type));
        // Introspection is not planned.
        if (inner && isMeta) inner.objects = 0;
        else if (inner) total.objects += 1;
        // Validation has a rule of its own for how deep introspection may go.
        total.depth = Math.max(total.depth, 1 + (isMeta ? 0 : (inner?.depth ?? 0)));
        if (field && "args" in field) parts.push(costOfField(selection, field, inner?.cost, limits));
      } else {
        if (selection.kind === Kind.FRAGMENT_SPREAD) inner = ofFragment(selection.name.value);
        else {
          const condition = selection.typeCondition && schema.getType(selection.typeCondition.name.value);
          inner = ofSelections(selection.selectionSet, condition ?? type);
        }
        total.depth = Math.max(total.depth, inner.depth);
        parts.push(inner.cost);
      }
      if (!inner) continue;
      total.fields += inner.fields;
      total.objects += inner.objects;
      total.aliases += inner.aliases;
      total.directives += inner.directives;
    }
    total.cost = (evaluation, page) => {
      let cost = 0;
      for (const part of parts) cost += part(evaluation, page);
      return cost;
    };
    return total;
  };

  const operations = document.definitions
    .filter((definition) => definition.kind === Kind.OPERATION_DEFINITION)
    .map((operation) => {
      const root = schema.getRootType(operation.operation) ?? undefined;
      const result = ofSelections(operation.selectionSet, root);
      costs.set(operation, costOfOperation(operation, result.cost));
      return { ...result, directives: result.directives + (operation.directives?.length ?? 0) };
    });
  const unused = [...fragments.values()].filter(({ name }) => !known.has(name.value));
  return { operations, introspects, unused };
}

function costOfOperation(operation: OperationDefinitionNode, cost: Cost) {
  const isMutation = operation.operation === OperationTypeNode.MUTATION;
  const writes = isMutation ? COMPUTATION * operation.selectionSet.selections.length : 0;
  return (given: Variables): number => {
    let variables = given;
    for (const { variable, defaultValue } of operation.variableDefinitions ?? []) {
      const name = variable.name.value;
      if (defaultValue && variables[name] === undefined)
        variables = { ...variables, [name]: valueFromASTUntyped(defaultValue) };
    }
    const evaluation: Evaluation = { variables, conditions: 0, values: 0 };
    const objects = cost(evaluation, undefined);
    const { conditions, values } = evaluation;
    if (conditions > MAX_CONDITIONS)
      throw apiError(
        "BAD_USER_INPUT",
        `The operation's filters have ${conditions} conditions; at most ${MAX_CONDITIONS} are allowed`,
        { limit: MAX_CONDITIONS, given: conditions },
      );
    return 1 + writes + objects + Math.floor(values / VALUES_PER_COST);
  };
}

function costOfField(
  node: FieldNode,
  field: GraphQLField<unknown, unknown>,
  inner: Cost | undefined,
  { defaultPageSize, maxPageSize }: Limits,
): Cost {
  const own = isComputation.test(field.name) ? COMPUTATION : 0;
  const inputs = (node.arguments ?? []).filter(
    ({ name }) => isTerms.test(name.value) || isConditions.test(name.value),
  );
  const computation: Cost = (evaluation) => {
    let cost = own;
    for (const { name, value: given } of inputs) {
      const value = valueOf(given, evaluation);
      cost += isTerms.test(name.value) ? costOfTerms(name.value, value) : costOfConditions(value, evaluation);
    }
    return cost;
  };
  if (!inner || !isCompositeType(getNamedType(field.type))) return computation;
  const isConnection = field.args.some(({ name }) => name === "first");
  const isList = isListType(isNonNullType(field.type) ? field.type.ofType : field.type);
  const argument = (name: string): ValueNode | undefined =>
    node.arguments?.find((argument) => argument.name.value === name)?.value;
  const [first, last] = [argument("first"), argument("last")];
  /** Rows of a page; a size that is too large is rejected by the field itself, with a better message. */
  const pageOf = (evaluation: Evaluation): number => {
    const given = (first && valueOf(first, evaluation)) ?? (last && valueOf(last, evaluation));
    const size = Number(given ?? defaultPageSize);
    return Number.isNaN(size) ? maxPageSize : Math.min(Math.max(size, 0), maxPageSize);
  };
  return (evaluation, page) => {
    const times = isList ? (page ?? defaultPageSize) : 1;
    const ofInner = inner(evaluation, isConnection ? pageOf(evaluation) : undefined);
    return computation(evaluation, page) + times * (1 + ofInner);
  };
}

const valueOf = (node: ValueNode, { variables }: Evaluation): unknown => valueFromASTUntyped(node, variables);

function costOfTerms(name: string, value: unknown): number {
  const terms = [value ?? []].flat();
  if (terms.length > MAX_TERMS)
    throw apiError(
      "BAD_USER_INPUT",
      `\`${name}\` has ${terms.length} terms; at most ${MAX_TERMS} are allowed`,
      { limit: MAX_TERMS, given: terms.length },
    );
  return COMPUTATION * terms.filter((term) => typeof term === "string" && isComputedOrder.test(term)).length;
}

function costOfConditions(value: unknown, evaluation: Evaluation): number {
  if (++evaluation.values > MAX_FILTER_VALUES)
    throw apiError(
      "BAD_USER_INPUT",
      `The operation's filters have more than ${MAX_FILTER_VALUES} values; a variable counts each time it is used`,
      { limit: MAX_FILTER_VALUES },
    );
  if (typeof value !== "object" || value === null) return 0;
  let cost = 0;
  if (Array.isArray(value)) for (const item of value) cost += costOfConditions(item, evaluation);
  else {
    evaluation.conditions++;
    for (const [name, inner] of Object.entries(value))
      cost += (isComputedCondition.test(name) ? COMPUTATION : 0) + costOfConditions(inner, evaluation);
  }
  return cost;
}

const reject = (code: string, message: string, details: Record<string, number> = {}): GraphQLError =>
  new GraphQLError(message, { extensions: { code, ...details } });

function check(schema: GraphQLSchema, document: DocumentNode, limits: Limits): CheckedDocument {
  const { operations, introspects, unused } = measure(schema, document, limits);
  // Unused fragments would be validated without need.
  if (unused.length > 0)
    return {
      errors: unused.map(({ name }) =>
        reject("GRAPHQL_VALIDATION_FAILED", `Fragment "${name.value}" is never used.`),
      ),
    };
  type Key = Exclude<keyof Measure, "cost">;
  const worst = (key: Key): number => Math.max(0, ...operations.map((operation) => operation[key]));
  const bounds: [given: number, limit: number, code: string, things: string][] = [
    [worst("depth"), limits.maxDepth, "QUERY_TOO_DEEP", "The operation has %d levels of fields"],
    [worst("aliases"), MAX_ALIASES, "TOO_MANY_ALIASES", "The operation has %d aliases"],
    [worst("directives"), MAX_DIRECTIVES, "TOO_MANY_DIRECTIVES", "The operation has %d directives"],
    [
      worst("objects"),
      MAX_OBJECTS,
      "TOO_MANY_FIELDS",
      "The operation has %d fields with selections of their own",
    ],
    [worst("fields"), MAX_FIELDS, "TOO_MANY_FIELDS", "The operation has %d fields"],
    [
      operations.reduce((sum, { fields }) => sum + fields, 0),
      MAX_FIELDS_OF_DOCUMENT,
      "TOO_MANY_FIELDS",
      "The operations of the document have %d fields together",
    ],
  ];
  const errors = bounds
    .filter(([given, limit]) => given > limit)
    .map(([given, limit, code, message]) =>
      reject(code, `${message.replace("%d", String(given))}; at most ${limit} are allowed`, { limit, given }),
    );
  return errors.length > 0 ? { errors } : { document, introspects };
}

/** Bounds the values of the variables, each of which may become a part of a statement. */
export function checkVariables(variables: unknown): GraphQLError | undefined {
  let level: unknown[] = [variables];
  let count = 0;
  for (let depth = 0; level.length > 0; depth++) {
    count += level.length;
    if (depth > MAX_VALUE_DEPTH || count > MAX_VALUES)
      return reject(
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

/** Counts tokens and brackets before the parser, which calls itself for each level of brackets. */
function checkTokens(query: string): GraphQLError | undefined {
  const lexer = new Lexer(new Source(query, "GraphQL HTTP Request"));
  let depth = 0;
  for (let tokens = 0; tokens <= MAX_TOKENS; tokens++) {
    const { kind } = lexer.advance();
    if (kind === TokenKind.EOF) return undefined;
    if (OPENING.has(kind)) depth += 1;
    else if (CLOSING.has(kind)) depth -= 1;
    if (depth > MAX_NESTING)
      return reject(
        "QUERY_TOO_DEEP",
        `The document has brackets nested more than ${MAX_NESTING} levels deep`,
        { limit: MAX_NESTING },
      );
  }
  return reject("QUERY_TOO_LARGE", `The document has more than ${MAX_TOKENS} tokens`, { limit: MAX_TOKENS });
}

function parseDocument(schema: GraphQLSchema, query: string, limits: Limits): CheckedDocument {
  try {
    const error = checkTokens(query);
    return error ? { errors: [error] } : check(schema, parse(query, { maxTokens: MAX_TOKENS }), limits);
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
 * A rule of the specification that graphql 16 lacks: nothing can be planned for a subscription without its field. It
 * runs before the others, one of which throws when the condition is a variable.
 */
function checkSubscriptions({ definitions }: DocumentNode): GraphQLError | undefined {
  if (!definitions.some((node) => isSubscriptionRoot(node) && isConditional(node.selectionSet)))
    return undefined;
  const message = "@skip and @include are not allowed on a subscription's root field; omit the field instead";
  return reject("GRAPHQL_VALIDATION_FAILED", message);
}

function validateDocument(schema: GraphQLSchema, document: DocumentNode): CheckedDocument | undefined {
  const conditional = checkSubscriptions(document);
  if (conditional) return { errors: [conditional] };
  const errors = validate(schema, document, specifiedRules, { maxErrors: MAX_VALIDATION_ERRORS });
  if (errors.length === 0) return undefined;
  const extensions = { code: "GRAPHQL_VALIDATION_FAILED" };
  return {
    errors: errors.map(
      ({ message, nodes, source, positions }) =>
        new GraphQLError(message, { nodes, source, positions, extensions }),
    ),
  };
}

/** Parses, measures and validates; documents that passed are cached. */
export function createDocumentCheck(
  schema: GraphQLSchema,
  limits: Limits,
  cache: BoundedMap<string, CheckedDocument>,
) {
  return (query: string, beforeWork: () => void): CheckedDocument => {
    const cached = cache.get(query);
    if (cached) return cached;
    beforeWork();
    const checked = parseDocument(schema, query, limits);
    if (!checked.document) return checked;
    const invalid = validateDocument(schema, checked.document);
    if (invalid) return invalid;
    cache.set(query, checked, query.length * BYTES_PER_CHARACTER);
    return checked;
  };
}

/** Memory that a parsed document takes, measured and rounded up. */
const BYTES_PER_CHARACTER = 150;
