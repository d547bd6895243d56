// Which way a query is answered is counted; a compiled read that fails is logged, too.
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
const log: string[] = [];
const METRICS_TOKEN = "a token of the tests";

beforeAll(async () => {
  const logger = pino({ level: "warn" }, { write: (line: string) => void log.push(line) });
  server = await createTestApp({ METRICS_TOKEN }, { logger });
});
afterAll(() => server.close());

async function reads(): Promise<Record<string, number>> {
  const headers = { authorization: `Bearer ${METRICS_TOKEN}` };
  const { body } = await server.inject({ url: "/metrics", headers });
  const counts = body.matchAll(/^strata_reads_total\{path="(\w+)"\} (\d+)$/gm);
  return Object.fromEntries([...counts].map(([, path, count]) => [path, Number(count)]));
}

test("compiled, planned and failed reads are told apart", async () => {
  const ask = (query: string) => server.ask("reader", query);
  await ask("{ users { nodes { username } } }");
  await ask("{ users { aggregates { distinctCount { country } } } }");
  await ask("{ users @include(if: true) { nodes { username } } }");
  expect(await reads()).toEqual({ compiled: 1, planned: 2 });
  expect(log.filter((line) => line.includes("compiled"))).toEqual([]);

  await server.database.pool.query("alter table production.events rename event_type to kind");
  for (let i = 0; i < 3; i++)
    await ask('{ events(filter: { eventType: { equalTo: "s3cret" } }) { totalCount } }');
  expect(await reads()).toEqual({ compiled: 1, planned: 2, fallback: 3 });
  const lines = log.filter((line) => line.includes("a compiled read failed"));
  expect(lines).toHaveLength(1);
  expect(lines[0]).toContain("42703");
  expect(lines[0]).not.toContain("s3cret");
});
