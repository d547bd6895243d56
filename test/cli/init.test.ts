import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { splitStatements } from "../../src/database/sql-text.ts";
import { runStrata } from "../support/process.ts";

let place: string;
beforeEach(() => void (place = mkdtempSync(join(tmpdir(), "strata-init-"))));
afterEach(() => rmSync(place, { recursive: true, force: true }));

const NAMES = ["datasets/example.sql", ".env", ".gitignore", "README.md"];

test("makes a folder with an example that is not active", async () => {
  const { code, stdout } = await runStrata(["init", join(place, "shop")]);
  expect(code).toBe(0);
  for (const name of NAMES) expect(stdout).toContain(`Made ${join(place, "shop", name)}\n`);
  expect(stdout).toMatch(/Next: cd .*shop && npx strata-graphql serve\n$/);
  expect(splitStatements(readFileSync(join(place, "shop/datasets/example.sql"), "utf8"))).toEqual([]);
  expect(readFileSync(join(place, "shop/.env"), "utf8")).not.toMatch(/^[^#\n]/m);
});

test("never writes over a file", async () => {
  writeFileSync(join(place, "README.md"), "mine");
  const { code, stdout } = await runStrata(["init", place, "--json"]);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual({
    created: NAMES.slice(0, 3).map((name) => join(place, name)),
    kept: [join(place, "README.md")],
  });
  expect(readFileSync(join(place, "README.md"), "utf8")).toBe("mine");
});

test("a file is no folder", async () => {
  writeFileSync(join(place, "x"), "");
  const { code, stderr } = await runStrata(["init", join(place, "x")]);
  expect([code, stderr]).toEqual([1, expect.stringMatching(/x" is a file; give the name of a folder/)]);
  expect(existsSync(join(place, "x", "datasets"))).toBe(false);
});
