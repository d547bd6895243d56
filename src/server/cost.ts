// What an operation may cost, before it is planned: one per object that its answer can have, more for a computation
// over many rows. Variables and default page sizes are part of it.
import {
  getNamedType,
  isCompositeType,
  isListType,
  isNonNullType,
  Kind,
  OperationTypeNode,
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

/** A count, a sum or a change reads or writes rows that the answer does not show. */
const COMPUTATION = 50;
const isComputation = /^(totalCount|aggregates|groupedAggregates)$/;

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
  const known = new Map<string, number>();
  const defaults = new Map(
    operation.variableDefinitions?.map(({ variable, defaultValue }) => [variable.name.value, defaultValue]),
  );

  const valueOf = (node: ValueNode | undefined): number | undefined => {
    if (node?.kind === Kind.INT) return Number(node.value);
    if (node?.kind !== Kind.VARIABLE) return undefined;
    const name = node.name.value;
    const given = variables[name];
    return given === undefined ? valueOf(defaults.get(name)) : given === null ? undefined : Number(given);
  };

  /** Rows of a page; a size that is too large is refused by the field itself, with a better message. */
  const pageOf = (node: FieldNode): number => {
    const argument = (name: string) =>
      valueOf(node.arguments?.find((given) => given.name.value === name)?.value);
    const size = argument("first") ?? argument("last") ?? sizes.defaultPageSize;
    return Number.isNaN(size) ? sizes.maxPageSize : Math.min(Math.max(size, 0), sizes.maxPageSize);
  };

  const ofField = (
    node: FieldNode,
    field: GraphQLField<unknown, unknown>,
    page: number | undefined,
  ): number => {
    const computation = isComputation.test(field.name) ? COMPUTATION : 0;
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
    const cost = known.get(key);
    if (cost !== undefined || !fragment) return cost ?? 0;
    const type = schema.getType(fragment.typeCondition.name.value);
    const result = type ? ofSelections(fragment.selectionSet, type, page) : 0;
    known.set(key, result);
    return result;
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
  return 1 + writes + ofSelections(operation.selectionSet, root, undefined);
}
