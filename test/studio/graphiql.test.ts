/** @module-tag long */
// GraphiQL in a browser of 1280 pixels: readable, with titles that stay, and one window is enough to watch runs.
import type { AddressInfo } from "node:net";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TABS } from "../../src/graphql/graphiql-tabs.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { describeInBrowser, launch } from "./browser.ts";

describeInBrowser("GraphiQL", () => {
  let server: TestApp;
  let browser: Browser;
  beforeAll(async () => {
    server = await createTestApp({ ANONYMOUS_ROLE: "operator" });
    await server.app.listen({ port: 0, host: "127.0.0.1" });
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  test("comments are whole, titles stay, and a run is watched where it was asked for", async () => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
    const failed: string[] = [];
    page.on("response", (response) => response.status() >= 400 && failed.push(response.url()));
    await page.goto(`http://127.0.0.1:${(server.app.server.address() as AddressInfo).port}/graphiql`);
    const tab = (name: string) => page.locator(".graphiql-tab-button", { hasText: name });
    const editor = page.locator(".graphiql-query-editor");
    const result = page.locator(".result-window");
    await page.getByLabel("Show Documentation Explorer").click();
    await page.getByText("Root Types").waitFor();
    const toolbar = (await page.locator(".graphiql-toolbar").boundingBox())!;
    for (const { title, query } of TABS) {
      await tab(title).click();
      await editor.getByText(query.split("\n")[0]!).waitFor();
      for (const comment of query.split("\n").filter((line) => line.startsWith("#"))) {
        const box = (await editor.getByText(comment, { exact: true }).boundingBox())!;
        expect(box.x + box.width, comment).toBeLessThanOrEqual(toolbar.x);
      }
    }

    const run = async (name: string, found: string): Promise<void> => {
      await tab(name).click();
      await editor.getByText(TABS.find(({ title }) => title === name)!.query.split("\n")[0]!).waitFor();
      // Before GraphiQL has read the document, the button does nothing.
      await expect
        .poll(
          async () => {
            await page.locator(".graphiql-execute-button").click();
            return result
              .getByText(found)
              .waitFor({ timeout: 10_000 })
              .then(
                () => true,
                () => false,
              );
          },
          { timeout: 60_000 },
        )
        .toBe(true);
    };
    await run("Refresh", '"queued"');
    // Asked for before the subscription, but since the page was opened.
    await run("WatchRuns", '"refresh"');
    expect(await page.locator(".graphiql-tab-button").allTextContents()).toEqual(
      TABS.map(({ title }) => title),
    );

    expect(await page.getByLabel("Show Explain").isVisible()).toBe(false);
    await page.getByLabel("Options").click();
    await page.getByText("Condensed").waitFor();
    expect(await page.getByText("Explain (if supported)").isVisible()).toBe(false);
    expect(failed).toEqual([]);
  });
});
