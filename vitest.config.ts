import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitest/config";

// Each file has a process of its own, and many tests start more: what they load is compiled once a machine.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, "node_modules/.cache/compiled");

// `npm test` runs the main tests, in about four minutes; .ci/run sets TEST_LONG=1 and runs all of them.
const isLong = process.env.TEST_LONG === "1";
const isServer = process.env.TEST_DATABASE_URL !== undefined;

const tags = [
  { name: "long", description: "runs with TEST_LONG=1", skip: !isLong },
  {
    name: "long-server",
    description:
      "runs with TEST_LONG=1 on TEST_DATABASE_URL, since it is about nothing in which the engines differ",
    skip: !isLong || !isServer,
  },
];

/** A file that is named on the command line is loaded, and its tests are reported as skipped. */
const namesFiles = process.argv.some((argument) => argument.startsWith("test/"));

/** Files of which the first line gives every test a tag that is skipped; loading 70 of them takes half a minute. */
const skippedFiles = readdirSync(join(import.meta.dirname, "test"), { recursive: true, encoding: "utf8" })
  .filter((file) => !namesFiles && file.endsWith(".test.ts"))
  .map((file) => `test/${file}`)
  .filter((file) => {
    const [firstLine] = readFileSync(join(import.meta.dirname, file), "utf8").split("\n");
    return tags.some(({ name, skip }) => skip && firstLine === `/** @module-tag ${name} */`);
  });

export default defineConfig({
  test: {
    tags,
    globalSetup: "test/support/global-setup.ts",
    include: ["test/**/*.test.ts"],
    exclude: skippedFiles,
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
