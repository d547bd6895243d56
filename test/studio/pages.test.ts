/** @module-tag long */
// Each page as each caller: what it says to people who do not see it, and what axe finds.
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { describeInBrowser, findingsOf, LONG, useStudio } from "./browser.ts";

const PAGES = ["/overview", "/runs", "/quarantine", "/explore", "/bring", "/who"];

const settled = async (page: Page): Promise<void> => {
  await page.getByRole("heading", { level: 1 }).waitFor(LONG);
  await page
    .locator(".skeleton")
    .first()
    .waitFor({ state: "detached", ...LONG });
};

describeInBrowser("as an operator", () => {
  const studio = useStudio({ ANONYMOUS_ROLE: "" });

  test("the overview draws the flow of every dataset, says how fresh it is, and has buttons", async () => {
    const page = await studio.open("operator");
    const flow = page.getByRole("region", { name: "Flow of the data" });
    await flow.getByText("Complete").first().waitFor(LONG);
    const datasets = await studio.sql<{ dataset: string }>(
      "select dataset from strata.datasets order by dataset",
    );
    for (const { dataset } of datasets) {
      const name = dataset.charAt(0).toUpperCase() + dataset.slice(1).replaceAll("_", " ");
      expect(await flow.getByRole("list", { name: "Datasets" }).ariaSnapshot()).toContain(
        `listitem "${name}"`,
      );
    }
    expect(await flow.ariaSnapshot()).toMatch(/Complete,[^]* by/);
    expect(await flow.ariaSnapshot()).toMatch(/link "\d+ in quarantine"/);
    expect(await flow.getByRole("list", { name: "Metrics and views" }).ariaSnapshot()).toContain(
      "Daily user metrics",
    );
    for (const name of ["Run pipeline", "Refresh", "Clean up …"])
      expect(await page.getByRole("button", { name }).isEnabled()).toBe(true);
    expect(await page.getByRole("status", { name: "State of the data" }).textContent()).toBe("Live");
  });

  test("a run says what it did, its parts and its datasets", async () => {
    const page = await studio.open("operator", "/runs?step=pipeline");
    await page
      .getByRole("link", { name: /Pipeline/ })
      .first()
      .click();
    await page.getByRole("heading", { name: /^Run \d+Pipeline$/ }).waitFor(LONG);
    const state = await page.getByRole("region", { name: "State of the run" }).ariaSnapshot();
    for (const term of ["Rows read", "Rows written", "Rows rejected", "ReadTarget by", "Queued", "Finished"])
      expect(state).toContain(`term: ${term}`);
    expect(await page.getByRole("table", { name: "Parts of the run" }).ariaSnapshot()).toMatch(
      /Transform[^]*Refresh/,
    );
    expect(await page.getByRole("button", { name: "Run again" }).isEnabled()).toBe(true);
  });

  test("the quarantine has reasons with counts, and a row has its source, text and fields to mend", async () => {
    const page = await studio.open("operator", "/quarantine");
    const reasons = page.getByRole("region", { name: "Reasons" });
    await reasons.waitFor(LONG);
    const [first] = await studio.sql<{ reason: string; rows: string }>(
      "select unnest(reasons) as reason, count(*) as rows from analytics.quarantine group by 1 order by 2 desc limit 1",
    );
    expect(await reasons.ariaSnapshot()).toContain(first!.reason);
    await page.getByRole("table", { name: "Quarantined rows" }).getByRole("link").first().click();
    await page.getByRole("heading", { name: /^Row \d+/ }).waitFor(LONG);
    expect(await page.getByRole("region", { name: "Why" }).ariaSnapshot()).toMatch(
      /Failed at[^]*Source[^]*Tried/,
    );
    expect(await page.getByRole("region", { name: "Mend" }).getByRole("button").allTextContents()).toEqual([
      "Retry as it is",
      "Discard …",
    ]);
  });

  test.each([
    ...PAGES,
    "/runs/4",
    "/quarantine/1",
    "/explore/transactions",
    "/explore/users?view=columns",
    "/explore/events?view=chart",
    "/explore/events?view=map",
  ])(
    "axe finds nothing on %s, in light and in dark; it fits on a screen of 360 pixels",
    { tags: ["long"] },
    async (path) => {
      const light = await studio.open("operator", path);
      await settled(light);
      expect(await findingsOf(light)).toEqual([]);
      const dark = await studio.open("operator", path, {
        colorScheme: "dark",
        viewport: { width: 360, height: 740 },
      });
      await settled(dark);
      expect(await findingsOf(dark)).toEqual([]);
      // Tables scroll inside of their frames; everything else has to be on the screen.
      const over = await dark.evaluate(`[...document.querySelectorAll("body *")]
      .filter((element) => !element.closest(".table-scroll, .side, .hidden") && element.getBoundingClientRect().right > 361)
      .map((element) => element.outerHTML.slice(0, 100))`);
      expect(over).toEqual([]);
    },
  );

  test("without a token it says that it wants one, and takes it from the form", async () => {
    const page = await studio.open("nobody");
    await page.getByRole("status", { name: "State of the data" }).getByText("Not signed in").waitFor(LONG);
    await page.getByRole("link", { name: "Give a token" }).click();
    expect(await findingsOf(page)).toEqual([]);
    const { authorization } = studio.server.as.reader;
    await page.getByRole("textbox", { name: "Token" }).fill("nonsense");
    await page.getByRole("button", { name: "Use this token" }).click();
    expect(await page.getByRole("alert").textContent()).toContain("That is no token");
    await page.getByRole("textbox", { name: "Token" }).fill(authorization!);
    await page.getByRole("button", { name: "Use this token" }).click();
    await page
      .getByRole("region", { name: "You", exact: true })
      .getByText("test-strata_reader")
      .waitFor(LONG);
    expect(await page.getByRole("region", { name: "You", exact: true }).ariaSnapshot()).toMatch(
      /term: Role\s+- definition: reader/,
    );
    await page.getByRole("status", { name: "State of the data" }).getByText("Live").waitFor(LONG);
    // In memory alone: it is gone with the page.
    await page.reload();
    await page.getByRole("region", { name: "You", exact: true }).getByText("anonymous").waitFor(LONG);
  });

  test("a token of the address is taken out of it at once, and kept in the tab only if that is chosen", async () => {
    const page = await studio.open("operator", "/runs?status=failed");
    await page.getByText("No run is like that").waitFor(LONG);
    expect(page.url()).toBe(`${studio.wire.origin}/#/runs?status=failed`);
    expect(await page.evaluate("history.length <= 2")).toBe(true);
    expect(await page.evaluate("[sessionStorage.length, localStorage.length]")).toEqual([0, 0]);
    await studio.visit(page, "/who");
    await page.getByRole("textbox", { name: "Token" }).fill(studio.server.as.operator.authorization!);
    await page.getByLabel("Keep it in this tab").check();
    await page.getByRole("button", { name: "Use this token" }).click();
    await page.getByText("in this tab, until it is closed").waitFor(LONG);
    await page.reload();
    await page.getByText("in this tab, until it is closed").waitFor(LONG);
    await page.getByRole("button", { name: "Forget the token" }).click();
    expect(await page.evaluate("sessionStorage.length")).toBe(0);
  });
});

