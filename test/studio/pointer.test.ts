/** @module-tag long */
// What people do with a mouse, and pages as those see them who may do less.
import { readFileSync } from "node:fs";
import type { Locator, Page } from "playwright-core";
import { expect, test } from "vitest";
import { describeInBrowser, findingsOf, LONG, useStudio } from "./browser.ts";

/** Presses at one part of an element and releases at another; parts of its width. */
async function drag(page: Page, element: Locator, from: number, to: number): Promise<void> {
  const { x, y, width, height } = (await element.boundingBox())!;
  await page.mouse.move(x + width * from, y + height / 2);
  await page.mouse.down();
  await page.mouse.move(x + width * ((from + to) / 2), y + height / 2, { steps: 4 });
  await page.mouse.move(x + width * to, y + height / 2, { steps: 4 });
  await page.mouse.up();
}

describeInBrowser("by mouse", () => {
  const studio = useStudio({ ANONYMOUS_ROLE: "reader" });

  test("the chart zooms by brush, and is as of the last refresh or live", async () => {
    const page = await studio.open("operator", "/explore/transactions?view=chart&measure=sum.amount");
    const chart = page.getByRole("slider");
    await chart.waitFor(LONG);
    await drag(page, chart, 0.3, 0.7);
    await page.waitForURL(/from=.*to=/);
    await studio.visit(page, "/explore/dailyRevenues");
    const version = page.getByRole("group", { name: "Version" });
    await version.getByText("Live", { exact: true }).click(LONG);
    await page.waitForURL(/explore\/dailyRevenuesLive/);
    await page.getByRole("table", { name: /Daily revenues/i }).waitFor(LONG);
    await version.getByText("As of the last refresh").click(LONG);
    await page.waitForURL(/explore\/dailyRevenues$/);
  });

  test("the map counts thousands of points in cells, by SQL; it is dragged, a table, a CSV and a query", async () => {
    await studio.sql(`insert into production.events (event_id, user_id, event_type, event_time, position)
      select 500000 + n, 1, 'view', timestamp '2026-03-01' + make_interval(mins => n), st_setsrid(st_makepoint(-60 + n % 120, n % 50), 4326)
      from generate_series(1, 4000) n`);
    const [{ rows } = { rows: 0 }] = await studio.sql<{ rows: number }>(
      "select count(*)::int as rows from production.events where position is not null",
    );
    const page = await studio.open("operator", "/explore/events?view=map&numbers=shown");
    await page.getByText(`${rows.toLocaleString("en-US")} rows here`).waitFor(LONG);
    const table = page.getByRole("table", { name: "What the map shows" });
    await table.waitFor(LONG);
    const counts = (await table.getByRole("cell").allTextContents()).map((text) =>
      Number(text.replaceAll(",", "")),
    );
    // Fewer cells than points, and no point outside of them.
    expect(counts.length).toBeLessThan(rows / 4);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(rows);
    const [file] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "CSV" }).click(),
    ]);
    expect(
      readFileSync(await file.path(), "utf8")
        .trimEnd()
        .split("\r\n"),
    ).toHaveLength(counts.length + 1);
    await page.getByRole("button", { name: "Zoom in" }).click();
    await page.waitForURL(/box=/);
    const before = page.url();
    await drag(page, page.getByRole("application"), 0.3, 0.6);
    await page.waitForURL((url) => url.href !== before);
    await page.getByRole("button", { name: "Open in GraphiQL" }).click();
    await page.waitForURL(/\/graphiql$/);
    await page.getByRole("tab", { name: "MapOfEvents", exact: true }).waitFor(LONG);
  });

  test("discards one row from its page, and all that match from the list", async () => {
    const inQuarantine = async (where: string): Promise<number> =>
      (
        await studio.sql<{ rows: number }>(
          `select count(*)::int as rows from staging.quarantine where ${where}`,
        )
      )[0]!.rows;
    const [{ id } = { id: "" }] = await studio.sql<{ id: string }>(
      "select quarantine_id::text as id from analytics.quarantine where dataset = 'events' order by 1 limit 1",
    );
    const events = await inQuarantine("dataset = 'events'");
    const page = await studio.open("operator", `/quarantine/${id}`);
    await page.getByRole("button", { name: "Discard …" }).click(LONG);
    await page
      .getByRole("dialog")
      .getByRole("button", { name: /^Discard/ })
      .click();
    await expect.poll(() => inQuarantine("dataset = 'events'"), LONG).toBe(events - 1);
    await studio.visit(page, "/quarantine?dataset=events");
    await page.getByRole("button", { name: `Discard all ${events - 1} …` }).click(LONG);
    await page
      .getByRole("dialog")
      .getByRole("button", { name: /^Discard/ })
      .click();
    await expect.poll(() => inQuarantine("dataset = 'events'"), LONG).toBe(0);
    expect(await inQuarantine("dataset <> 'events'")).toBeGreaterThan(0);
  });

  test.each(
    (["reader", "nobody"] as const).flatMap((who) =>
      [
        "/runs",
        "/runs/4",
        "/explore",
        "/explore/transactions",
        "/explore/transactions?view=chart",
        "/explore/events?view=map",
        "/who",
      ].map((path) => [who, path] as const),
    ),
  )(
    "as %s, %s shows what the role may read, and offers nothing else",
    { tags: ["long"] },
    async (who, path) => {
      const page = await studio.open(who, path);
      await page.getByRole("heading", { level: 1 }).waitFor(LONG);
      await page
        .locator(".skeleton")
        .first()
        .waitFor({ state: "detached", ...LONG });
      expect(await findingsOf(page)).toEqual([]);
      expect(await page.getByRole("alert").allTextContents()).toEqual([]);
      for (const name of ["Run pipeline", "Refresh", "Run again", "Clean up …"])
        expect(
          await page.getByRole("button", { name, exact: true }).and(page.locator(":enabled")).count(),
        ).toBe(0);
      if (path.startsWith("/explore/"))
        expect(await page.getByRole("link", { name: "Transactions", exact: true }).count()).toBe(1);
    },
  );
});
