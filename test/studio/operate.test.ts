/** @module-tag long-server */
// What an operator does: run the pipeline, work off the quarantine, bring a file.
import { readFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { describeInBrowser, findingsOf, LONG, useStudio } from "./browser.ts";

describeInBrowser("an operator", () => {
  const studio = useStudio();
  const count = async (text: string, values?: unknown[]): Promise<number> =>
    Number((await studio.sql<{ count: string }>(text, values))[0]!.count);
  const inQuarantine = (where = "true") => count(`select count(*) from analytics.quarantine where ${where}`);
  const outcomeOf = async (page: Page): Promise<string> => {
    const outcome = page.getByRole("status").filter({ hasText: /went on|discarded/ });
    await outcome.waitFor(LONG);
    return (await outcome.textContent())!.trim();
  };

  test("runs the pipeline, and sees it end without asking again", async () => {
    const page = await studio.open("operator");
    await page.getByRole("status", { name: "State of the data" }).getByText("Live").waitFor(LONG);
    await page.getByRole("button", { name: "Run pipeline" }).click();
    const link = page.getByRole("status").getByRole("link", { name: /^Run \d+$/ });
    await link.waitFor(LONG);
    const runId = /\d+/.exec((await link.textContent())!)![0];
    const row = page
      .getByRole("table", { name: "Last runs" })
      .getByRole("row")
      .filter({ hasText: runId })
      .first();
    await row.getByText("succeeded").waitFor(LONG);
    await link.click().catch(() => studio.visit(page, `/runs/${runId}`));
    await page.getByRole("table", { name: "Parts of the run" }).waitFor(LONG);
    await page.getByRole("button", { name: "Run again" }).click();
    await page.waitForURL((url) => /#\/runs\/\d+$/.test(url.href) && !url.href.endsWith(`/${runId}`), LONG);
  });

  test("cleans up with a number of days, after being asked", async () => {
    const page = await studio.open("operator");
    const button = page.getByRole("button", { name: "Clean up …" });
    await button.click();
    const dialog = page.getByRole("dialog", { name: "Clean up staging" });
    expect(await findingsOf(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    // The focus is where it was.
    expect(await page.evaluate("document.activeElement.textContent")).toBe("Clean up …");
    await button.click();
    await dialog.getByLabel("Days to keep").fill("7");
    await dialog.getByRole("button", { name: "Clean up" }).click();
    await page
      .getByRole("status")
      .getByRole("link", { name: /^Run \d+$/ })
      .waitFor(LONG);
    const [run] = await studio.sql<{ arguments: object }>(
      "select arguments from strata.runs where step = 'cleanup' order by run_id desc limit 1",
    );
    expect(run!.arguments).toMatchObject({ daysToKeep: 7 });
  });

  test("sees on the overview what is wrong, until it is over", async () => {
    await studio.sql("select strata.open_incident('freshness', 'users', 'users lacks source rows.')");
    const page = await studio.open("operator");
    const incidents = page.getByRole("list", { name: "Open incidents" });
    await incidents.getByText("users lacks source rows.").waitFor(LONG);
    expect(await findingsOf(page)).toEqual([]);
    const reader = await studio.open("reader");
    await reader.getByRole("table", { name: "Last runs" }).waitFor(LONG);
    expect(await reader.getByText("users lacks source rows.").count()).toBe(0);
    await studio.sql("select strata.resolve_incident('freshness', 'users')");
    const later = await studio.open("operator");
    await later.getByRole("table", { name: "Last runs" }).waitFor(LONG);
    await later.getByText("users lacks source rows.").waitFor({ state: "detached" });
  });

  test("mends a row and retries it: it goes on", async () => {
    const [bad] = await studio.sql<{ id: string; payload: Record<string, string> }>(
      `select quarantine_id as id, payload from analytics.quarantine
       where reasons = '{invalid_number}' and stage = 'ingest' limit 1`,
    );
    const field = Object.entries(bad!.payload).find(([name]) => name === "amount")![0];
    const page = await studio.open("operator", `/quarantine/${bad!.id}`);
    await page.getByRole("textbox", { name: field }).fill("12.50");
    await page.getByRole("button", { name: "Retry with 1 change" }).click();
    expect(await outcomeOf(page)).toMatch(/^1 row went on, 0 came back\./);
    expect(await inQuarantine(`quarantine_id = ${bad!.id}`)).toBe(0);
    expect(
      await count(
        "select count(*) from production.transactions where transaction_id = $1 and amount = 12.5",
        [bad!.payload.transaction_id],
      ),
    ).toBe(1);
  });

  test("counts as come back only what was retried, not what the same transform rejects beside it", async () => {
    const [bad] = await studio.sql<{ id: string; reason: string }>(
      `select quarantine_id as id, reasons[1] as reason from analytics.quarantine
       where stage = 'transform' and not waiting and dataset = 'users' limit 1`,
    );
    await studio.sql(
      "insert into staging.raw_users (user_id, username, email, created_at) select 800000 + n, 'x' || n, 'no address', now() from generate_series(1, 7) n",
    );
    const page = await studio.open("operator", `/quarantine/${bad!.id}`);
    await page.getByRole("button", { name: "Retry as it is" }).click();
    expect(await outcomeOf(page)).toMatch(
      new RegExp(`^0 rows went on, 1 came back, because .*${bad!.reason}.* \\(1\\)`),
    );
    // The others were rejected in that transform.
    expect(await inQuarantine("payload->>'email' = 'no address'")).toBe(7);
    await studio.sql("delete from staging.quarantine where payload->>'email' = 'no address'");
  });

  test("retries all that match, with the number shown first: those that are still wrong come back, with the reason", async () => {
    const reason = "invalid_email";
    const before = await inQuarantine("'valid_email' = any (reasons) or 'invalid_email' = any (reasons)");
    const [{ reason: code } = { reason }] = await studio.sql<{ reason: string }>(
      "select r as reason from analytics.quarantine, unnest(reasons) r where r in ('valid_email', 'invalid_email') limit 1",
    );
    const page = await studio.open("operator", `/quarantine?reason=${code}`);
    await page.getByRole("button", { name: `Retry all ${before} …` }).click();
    const dialog = page.getByRole("dialog");
    expect(await dialog.ariaSnapshot()).toContain(code);
    expect(await findingsOf(page)).toEqual([]);
    await dialog.getByRole("button", { name: /^Retry \d+ rows?$/ }).click();
    expect(await outcomeOf(page)).toMatch(
      new RegExp(`^0 rows went on, ${before} came back, because ${code} \\(${before}\\)\.`),
    );
  });

  test("discards chosen rows, and no other", async () => {
    const before = await inQuarantine();
    const page = await studio.open("operator", "/quarantine");
    const boxes = page
      .getByRole("table", { name: "Quarantined rows" })
      .getByRole("checkbox", { name: /^Choose row/ });
    await boxes.first().check();
    await boxes.nth(1).check();
    await page.getByRole("button", { name: "Discard 2 chosen …" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Discard 2 rows" }).click();
    expect(await outcomeOf(page)).toMatch(/^2 rows discarded\./);
    expect(await inQuarantine()).toBe(before - 2);
  });

  test("brings a CSV file, says what its columns are, and sees what was rejected", async () => {
    const page = await studio.open("operator", "/bring");
    await page.locator("input[type=file]").setInputFiles({
      name: "people.csv",
      mimeType: "text/csv",
      buffer: Buffer.from(
        "user_id,Username,mail,created_at,country,shoe size\n" +
          '90001,"carl, the 1st",carl@example.org,2026-01-02,France,43\n' +
          "ninety,zoe,zoe@example.org,2026-01-02,France,38\n",
      ),
    });
    const columns = page.getByRole("table", { name: /Columns of the file/ });
    await columns.waitFor(LONG);
    // The dataset with the most of these columns is proposed, and fields that are called alike.
    await expect.poll(() => page.getByRole("combobox", { name: "Dataset" }).inputValue(), LONG).toBe("users");
    expect(await page.getByRole("combobox", { name: "Field for Username" }).inputValue()).toBe("username");
    expect(await page.getByRole("combobox", { name: "Field for shoe size" }).inputValue()).toBe("");
    expect(await findingsOf(page)).toEqual([]);
    await page.getByRole("combobox", { name: "Field for mail" }).selectOption("email");
    await page.getByLabel("Source system").fill("studio test");
    await page.getByRole("button", { name: "Bring it into users" }).click();
    await page.getByRole("heading", { name: "It is in staging" }).waitFor(LONG);
    expect(await page.getByRole("region", { name: "It is in staging" }).ariaSnapshot()).toMatch(
      /Rows read[^]*"?2"?[^]*Landed[^]*"?1"?[^]*Rejected[^]*"?1"?/,
    );
    const [landed] = await studio.sql("select * from staging.raw_users where user_id = 90001");
    expect(landed).toMatchObject({
      username: "carl, the 1st",
      email: "carl@example.org",
      source_system: "studio test",
    });
    await page.getByRole("link", { name: "1 row in quarantine, with the reasons" }).click();
    await page.getByRole("table", { name: "Quarantined rows" }).getByText("invalid_integer").waitFor(LONG);
  });

  test("gets a proposal for a file of no dataset, saves its SQL, and brings the file when the dataset is there", async () => {
    const page = await studio.open("operator", "/bring");
    const rows = Array.from({ length: 40 }, (_, n) => `p${n},${n}.25,2026-03-01`).join("\n");
    await page.locator("input[type=file]").setInputFiles({
      name: "Spare Parts.csv",
      mimeType: "text/csv",
      buffer: Buffer.from(`SKU,Unit Price,made on\n${rows}\n`),
    });
    await page.getByRole("button", { name: "Propose a new dataset" }).click(LONG);
    const name = page.getByRole("textbox", { name: "Name of the dataset" });
    expect(await name.inputValue()).toBe("spare_parts");
    // The server's words about what cannot be.
    await name.fill("users");
    await page.getByRole("button", { name: "Propose a dataset" }).click();
    await page.getByRole("alert").getByText("production.users exists already").waitFor(LONG);
    await name.fill("spare_parts");
    await page.getByRole("button", { name: "Propose a dataset" }).click();
    const proposal = page.getByRole("region", { name: "Proposal for spare_parts" });
    await proposal.waitFor(LONG);
    await proposal.getByText("40 rows; the key is sku").waitFor(LONG);
    expect(await proposal.getByRole("table", { name: "Proposed columns" }).ariaSnapshot()).toMatch(
      /unit_price[^]*from “Unit Price”[^]*numeric/,
    );
    expect(await findingsOf(page)).toEqual([]);
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      proposal.getByRole("button", { name: "Save as datasets/spare_parts.sql" }).click(),
    ]);
    expect(download.suggestedFilename()).toBe("spare_parts.sql");
    const sql = readFileSync(await download.path(), "utf8");
    expect(sql).toBe(await proposal.getByRole("group", { name: "SQL of the proposal" }).textContent());
    await proposal.getByText("spare_parts is not there yet").waitFor();
    // As `strata migrate` does.
    await studio.sql(`${sql}; select strata.reconcile()`);
    await page.getByRole("button", { name: "Bring Spare Parts.csv into it" }).click({ timeout: 120_000 });
    await expect
      .poll(() => page.getByRole("combobox", { name: "Field for Unit Price" }).inputValue(), {
        timeout: 120_000,
      })
      .toBe("unit_price");
    await page.getByRole("button", { name: "Bring it into spare parts" }).click();
    await page.getByRole("heading", { name: "It is in staging" }).waitFor(LONG);
    expect(await count("select count(*) from staging.raw_spare_parts where unit_price >= 0")).toBe(40);
  }, 300_000);

  test("brings NDJSON, and may propose a dataset for what fits none", async () => {
    const page = await studio.open("operator", "/bring");
    await page.locator("input[type=file]").setInputFiles({
      name: "parts.ndjson",
      mimeType: "application/x-ndjson",
      // Columns of no dataset, also of none that another test has made.
      buffer: Buffer.from('{"shade": "a", "gloss": 1}\n{"shade": "b", "gloss": 2}\n'),
    });
    await page.getByRole("combobox", { name: "Dataset" }).selectOption({ label: "A new dataset …" });
    await page.getByRole("heading", { name: /A new dataset from parts.ndjson/ }).waitFor(LONG);
    await page.getByRole("button", { name: "Back" }).click();
    await page.getByRole("button", { name: "Propose a new dataset" }).waitFor(LONG);
    await page.getByRole("button", { name: "Another file" }).click();
    await page
      .locator("input[type=file]")
      .setInputFiles({ name: "x.json", mimeType: "application/json", buffer: Buffer.from("[1]") });
    expect(await page.getByRole("alert").textContent()).toContain("write one object per line");
  });

  test("follows relations from a row, filters and orders, in the address", async () => {
    const page = await studio.open("operator", "/explore/transactions");
    const table = page.getByRole("table", { name: "Transactions" });
    await table.getByRole("button", { name: "Amount" }).click();
    await page.waitForURL(/order=amount/);
    await page
      .getByRole("columnheader", { name: "Amount" })
      .and(page.locator("[aria-sort=ascending]"))
      .waitFor(LONG);
    await page.getByRole("button", { name: "Filter" }).click();
    await page.getByRole("combobox", { name: "Column" }).selectOption("status");
    await page.getByRole("textbox", { name: "Value" }).fill("completed");
    await page.getByRole("button", { name: "Add" }).click();
    await page.waitForURL(/where=status%3AequalTo%3Acompleted/);
    const expected = await count("select count(*) from production.transactions where status = 'completed'");
    await page
      .getByRole("navigation", { name: "Pages of the list" })
      .getByText(`${expected.toLocaleString("en-US")} rows`)
      .waitFor(LONG);
    await page.getByRole("button", { name: "Next" }).click();
    await page.waitForURL(/after=/);
    await table
      .getByRole("button", { name: /^Open row/ })
      .first()
      .click();
    await page.getByRole("dialog").getByRole("button", { name: "User", exact: true }).click();
    await page.waitForURL(/explore\/users\?where=userId/);
    await page.getByRole("navigation", { name: "Pages of the list" }).getByText("1 row").waitFor(LONG);
    await page.getByRole("button", { name: /^Open row/ }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Transactions" }).click();
    await page.waitForURL(/explore\/transactions\?where=user\.userId/);
    await table.waitFor(LONG);
  });

  test("retries 100,000 rows by their reason, in one run", async () => {
    await studio.sql(
      `insert into staging.quarantine (dataset, stage, reasons, payload, source_system)
       select 'transactions', 'transform', '{studio_test}', jsonb_build_object('transaction_id', n, 'user_id', u.user_id,
         'amount', 1, 'status', 'completed', 'transaction_date', '2026-01-01T00:00:00'), 'test'
       from generate_series(5000001, 5100000) n, (select min(user_id) as user_id from production.users) u`,
    );
    const page = await studio.open("operator", "/quarantine?dataset=transactions&reason=studio_test");
    await page.getByRole("button", { name: "Retry all 100,000 …" }).click({ timeout: 60_000 });
    const runs = await count("select count(*) from strata.runs where step = 'retry'");
    await page.getByRole("dialog").getByRole("button", { name: "Retry 100,000 rows" }).click();
    const outcome = page.getByRole("status").filter({ hasText: "went on" });
    await outcome.waitFor({ timeout: 240_000 });
    expect((await outcome.textContent())!.trim()).toMatch(/^100,000 rows went on, 0 came back\./);
    expect(await count("select count(*) from strata.runs where step = 'retry'")).toBe(runs + 1);
    expect(await count("select count(*) from production.transactions where transaction_id > 5000000")).toBe(
      100_000,
    );
  }, 300_000);
});
