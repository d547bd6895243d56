// How the studio is served: small, for ever where the name says what it is, under a policy that lets nothing else run.
import { afterAll, beforeAll, expect, test } from "vitest";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp();
});
afterAll(() => server.close());

const get = (url: string, headers: Record<string, string> = {}) =>
  server.inject({ method: "GET", url, headers });
const assetsOf = (page: string): string[] =>
  [...page.matchAll(/(?:src|href)="(\/studio\/[^"]+)"/g)].map(([, url]) => url!);

test("the first page is the studio, for everybody, with nothing inline", async () => {
  const page = await get("/");
  expect(page.statusCode).toBe(200);
  expect(page.headers["content-type"]).toBe("text/html; charset=utf-8");
  expect(page.body).not.toMatch(/<style|style=|\son\w+=|javascript:/);
  expect([...page.body.matchAll(/<script[^>]*>([^]*?)<\/script>/g)].map(([, text]) => text)).toEqual([""]);
  expect(page.body).not.toMatch(/https?:/);
});

test("its policy allows its own scripts and styles and no others, Trusted Types included", async () => {
  const { headers } = await get("/");
  expect(String(headers["content-security-policy"]).split(";")).toEqual([
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ]);
  expect(headers["x-content-type-options"]).toBe("nosniff");
});

test("a browser asks for the page each time, and learns that it did not change", async () => {
  const page = await get("/", { "accept-encoding": "br" });
  expect(page.headers["cache-control"]).toBe("no-cache");
  const again = await get("/", { "accept-encoding": "br", "if-none-match": String(page.headers.etag) });
  expect([again.statusCode, again.body]).toEqual([304, ""]);
  expect((await get("/", { "if-none-match": '"another"' })).statusCode).toBe(200);
});

test("what has a hash in its name is kept for ever, compressed as the browser likes it", async () => {
  const urls = assetsOf((await get("/")).body);
  expect(urls.length).toBeGreaterThanOrEqual(3);
  for (const url of urls) {
    expect(url).toMatch(/-[A-Za-z0-9_-]{8}\.(js|css|svg)$/);
    const plain = await get(url);
    const brotli = await get(url, { "accept-encoding": "gzip, deflate, br;q=1.0" });
    const gzip = await get(url, { "accept-encoding": "gzip, br;q=0" });
    expect(plain.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
    expect(plain.headers["content-encoding"]).toBeUndefined();
    expect([brotli.headers["content-encoding"], gzip.headers["content-encoding"]]).toEqual(["br", "gzip"]);
    expect(brotli.headers.vary).toContain("accept-encoding");
    expect(brotliDecompressSync(brotli.rawPayload).equals(plain.rawPayload)).toBe(true);
    expect(gunzipSync(gzip.rawPayload).equals(plain.rawPayload)).toBe(true);
    expect(new Set([plain, brotli, gzip].map(({ headers }) => headers.etag)).size).toBe(3);
  }
});

test("a file of another version is not found, nor is anything beside the files", async () => {
  for (const url of [
    "/studio/main-AAAAAAAA.js",
    "/studio/manifest.json",
    "/studio/..%2fbuild.ts",
    "/studio/",
  ])
    expect((await get(url)).statusCode, url).toBe(404);
});

test("at most 100 kB of JavaScript and 150 kB in all, compressed", async () => {
  const sizes = new Map<string, number>();
  // Parts that are fetched when they are looked at count like the others.
  const queue = ["/", ...assetsOf((await get("/")).body)];
  for (let url = queue.pop(); url !== undefined; url = queue.pop()) {
    if (sizes.has(url)) continue;
    sizes.set(url, (await get(url, { "accept-encoding": "gzip" })).rawPayload.length);
    const { body } = await get(url);
    for (const [name] of body.matchAll(/[\w-]+-[A-Z0-9]{8}\.(?:js|json)/g)) queue.push(`/studio/${name}`);
  }
  const sum = (entries: [string, number][]) => entries.reduce((total, [, size]) => total + size, 0);
  const scripts = [...sizes].filter(([url]) => url.endsWith(".js"));
  expect(scripts.length).toBeGreaterThanOrEqual(4);
  expect(sum(scripts)).toBeLessThan(100_000);
  expect(sum([...sizes])).toBeLessThan(150_000);
});
