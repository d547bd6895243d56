/** @module-tag long */
// Every GraphQL and SQL block of README and docs/, run in the order of its page on sample data.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadSample } from "../../src/sample/sample.ts";
import { createTestApp, type Answer, type TestApp } from "../support/app.ts";
import { dropRoles } from "./roles.ts";
import { fileOf, OWN_DATA, pages, type Block } from "./pages.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp({ RATE_LIMIT_COST: "0" });
  await loadSample(server.database.pool, { users: 60, transactions: 600, events: 300 });
});
afterAll(async () => {
  await server?.close();
  await dropRoles();
});

/** A server notices new tables within seconds; until then it does not know their fields. */
async function ask(query: string): Promise<Answer> {
  for (const deadline = Date.now() + 60_000; ; await sleep(100)) {
    const answer = await server.ask("operator", query);
    if (!answer.errors.some(({ extensions }) => extensions.code === "GRAPHQL_VALIDATION_FAILED"))
      return answer;
    if (Date.now() > deadline) return answer;
  }
}

async function run({ language, text }: Block): Promise<void> {
  if (language === "graphql") {
    const { errors, data } = await ask(text);
    // Valid, or it would have been refused for something else before.
    if (/^\s*subscription\b/.test(text)) {
      expect(errors).toMatchObject([{ message: expect.stringContaining("require WebSocket") }]);
      return;
    }
    expect(errors).toEqual([]);
    expect(data).toBeTruthy();
  } else {
    await server.database.pool.query(text);
    // What `strata migrate` does after the files of datasets/.
    if (fileOf(text)) await server.database.pool.query("select strata.reconcile()");
  }
}

const chosen = pages
  .filter(({ name }) => !OWN_DATA.includes(name))
  .map(({ name, blocks }) => ({
    name,
    blocks: blocks.filter(({ language }) => ["graphql", "sql"].includes(language)),
  }))
  .filter(({ blocks }) => blocks.length > 0);

test("there are queries to run", () => {
  expect(chosen.flatMap(({ blocks }) => blocks).length).toBeGreaterThan(10);
});

test.each(chosen)("$name", { timeout: 240_000 }, async ({ blocks }) => {
  for (const block of blocks)
    await run(block).catch((error: Error) => {
      throw new Error(`${block.page}:${block.line}: ${error.message}`, { cause: error });
    });
});
