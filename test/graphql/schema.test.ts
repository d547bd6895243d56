import { readFileSync } from "node:fs";
import {
  buildSchema,
  findBreakingChanges,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isIntrospectionType,
  isObjectType,
  type GraphQLNamedType,
} from "graphql";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
let sdl: string;

beforeAll(async () => {
  server = await createTestApp();
  sdl = (await server.inject({ url: "/schema.graphql", headers: server.as.operator })).body;
});
afterAll(() => server.close());

const committed = readFileSync(new URL("../../schema.graphql", import.meta.url), "utf8");

test("breaks nothing that schema.graphql promises", () => {
  expect(findBreakingChanges(buildSchema(committed), buildSchema(sdl))).toEqual([]);
});

test("schema.graphql is what the server serves (else: npm run schema)", () => {
  expect(sdl === committed, "schema.graphql is out of date").toBe(true);
});

function undescribed(type: GraphQLNamedType): string[] {
  const elements: { name: string; description?: string | null }[] = [type];
  const add = (of: { name: string }, part: { name: string; description?: string | null }) =>
    elements.push({ name: `${of.name}.${part.name}`, description: part.description });
  if (isEnumType(type)) for (const value of type.getValues()) add(type, value);
  if (isObjectType(type) || isInterfaceType(type) || isInputObjectType(type)) {
    for (const field of Object.values(type.getFields())) {
      add(type, field);
      if ("args" in field) {
        for (const argument of field.args) add({ name: `${type.name}.${field.name}` }, argument);
      }
    }
  }
  return elements.filter(({ description }) => !description?.trim()).map(({ name }) => name);
}

test("every type, field, argument and enum value is described", () => {
  const types = Object.values(buildSchema(sdl).getTypeMap()).filter((type) => !isIntrospectionType(type));
  const builtIn = ["Int", "Float", "String", "Boolean", "ID"];
  expect(types.length).toBeGreaterThan(100);
  expect(types.filter(({ name }) => !builtIn.includes(name)).flatMap(undescribed)).toEqual([]);
});

test("has the names of the contract", () => {
  const schema = buildSchema(sdl);
  const names = (type: string) => {
    const found = schema.getType(type);
    return isObjectType(found) ? Object.keys(found.getFields()) : [];
  };
  for (const type of [
    "User",
    "Transaction",
    "Event",
    "DimDate",
    "DailyUserMetric",
    "QuarterlyRevenue",
    "PipelineRun",
    "Freshness",
  ]) {
    expect(names(type), type).toContain("id");
  }
  expect(names("Query")).toEqual(
    expect.arrayContaining([
      "users",
      "transactions",
      "events",
      "dimDates",
      "dailyUserMetrics",
      "dailyUserMetricsLive",
      "quarterlyRevenues",
      "pipelineRuns",
      "freshness",
    ]),
  );
  expect(names("Mutation")).toEqual(
    expect.arrayContaining([
      "cleanupOldData",
      "transformStaging",
      "refreshAnalytics",
      "runPipeline",
      "upsertUser",
    ]),
  );
  expect(names("Subscription")).toEqual(["analyticsRefreshed", "pipelineRunUpdated"]);
  const groupBy = schema.getType("TransactionGroupBy");
  expect(isEnumType(groupBy) && groupBy.getValue("TRANSACTION_DATE_TRUNCATED_TO_MONTH")).toBeTruthy();
  expect(sdl).not.toMatch(/\b(production|analytics|staging)_|sourceSeq|strataSource|raw_/i);
});
