import type { PgCodec, PgCodecRelation, PgResource } from "@dataplan/pg";
import type { GraphQLField } from "grafast/graphql";
import type {} from "graphile-build-pg";
import type {} from "postgraphile";

/** The relation or column that a field's value comes from. */
type FieldSource =
  | { kind: "column"; column: string; codec: PgCodec; of: PgCodec }
  | { kind: "row"; resource: PgResource; key: { argument: string; column: string; codec: PgCodec }[] }
  | { kind: "rows"; resource: PgResource }
  | { kind: "relatedRow" | "relatedRows"; relation: PgCodecRelation }
  | { kind: "payloadRow"; of: PgCodec };

declare module "graphql" {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- must repeat the parameters
  interface GraphQLFieldExtensions<_TSource, _TContext, _TArgs> {
    strataSource?: FieldSource | undefined;
    /** Set if a function returns the rows. */
    strataFunction?: true;
  }
}

/** The relation or column that a role must be allowed to read. */
export interface ReadTarget {
  schema: string;
  relation: string;
  /** Undefined for a field that returns rows of the relation. */
  column: string | undefined;
}

export function sourceOf(field: GraphQLField<unknown, unknown> | null | undefined): ReadTarget | undefined {
  const source = field?.extensions.strataSource;
  if (!source) return undefined;
  const column = source.kind === "column" ? source.column : undefined;
  const { extensions } =
    "of" in source
      ? source.of
      : (("relation" in source ? source.relation.remoteResource : source.resource) as PgResource).codec;
  const { schemaName: schema, name: relation } = extensions?.pg ?? {};
  return schema === undefined || relation === undefined ? undefined : { schema, relation, column };
}

export const isOfFunction = (field: GraphQLField<unknown, unknown>): boolean =>
  field.extensions.strataFunction === true;

/** Records what each field's plan reads, for code that reads the schema without planning. */
export const SourcesPlugin: GraphileConfig.Plugin = {
  name: "SourcesPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLObjectType_fields_field(field, build, { scope }) {
        const { pgCodec, pgFieldAttribute, pgRelationDetails, pgFieldResource } = scope;
        if (/^(?:mutationField|(?:query|type)Field\b)/.test(scope.fieldBehaviorScope ?? ""))
          return { ...field, extensions: { ...field.extensions, strataFunction: true } };
        const source = (): FieldSource | undefined => {
          if (pgFieldAttribute) {
            const attributes = Object.entries(pgCodec?.attributes ?? {});
            const column = attributes.find(([, attribute]) => attribute === pgFieldAttribute)?.[0];
            return column === undefined
              ? undefined
              : { kind: "column", column, codec: pgFieldAttribute.codec, of: pgCodec as PgCodec };
          }
          if (pgRelationDetails) {
            const { registry, codec, relationName } = pgRelationDetails;
            const relation = registry.pgRelations[codec.name]![relationName] as PgCodecRelation;
            if (scope.isPgSingleRelationField) return { kind: "relatedRow", relation };
            if (scope.isPgManyRelationConnectionField) return { kind: "relatedRows", relation };
            return undefined;
          }
          if (scope.isMutationPayload && !scope.pgTypeResource?.parameters) {
            const type = build.getTypeMetaByName(build.graphql.getNamedType(field.type).name);
            const of: GraphileBuild.ScopeObject | undefined = type?.scope;
            return of?.isPgClassType ? { kind: "payloadRow", of: of.pgCodec! } : undefined;
          }
          const resource = pgFieldResource as PgResource | undefined;
          if (!resource || resource.parameters || typeof resource.from === "function") return undefined;
          if (scope.isPgRowByUniqueConstraintField && scope.pgFieldResourceUnique) {
            const { codec } = resource;
            const key = scope.pgFieldResourceUnique.attributes.map((column) => ({
              argument: build.inflection.attribute({ codec, attributeName: column } as never),
              column,
              codec: codec.attributes![column]!.codec,
            }));
            return { kind: "row", resource, key };
          }
          return scope.isPgFieldConnection && scope.isRootQuery ? { kind: "rows", resource } : undefined;
        };
        const strataSource = source();
        return strataSource ? { ...field, extensions: { ...field.extensions, strataSource } } : field;
      },
    },
  },
};
