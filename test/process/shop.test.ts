/** @module-tag long-server */
// docs/shop.md as its reader follows it: the commands and the query of the page, on an empty database.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readPage } from "../docs/pages.ts";
import { createWalk, type Walk } from "../docs/walker.ts";

const page = readPage("docs/shop.md");
let walk: Walk;

beforeAll(async () => {
  walk = await createWalk();
});
afterAll(() => walk?.end());

test("from four files to a dashboard, in under twenty commands", { timeout: 600_000 }, async () => {
  const commands = page.blocks
    .filter(({ language }) => language === "sh")
    .flatMap(({ text }) => text.trim().split("\n"));
  expect(commands.length).toBeLessThan(20);
  await walk.follow(page);
  const { outputs } = walk;
  const data = walk.answers[0];

  const quarantine = outputs.get("npx strata-graphql quarantine")!;
  for (const reason of ["fk_order", "fk_product", "fk_order_line"])
    expect(quarantine).toContain(`'${reason}'`);
  expect(quarantine).toMatch(/Latest 5 rows/);

  const sums = data.categoryRevenues.groupedAggregates;
  expect(sums.map(({ keys }: { keys: string[] }) => keys[0]).sort()).toEqual(["books", "garden", "toys"]);
  expect(Object.fromEntries(sums.map((one: any) => [one.keys[0], one.sum.revenue]))).toEqual(
    revenueOf("2026-02"),
  );
  expect(data.returns.nodes).toEqual([
    {
      reason: expect.any(String),
      orderLine: {
        quantity: expect.any(Number),
        product: { name: expect.any(String) },
        order: { orderedAt: expect.any(String) },
      },
    },
  ]);
});

/** The month's revenue by category, from the files themselves. */
function revenueOf(month: string): Record<string, string> {
  const rows = (name: string): string[][] =>
    readFileSync(join(walk.folder(), `${name}.csv`), "utf8")
      .trim()
      .split("\n")
      .slice(1)
      .map((line) => line.match(/"[^"]*"|[^,]+/g)!);
  const category = new Map(rows("products").map(([sku, , name]) => [sku, name!]));
  const ordered = new Map(rows("orders").map(([id, , , at]) => [id, at!]));
  const cents: Record<string, number> = {};
  for (const [order, , sku, quantity, price] of rows("order_lines")) {
    if (
      !ordered.get(order)?.startsWith(month) ||
      ordered.get(order) === "2026-02-30T10:00:00Z" ||
      !category.has(sku)
    )
      continue;
    const name = category.get(sku)!;
    cents[name] = (cents[name] ?? 0) + Number(quantity) * Math.round(Number(price) * 100);
  }
  return Object.fromEntries(Object.entries(cents).map(([name, sum]) => [name, (sum / 100).toFixed(2)]));
}
