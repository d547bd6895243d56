// The studio in a real browser: a server with sample data, a worker, and pages that are watched for what they must not do.
import { existsSync } from "node:fs";
import axe from "axe-core";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, vi } from "vitest";
import { createToken } from "../../src/http/token.ts";
import { loadSample } from "../../src/sample/sample.ts";
import { startWorker } from "../../src/worker/worker.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { createProxy } from "../support/proxy.ts";

// A browser beside other tests on a busy machine takes its time.
vi.setConfig({ testTimeout: 240_000 });

const DEBIAN = "/usr/bin/chromium";
export const executablePath = process.env.CHROMIUM ?? (existsSync(DEBIAN) ? DEBIAN : undefined);
if (!executablePath) {
  const message = "No Chromium: set CHROMIUM to its path, or install the Debian package chromium";
  if (process.env.CI === "true") throw new Error(message);
  console.warn(`\n*** The studio is not tested. ${message} ***\n`);
}
export const describeInBrowser = executablePath ? describe : describe.skip;

// uPlot throws at import where the browser has no language that is one.
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--lang=en-US",
  "--js-flags=--expose-gc",
];

export const launch = (): Promise<Browser> =>
  chromium.launch({ executablePath: executablePath!, args: FLAGS });

/** Everything that passes between the page and the server, which can be cut. */
export interface Wire {
  origin: string;
  /** Ends all connections and takes no new ones. */
  cut(): void;
  restore(): void;
  /** Requests pass, sockets do not. */
  blockSockets(isBlocked: boolean): void;
  close(): void;
}

async function createWire(port: number): Promise<Wire> {
  let areSocketsBlocked = false;
  const proxy = await createProxy(
    { port },
    {
      toServer(data, server, client) {
        if (areSocketsBlocked && /^upgrade: websocket/im.test(data.toString("latin1", 0, 2_000)))
          client.destroy();
        else server.write(data);
      },
    },
  );
  return {
    origin: `http://127.0.0.1:${proxy.port}`,
    cut: () => proxy.leadTo(undefined),
    restore: () => proxy.leadTo({ port }),
    blockSockets(isBlocked) {
      areSocketsBlocked = isBlocked;
      if (isBlocked) proxy.endAll();
    },
    close: () => proxy.close(),
  };
}

type Who = "reader" | "ingestor" | "operator" | "nobody";

export interface Studio {
  server: TestApp;
  wire: Wire;
  /** A page of its own, at an address of the studio. */
  open(who: Who, hash?: string, options?: BrowserContextOptions): Promise<Page>;
  /** The same page in another place. */
  visit(page: Page, hash: string): Promise<void>;
  sql<Row extends object = Record<string, any>>(text: string, values?: unknown[]): Promise<Row[]>;
}

interface Watch {
  page: Page;
  faults: string[];
}

/** For the tests of a file: after each of them, no page may have broken its policy or asked another host. */
export function useStudio(
  environment: Record<string, string> = {},
  { hasSample = true }: { hasSample?: boolean } = {},
): Studio {
  let browser: Browser;
  let server: TestApp;
  let wire: Wire;
  let worker: Awaited<ReturnType<typeof startWorker>>;
  let watched: Watch[] = [];

  beforeAll(async () => {
    server = await createTestApp(environment);
    const { pool, config } = server.database;
    if (hasSample) await loadSample(pool, { users: 100, transactions: 1_500, events: 1_000 });
    worker = await startWorker({ config, pool, log: () => undefined });
    wire = await createWire(Number(new URL(await server.listen()).port));
    browser = await launch();
  }, 180_000);
  afterAll(async () => {
    await browser?.close();
    wire?.close();
    await worker?.stop();
    await server?.close();
  });
  afterEach(async () => {
    const all = watched;
    watched = [];
    for (const { page } of all) await page.context().close();
    expect(all.flatMap(({ faults }) => faults)).toEqual([]);
  });

  const tokenOf = (who: Exclude<Who, "nobody">) =>
    createToken(server.database.config, { role: `strata_${who}`, subject: `test-${who}` });

  return {
    get server() {
      return server;
    },
    get wire() {
      return wire;
    },
    sql: async <Row extends object>(text: string, values?: unknown[]) =>
      (await server.database.pool.query<Row>(text, values)).rows,
    async open(who, hash = "/overview", options = {}) {
      const context = await browser.newContext({
        locale: "en-US",
        viewport: { width: 1280, height: 900 },
        reducedMotion: "reduce",
        ...options,
      });
      const page = await context.newPage();
      const faults: string[] = [];
      watched.push({ page, faults });
      page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
      page.on("request", (request) => {
        const { origin, protocol } = new URL(request.url());
        if (origin !== wire.origin && !["data:", "blob:"].includes(protocol))
          faults.push(`asked ${request.url()}`);
      });
      page.on("websocket", (socket) => {
        if (new URL(socket.url()).host !== new URL(wire.origin).host) faults.push(`opened ${socket.url()}`);
      });
      await page.exposeFunction("reportViolation", (violation: string) =>
        faults.push(`policy: ${violation}`),
      );
      await page.addInitScript(`document.addEventListener("securitypolicyviolation", (event) =>
        reportViolation([event.violatedDirective, event.blockedURI, event.sample].join(" ")))`);
      const token = who === "nobody" ? "" : `token=${await tokenOf(who)}&`;
      await page.goto(`${wire.origin}/#${token}${hash}`);
      return page;
    },
    async visit(page, hash) {
      await page.evaluate(`location.hash = ${JSON.stringify(hash)}`);
    },
  };
}

/** What axe finds on the page as it is. */
export async function findingsOf(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate<axe.AxeResults>(
    "axe.run(document, { resultTypes: ['violations'] })",
  );
  return violations.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 150)).join(" | ")}`,
  );
}

/** Is there in a while, or the test fails with what the page says instead. */
export const LONG = { timeout: 60_000 };
