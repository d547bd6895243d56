/** @module-tag long */
// GraphQL over HTTP, by the audit suite of its reference implementation.
import type { AddressInfo } from "node:net";
import { serverAudits } from "graphql-http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;

beforeAll(async () => {
  server = await createTestApp({ ANONYMOUS_ROLE: "reader" });
  await server.app.listen({ port: 0, host: "127.0.0.1" });
});
afterAll(() => server.close());

const url = () => `http://127.0.0.1:${(server.app.server.address() as AddressInfo).port}/graphql`;

for (const audit of serverAudits({ url })) {
  test(`${audit.id} ${audit.name}`, async () => {
    const result = await audit.fn();
    expect("reason" in result ? result.reason : "passed").toBe("passed");
  });
}
