// Finds operations that read only data computed by a refresh, so that their responses are valid until the next one.
import {
  getNamedType,
  isCompositeType,
  isEnumType,
  isInputObjectType,
  isObjectType,
  Kind,
  OperationTypeNode,
  visit,
  TypeInfo,
  visitWithTypeInfo,
  type DocumentNode,
  type GraphQLCompositeType,
  type GraphQLEnumType,
  type GraphQLInputType,
  type GraphQLSchema,
} from "grafast/graphql";

const PLUMBING = new Set(["Query", "PageInfo"]);

const isOurs = (type: GraphQLCompositeType): boolean =>
  PLUMBING.has(type.name) || (isObjectType(type) && Boolean(type.extensions.strataRefreshed));

/** True if the values are about the relation itself, not about what is related to it. */
function isAboutItself(type: GraphQLEnumType): boolean {
  const names = type.extensions.strataRefreshed;
  if (!names) return !/OrderBy$|GroupBy$/.test(type.name);
  return type
    .getValues()
    .every(({ name }) => names.some((own) => name.startsWith(own) && SUFFIX.test(name.slice(own.length))));
}
const SUFFIX = /^(_(ASC|DESC)(_NULLS_(FIRST|LAST))?|_TRUNCATED_TO_[A-Z]+)?$/;

/** Data counts as live unless it is known to be computed by a refresh. */
export function createCacheableCheck(schema: GraphQLSchema): (document: DocumentNode) => boolean {
  const inputs = new Map<string, boolean>();
  const documents = new WeakMap<DocumentNode, boolean>();

  /** Filters and orders can reach other tables, too. */
  function readsOnlyOurs(given: GraphQLInputType): boolean {
    const type = getNamedType(given);
    const known = inputs.get(type.name);
    if (known !== undefined) return known;
    let result = true;
    if (isEnumType(type)) result = isAboutItself(type);
    else if (isInputObjectType(type)) {
      const fields = Object.values(type.getFields());
      inputs.set(type.name, true);
      const isPlain = fields.every((field) => !isInputObjectType(getNamedType(field.type)));
      result =
        (type.extensions.strataRefreshed || isPlain) && fields.every((field) => readsOnlyOurs(field.type));
    }
    inputs.set(type.name, result);
    return result;
  }

  function check(document: DocumentNode): boolean {
    let result = true;
    const types = new TypeInfo(schema);
    const exclude = (): void => void (result = false);
    visit(
      document,
      visitWithTypeInfo(types, {
        OperationDefinition: (node) => (node.operation === OperationTypeNode.QUERY ? undefined : exclude()),
        Field(node) {
          if (node.name.value === "__typename") return;
          const parent = types.getParentType();
          const type = types.getType();
          const field = types.getFieldDef();
          if (!parent || !type || !field) return exclude();
          const named = getNamedType(type);
          if (!isOurs(parent) || (isCompositeType(named) && !isOurs(named))) return exclude();
          // A root field may be a function, or about the server.
          if (parent.name === "Query" && named !== parent && !field.extensions.strataSource) return exclude();
          const used = node.arguments?.map(({ name }) =>
            field.args.find((argument) => argument.name === name.value),
          );
          if (!used?.every((argument) => argument && readsOnlyOurs(argument.type))) return exclude();
        },
      }),
    );
    return result && document.definitions.some(({ kind }) => kind === Kind.OPERATION_DEFINITION);
  }

  return (document) => {
    let result = documents.get(document);
    if (result === undefined) documents.set(document, (result = check(document)));
    return result;
  };
}
