/** @module-tag long-server */
// docs/shop.md as its reader follows it: the commands and the query of the page, on an empty database.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPlace, type Place } from "../support/database.ts";
import { freePort, graphql, until } from "../support/process.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const page = readFileSync(join(root, "docs/shop.md"), "utf8");
const blocks = [...page.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, language, text]) => ({
  language,
  text: text!,
}));
const commands = blocks
  .filter(({ language }) => language === "sh")
  .flatMap(({ text }) => text.trim().split("\n"));

let place: Place;
let folder: string;
let environment: Record<string, string>;
const servers: ReturnType<typeof spawn>[] = [];

beforeAll(async () => {
  place = await createPlace();
  folder = mkdtempSync(join(tmpdir(), "strata-shop-"));
  // `npx strata` of the page is this working copy; its project lies beside the examples, as in the repository.
  mkdirSync(join(folder, "bin"));
  writeFileSync(
    join(folder, "bin/npx"),
    `#!/bin/sh\nshift\nexec "${process.execPath}" "${join(root, "src/cli.ts")}" "$@"\n`,
    { mode: 0o755 },
  );
  symlinkSync(join(root, "examples"), join(folder, "examples"));
  symlinkSync(process.execPath, join(folder, "bin/node"));
  environment = {
    PATH: `${join(folder, "bin")}:${process.env.PATH}`,
    ...place.environment,
    ANONYMOUS_ROLE: "reader",
  };
});
afterAll(async () => {
  for (const server of servers) {
    if (server.exitCode !== null) continue;
    server.kill();
    await once(server, "close");
  }
  await place?.remove();
  rmSync(folder, { recursive: true, force: true });
});

async function run(script: string, cwd: string): Promise<string> {
  const child = spawn("sh", ["-ec", script], { cwd, env: environment });
  let output = "";
  child.stdout.on("data", (data: Buffer) => (output += String(data)));
  child.stderr.on("data", (data: Buffer) => (output += String(data)));
  const [code] = (await once(child, "close")) as [number];
  expect([script, code, code === 0 ? "" : output]).toEqual([script, 0, ""]);
  return output;
}

test("from four files to a dashboard, in under twenty commands", { timeout: 600_000 }, async () => {
  expect(commands.length).toBeLessThan(20);
  const shop = join(folder, "shop");
  let inside = false;
  const outputs = new Map<string, string>();
  let data: any;
  for (const { language, text } of blocks) {
    if (language === "sql") writeFileSync(join(shop, "datasets/revenue.sql"), text);
    else if (language === "sh")
      for (const command of text.trim().split("\n")) {
        if (command === "cd shop") inside = true;
        else if (command === "npx strata serve") environment.STRATA_TEST_URL = await serve(shop);
        else outputs.set(command, await run(command, inside ? shop : folder));
      }
    else if (language === "graphql") {
      const answer = await graphql({ url: environment.STRATA_TEST_URL! }, "", text);
      expect(answer.errors).toBeUndefined();
      data = answer.data;
    }
  }

  // What the page quotes is what the commands say.
  const said = [...outputs.values()].join("\n").replace(/ +/g, " ");
  for (const [, quoted] of page.replace(/^```[^]*?^```$/gm, "").matchAll(/^ {4,}(.*)$/gm))
    expect(said).toContain(quoted!.trim().replace(/ +/g, " "));
  const quarantine = outputs.get("npx strata quarantine")!;
  for (const reason of ["fk_order", "fk_product", "fk_order_line"])
    expect(quarantine).toContain(`'${reason}'`);
  expect(quarantine).toMatch(/Latest 5 rows/);

  const sums = data.categoryRevenues.groupedAggregates;
  expect(sums.map(({ keys }: { keys: string[] }) => keys[0]).sort()).toEqual(["books", "garden", "toys"]);
  expect(Object.fromEntries(sums.map((one: any) => [one.keys[0], one.sum.revenue]))).toEqual(
    revenueOf("2026-02"),
  );
  expect(data.returns.nodes).toEqual([
    {
      reason: expect.any(String),
      orderLine: {
        quantity: expect.any(Number),
        product: { name: expect.any(String) },
        order: { orderedAt: expect.any(String) },
      },
    },
  ]);
});

/** `strata serve` in the project's folder; the address it prints for programs would do as well. */
async function serve(cwd: string): Promise<string> {
  const port = String(await freePort());
  const child = spawn("sh", ["-c", "exec npx strata serve"], {
    cwd,
    env: { ...environment, PORT: port },
    stdio: "ignore",
  });
  servers.push(child);
  const url = `http://127.0.0.1:${port}`;
  await until(async () => child.exitCode === null && (await fetch(`${url}/readyz`)).ok, 120);
  return url;
}

/** The month's revenue by category, from the files themselves. */
function revenueOf(month: string): Record<string, string> {
  const rows = (name: string): string[][] =>
    readFileSync(join(folder, "shop", `${name}.csv`), "utf8")
      .trim()
      .split("\n")
      .slice(1)
      .map((line) => line.match(/"[^"]*"|[^,]+/g)!);
  const category = new Map(rows("products").map(([sku, , name]) => [sku, name!]));
  const ordered = new Map(rows("orders").map(([id, , , at]) => [id, at!]));
  const cents: Record<string, number> = {};
  for (const [order, , sku, quantity, price] of rows("order_lines")) {
    if (
      !ordered.get(order)?.startsWith(month) ||
      ordered.get(order) === "2026-02-30T10:00:00Z" ||
      !category.has(sku)
    )
      continue;
    const name = category.get(sku)!;
    cents[name] = (cents[name] ?? 0) + Number(quantity) * Math.round(Number(price) * 100);
  }
  return Object.fromEntries(Object.entries(cents).map(([name, sum]) => [name, (sum / 100).toFixed(2)]));
}
