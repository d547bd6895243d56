import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", ".data"] },
  tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ["*.js"] } },
    },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "@typescript-eslint/restrict-template-expressions": "off",
      // GraphQL answers and rows are untyped at the edges; tests say what they expect of them.
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
    },
  },
  // Plugins know PostGraphile only: they stay usable in another process.
  {
    files: ["plugins/**"],
    rules: {
      "no-restricted-imports": ["error", { patterns: ["../src/*", "**/src/**"] }],
    },
  },
);