describeInBrowser("as a reader, and as anonymous who is one", { tags: ["long-server"] }, () => {
  const studio = useStudio({ ANONYMOUS_ROLE: "reader" });

  test.each(["reader", "nobody"] as const)("%s sees the flow, and no button", async (who) => {
    const page = await studio.open(who);
    await page.getByRole("region", { name: "Flow of the data" }).getByText("Complete").first().waitFor(LONG);
    await page.getByRole("status", { name: "State of the data" }).getByText("Live").waitFor(LONG);
    expect(await page.getByRole("button").allTextContents()).toEqual([]);
    expect(await page.getByText("in quarantine").count()).toBe(0);
  });

  test.each(["reader", "nobody"] as const)("%s is told why the quarantine is empty", async (who) => {
    const page = await studio.open(who, "/quarantine");
    await page.getByText("Your role may not read the quarantine").waitFor(LONG);
    expect(await findingsOf(page)).toEqual([]);
  });

  test("columns that the role may not read are named, the others shown", async () => {
    const page = await studio.open("reader", "/explore/users");
    const table = page.getByRole("table", { name: "Users" });
    await table.waitFor(LONG);
    const heads = await table.getByRole("columnheader").allTextContents();
    expect(heads.join()).toContain("Username");
    expect(heads.join()).not.toMatch(/Email(?! verified)/);
  });

  test("readers may not bring data, and are told so", async () => {
    const page = await studio.open("reader", "/bring");
    await page.getByText("Readers and anonymous callers may not push rows").waitFor(LONG);
  });

  test.each(PAGES)("axe finds nothing on %s", async (path) => {
    const page = await studio.open("nobody", path);
    await settled(page);
    expect(await findingsOf(page)).toEqual([]);
  });
});

describeInBrowser("where introspection is switched off", { tags: ["long-server"] }, () => {
  const studio = useStudio({ INTROSPECTION_ROLES: "none" });

  test("explore says so, the pipeline's pages work", async () => {
    const page = await studio.open("operator", "/explore");
    await page.getByText("Your role may not read the schema").waitFor(LONG);
    await studio.visit(page, "/overview");
    await page.getByRole("table", { name: "Last runs" }).waitFor(LONG);
    await studio.visit(page, "/quarantine");
    await page.getByRole("table", { name: "Quarantined rows" }).waitFor(LONG);
  });
});
