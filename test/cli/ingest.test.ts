/** @module-tag long */
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
    [["users", "-", "--delimiter", "ab"], 2, /"ab" cannot separate fields; allowed: one character/],
    [["users", "-", "--encoding", "x"], 2, /"x" is not an encoding that is read; allowed: "utf-8"/],
    [["users", "-", "--decimal", "x"], 2, /"x" is not a decimal separator; allowed: "." and ","/],
    [["users", "-", "--timezone", "x"], 2, /"x" is not a time zone; allowed: names of the IANA/],
    [["users", "-", "--set", "username=pg_sleep(9)"], 2, /there is no such function; allowed: coalesce/],
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

  it("reads a file as it is told", async () => {
    const path = file(
      "de.csv",
      Buffer.from("user_id\tcreated_at\tcountry\n81\t1.7.2024 12:00\t\xd6\n82\tNA\t-\n", "latin1"),
    );
    const told = ["--delimiter", "tab", "--encoding", "latin-1", "--timezone", "Europe/Berlin"];
    const { code } = await run([
      ...["ingest", "users", path, "--date-format", "DD.MM.YYYY", "--null", "NA", "--null", "-"],
      ...told,
    ]);
    expect(code).toBe(0);
    const { rows } = await database.pool.query(
      "select created_at::text, country from staging.raw_users where user_id in (81, 82) order by user_id",
    );
    expect(rows).toEqual([
      { created_at: "2024-07-01 10:00:00", country: "Ö" },
      { created_at: null, country: null },
    ]);
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

  it("fails if more rows are rejected than may be, and leaves none", async () => {
    const path = file("limit.csv", "user_id,username\n801,ann\nx,bob\n802,cyd\n");
    const { code, stdout } = await run(["ingest", "users", path, "--max-rejected", "10%"]);
    expect(code).toBe(1);
    expect(stdout).toMatch(
      /ingest failed .*: 1 of the first 3 rows were rejected \(invalid_integer 1\); allowed: 10%/,
    );
    expect(
      (await database.pool.query("select from staging.raw_users where user_id in (801, 802)")).rowCount,
    ).toBe(0);
    const wrong = await run(["ingest", "users", path, "--max-rejected", "few"]);
    expect([wrong.code, wrong.stdout]).toEqual([2, ""]);
    expect(wrong.stderr).toMatch(/"few" is not a limit for rejected rows; allowed: a whole number/);
  });

  it("deletes, replaces, and says in the summary of a run what that did", async () => {
    const rows = (...ids: number[]) =>
      `user_id,username,email\n${ids.map((id) => `${id},u${id},u${id}@example.org\n`).join("")}`;
    await run(["ingest", "users", file("a.csv", rows(901, 902, 903)), "--source", "erp"]);
    await run(["transform"]);
    await run(["ingest", "users", file("b.csv", "user_id\n901\n"), "--delete"]);
    await run([
      "ingest",
      "users",
      file("c.csv", rows(903).replace("u903,", "other,")),
      "--source",
      "erp",
      "--replace",
    ]);
    const { code, stdout } = await run(["transform"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/rows read 2, written 1, replaced 1, deleted 2 \(run \d+\)/);
    await run(["ingest", "users", file("d.csv", rows(903)), "--source", "shop"]);
    expect((await run(["run"])).stdout).toMatch(/replaced 1 \(1 from another source\)/);
    await run([
      "ingest",
      "users",
      file("e.csv", "user_id,username,email\n904,dan,bad\n"),
      "--source",
      "erp",
      "--replace",
    ]);
    const partly = await run(["transform"]);
    expect(partly.code).toBe(1);
    expect(partly.stdout).toMatch(
      /transform failed .*: users: The full snapshot of the source erp \(run \d+\) deleted nothing: 1 of its rows is in quarantine \(run \d+\)/,
    );
    await run([
      "ingest",
      "users",
      file("f.csv", "user_id,username,email\n905,eve,bad\n906,,bad\n907,fay,f@x.org\n"),
    ]);
    expect((await run(["run"])).stdout).toMatch(
      /written \d+, rejected 2 \(valid_email 2, username_missing 1\)/,
    );
    const both = await run(["ingest", "users", "-", "--delete", "--replace"]);
    expect(both.code).toBe(2);
    expect(both.stderr).toMatch(/'--replace' cannot be used with option '--delete'/);
  });

  it("tries a file without a trace", async () => {
    const path = file("try.csv", "user_id,username,email\n951,ann,ann951@example.org\nx,bob,\n");
    const before = await database.pool.query("select count(*) from strata.runs");
    const { code, stdout } = await run(["ingest", "users", path, "--dry-run"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Dry run: nothing was changed. Of 2 rows:\n {2}1 would land in users\n/);
    expect(stdout).toMatch(/1 would be rejected \(invalid_integer 1\)\n {4}line 3: .*x,bob,\n/);
    expect(stdout).toMatch(/would write 1\n/);
    const json = await run(["ingest", "users", path, "--dry-run", "--json", "--max-rejected", "0"]);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({
      dryRun: { rowsRead: 2, rowsLanding: 1, rowsRejected: 1 },
    });
    expect((await database.pool.query("select count(*) from strata.runs")).rows).toEqual(before.rows);
  });

  it("makes fields by expressions in deletions, snapshots and trials, and says what is known of a file", async () => {
    const set = [
      "--set",
      "user_id=nr + 970",
      "--set",
      "username=lower(name)",
      "--set",
      "email=name || '@example.org'",
    ];
    const load = (path: string, ...options: string[]) =>
      run(["ingest", "users", path, "--source", "set", ...set, ...options]);
    const people = file("people.csv", "nr,name\n1,ANN\n2,BOB\n3,CYD\n");
    const tried = await load(people, "--dry-run", "--once");
    expect(tried.stdout).toMatch(
      /would land in users\n {4}line 2: {"user_id":"971","username":"ann","email":"ANN@example.org"}\n/,
    );
    expect(tried.stdout).not.toMatch(/--once/);
    expect((await load(people, "--once")).stdout).toMatch(/^ingest succeeded/);
    await run(["transform"]);
    expect((await load(people, "--once")).stdout).toMatch(/^ingest skipped/);
    expect((await load(people, "--dry-run", "--once")).stdout).toMatch(
      /\nWith --once the load does nothing: run \d+ has ingested the same content\.\n/,
    );
    expect((await load(people, "--once", "--set", "country='DE'")).stdout).toMatch(/^ingest succeeded/);

    const gone = file("gone.csv", "nr,name\n1,\n");
    expect((await load(gone, "--delete", "--dry-run")).stdout).toMatch(
      /would delete 1\n {4}line 2, key 971\n/,
    );
    await load(gone, "--delete");
    expect((await run(["transform"])).stdout).toMatch(/deleted 1 /);
    const left = file("left.csv", "nr,name\n3,CYD\n");
    expect((await load(left, "--replace", "--dry-run")).stdout).toMatch(/would delete 1\n {4}key 972\n/);
    await load(left, "--replace");
    expect((await run(["transform"])).stdout).toMatch(/deleted 1 /);
    const { rows } = await database.pool.query(
      "select user_id from production.users where strata_source = 'set'",
    );
    expect(rows).toEqual([{ user_id: 973 }]);
  });

  it("skips a file that it has ingested once", async () => {
    const path = file("once.csv", "user_id,username\n961,ann\n");
    const first = JSON.parse((await run(["ingest", "users", path, "--once", "--json"])).stdout);
    const again = await run(["ingest", "users", path, "--once"]);
    expect(again.code).toBe(0);
    expect(again.stdout).toMatch(
      new RegExp(
        `^ingest skipped: run ${first.run.id} ingested the same content at .*\\(rows written 1\\)\n$`,
      ),
    );
    const changed = file("once.csv", "user_id,username\n961,bob\n");
    expect((await run(["ingest", "users", changed, "--once"])).stdout).toMatch(/^ingest succeeded/);
    const stream = await run(["ingest", "users", "-", "--once"]);
    expect([stream.code, stream.stdout]).toEqual([2, ""]);
    expect(stream.stderr).toMatch(/--once needs a file/);
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
