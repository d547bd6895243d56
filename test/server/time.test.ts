/** @module-tag long */
// One thread answers everybody: whatever a client sends, what runs for it in one go is short.
import { afterAll, beforeAll, expect, test } from "vitest";
import { MAX_BODY_BYTES } from "../../src/guard/document.ts";
import { createTestApp, type TestApp } from "../support/app.ts";

/** Some 40 ms, as `unit` below; what is compiled for the first time or runs on a busy machine may take more. */
const MAX_UNITS = 3;

let server: TestApp;
let unit: number;

/** Processor time of this thread alone, in ms: how busy the machine is does not count. */
async function timeOf(work: () => unknown): Promise<number> {
  const before = process.threadCpuUsage();
  await work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}

/** The shortest of some: what is compiled or collected meanwhile is nobody's. */
async function leastOf(times: number, work: () => unknown): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < times; i++) least = Math.min(least, await timeOf(work));
  return least;
}

beforeAll(async () => {
  server = await createTestApp({ RATE_LIMIT_COST: "100000000000" });
  // A measure for this machine: reading the largest body of small values 20 times, some 40 ms.
  const body = JSON.stringify(Array.from({ length: MAX_BODY_BYTES / 8 }, (_, i) => i));
  unit = await leastOf(5, () => {
    for (let i = 0; i < 20; i++) JSON.parse(body);
  });
});
afterAll(() => server.close());

const many = <T>(count: number, make: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));
const aliases = (field: string): string => `{ ${many(30, (i) => `a${i}: ${field}`).join(" ")} }`;

const circle = (vertices: number): number[][] => {
  const angle = (i: number) => (2 * Math.PI * (i % vertices)) / vertices;
  return many(vertices + 1, (i) => [10 * Math.cos(angle(i)), 10 * Math.sin(angle(i))]);
};
/** Segments that all lie side by side, so that none can be left out early. */
const comb = (teeth: number): number[][] => {
  const ends = many(teeth, (i) => [[i * 0.01, -i * 0.01], [40 + i * 0.01, 40 - i * 0.01]]); // prettier-ignore
  return [...ends.flatMap((tooth, i) => (i % 2 ? tooth.reverse() : tooth)), [50, 50], [-10, 50], [0, 0]];
};
const polygon = (...coordinates: number[][][]) => ({ type: "Polygon", coordinates });
const within = "events(filter: { position: { withinPolygon: $value } }) { totalCount }";
const inList = (field: string, filter: string): string => `${field}(filter: ${filter}) { totalCount }`;

