/** @module-tag long */
// Plans are kept for the next time, but not more of them than the heap has room for.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { execute, lambda, makeGrafastSchema } from "grafast";
import { parse } from "grafast/graphql";
import { resolvePreset } from "graphile-config";
import { expect, test } from "vitest";
import { createBoundedMap } from "../../src/bounded-map.ts";
import { createOperationCache } from "../../src/graphql/operation-cache.ts";
import { createPlansPlugin } from "../../src/graphql/plans.ts";
import { createTestApp } from "../support/app.ts";

const schema = makeGrafastSchema({
  typeDefs: "type Query { twice(of: Int!): Int! }",
  objects: {
    Query: { plans: { twice: (_$root, args) => lambda(args.getRaw("of"), (n) => 2 * (n as number)) } },
  },
});

function createPlanner() {
  const plans: object[] = [];
  const watch: GraphileConfig.Plugin = {
    name: "WatchPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        establishOperationPlan(next) {
          const plan = next();
          plans.push(plan);
          return plan;
        },
      },
    },
  };
  const cache = createOperationCache(50_000_000);
  const resolvedPreset = resolvePreset({ plugins: [watch, createPlansPlugin(cache)] });
  /** As a request has it: the same text is the same document while it is cached. */
  return async (text: string): Promise<object> => {
    const documents = cache.of(schema);
    const document = documents.get(text)?.document ?? parse(text);
    if (!documents.has(text)) documents.set(text, { document }, text.length);
    const result = await execute({ schema, document, resolvedPreset, contextValue: {} });
    expect(result).not.toHaveProperty("errors");
    return plans.at(-1)!;
  };
}

let made = 0;
const large = (fields: number): string =>
  `query Large${made++} { ${Array.from({ length: fields }, (_, i) => `a${i}: twice(of: ${i})`).join(" ")} }`;

test("an operation is planned once, until there are too large plans", async () => {
  const planOf = createPlanner();
  const document = large(1);
  const plan = await planOf(document);
  expect(await planOf(document)).toBe(plan);
  for (let i = 0; i < 12; i++) await planOf(large(1_000));
  expect(await planOf(document)).not.toBe(plan);
});

test(
  "one caller's documents, each another one, take no more memory than OPERATION_CACHE_MB",
  { tags: ["long"], timeout: 600_000 },
  async () => {
    const BUDGET_MB = 20;
    const server = await createTestApp({
      OPERATION_CACHE_MB: String(BUDGET_MB),
      RATE_LIMIT_COST: "1000000000",
    });
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    let asked = 0;
    const heapAfter = async (documents: number): Promise<number> => {
      for (const last = asked + documents; asked < last; asked++) {
        const fields = `a${asked}: users(first: 3) { nodes { b${asked}: username transactions(first: 2) { nodes { amount } } } }`;
        const rest = asked % 2 === 0 ? "" : " @include(if: true)";
        const { errors } = await server.ask("operator", `{ ...${rest} { ${fields} } }`);
        expect(errors).toEqual([]);
      }
      // What is held weakly goes with the second collection.
      for (let i = 0; i < 4; i++) {
        collect();
        await new Promise(setImmediate);
      }
      return process.memoryUsage().heapUsed / 1e6;
    };
    try {
      const before = await heapAfter(10);
      const full = await heapAfter(390);
      const later = await heapAfter(600);
      // Unbounded, 600 more take some 100 MB.
      expect(full - before).toBeLessThan(1.5 * BUDGET_MB);
      expect(later - full).toBeLessThan(BUDGET_MB / 4);
    } finally {
      await server.close();
    }
  },
);

test("the entries of a bounded map weigh no more than they may, and those in use stay", () => {
  const map = createBoundedMap<string, number>(10);
  map.set("a", 1, 4);
  map.set("b", 2, 4);
  map.get("a");
  map.set("c", 3, 4);
  expect([map.get("a"), map.get("b"), map.get("c"), map.weight]).toEqual([1, undefined, 3, 8]);
  map.grow("c", 3);
  expect([map.has("a"), map.has("c"), map.weight]).toEqual([false, true, 7]);
  map.set("d", 4, 11);
  expect([map.has("c"), map.has("d"), map.weight]).toEqual([true, false, 7]);
});
