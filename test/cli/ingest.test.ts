// strata ingest and strata sample: what scripts rely on.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { strata } from "../support/cli.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), "strata-files-"));
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await database.drop();
  rmSync(folder, { recursive: true });
});
const run = (args: string[], input?: string) => strata(args, database.environment, input);

describe("strata ingest", () => {
  it("lands a file and prints the run and nothing else", async () => {
    const path = file("people.csv.gz", gzipSync("id,username,note\n1,ann,x\nx,bob,y\n"));
    const map = ["--map", "id=user_id", "--map", "note="];
    const { code, stdout, stderr } = await run([
      "ingest",
      "users",
      path,
      ...map,
      "--source",
      "crm",
      "--json",
    ]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(Object.keys(JSON.parse(stdout))).toEqual(["run"]);
    expect(JSON.parse(stdout).run).toMatchObject({
      step: "ingest",
      trigger: "cli",
      rowsWritten: 1,
      rowsRejected: 1,
    });
    const { rows } = await database.pool.query(
      "select source_name, source_system, source_line::int from staging.quarantine",
    );
    expect(rows).toEqual([{ source_name: "people.csv.gz", source_system: "crm", source_line: 3 }]);
  });

  it("reads standard input", async () => {
    const { code, stdout } = await run(
      ["ingest", "events", "-"],
      '{"event_id": 1, "page": "/"}\n{"event_id": 2}\n',
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ingest succeeded in .* s: rows read 2, written 2 \(run \d+\)\n$/);
  });

  it.each([
    [["users", "missing.csv"], 1, /Cannot read "missing.csv": there is no such file/],
    [["users", "."], 1, /Cannot read ".": it is a folder/],
    [
      ["orders", "-"],
      2,
      /There is no dataset "orders"; there are: users, (events, transactions|transactions, events)\n/,
    ],
    [["users", "-", "--date-format", "D/M/Y"], 2, /"D\/M\/Y" is not a date format; allowed: YYYY/],
    [["users", "-", "--format", "xml"], 2, /Allowed choices are csv, ndjson/],
    [["users"], 2, /missing required argument 'file'/],
    [["users", "-", "--map", "x"], 2, /"x" is not of the form column=field/],
    [
      ["users", "-", "--map", "mail=nope"],
      2,
      /"mail=nope" maps to an unknown field of users; allowed: "user_id"/,
    ],
    [["users", "-", "--source", ""], 2, /The source system "" has 0 characters; allowed: 1 to 50/],
    [["users", "-", "--map", "id=user_id"], 1, /The input is empty/],
  ] as const)("ingest %j exits with %i", async (args, code, message) => {
    const result = await run(["ingest", ...args], "");
    expect(result.stderr).toMatch(message);
    expect(result.code).toBe(code);
    expect(result.stdout).toBe("");
  });

  it("reads dates as it is told, and names the reasons of what it rejects", async () => {
    const path = file("dates.csv", "user_id,created_at\n71,06/10/2011\n72,31/02/2011\nx,1/1/2011\n");
    const { code, stdout } = await run(["ingest", "users", path, "--date-format", "DD/MM/YYYY"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /rows read 3, written 1, rejected 2 \((impossible_date 1, invalid_integer 1|invalid_integer 1, impossible_date 1)\) \(run \d+\)/,
    );
    const { rows } = await database.pool.query(
      "select created_at::text from staging.raw_users where user_id = 71",
    );
    expect(rows).toEqual([{ created_at: "2011-10-06 00:00:00" }]);
  });

  it("fails if every row was rejected", async () => {
    const path = file("none.csv", "user_id,created_at\n1,06/10/2011\n2,today\n");
    const { code, stdout } = await run(["ingest", "users", path, "--json"]);
    expect(code).toBe(1);
    expect(JSON.parse(stdout).run).toMatchObject({
      status: "failed",
      error: "All 2 rows were rejected: ambiguous_date 1, invalid_timestamp 1",
      reasons: { ambiguous_date: 1, invalid_timestamp: 1 },
    });
  });

  it("says what is wrong with the columns", async () => {
    const { code, stderr } = await run(["ingest", "users", file("bad.csv", "user_id,colour\n1,red\n")]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^strata: Unknown column "colour"; allowed for users: "user_id", "username"/);
    const json = await run(["ingest", "users", join(folder, "bad.csv"), "--json"]);
    expect([json.code, json.stderr]).toEqual([1, stderr]);
    expect(JSON.parse(json.stdout)).toEqual({
      run: expect.objectContaining({ status: "failed", error: stderr.slice("strata: ".length).trimEnd() }),
    });
  });
});

describe("strata sample", () => {
  it("loads data of the given size", async () => {
    const sizes = ["--users", "50", "--transactions", "300", "--events", "100", "--seed", "7"];
    // The ingests above landed users of their own, whose places the sample would take.
    const refused = await run(["sample", ...sizes, "--json"]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/other users than those of the sample.*--force/);
    const { code, stdout } = await run(["sample", ...sizes, "--force", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).run).toMatchObject({
      step: "pipeline",
      trigger: "sample",
      status: "succeeded",
    });
    const { rows } = await database.pool.query("select count(*)::int as n from production.transactions");
    expect(rows).toEqual([{ n: 297 }]);
  });
});