/** A body at the limits: the type of its variable, what is asked of it, and its value. */
const bodies: Record<string, [type: string, selections: string, value: unknown]> = {
  "a polygon": ["GeoPolygonInput!", `{ ${within} }`, polygon(circle(999))],
  "a polygon used 300 times": [
    "GeoPolygonInput!",
    `{ events(filter: { or: [${"{ position: { withinPolygon: $value } } ".repeat(300)}] }) { totalCount } }`,
    polygon(circle(999)),
  ],
  "a polygon in every alias": ["GeoPolygonInput!", aliases(within), polygon(circle(99))],
  "a polygon of many rings": ["GeoPolygonInput!", `{ ${within} }`, polygon(...many(3, () => comb(495)))],
  "a polygon of too many rings": ["GeoPolygonInput!", `{ ${within} }`, polygon(...many(6, () => circle(999)))],
  ...Object.fromEntries(
    Object.entries({
      Int: [(i: number) => i, inList("users", "{ userId: { in: $value } }")],
      BigInt: [String, inList("events", "{ eventId: { notIn: $value } }")],
      BigFloat: [(i: number) => `${i}.5`, inList("transactions", "{ amount: { in: $value } }")],
      String: [(i: number) => `%_${i}`, inList("users", "{ username: { in: $value } }")],
      Date: [() => "2024-02-29", inList("dimDates", "{ fullDate: { in: $value } }")],
      Datetime: [() => "2024-02-29T12:00:00.5Z", inList("events", "{ eventTime: { in: $value } }")],
      JSON: [(i: number) => i, inList("events", '{ eventData: { path: [{ path: ["a"], in: $value }] } }')],
    } as Record<string, [(i: number) => unknown, string]>).flatMap(([type, [make, field]]) => [
      [`a list of ${type}`, [`[${type}!]`, `{ ${field} }`, many(9_900, make)]],
      [`a long list of ${type}`, [`[${type}!]`, `{ ${field} }`, many(19_900, make)]],
      [`a list of ${type} in every alias`, [`[${type}!]`, aliases(field), many(19_900, make)]],
    ]),
  ),
  "keys of JSON": ["[String!]", `{ ${inList("events", "{ eventData: { hasAnyKeys: $value } }")} }`, many(9_900, String)],
  "a path of JSON": [
    "[String!]!",
    `{ ${inList("events", "{ eventData: { path: [{ path: $value, equalTo: 1 }] } }")} }`,
    many(9_900, String),
  ],
  "many paths of JSON": [
    "[JSONPathInput!]",
    `{ ${inList("events", "{ eventData: { path: $value } }")} }`,
    many(900, (i) => ({ path: ["a", "b"], equalTo: i, lessThan: i, exists: true })),
  ],
  "a JSON document": ["JSON", `{ ${inList("events", "{ eventData: { contains: $value } }")} }`, many(9_900, (i) => i)],
  "conditions in a list": [
    "[UserFilter!]",
    `{ ${inList("users", "{ or: $value }")} }`,
    many(333, (i) => ({ userId: { equalTo: i, notEqualTo: i, in: [i] }, username: { startsWith: `%${i}` } })),
  ],
  "conditions one in another": [
    "UserFilter",
    `{ ${inList("users", "$value")} }`,
    many(48, (i) => i).reduce<object>((inner) => ({ not: inner }), { userId: { equalTo: 1 } }),
  ],
  "orders": ["[UserOrderBy!]", "{ users(orderBy: $value) { totalCount } }", many(19_900, () => "NATURAL")], // prettier-ignore
  "a long text": ["String", `{ ${inList("users", "{ username: { startsWith: $value } }")} }`, "%_\\".repeat(100_000)],
  "a long cursor": ["Cursor", "{ users(after: $value) { nodes { userId } } }", "A".repeat(400_000)],
  ...Object.fromEntries(
    ["1".repeat(400_000), "9".repeat(400_000) + "x", `${" ".repeat(400_000)}x`, `2025-01-01${" ".repeat(400_000)}x`].flatMap(
      (text) =>
        Object.entries({
          BigInt: inList("events", "{ eventId: { equalTo: $value } }"),
          BigFloat: inList("transactions", "{ amount: { equalTo: $value } }"),
          Date: inList("dimDates", "{ fullDate: { equalTo: $value } }"),
          Datetime: inList("events", "{ eventTime: { equalTo: $value } }"),
        }).map(([type, field]) => [
          `a ${type} of 400,000 characters, from ${text.slice(0, 11)} to ${text.slice(-1)}`,
          [type, `{ ${field} }`, text],
        ]),
    ),
  ),
}; // prettier-ignore

test.each(Object.entries(bodies))("%s", { timeout: 120_000 }, async (_, [type, selections, value]) => {
  const query = `query ($value: ${type}) ${selections}`;
  const payload = { query, variables: { value } };
  expect(JSON.stringify(payload).length).toBeLessThan(MAX_BODY_BYTES);
  const statuses = new Set<number>();
  const time = await leastOf(3, async () => {
    const { status } = await server.ask("operator", payload.query, payload.variables);
    statuses.add(status);
  });
  // Refused or answered, but never a fault of the server's.
  expect([...statuses].filter((status) => status >= 500)).toEqual([]);
  expect(time / unit).toBeLessThan(MAX_UNITS);
});

test.each([
  "1".repeat(400_000),
  `1${"0".repeat(400_000)}1`,
  `0.${"0".repeat(400_000)}1`,
  `-${"9".repeat(400_000)}e99`,
])("a number of 400,000 characters in the document (%.12s…)", async (number) => {
  for (const filter of [
    `users(filter: { userId: { equalTo: ${number} } })`,
    `events(filter: { eventId: { equalTo: ${number} } })`,
    `transactions(filter: { amount: { equalTo: ${number} } })`,
    `events(filter: { eventData: { contains: { a: [${number}] } } })`,
    `events(nearestTo: { longitude: ${number}, latitude: 1 })`,
  ]) {
    const time = await leastOf(2, () => server.ask("operator", `{ ${filter} { totalCount } }`));
    expect(time / unit, filter.slice(0, 60)).toBeLessThan(MAX_UNITS);
  }
});

test("a header of 15,000 spaces", async () => {
  const query = "{ quarterlyRevenues { nodes { year } } }";
  await server.ask("reader", query);
  const header = { "if-none-match": `"a"${" ".repeat(15_000)}"b"` };
  const time = await leastOf(3, async () => {
    expect((await server.ask("reader", query, undefined, header)).status).toBe(200);
  });
  expect(time / unit).toBeLessThan(MAX_UNITS);
});
