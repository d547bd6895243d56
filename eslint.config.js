import tseslint from "typescript-eslint";

/** Folders of src/ in the order of their dependencies: each line may import from the lines above it, and from itself. */
const layers = [
  ["database", "embedded", "processes"],
  ["ingest", "pipeline", "sample", "add"],
  ["graphql", "guard", "export", "http", "worker", "doctor"],
  ["commands"],
];
const direction = layers.flatMap((folders, place) => {
  const later = layers.slice(place + 1).flat();
  return later.length === 0
    ? []
    : {
        files: folders.map((folder) => `src/${folder}/**`),
        rules: {
          "no-restricted-imports": [
            "error",
            { patterns: later.flatMap((folder) => [`../${folder}/*`, `../../${folder}/*`]) },
          ],
        },
      };
});

export default tseslint.config(
  { ignores: ["node_modules", ".data", "dist", "studio/dist", "examples/generated"] },
  tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ["*.js", "bin/*.js", "package/*.js"] } },
    },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", ignoreRestSiblings: true }],
      "@typescript-eslint/restrict-template-expressions": "off",
      // Grafast's types are extended by declaration merging.
      "@typescript-eslint/no-namespace": ["error", { allowDeclarations: true }],
      // PostGraphile's steps, GraphQL answers and rows are untyped at the edges; tests say what to expect of them.
      "@typescript-eslint/no-explicit-any": "off",
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-call": "off",
      "@typescript-eslint/no-unsafe-return": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
    },
  },
  // Plugins know PostGraphile only: they stay usable in another process.
  {
    files: ["plugins/**"],
    rules: {
      "no-restricted-imports": ["error", { patterns: ["../src/*", "../../src/*", "**/src/**"] }],
      // PostGraphile's codecs, resources and steps are generic in everything, which ends in any.
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-return": "off",
    },
  },
  ...direction,
);
