/** @module-tag long */
// GraphQL over HTTP, by the audit suite of its reference implementation.
import { serverAudits } from "graphql-http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
let origin: string;

beforeAll(async () => {
  server = await createTestApp({ ANONYMOUS_ROLE: "reader" });
  origin = await server.listen();
});
afterAll(() => server.close());

const url = () => `${origin}/graphql`;

for (const audit of serverAudits({ url })) {
  test(`${audit.id} ${audit.name}`, async () => {
    const result = await audit.fn();
    expect("reason" in result ? result.reason : "passed").toBe("passed");
  });
}
