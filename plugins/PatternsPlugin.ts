import type {} from "graphile-build";

/** LIKE has three characters that are not themselves; connection-filter thinks of two of them. */
export const PatternsPlugin: GraphileConfig.Plugin = {
  name: "PatternsPlugin",
  version: "1.0.0",
  after: ["PgConnectionArgFilterPlugin"],
  schema: {
    hooks: {
      build(build) {
        const escape = (text: string): string => text.replace(/[\\%_]/g, "\\$&");
        return Object.assign(build, { escapeLikeWildcards: escape });
      },
    },
  },
};
