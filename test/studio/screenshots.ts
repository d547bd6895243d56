// Pictures of each page for the docs: `npm run screenshots`. A server of its own, with the sample data.
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type Page } from "playwright-core";
import { runStrata, startReadyServer } from "../support/process.ts";

const FOLDER = join(import.meta.dirname, "../../docs/studio");
const MAX_BYTES = 150_000;
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--lang=en-US", "--hide-scrollbars"];

interface Picture {
  name: string;
  hash: string;
  /** What has to be on the page before. */
  until: string;
  isDark?: boolean;
  isSmall?: boolean;
  /** Coasts do not compress well. */
  width?: number;
  prepare?: (page: Page) => Promise<void>;
}

const PEOPLE = "user_id,name,mail,created_at,country\n90001,carl,carl@example.org,2026-01-02,France\n";

const PARTS = [
  "SKU,Unit Price,made on",
  ...Array.from({ length: 40 }, (_, n) => `p${n},${n}.25,2026-03-01`),
].join("\n");

const PICTURES: Picture[] = [
  { name: "overview", hash: "/overview", until: "Complete" },
  { name: "overview-dark", hash: "/overview", until: "Complete", isDark: true },
  { name: "overview-small", hash: "/overview", until: "Complete", isSmall: true },
  { name: "runs", hash: "/runs?parts=all", until: "sample-users.csv" },
  { name: "run", hash: "/runs/4", until: "Parts" },
  { name: "quarantine", hash: "/quarantine", until: "Reasons" },
  { name: "quarantine-dark", hash: "/quarantine?dataset=transactions", until: "Reasons", isDark: true },
  { name: "quarantine-small", hash: "/quarantine", until: "Reasons", isSmall: true },
  { name: "row", hash: "/quarantine/12", until: "Mend" },
  { name: "explore", hash: "/explore", until: "Transactions" },
  { name: "table", hash: "/explore/transactions?order=-amount", until: "Transaction date" },
  {
    name: "chart",
    hash: "/explore/transactions?view=chart&measure=sum.amount&split=STATUS",
    until: "completed",
  },
  {
    name: "chart-dark",
    hash: "/explore/events?view=chart",
    until: "Resolution",
    isDark: true,
  },
  { name: "chart-small", hash: "/explore/events?view=chart", until: "Resolution", isSmall: true },
  { name: "map", hash: "/explore/events?view=map", until: "rows here", width: 960 },
  {
    name: "map-dark",
    hash: "/explore/events?view=map&box=-12,34,42,60",
    until: "rows here",
    isDark: true,
    width: 960,
  },
  {
    name: "bring",
    hash: "/bring",
    until: "Drop a CSV",
    prepare: async (page) => {
      await page
        .locator("input[type=file]")
        .setInputFiles({ name: "people.csv", mimeType: "text/csv", buffer: Buffer.from(PEOPLE) });
      await page.getByText("Becomes").waitFor();
    },
  },
  {
    name: "proposal",
    hash: "/bring",
    until: "Drop a CSV",
    prepare: async (page) => {
      await page
        .locator("input[type=file]")
        .setInputFiles({ name: "parts.csv", mimeType: "text/csv", buffer: Buffer.from(PARTS) });
      await page.getByRole("button", { name: "Propose a new dataset" }).click();
      await page.getByRole("button", { name: "Propose a dataset" }).click();
      await page.getByRole("region", { name: "Proposal for parts" }).waitFor();
    },
  },
  { name: "who", hash: "/who", until: "What you may read" },
];

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const dataDir = mkdtempSync(join(tmpdir(), "strata-pictures-"));
const { DATABASE_URL, JWT_SECRET } = process.env;
const environment = {
  DATA_DIR: dataDir,
  // Faster than the embedded engine, where there is a server with the sample data.
  ...(DATABASE_URL && { DATABASE_URL, JWT_SECRET: JWT_SECRET ?? "" }),
};
const only = process.argv.slice(2);
const server = await startReadyServer(environment);
const browser = await chromium.launch({ executablePath, args: FLAGS });
try {
  const { stdout } = await runStrata(["token", "--role", "operator", "--sub", "ada"], environment);
  mkdirSync(FOLDER, { recursive: true });
  for (const { name, hash, until, isDark, isSmall, width = 1200, prepare } of PICTURES) {
    if (only.length > 0 && !only.includes(name)) continue;
    const context = await browser.newContext({
      locale: "en-US",
      viewport: isSmall ? { width: 360, height: 740 } : { width, height: 720 },
      colorScheme: isDark ? "dark" : "light",
      reducedMotion: "reduce",
    });
    const page = await context.newPage();
    await page.goto(`${server.url}/#token=${stdout.trim()}&${hash}`);
    await page.locator("main").getByText(until).first().waitFor();
    await page.locator("header").getByText("Live").waitFor();
    await prepare?.(page);
    await page.locator("[aria-busy=true]").first().waitFor({ state: "detached" });
    await page.locator(".skeleton").first().waitFor({ state: "detached" });
    // Canvases are drawn in the frame after.
    await page.waitForTimeout(500);
    const path = join(FOLDER, `${name}.png`);
    await page.screenshot({ path });
    await context.close();
    const { size } = statSync(path);
    console.log(`${name.padEnd(18)} ${Math.round(size / 1000)} kB`);
    if (size > MAX_BYTES) throw new Error(`${path} has ${size} bytes; at most ${MAX_BYTES} are wanted`);
  }
} finally {
  await browser.close();
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
}
