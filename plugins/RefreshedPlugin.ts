import type { PgCodec, PgResource } from "@dataplan/pg";
import type {} from "postgraphile";

/** Relations on which cached responses depend. */
export interface Refreshed {
  /** Oids of relations whose rows only a refresh changes. */
  relations: string[];
  /** A text that changes with their definitions and policies. */
  shape: string;
}

declare module "graphql" {
  interface GraphQLSchemaExtensions {
    strataRefreshed?: Refreshed | undefined;
  }
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- must repeat the parameters
  interface GraphQLObjectTypeExtensions<_TSource, _TContext> {
    strataRefreshed?: true | undefined;
  }
  interface GraphQLInputObjectTypeExtensions {
    strataRefreshed?: true | undefined;
  }
  interface GraphQLEnumTypeExtensions {
    /** Names of values that concern the relation itself, not related ones. */
    strataRefreshed?: string[] | undefined;
  }
}

interface Scope {
  pgCodec?: PgCodec | undefined;
  pgTypeResource?: PgResource | undefined;
  isPgConnectionFilterMany?: boolean | undefined;
  isPgConnectionAggregateFilter?: boolean | undefined;
}

/** Marks types of data that only a refresh changes, for the response cache. */
export const RefreshedPlugin: GraphileConfig.Plugin = {
  name: "RefreshedPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLSchema: (config, { input: { strataRefreshed } }) => ({
        ...config,
        extensions: { ...config.extensions, strataRefreshed },
      }),
      GraphQLObjectType(config, build, { scope }) {
        if (!refreshedCodec(build, scope)) return config;
        return { ...config, extensions: { ...config.extensions, strataRefreshed: true } };
      },
      GraphQLInputObjectType(config, build, { scope }) {
        if (!refreshedCodec(build, scope)) return config;
        return { ...config, extensions: { ...config.extensions, strataRefreshed: true } };
      },
      GraphQLEnumType(config, build, { scope }) {
        const codec = refreshedCodec(build, scope);
        if (!codec) return config;
        return { ...config, extensions: { ...config.extensions, strataRefreshed: valuesOf(build, codec) } };
      },
    },
  },
};

const isRefreshed = ({ extensions }: PgCodec): boolean => Boolean(extensions?.tags?.refreshed);

/**
 * Finds the relation of a type if only a refresh changes it. A relation with functions on its rows does not count,
 * since they may read anything.
 */
function refreshedCodec({ pgResources }: GraphileBuild.Build, scope: Scope): PgCodec | undefined {
  if (scope.isPgConnectionFilterMany || scope.isPgConnectionAggregateFilter) return undefined;
  const codec = scope.pgTypeResource?.codec ?? scope.pgCodec;
  if (!codec || !isRefreshed(codec)) return undefined;
  const takesRows = ({ parameters }: PgResource) =>
    (parameters as { codec: PgCodec }[] | undefined)?.some((parameter) => parameter.codec === codec);
  return Object.values(pgResources).some((resource) => takesRows(resource as PgResource)) ? undefined : codec;
}

function valuesOf({ inflection, input: { pgRegistry } }: GraphileBuild.Build, codec: PgCodec): string[] {
  const columns = Object.keys(codec.attributes ?? {}).map((column) => inflection.constantCase(column));
  const relations = Object.entries(pgRegistry.pgRelations[codec.name] ?? {}).flatMap(
    ([relationName, relation]) => {
      const { codec: remote } = relation.remoteResource as PgResource;
      if (relation.isReferencee || !relation.isUnique || !isRefreshed(remote)) return [];
      const field = inflection.singleRelation({ registry: pgRegistry, codec: codec as never, relationName });
      return Object.keys(remote.attributes ?? {}).map((attributeName) =>
        inflection.constantCase(
          `${field}-${inflection.attribute({ codec: remote as never, attributeName })}`,
        ),
      );
    },
  );
  return ["NATURAL", "PRIMARY_KEY", ...columns, ...relations];
}
