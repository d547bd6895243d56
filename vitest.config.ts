import { join } from "node:path";
import { defineConfig } from "vitest/config";

// Each file has a process of its own, and many tests start more: what they load is compiled once a machine.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, "node_modules/.cache/compiled");

// `npm test` runs the main tests, in about four minutes; .ci/run sets TEST_LONG=1 and runs all of them.
const isLong = process.env.TEST_LONG === "1";
const isServer = process.env.TEST_DATABASE_URL !== undefined;

export default defineConfig({
  test: {
    tags: [
      { name: "long", description: "runs with TEST_LONG=1", skip: !isLong },
      {
        name: "long-server",
        description:
          "runs with TEST_LONG=1 on TEST_DATABASE_URL, since it is about nothing in which the engines differ",
        skip: !isLong || !isServer,
      },
    ],
    globalSetup: "test/support/global-setup.ts",
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
