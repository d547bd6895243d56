/** @module-tag long */
// strata add as a command: SQL on stdout, reasons on stderr, a file only with --write and never over one.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { strata } from "../support/cli.ts";
import { createPlace, type Place } from "../support/database.ts";

let place: Place;
const folder = mkdtempSync(join(tmpdir(), "strata-add-"));
const datasets = join(folder, "datasets");
const file = join(folder, "Big Things.csv");
beforeAll(async () => {
  place = await createPlace({ DATASETS_DIR: datasets });
  writeFileSync(file, `id,Unit Price\n1,2.50\n2,3\n`);
});
afterAll(async () => {
  await place.remove();
  rmSync(folder, { recursive: true, force: true });
});
const add = (...args: string[]) => strata(["add", ...args], place.environment);

test("prints the SQL and why, and writes nothing", async () => {
  const { code, stdout, stderr } = await add(file);
  expect(code).toBe(0);
  expect(stdout).toContain("create table if not exists production.big_things (\n  id integer not null,");
  expect(stdout).toMatch(/--map 'Unit Price=unit_price'\nselect strata\.add_dataset\('big_things'\);\n$/);
  expect(stderr).toMatch(/big_things: 2 rows, key id \(no value occurs twice\)\n/);
  expect(existsSync(datasets)).toBe(false);
});

test("writes when it is told to, never over a file, and not what exists", async () => {
  const written = await add(file, "--name", "things", "--write", "--json");
  const { proposal } = JSON.parse(written.stdout);
  expect(proposal).toMatchObject({
    dataset: "things",
    rows: 2,
    key: ["id"],
    written: true,
    file: join(datasets, "things.sql"),
  });
  expect(readFileSync(proposal.file, "utf8")).toBe(proposal.sql);
  expect(await add(file, "--name", "things", "--write")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/production\.things exists already \(.*things\.sql\)/),
  });
  writeFileSync(join(datasets, "others.sql"), "-- mine");
  expect(await add(file, "--name", "others", "--write")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/others\.sql exists already; nothing was written/),
  });
  expect(readFileSync(join(datasets, "others.sql"), "utf8")).toBe("-- mine");
  expect((await add(file, "--name", "users")).stderr).toMatch(
    /production\.users exists already; change it there/,
  );
});

test.each([
  [["missing.csv"], 1, /Cannot read "missing.csv": there is no such file/],
  [["."], 1, /it is not a file/],
  [["x.csv", "--name", "No Name"], 2, /Allowed: up to 50 of a-z, 0-9 and _/],
  [[], 2, /missing required argument 'file'/],
])("add %j exits with %i", async (args, code, message) => {
  expect(await add(...args)).toMatchObject({ code, stdout: "", stderr: expect.stringMatching(message) });
});
