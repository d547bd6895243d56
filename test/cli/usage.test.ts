import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeJwt } from "jose";
import { describe, expect, it } from "vitest";
import { strata } from "../support/cli.ts";

const JWT_SECRET = "0123456789abcdef0123456789abcdef";

describe("wrong usage ends with 2 and says what is allowed", () => {
  it.each([
    [["nonsense"], /unknown command 'nonsense'/],
    [["token"], /required option '--role <role>'/],
    [["token", "--role", "king"], /'king' is invalid. Allowed: reader, ingestor, operator/],
    [["token", "--role", "reader", "--ttl", "soon"], /Allowed: a number and s, m, h or d/],
    [["cleanup", "--days", "-1"], /Allowed: a whole number of days from 0 to 36500/],
    [["cleanup", "--days", "999999"], /Allowed: a whole number of days from 0 to 36500/],
    [["refresh", "--everything"], /unknown option '--everything'/],
    [["quarantine", "retry"], /say which rows: ids, --reason and --dataset, or --all/],
    [["quarantine", "discard", "1", "--all"], /say which rows/],
    [["quarantine", "retry", "1", "--patch", "[]"], /Allowed: a JSON object/],
  ])("strata %j", async (args, message) => {
    const result = await strata(args);
    expect(result.stderr).toMatch(message);
    expect(result.code).toBe(2);
    expect(result.stdout).toBe("");
  });
});

it("help is asked for, so it ends with 0", async () => {
  const result = await strata(["--help"]);
  expect(result.code).toBe(0);
  for (const command of ["serve", "worker", "migrate", "sample", "ingest", "transform", "refresh", "cleanup"])
    expect(result.stdout).toContain(`  ${command} `);
});

it("lists every fault of the configuration at once, without the secret", async () => {
  const result = await strata(["status"], {
    PORT: "x",
    MAX_PAGE_SIZE: "0",
    JWT_SECRET: "short-secret",
    LOG_LEVEL: "loud",
  });
  expect(result.code).toBe(1);
  for (const name of ["PORT", "MAX_PAGE_SIZE", "JWT_SECRET", "LOG_LEVEL"])
    expect(result.stderr).toContain(`  ${name}: `);
  expect(result.stderr).not.toContain("short-secret");
});

it("says in a sentence that the data folder cannot be written", async () => {
  const file = join(mkdtempSync(join(tmpdir(), "strata-test-")), "file");
  writeFileSync(file, "");
  const result = await strata(["status"], { DATA_DIR: join(file, "data") });
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(
    /^strata: Cannot write to the data folder ".*" \(ENOTDIR\); set DATA_DIR to a folder you own\n$/,
  );
});

it("says in a sentence that nothing answers at DATABASE_URL, without the password", async () => {
  const result = await strata(["status"], {
    DATABASE_URL: "postgres://ann:pa55word@127.0.0.1:1/db",
    JWT_SECRET,
  });
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(/Nothing answers at 127.0.0.1:1; is PostgreSQL running there\?/);
  expect(result.stderr).not.toMatch(/pa55word|    at /);
});

it("prints a bare token that carries the role, the subject and the lifetime", async () => {
  const result = await strata(["token", "--role", "operator", "--sub", "ann", "--ttl", "15m"], {
    JWT_SECRET,
  });
  expect(result.code).toBe(0);
  const claims = decodeJwt(result.stdout.trim());
  expect(claims).toMatchObject({ role: "strata_operator", sub: "ann" });
  expect(claims.exp! - claims.iat!).toBe(900);

  const unnamed = await strata(["token", "--role", "operator"], { JWT_SECRET });
  expect(decodeJwt(unnamed.stdout.trim()).sub).toBe("strata-cli");
  const empty = await strata(["token", "--role", "operator", "--sub", ""], { JWT_SECRET });
  expect(empty).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("It is empty") });
});
