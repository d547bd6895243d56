import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
import { parseCronItems } from "graphile-worker";
import { expect, test } from "vitest";
import { loadConfig, VARIABLES } from "../src/config.ts";
import { chance } from "./support/random.ts";

const example = readFileSync(new URL("../.env.example", import.meta.url), "utf8");

test(".env.example names every variable once, and its values are the defaults", () => {
  const named = [...example.matchAll(/^#?([A-Z][A-Z_]+)=/gm)].map(([, name]) => name);
  expect([...named].sort()).toEqual([...VARIABLES].sort());
  expect(loadConfig(parseEnv(example) as NodeJS.ProcessEnv)).toEqual(loadConfig({}));
});

test("every fault is named, with what is allowed, and secrets are not repeated", () => {
  const faulty = () =>
    loadConfig({
      PORT: "70000",
      JWT_SECRET: "hunter2",
      CORS_ORIGINS: "https://a.example/path",
      GRAPHIQL_ROLES: "root",
    });
  expect(faulty).toThrow(/PORT: .*65535.*given "70000"/);
  expect(faulty).toThrow(/JWT_SECRET: expected at least 32 characters\n/);
  expect(faulty).toThrow(/CORS_ORIGINS: expected origins .*without a path/);
  expect(faulty).toThrow(/GRAPHIQL_ROLES: expected a list of anonymous, reader, ingestor, operator, or none/);
  expect(faulty).not.toThrow(/hunter2/);
});

test("a schedule that the worker would not take is a fault of the configuration", () => {
  const wrong = (TRANSFORM_CRON: string) => () => loadConfig({ TRANSFORM_CRON });
  for (const cron of [
    "99 * * * *",
    "* * * 13 *",
    "5-1 * * * *",
    "*/0 * * * *",
    "0 0 * * MON",
    "@hourly",
    "0 * * *",
  ])
    expect(wrong(cron), cron).toThrow(/TRANSFORM_CRON: expected five cron fields, such as '0 \* \* \* \*'/);
  expect(wrong("99 * * * *")).toThrow(
    /: the minute "99" is none of \*, \*\/n, n, n-m with numbers from 0 to 59, given "99 \* \* \* \*"$/,
  );
  expect(loadConfig({ REFRESH_CRON: "*/15 0-6,22 1 * 7" }).REFRESH_CRON).toBe("*/15 0-6,22 1 * 7");
});

test("takes a schedule exactly if the worker does", () => {
  const by = chance(1);
  const parts = [
    "*",
    "*/5",
    "*/0",
    "0",
    "7",
    "12",
    "31",
    "59",
    "60",
    "1-5",
    "5-1",
    "3-3",
    "0-7",
    "MON",
    "",
    "-1",
    "1-",
    "*/",
    "1/2",
    "007",
  ];
  const isTaken = (work: () => unknown): boolean => {
    try {
      work();
      return true;
    } catch {
      return false;
    }
  };
  for (let i = 0; i < 3_000; i++) {
    const field = (): string => (by.is(0.8) ? by.pick(parts) : `${by.pick(parts)},${by.pick(parts)}`);
    const match = Array.from({ length: by.is(0.9) ? 5 : 1 + by.below(6) }, () =>
      by.is(0.6) ? "*" : field(),
    ).join(" ");
    if (match.trim() === "") continue;
    const byWorker = isTaken(() => parseCronItems([{ task: "step", match }]));
    expect([match, isTaken(() => loadConfig({ TRANSFORM_CRON: match }))]).toEqual([match, byWorker]);
  }
});

test("proxies are addresses, networks or names of ranges", () => {
  const proxies = (TRUSTED_PROXIES: string) => () => loadConfig({ TRUSTED_PROXIES }).TRUSTED_PROXIES;
  expect(proxies("loopback, 10.0.0.0/8 fe80::/10 192.168.1.1")()).toHaveLength(4);
  for (const wrong of ["nonsense", "10.0.0.0/33", "10.0.0.0/0", "1.2.3", "::1/129", "10.0.0.0/"])
    expect(proxies(wrong), wrong).toThrow(/TRUSTED_PROXIES: expected addresses, networks such as/);
});

test("a time-out is for all roles or for each", () => {
  const limits = (STATEMENT_TIMEOUT_MS: string) => loadConfig({ STATEMENT_TIMEOUT_MS }).STATEMENT_TIMEOUT_MS;
  expect(limits("5000")).toEqual({ strata_reader: 5000, strata_ingestor: 5000, strata_operator: 5000 });
  expect(limits("reader=1000, operator=0")).toEqual({
    strata_reader: 1000,
    strata_ingestor: 10_000,
    strata_operator: 0,
  });
  for (const wrong of ["root=1", "-1", "soon", "reader="])
    expect(() => limits(wrong), wrong).toThrow(/expected a number from 0/);
});
