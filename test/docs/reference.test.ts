/** @module-tag long */
// docs/reference against the code it is made from.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildReference, REASONS } from "../../docs/build.ts";
import { ERROR_CODES } from "../../src/graphql/codes.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { root } from "./pages.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp();
});
afterAll(() => server?.close());

const read = (name: string): string => readFileSync(join(root, name), "utf8");
const sources = (...patterns: string[]): string =>
  globSync(patterns, { cwd: root })
    .filter((name) => !name.endsWith("codes.ts"))
    .map(read)
    .join("\n");
const found = (text: string, pattern: RegExp): string[] =>
  [...new Set([...text.matchAll(pattern)].map(([, match]) => match!))].sort();

test(
  "generated pages are those of this code; `npm run reference` writes them",
  { timeout: 300_000 },
  async () => {
    for (const [name, text] of Object.entries(await buildReference(server.database.pool)))
      expect([name, read(`docs/reference/${name}`)]).toEqual([name, text]);
  },
);

test("every error code that the code gives is in the table, and no other", () => {
  const given = found(
    sources("src/{graphql,guard,http}/**/*.ts", "plugins/**/*.ts"),
    /(?:apiError\(\s*|reject\(\s*|code: |^ {2}\["[0-9A-Z]+", |MAX_[A-Z]+,\s*|limits\.\w+,\s*|\w+\), [\w.]+, |^\s+)"([A-Z]+(?:_[A-Z]+)*[A-Z]{3})"/gm,
  ).filter((code) => !/^(E[A-Z]+|ERR_.*|FIRST|LAST)$/.test(code));
  const known = Object.keys(ERROR_CODES);
  expect(given.filter((code) => !known.includes(code))).toEqual([]);
  // Those that Fastify chooses by their status.
  const byStatus = ["PAYLOAD_TOO_LARGE", "UNAUTHENTICATED"];
  expect(known.filter((code) => !given.includes(code) && !byStatus.includes(code))).toEqual([]);
});

test("every reason that the code gives is in the table, and no other", () => {
  const typescript = found(sources("src/ingest/*.ts"), /(?:reason: |fault\(|reason: "\w+" \| )"([a-z_]+)"/g);
  const sql = found(
    read("sql/10-datasets.sql").split("function strata.typed_values")[1]!,
    /(?:then|else) '([a-z_]+)'/g,
  );
  const written = found(
    read("sql/40-transform.sql").split("function strata.error_reason")[1]!.slice(0, 700),
    /'(rejected_\w+)'/g,
  );
  const ofLoads = found(
    read("sql/40-transform.sql"),
    /(?:array\['|strata_reasons \|\| ')([a-z_]+)'(?:\]|::text)/g,
  );
  expect([...new Set([...typescript, ...sql, ...written, ...ofLoads])].sort()).toEqual(
    Object.keys(REASONS).sort(),
  );
});

test("docs/reference/http.md names every path of the server", () => {
  const page = read("docs/reference/http.md");
  const paths = found(server.app.printRoutes({ commonPrefix: false }), /── (\S+) \(/g)
    .filter((path) => path !== "*")
    .map((path) => `/${path.replace(/^\//, "").replace(/:(\w+)/g, "{$1}")}`);
  expect(paths.length).toBeGreaterThan(6);
  expect(paths.filter((path) => !page.includes(`\`${path}\``))).toEqual([]);
});
