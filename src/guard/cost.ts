// What an operation may cost, before it is planned: one per object that its answer can have, more for a computation
// over many rows. Variables and default page sizes are part of it.
import {
  getNamedType,
  isCompositeType,
  isListType,
  isNonNullType,
  Kind,
  OperationTypeNode,
  valueFromASTUntyped,
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
import { refusal } from "../graphql/errors.ts";

/** A count, a sum or a change reads or writes rows that the answer does not show. */
const COMPUTATION = 50;
const isComputation = /^(totalCount|aggregates|groupedAggregates)$/;
/** Of a relation with many rows, for each row that is sorted or filtered. */
const isComputedOrder = /_(COUNT|SUM|AVERAGE|MIN|MAX)_/;
const isComputedCondition = /^(aggregates|some|every|none)$|Exist$/;
const isTerms = /^(orderBy|groupBy)$/;
const isConditions = /^(filter|having)$/;
/** Of one `orderBy` or `groupBy`. */
const MAX_TERMS = 10;
/** Objects in all filters of an operation: each becomes a part of a statement, and that takes time here. */
const MAX_CONDITIONS = 1_000;
/** Values in all filters of an operation, a variable counted each time it is used: most cost some microseconds here. */
const MAX_VALUES = 10_000;
const VALUES_PER_COST = 10;

export interface PageSizes {
  defaultPageSize: number;
  maxPageSize: number;
}

type Variables = Readonly<Record<string, unknown>>;

export function findOperation(
  document: DocumentNode,
  operationName: string | null | undefined,
): OperationDefinitionNode | undefined {
  const operations = document.definitions.filter((node) => node.kind === Kind.OPERATION_DEFINITION);
  return operationName ? operations.find(({ name }) => name?.value === operationName) : operations[0];
}

export function costOf(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
  variables: Variables,
  sizes: PageSizes,
): number {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  const known = new Map<string, { cost: number; conditions: number; values: number }>();
  let conditions = 0;
  let values = 0;
  let given = variables;
  for (const { variable, defaultValue } of operation.variableDefinitions ?? []) {
    const name = variable.name.value;
    if (defaultValue && variables[name] === undefined)
      given = { ...given, [name]: valueFromASTUntyped(defaultValue) };
  }
  const valueOf = (node: ValueNode): unknown => valueFromASTUntyped(node, given);

  /** Rows of a page; a size that is too large is refused by the field itself, with a better message. */
  const pageOf = (node: FieldNode): number => {
    const argument = (name: string): unknown => {
      const value = node.arguments?.find((argument) => argument.name.value === name)?.value;
      return value && valueOf(value);
    };
    const size = Number(argument("first") ?? argument("last") ?? sizes.defaultPageSize);
    return Number.isNaN(size) ? sizes.maxPageSize : Math.min(Math.max(size, 0), sizes.maxPageSize);
  };

  const ofTerms = (name: string, value: unknown): number => {
    const terms = [value ?? []].flat();
    if (terms.length > MAX_TERMS)
      throw refusal(
        "BAD_USER_INPUT",
        `\`${name}\` has ${terms.length} terms; at most ${MAX_TERMS} are allowed`,
        { limit: MAX_TERMS, given: terms.length },
      );
    return (
      COMPUTATION * terms.filter((term) => typeof term === "string" && isComputedOrder.test(term)).length
    );
  };

  const ofConditions = (value: unknown): number => {
    if (++values > MAX_VALUES)
      throw refusal(
        "BAD_USER_INPUT",
        `The operation's filters have more than ${MAX_VALUES} values; a variable counts each time it is used`,
        { limit: MAX_VALUES },
      );
    if (typeof value !== "object" || value === null) return 0;
    let cost = 0;
    if (Array.isArray(value)) for (const item of value) cost += ofConditions(item);
    else {
      conditions++;
      for (const [name, inner] of Object.entries(value))
        cost += (isComputedCondition.test(name) ? COMPUTATION : 0) + ofConditions(inner);
    }
    return cost;
  };

  const ofArguments = ({ arguments: list = [] }: FieldNode): number => {
    let cost = 0;
    for (const { name, value } of list) {
      if (isTerms.test(name.value)) cost += ofTerms(name.value, valueOf(value));
      else if (isConditions.test(name.value)) cost += ofConditions(valueOf(value));
    }
    return cost;
  };

  const ofField = (
    node: FieldNode,
    field: GraphQLField<unknown, unknown>,
    page: number | undefined,
  ): number => {
    const computation = (isComputation.test(field.name) ? COMPUTATION : 0) + ofArguments(node);
    const type = getNamedType(field.type);
    if (!isCompositeType(type) || !node.selectionSet) return computation;
    const isConnection = field.args.some(({ name }) => name === "first");
    const isList = isListType(isNonNullType(field.type) ? field.type.ofType : field.type);
    const times = isList ? (page ?? sizes.defaultPageSize) : 1;
    return (
      computation +
      times * (1 + ofSelections(node.selectionSet, type, isConnection ? pageOf(node) : undefined))
    );
  };

  const ofFragment = (name: string, page: number | undefined): number => {
    const fragment = fragments.get(name);
    const key = `${name} ${page}`;
    let result = known.get(key);
    if (result) {
      conditions += result.conditions;
      values += result.values;
    } else if (fragment) {
      const before = { conditions, values };
      const type = schema.getType(fragment.typeCondition.name.value);
      const cost = type ? ofSelections(fragment.selectionSet, type, page) : 0;
      known.set(
        key,
        (result = { cost, conditions: conditions - before.conditions, values: values - before.values }),
      );
    }
    return result?.cost ?? 0;
  };

  const ofSelections = (
    { selections }: SelectionSetNode,
    type: GraphQLNamedType,
    page: number | undefined,
  ): number => {
    let cost = 0;
    for (const selection of selections) {
      if (selection.kind === Kind.FRAGMENT_SPREAD) cost += ofFragment(selection.name.value, page);
      else if (selection.kind === Kind.INLINE_FRAGMENT) {
        const condition = selection.typeCondition && schema.getType(selection.typeCondition.name.value);
        cost += ofSelections(selection.selectionSet, condition ?? type, page);
      } else if ("getFields" in type) {
        const field = type.getFields()[selection.name.value];
        // Introspection is bounded by a validation rule, and the same for everybody.
        if (field && "args" in field) cost += ofField(selection, field, page);
      }
    }
    return cost;
  };

  const root = schema.getRootType(operation.operation);
  if (!root) return 0;
  const writes =
    operation.operation === OperationTypeNode.MUTATION
      ? COMPUTATION * operation.selectionSet.selections.length
      : 0;
  const objects = ofSelections(operation.selectionSet, root, undefined);
  const cost = 1 + writes + objects + Math.floor(values / VALUES_PER_COST);
  if (conditions > MAX_CONDITIONS)
    throw refusal(
      "BAD_USER_INPUT",
      `The operation's filters have ${conditions} conditions; at most ${MAX_CONDITIONS} are allowed`,
      { limit: MAX_CONDITIONS, given: conditions },
    );
  return cost;
}
