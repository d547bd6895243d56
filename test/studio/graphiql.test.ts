/** @module-tag long */
// GraphiQL in a browser of 1280 pixels: readable, with titles that stay, and one window is enough to watch runs.
import type { AddressInfo } from "node:net";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TABS } from "../../src/graphql/graphiql-tabs.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { describeInBrowser, launch } from "./browser.ts";

const originOf = ({ app }: TestApp): string =>
  `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;

const YES_OR_NO = [() => true, () => false] as const;

/** Runs what a tab has until its response shows the text. */
async function run(page: Page, name: string, found: string): Promise<void> {
  const [first] = TABS.find(({ title }) => title === name)!.query.split("\n");
  const shown = page.locator(".graphiql-query-editor").getByText(first!);
  // A click on a tab is lost while the editor is being made.
  await expect
    .poll(
      async () => {
        await page.locator(".graphiql-tab-button", { hasText: name }).click();
        return shown.waitFor({ timeout: 5_000 }).then(...YES_OR_NO);
      },
      { timeout: 60_000 },
    )
    .toBe(true);
  // Before GraphiQL has read the document, the button does nothing.
  await expect
    .poll(
      async () => {
        await page.locator(".graphiql-execute-button").click();
        return page
          .locator(".result-window")
          .getByText(found)
          .waitFor({ timeout: 10_000 })
          .then(...YES_OR_NO);
      },
      { timeout: 60_000 },
    )
    .toBe(true);
}

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
    await page.goto(`${originOf(server)}/graphiql`);
    const tab = (name: string) => page.locator(".graphiql-tab-button", { hasText: name });
    const editor = page.locator(".graphiql-query-editor");
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

    await run(page, "Refresh", '"queued"');
    // ReadTarget for before the subscription, but since the page was opened.
    await run(page, "WatchRuns", '"refresh"');
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

describeInBrowser("GraphiQL where nobody may ask without a token", () => {
  let server: TestApp;
  let browser: Browser;
  beforeAll(async () => {
    server = await createTestApp({ ANONYMOUS_ROLE: "" });
    await server.app.listen({ port: 0, host: "127.0.0.1" });
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  /** A page, and what its sockets and requests said of who asks. */
  async function open(path: string, prepare?: (page: Page) => Promise<unknown>) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    const overSocket: unknown[] = [];
    const overHttp: (string | undefined)[] = [];
    page.on("websocket", (socket) =>
      socket.on("framesent", ({ payload }) => {
        const { type, payload: parameters } = JSON.parse(String(payload));
        if (type === "connection_init") overSocket.push(parameters.Authorization ?? parameters.authorization);
      }),
    );
    page.on("request", (request) => {
      if (request.url().endsWith("/graphql")) overHttp.push(request.headers().authorization);
    });
    await prepare?.(page);
    await page.goto(`${originOf(server)}${path}`);
    return { page, overSocket, overHttp, close: () => context.close() };
  }

  test("a person who is logged in watches runs as the person", async () => {
    const { authorization } = server.as.operator;
    const token = authorization!.replace("Bearer ", "");
    const ways: [string, ((page: Page) => Promise<unknown>) | undefined][] = [
      [`/graphiql#token=${token}`, undefined],
      [
        "/graphiql",
        (page) => page.addInitScript(`sessionStorage.setItem("strata:token", ${JSON.stringify(token)})`),
      ],
    ];
    for (const [path, prepare] of ways) {
      const { page, overSocket, overHttp, close } = await open(path, prepare);
      expect(page.url()).toBe(`${originOf(server)}/graphiql`);
      await run(page, "Refresh", '"queued"');
      await run(page, "WatchRuns", '"refresh"');
      expect(new Set([...overSocket, ...overHttp])).toEqual(new Set([authorization]));
      expect(overSocket.length).toBeGreaterThan(0);
      await close();
      // The next page's request would share the queued run, which is older than that page.
      await server.ask("operator", "mutation { refreshAnalytics { run { runId } } }");
    }
  }, 180_000);

  test("what a tab's own headers say comes first, also for a subscription", async () => {
    const { authorization } = server.as.reader;
    const { page, overSocket, close } = await open(
      `/graphiql#token=${server.as.operator.authorization!.replace("Bearer ", "")}`,
      (one) =>
        one.addInitScript(
          `localStorage.setItem("graphiql:tabState", ${JSON.stringify(
            JSON.stringify({
              activeTabIndex: 0,
              tabs: TABS.filter(({ title }) => title === "WatchRuns").map(({ title, query }) => ({
                id: "strata-5",
                hash: "",
                title,
                query,
                variables: null,
                headers: JSON.stringify({ Authorization: authorization }),
                operationName: title,
                response: null,
              })),
            }),
          )}); localStorage.setItem("graphiql:shouldPersistHeaders", "true")`,
        ),
    );
    await server.ask("operator", "mutation { refreshAnalytics { run { runId } } }");
    await run(page, "WatchRuns", '"refresh"');
    expect(new Set(overSocket)).toEqual(new Set([authorization]));
    expect(await page.locator(".graphiql-tab-button").allTextContents()).toEqual(["WatchRuns"]);
    await close();
  }, 120_000);
});
