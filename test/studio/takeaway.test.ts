/** @module-tag long */
// What people take along from the studio: numbers as CSV, the query in GraphiQL; and pages in the colors of their system.
import { readFileSync } from "node:fs";
import type { Response } from "playwright-core";
import { expect, test } from "vitest";
import { describeInBrowser, findingsOf, LONG, useStudio } from "./browser.ts";
import { isServer } from "../support/database.ts";

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

  test("a function of a table's rows is no list, and takes no table's place", async () => {
    await studio.sql(`create function production.large_payments(at_least numeric) returns setof production.transactions
      language sql stable as $$ select * from production.transactions where amount >= at_least $$;
      create function production.all_payments() returns setof production.transactions
      language sql stable as $$ select * from production.transactions $$;
      grant execute on function production.large_payments, production.all_payments to strata_reader;
      select strata.reconcile()`);
    await expect
      .poll(
        async () =>
          (await studio.server.ask("operator", "{ allPayments(first: 1) { nodes { transactionId } } }"))
            .errors,
        LONG,
      )
      .toEqual([]);
    const page = await studio.open("operator", "/explore/users");
    expect(await page.getByRole("link", { name: /payments/i }).count()).toBe(0);
    await page
      .getByRole("button", { name: /^Open row/ })
      .first()
      .click(LONG);
    await page.getByRole("dialog").getByRole("button", { name: "Transactions" }).click();
    await page.waitForURL(/explore\/transactions\?where=user/);
  });

  test("a chart that is split into more groups than the API gives takes larger steps", async () => {
    await studio.sql(`insert into production.users (user_id, username, email, country)
        select 20000 + n, 'split' || n, 'split' || n || '@example.org', 'Country ' || n from generate_series(1, 40) n;
      insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
        select 900000 + n, 20001 + n % 40, 5, 'completed', timestamp '2026-05-01' + make_interval(hours => n)
        from generate_series(1, 2400) n`);
    const page = await studio.open(
      "operator",
      "/explore/transactions?view=chart&split=USER_COUNTRY&from=2026-05-01&to=2026-08-01",
    );
    await page.getByRole("combobox", { name: "Resolution" }).waitFor(LONG);
    await page.getByText("others").first().waitFor(LONG);
    expect(await page.getByRole("alert").count()).toBe(0);
  });

  test.each(["nobody", "operator"] as const)(
    "a query is opened in GraphiQL, as a tab of the table's name, and answers there: %s",
    async (who) => {
      const page = await studio.open(who, "/explore/transactions");
      await page.getByRole("button", { name: "Open in GraphiQL" }).click();
      await page.waitForURL(/\/graphiql$/);
      await page.getByRole("tab", { name: "Transactions", exact: true }).waitFor(LONG);
      let response!: Response;
      // Before GraphiQL has read the document, the button does nothing.
      await expect
        .poll(async () => {
          const answer = page.waitForResponse(
            (one) =>
              one.url().endsWith("/graphql") && (one.request().postData() ?? "").includes("transactions("),
            { timeout: 10_000 },
          );
          await page.getByRole("button", { name: /Execute query/ }).click();
          return answer.then(
            (one) => Boolean((response = one)),
            () => false,
          );
        }, LONG)
        .toBe(true);
      const { data, errors } = await response.json();
      expect(errors).toBeUndefined();
      expect(data.transactions.nodes.length).toBeGreaterThan(0);
      // By the person's own token, or by the one that the page has on the embedded default.
      const hasToken = response.request().headers().authorization?.startsWith("Bearer ey") ?? false;
      expect(hasToken).toBe(who === "operator" || !isServer);
    },
  );

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
