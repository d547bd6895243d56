import type { CodegenConfig } from "@graphql-codegen/cli";

const config: CodegenConfig = {
  schema: "../schema.graphql",
  documents: ["clients/codegen.ts"],
  generates: {
    "generated/gql/": {
      preset: "client",
      presetConfig: { fragmentMasking: false },
      config: {
        documentMode: "string",
        enumsAsTypes: true,
        importExtension: ".ts",
        useTypeImports: true,
        strictScalars: true,
        scalars: {
          BigFloat: "string",
          BigInt: "string",
          Cursor: "string",
          Date: "string",
          Datetime: "string",
          JSON: "unknown",
        },
      },
    },
  },
};
export default config;
