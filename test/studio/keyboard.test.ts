/** @module-tag long-server */
// Without a mouse: every page, the chart and the map are reached, read and worked by keys alone.
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { describeInBrowser, LONG, useStudio } from "./browser.ts";

const press = async (page: Page, ...keys: string[]): Promise<void> => {
  for (const key of keys) await page.keyboard.press(key);
};
/** Tab until the focus is on what is called so. */
async function tabTo(page: Page, name: RegExp): Promise<void> {
  for (let tabs = 0; tabs < 60; tabs++) {
    await press(page, "Tab");
    const focused = await page.evaluate<string>(
      "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent ?? '').trim()",
    );
    if (name.test(focused)) return;
  }
  throw new Error(`No Tab leads to ${name}`);
}

describeInBrowser("by keys alone", () => {
  const studio = useStudio();

  test("a walk: skip link, pages, a filter, a row, its relation, and back", async () => {
    const page = await studio.open("operator");
    await page.getByRole("region", { name: "Flow of the data" }).waitFor(LONG);
    await press(page, "Tab");
    expect(await page.evaluate("document.activeElement.textContent.trim()")).toBe("Skip to the content");
    await press(page, "Enter");
    expect(await page.evaluate("document.activeElement.id")).toBe("main");
    await page.evaluate("document.activeElement.blur()");
    await tabTo(page, /^Runs$/);
    // What has the focus is seen to have it.
    expect(await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")).toBe("solid");
    await press(page, "Enter");
    await page.getByRole("table", { name: "Runs" }).waitFor(LONG);
    // A new page is read from its beginning.
    expect(await page.evaluate("document.activeElement.id")).toBe("main");
    expect(await page.title()).toBe("Runs – Strata");
    await tabTo(page, /^any(pipeline|ingest)/);
    await press(page, "ArrowDown");
    await page.waitForURL(/step=pipeline/);
    await tabTo(page, /Pipeline$/);
    await press(page, "Enter");
    await page.getByRole("heading", { name: /^Run \d+/ }).waitFor(LONG);

    await studio.visit(page, "/explore/users");
    await page.getByRole("table", { name: "Users" }).waitFor(LONG);
    await tabTo(page, /^Open row 1$/);
    await press(page, "Enter");
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Transactions" }).waitFor(LONG);
    await tabTo(page, /^Transactions$/);
    await press(page, "Enter");
    await page.waitForURL(/explore\/transactions\?where=/);
    await page.goBack();
    await page.waitForURL(/explore\/users$/);
  });

  test("the chart: its points are read out, it zooms, and it is a table as well", async () => {
    const page = await studio.open("operator", "/explore/transactions?view=chart&measure=sum.amount");
    const chart = page.getByRole("slider");
    await chart.waitFor(LONG);
    expect(await chart.getAttribute("aria-label")).toMatch(/^Total amount by \w+ of transaction date$/);
    await chart.focus();
    await press(page, "Home");
    const first = await chart.getAttribute("aria-valuetext");
    expect(first).toMatch(/^[^:]+: Total amount [\d,.]+$/);
    await press(page, "ArrowRight");
    expect(await chart.getAttribute("aria-valuetext")).not.toBe(first);
    expect(await chart.getAttribute("aria-valuenow")).toBe("1");
    await press(page, "End", "+");
    await page.waitForURL(/from=/);
    await page
      .getByRole("status")
      .filter({ hasText: /^From .* to / })
      .waitFor({ state: "attached", ...LONG });
    await press(page, "0");
    await page.waitForURL((url) => !url.href.includes("from="));
    await tabTo(page, /^Show as table$/);
    await press(page, "Enter");
    const table = page.getByRole("table", { name: /The numbers of the chart/ });
    await table.waitFor(LONG);
    // The same numbers as SQL has.
    const [{ sum } = { sum: "" }] = await studio.sql<{ sum: string }>(
      "select sum(amount) from production.transactions",
    );
    const cells = await table.getByRole("cell").allTextContents();
    const total = cells.reduce((all, text) => all + Number(text.replaceAll(",", "")), 0);
    expect(total).toBeCloseTo(Number(sum), 0);
  });

  test("the map: it moves, zooms, and its cells are a table", async () => {
    const page = await studio.open("operator", "/explore/events?view=map");
    const map = page.getByRole("application");
    const [{ count } = { count: "" }] = await studio.sql<{ count: string }>(
      "select count(*) from production.events where position is not null",
    );
    await page.getByText(`${Number(count).toLocaleString("en-US")} rows here`).waitFor(LONG);
    await map.focus();
    await press(page, "+");
    await page.waitForURL(/box=-90\.000/);
    await press(page, "ArrowLeft");
    await page.waitForURL(/box=-126\.000/);
    expect(await map.getAttribute("aria-label")).toMatch(/^Map of 42/);
    await press(page, "0");
    await page.waitForURL((url) => !url.href.includes("box="));
    await page.getByText(`${Number(count).toLocaleString("en-US")} rows here`).waitFor(LONG);
    await tabTo(page, /^Show as table$/);
    await press(page, "Enter");
    await page.getByRole("table", { name: "What the map shows" }).waitFor(LONG);
  });
});
