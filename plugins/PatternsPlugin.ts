import type {} from "graphile-build";

/** Escapes the backslash in LIKE patterns, which connection-filter omits beside % and _. */
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
