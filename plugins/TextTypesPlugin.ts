import type { PgCodec } from "@dataplan/pg";
import { gatherConfig } from "graphile-build";
import type {} from "postgraphile";

declare global {
  namespace DataplanPg {
    interface PgCodecExtensions {
      /** Set for types that the API shows as PostgreSQL's text. */
      strataText?: true;
    }
  }
}

const asText = (value: string): string => value;

/** Shows types that no other plugin supports, such as multiranges and those of extensions, as PostgreSQL's text. */
export const TextTypesPlugin: GraphileConfig.Plugin = {
  name: "TextTypesPlugin",
  version: "1.0.0",
  after: ["PgCodecsPlugin", "PostgisPlugin"],
  gather: gatherConfig({
    hooks: {
      // Without a codec PostGraphile omits the column and prints a hundred lines.
      pgCodecs_findPgCodec(info, event) {
        const { pgCodec, pgType, serviceName } = event;
        const isValue = pgType.typtype === "b" || pgType.typtype === "m";
        if (pgCodec || !isValue || pgType.typcategory === "A") return;
        const schemaName = pgType.getNamespace()!.nspname;
        event.pgCodec = {
          name: info.inflection.typeCodecName({ pgType, serviceName }),
          sqlType: info.helpers.pgBasics.identifier(schemaName, pgType.typname),
          fromPg: asText,
          toPg: asText,
          attributes: undefined,
          executor: info.helpers.pgIntrospection.getExecutorForService(serviceName),
          extensions: {
            oid: pgType._id,
            pg: { serviceName, schemaName, name: pgType.typname },
            strataText: true,
          },
        } as unknown as PgCodec;
      },
    },
  }),
  schema: {
    hooks: {
      init: {
        before: ["PgCodecsPlugin"],
        callback(_, build) {
          for (const codec of Object.values(build.input.pgRegistry.pgCodecs) as PgCodec[])
            if (codec.extensions?.strataText)
              build.setGraphQLTypeForPgCodec(codec, ["output", "input"], "String");
          return _;
        },
      },
    },
  },
};
