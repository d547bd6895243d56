/** @module-tag long */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TABS } from "../../src/graphql/graphiql-tabs.ts";
import { isServer } from "../support/database.ts";
import { createApi, type Api } from "./api.ts";

let api: Api;

beforeAll(async () => {
  api = await createApi({ ANONYMOUS_ROLE: "reader" });
});
afterAll(() => api.close());

const page = async (host: string, from: Record<string, string> = {}) => {
  const { body, headers } = await api.inject({
    url: "/graphiql",
    headers: { host, accept: "text/html", ...from },
  });
  return { body, policy: String(headers["content-security-policy"]) };
};

test("every tab runs as it is", async () => {
  for (const { title, query, needsToken } of TABS.filter(({ query }) => !query.includes("subscription"))) {
    const { data, errors } = await api.ask(needsToken ? "operator" : "nobody", query);
    expect({ errors, isAnswered: data !== null }, title).toEqual({ errors: [], isAnswered: true });
  }
});

test("tabs are called as GraphiQL calls them when they have run, and comments fit the editor", () => {
  for (const { title, query } of TABS) {
    expect(/(?:query|mutation|subscription) (\w+)/.exec(query)![1]).toBe(title);
    for (const line of query.split("\n").filter((text) => text.startsWith("#")))
      expect(line.length, line).toBeLessThanOrEqual(38);
  }
});

test("the page has the name and the icon of the project", async () => {
  const { body } = await page("localhost:4000");
  expect(body).toContain("<title>GraphiQL – Strata</title>");
  const icon = /rel="icon" type="image\/svg\+xml" href="data:image\/svg\+xml;base64,([^"]+)"/.exec(body)![1]!;
  expect(Buffer.from(icon, "base64").toString().trim()).toBe(
    readFileSync(new URL("../../studio/icon.svg", import.meta.url), "utf8").trim(),
  );
});

test("the page opens with the tabs, in a script that its policy lets run", async () => {
  const { body, policy } = await page("localhost:4000");
  for (const { title } of TABS) expect(body).toContain(`"title":"${title}"`);
  const nonce = /'nonce-([^']+)'/.exec(policy)![1];
  expect(body).toContain(`<script nonce="${nonce}">`);
  expect(body).not.toContain("<script>");
});

test("an operator's token is in place on the embedded default alone, and only for this machine", async () => {
  expect((await page("127.0.0.1:4000")).body.includes('"eyJ')).toBe(!isServer);
  expect((await page("rebound.example:4000")).body).not.toContain('"eyJ');
  expect((await page("localhost:4000", { "sec-fetch-site": "none" })).body.includes('"eyJ')).toBe(!isServer);
  const foreign: Record<string, string>[] = [
    { origin: "https://app.example" },
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site" },
  ];
  for (const from of foreign)
    expect((await page("localhost:4000", from)).body, JSON.stringify(from)).not.toContain('"eyJ');
});
