// What people take along from the studio: numbers as CSV, the query in GraphiQL; and pages in the colors of their system.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { describeInBrowser, findingsOf, LONG, useStudio } from "./browser.ts";

describeInBrowser("taken along", () => {
  const studio = useStudio({ ANONYMOUS_ROLE: "reader" });

  async function download(hash: string): Promise<string> {
    const page = await studio.open("operator", hash);
    const button = page.getByRole("button", { name: /^CSV/ });
    await button.and(page.locator(":enabled")).waitFor(LONG);
    const [file] = await Promise.all([page.waitForEvent("download"), button.click()]);
    return readFileSync(await file.path(), "utf8");
  }

  test("a table's CSV has all rows that match, quoted, and no formula", async () => {
    await studio.sql(`insert into production.users (user_id, username, email, country) values
      (9001, '=1+1', 'a@example.org', 'CSV, "land"'), (9002, '-2', 'b@example.org', 'CSV, "land"')`);
    const lines = (
      await download(`/explore/users?where=country:equalTo:${encodeURIComponent('CSV, "land"')}`)
    )
      .trimEnd()
      .split("\r\n");
    const header = lines[0]!.split(",");
    expect(header).toEqual(expect.arrayContaining(["userId", "username", "country"]));
    expect(lines).toHaveLength(3);
    expect(lines[1]).toContain(",'=1+1,");
    expect(lines[1]).toContain(',"CSV, ""land"""');
    expect(lines[2]).toContain(",-2,");
  });

  test("a table's CSV goes on over its pages", async () => {
    const [{ rows }] = (await studio.sql<{ rows: number }>(
      "select count(*)::int as rows from production.transactions",
    )) as [{ rows: number }];
    const lines = (await download("/explore/transactions")).trimEnd().split("\r\n");
    expect(lines).toHaveLength(rows + 1);
    expect(new Set(lines).size).toBe(rows + 1);
  });

  test("a query is opened in GraphiQL, as a tab of the table's name, and answers there", async () => {
    const page = await studio.open("nobody", "/explore/transactions");
    await page.getByRole("button", { name: "Open in GraphiQL" }).click();
    await page.waitForURL(/\/graphiql$/);
    await page.getByRole("tab", { name: "Transactions" }).waitFor(LONG);
    const answer = page.waitForResponse(
      (response) =>
        response.url().endsWith("/graphql") &&
        (response.request().postData() ?? "").includes("transactions("),
    );
    await page.getByRole("button", { name: /Execute query/ }).click();
    const { data, errors } = await (await answer).json();
    expect(errors).toBeUndefined();
    expect(data.transactions.nodes.length).toBeGreaterThan(0);
  });

  test.each(["/overview", "/quarantine", "/explore/events?view=chart", "/explore/events?view=map"])(
    "in forced colors %s keeps what axe looks at, and every button has an edge",
    async (path) => {
      const page = await studio.open("operator", path, { forcedColors: "active" });
      await page.getByRole("heading", { level: 1 }).waitFor(LONG);
      await page
        .locator(".skeleton")
        .first()
        .waitFor({ state: "detached", ...LONG });
      expect(await page.evaluate("matchMedia('(forced-colors: active)').matches")).toBe(true);
      expect(await findingsOf(page)).toEqual([]);
      const flat = await page.evaluate(`[...document.querySelectorAll("button.button, a.button")]
        .filter((element) => getComputedStyle(element).borderTopStyle === "none")
        .map((element) => element.outerHTML.slice(0, 100))`);
      expect(flat).toEqual([]);
    },
  );
});
