// Plans are kept for the next time, but not more of them than the heap has room for.
import { execute, lambda, makeGrafastSchema } from "grafast";
import { parse, type DocumentNode } from "grafast/graphql";
import { resolvePreset } from "graphile-config";
import { expect, test } from "vitest";
import { createPlansPlugin } from "../../src/graphql/plans.ts";

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
  const resolvedPreset = resolvePreset({ plugins: [watch, createPlansPlugin()] });
  return async (document: DocumentNode): Promise<object> => {
    const result = await execute({ schema, document, resolvedPreset, contextValue: {} });
    expect(result).not.toHaveProperty("errors");
    return plans.at(-1)!;
  };
}

const large = (fields: number, variables = ""): DocumentNode =>
  parse(
    `query ${variables} { ${Array.from({ length: fields }, (_, i) => `a${i}: twice(of: ${i})`).join(" ")} }`,
  );

test("an operation is planned once, until there are too large plans", async () => {
  const planOf = createPlanner();
  const document = large(1);
  const plan = await planOf(document);
  expect(await planOf(document)).toBe(plan);
  for (let i = 0; i < 12; i++) await planOf(large(1_000));
  expect(await planOf(document)).not.toBe(plan);
});
