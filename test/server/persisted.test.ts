/** @module-tag long */
// Only these operations: from a folder, by name or hash, exclusively if wanted.
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { readOperations } from "../../src/graphql/persisted.ts";
import { createTestApp, type TestApp } from "../support/app.ts";
import { answerOnSocket } from "../support/socket.ts";

const folder = mkdtempSync(join(tmpdir(), "strata-operations-"));
const KNOWN = "query Users($n: Int = 1) { users(first: $n) { totalCount } }";
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
writeFileSync(join(folder, "users.graphql"), KNOWN);
const OTHER = "query Other { users { totalCount } }";
writeFileSync(join(folder, "relay.json"), JSON.stringify({ md5ofother: OTHER }));
const named = (id: string, body: string) => ({ id, name: "Any", type: "query", body });
const apollo = (operations: unknown[]) => ({
  format: "apollo-persisted-query-manifest",
  version: 1,
  operations,
});
const MANIFEST = apollo([named(sha256("{ users { totalCount } }"), "{ users { totalCount } }")]);
writeFileSync(join(folder, "apollo.json"), JSON.stringify(MANIFEST));
writeFileSync(join(folder, "notes.txt"), "not an operation");
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const send = async (server: TestApp, who: keyof TestApp["as"], payload: object) => {
  const response = await server.inject({ method: "POST", url: "/graphql", headers: server.as[who], payload });
  const { data, errors } = response.json();
  return {
    status: response.statusCode,
    data,
    code: errors?.[0].extensions.code,
    message: errors?.[0].message,
  };
};
const persisted = (sha256Hash: unknown) => ({ extensions: { persistedQuery: { version: 1, sha256Hash } } });
const counted = { data: { users: { totalCount: 0 } } };

/** The first answer to an operation that a reader sends on a socket. */
async function overSocket(server: TestApp, payload: object): Promise<unknown> {
  const message = JSON.parse(await answerOnSocket(await server.listen(), server.as.reader, payload));
  return message.type === "error" ? message.payload[0].extensions : message.payload;
}

describe.each([
  ["beside others", {}],
  ["exclusively", { PERSISTED_OPERATIONS_ONLY: "true" }],
])("%s", (_name, environment) => {
  let server: TestApp;
  beforeAll(async () => {
    server = await createTestApp({ PERSISTED_OPERATIONS_DIR: folder, ...environment });
  });
  afterAll(() => server.close());

  test("known operations are answered by Apollo's hash, Relay's documentId and a plain id", async () => {
    for (const payload of [persisted(sha256(KNOWN)), { documentId: "users" }, { id: sha256(KNOWN) }])
      expect(await send(server, "reader", { ...payload, variables: { n: 2 } })).toMatchObject(counted);
    // With the text along, as Apollo Client sends it after a miss.
    expect(await send(server, "reader", { query: KNOWN, ...persisted(sha256(KNOWN)) })).toMatchObject(
      counted,
    );
  });

  test("those of Relay's and Apollo's manifests are, too", async () => {
    for (const payload of [
      { doc_id: "md5ofother" },
      { id: "md5ofother", query: null },
      persisted(sha256(OTHER)),
      persisted(sha256("{ users { totalCount } }")),
    ])
      expect(await send(server, "reader", payload), JSON.stringify(payload)).toMatchObject(counted);
  });

  test("a hash that is not known is answered as Apollo Client expects it", async () => {
    for (const hash of [sha256("{ __typename }"), "../../etc/passwd", "__proto__", ""])
      expect(await send(server, "reader", persisted(hash))).toMatchObject({
        code: "PERSISTED_QUERY_NOT_FOUND",
        message: "PersistedQueryNotFound",
        data: undefined,
      });
  });

  test("what is neither text nor id is refused", async () => {
    for (const payload of [
      {},
      persisted(7),
      { id: {} },
      { query: 7 },
      { extensions: null },
      { extensions: [] },
    ])
      expect(await send(server, "reader", payload), JSON.stringify(payload)).toMatchObject({
        status: 400,
        data: undefined,
      });
  });

  test("operators may send what they like", async () => {
    expect(await send(server, "operator", { query: "{ __typename }" })).toMatchObject({
      status: 200,
      data: { __typename: "Query" },
    });
  });
});

test("exclusively means that nobody else sends an operation of their own", async () => {
  const server = await createTestApp({
    PERSISTED_OPERATIONS_DIR: folder,
    PERSISTED_OPERATIONS_ONLY: "true",
    ANONYMOUS_ROLE: "reader",
  });
  try {
    const query = "{ __typename }";
    expect(await overSocket(server, { query })).toMatchObject({ code: "OPERATION_NOT_PERSISTED" });
    expect(await overSocket(server, { documentId: "users", query: "" })).toEqual(counted);
    for (const who of ["nobody", "reader", "ingestor"] as const)
      for (const payload of [
        { query },
        { query, ...persisted(sha256(query)) },
        { query, ...persisted(sha256(KNOWN).replace("a", "b")) },
      ])
        expect(await send(server, who, payload)).toMatchObject({
          status: 403,
          code: "OPERATION_NOT_PERSISTED",
        });
  } finally {
    await server.close();
  }
});

test("a hash that is not that of the text is refused", async () => {
  const server = await createTestApp({ PERSISTED_OPERATIONS_DIR: folder });
  try {
    expect(
      await send(server, "reader", { query: "{ __typename }", ...persisted(sha256("else")) }),
    ).toMatchObject({ status: 400, code: "BAD_REQUEST" });
    expect(
      await send(server, "reader", { query: "{ __typename }", ...persisted(sha256("{ __typename }")) }),
    ).toMatchObject({ status: 200 });
  } finally {
    await server.close();
  }
});

test("without operations, Apollo Client is told to send texts from now on", async () => {
  const server = await createTestApp();
  try {
    for (const payload of [persisted(sha256(KNOWN)), { doc_id: "users" }])
      expect(await send(server, "reader", payload)).toMatchObject({
        code: "PERSISTED_QUERY_NOT_SUPPORTED",
        message: "PersistedQueryNotSupported",
      });
    expect(await send(server, "reader", { query: KNOWN, ...persisted(sha256(KNOWN)) })).toMatchObject(
      counted,
    );
  } finally {
    await server.close();
  }
});

test("a manifest alone will do", () => {
  const path = join(folder, "apollo.json");
  expect([...readOperations(path).keys()]).toEqual([sha256("{ users { totalCount } }")]);
});

test.each([
  ["{", /is not JSON/],
  ["{}", /is no manifest/],
  ["[]", /is no manifest/],
  ['{"a": 1}', /is no manifest/],
  [JSON.stringify(apollo([{ id: "a" }])), /is no manifest/],
  [JSON.stringify(apollo([null])), /is no manifest/],
])("%s is no manifest", (text, message) => {
  const path = join(mkdtempSync(join(folder, "wrong-")), "wrong.json");
  writeFileSync(path, text);
  expect(() => readOperations(path)).toThrow(message);
});

test("a folder that is missing or empty, or none at all, is said at the start", () => {
  expect(() => readOperations(join(folder, "nowhere"))).toThrow(/is not a folder or file that can be read/);
  const empty = mkdtempSync(join(folder, "empty-"));
  expect(() => readOperations(empty)).toThrow(/holds no \.graphql file and no manifest/);
  expect(() => loadConfig({ PERSISTED_OPERATIONS_ONLY: "true" })).toThrow(/needs PERSISTED_OPERATIONS_DIR/);
});
