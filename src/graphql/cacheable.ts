// Which operations read nothing but what a refresh computes: their answers stay the same until the next one.
import {
  getNamedType,
  isCompositeType,
  isEnumType,
  isInputObjectType,
  Kind,
  OperationTypeNode,
  visit,
  TypeInfo,
  visitWithTypeInfo,
  type DocumentNode,
  type GraphQLInputType,
  type GraphQLSchema,
} from "grafast/graphql";

/** Types of the materialized view, of the view on it, and of the calendar that both refer to. */
const OURS = /^(DailyUserMetric(?!s?Live)|QuarterlyRevenue|DimDate)/;
const PLUMBING = new Set(["Query", "PageInfo"]);

/** Whatever is not known to be refreshed data is taken to be live: a new type is safe until it is listed here. */
export function createCacheableCheck(schema: GraphQLSchema): (document: DocumentNode) => boolean {
  const inputs = new Map<string, boolean>();
  const documents = new WeakMap<DocumentNode, boolean>();

  /** Filters and orders can reach other tables, too. */
  function readsOnlyOurs(given: GraphQLInputType): boolean {
    const type = getNamedType(given);
    const known = inputs.get(type.name);
    if (known !== undefined) return known;
    let result = true;
    if (isEnumType(type)) result = OURS.test(type.name) || !/OrderBy$|GroupBy$/.test(type.name);
    else if (isInputObjectType(type)) {
      const fields = Object.values(type.getFields());
      inputs.set(type.name, true);
      const isPlain = fields.every((field) => !isInputObjectType(getNamedType(field.type)));
      result = (OURS.test(type.name) || isPlain) && fields.every((field) => readsOnlyOurs(field.type));
    }
    inputs.set(type.name, result);
    return result;
  }

  function check(document: DocumentNode): boolean {
    let result = true;
    const types = new TypeInfo(schema);
    const refuse = (): void => void (result = false);
    visit(
      document,
      visitWithTypeInfo(types, {
        OperationDefinition: (node) => (node.operation === OperationTypeNode.QUERY ? undefined : refuse()),
        Field(node) {
          if (node.name.value === "__typename") return;
          const parent = types.getParentType();
          const type = types.getType();
          const field = types.getFieldDef();
          if (!parent || !type || !field) return refuse();
          const named = getNamedType(type);
          const isOurs = (name: string): boolean => OURS.test(name) || PLUMBING.has(name);
          if (!isOurs(parent.name) || (isCompositeType(named) && !isOurs(named.name))) return refuse();
          // The root's own scalars are about the server, not about this data.
          if (parent.name === "Query" && !isCompositeType(named)) return refuse();
          if (!field.args.every((argument) => readsOnlyOurs(argument.type))) return refuse();
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
