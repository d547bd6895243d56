// Pages with commands, followed from top to bottom. README always; the others are long: TEST_LONG=1 runs them, as the
// gate does. docs/shop.md is followed always, and its answers compared with its files: test/process/shop.test.ts.
import { afterEach, beforeEach, expect, test } from "vitest";
import { OWN_DATA, pages } from "./pages.ts";
import { dropRoles } from "./roles.ts";
import { createWalk, type Walk } from "./walker.ts";

const walked = pages.filter(
  ({ name, blocks }) => name !== "docs/shop.md" && blocks.some(({ language }) => language === "sh"),
);

let walk: Walk;
beforeEach(async () => {
  walk = await createWalk();
});
afterEach(async () => {
  await walk?.end();
  await dropRoles();
});

const isLong = (name: string): boolean => name !== "README.md";
for (const page of walked)
  test.skipIf(isLong(page.name) && !process.env.TEST_LONG)(page.name, { timeout: 900_000 }, async () => {
    if (!OWN_DATA.includes(page.name))
      await walk.run("npx strata-graphql sample --users 60 --transactions 600 --events 300");
    await walk.follow(page);
    expect(walk.outputs.size).toBeGreaterThan(0);
  });
