/** @module-tag long */
// Clients as people have them, unmodified and with their defaults, in processes of their own: what they send, and get.
// `npm ci --prefix examples` installs them, and `npm test --prefix examples` compiles their documents.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp } from "../support/app.ts";

const examples = fileURLToPath(new URL("../../examples/", import.meta.url));
const manifest = `${examples}generated/relay.json`;

/** What came to `/graphql`: by which method, with which of the ways to say an operation. */
interface Sent {
  method: string;
  said: string[];
}

const start = async (environment: Record<string, string> = {}) => {
  const server = await createTestApp(environment);
  const sent: Sent[] = [];
  // In front of it, to see what comes.
  const proxy = createServer((request, response) => {
    void (async () => {
      const payload = await text(request);
      const { method = "", url = "", headers } = request;
      const fields = (
        method === "GET" ? Object.fromEntries(new URL(url, "http://_").searchParams) : JSON.parse(payload)
      ) as Record<string, unknown>;
      const said = ["query", "doc_id"].filter((name) => typeof fields[name] === "string");
      if (JSON.stringify(fields.extensions ?? "").includes("sha256Hash")) said.push("hash");
      sent.push({ method, said });
      const answer = await server.inject({ method: method, url, headers, payload });
      response.writeHead(answer.statusCode, answer.headers).end(answer.rawPayload);
    })();
  });
  await server.database.pool.query(`
    insert into production.users (user_id, username, email) values (1, 'ada', 'ada@example.org');
    insert into production.transactions (transaction_id, user_id, amount, status)
    values (1, 1, 12.50, 'completed'), (2, 1, 7, 'failed'), (3, 1, 1, 'completed')`);
  await new Promise<void>((listening) => proxy.listen(0, "127.0.0.1", listening));
  const { port } = proxy.address() as AddressInfo;
  const run = async (client: string): Promise<any> => {
    sent.length = 0;
    const { stdout } = await promisify(execFile)(process.execPath, [`${examples}clients/${client}.ts`], {
      env: {
        PATH: process.env.PATH,
        STRATA_URL: `http://127.0.0.1:${port}/graphql`,
        STRATA_TOKEN: server.as.operator.authorization!.slice("Bearer ".length),
      },
    });
    return JSON.parse(stdout);
  };
  const close = async (): Promise<void> => {
    proxy.close();
    await server.close();
  };
  return { server, sent, run, close };
};

let plain: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  if (!existsSync(manifest))
    throw new Error("The clients are missing; run: npm ci --prefix examples && npm test --prefix examples");
  plain = await start();
});
afterAll(() => plain?.close());

const amounts = (data: any): unknown =>
  data.transactions.nodes.map(({ amount, status }: Record<string, unknown>) => [amount, status]);
const COMPLETED = [
  ["12.50", "completed"],
  ["1.00", "completed"],
];

test("urql asks by GET, and changes by POST", async () => {
  const data = await plain.run("urql");
  expect(amounts(data)).toEqual(COMPLETED);
  expect(data.transformStaging.run.status).toBe("succeeded");
  expect(plain.sent).toEqual([
    { method: "GET", said: ["query"] },
    { method: "POST", said: ["query"] },
  ]);
});

test("Apollo's persisted link sends a hash once, and texts from then on", async () => {
  const data = await plain.run("apollo");
  expect(amounts(data)).toEqual(COMPLETED);
  expect(data.users.totalCount).toBe(1);
  expect(plain.sent.map(({ said }) => said.join())).toEqual(["hash", "query", "query"]);
});

test("graphql-codegen's documents are answered as they are typed", async () => {
  const data = await plain.run("codegen");
  expect(amounts(data)).toEqual(COMPLETED);
  expect(data.amounts).toEqual(["12.50", "1.00"]);
});

test("Relay asks by the ids of its compiler's manifest, and nobody by any others", async () => {
  const persisted = await start({ PERSISTED_OPERATIONS_DIR: manifest, PERSISTED_OPERATIONS_ONLY: "true" });
  try {
    expect(amounts(await persisted.run("relay"))).toEqual(COMPLETED);
    expect(persisted.sent).toEqual([{ method: "POST", said: ["doc_id"] }]);
    const other = { doc_id: createHash("sha256").update("{ __typename }").digest("hex") };
    const refused = await persisted.server.inject({
      method: "POST",
      url: "/graphql",
      headers: persisted.server.as.reader,
      payload: other,
    });
    expect(refused.json().errors[0].extensions.code).toBe("PERSISTED_QUERY_NOT_FOUND");
  } finally {
    await persisted.close();
  }
});
