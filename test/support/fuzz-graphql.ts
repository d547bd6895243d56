// Random operations over a schema: of the right shape, with values that are anything but.
import {
  getNamedType,
  getNullableType,
  isCompositeType,
  isEnumType,
  isInputObjectType,
  isListType,
  isObjectType,
  isRequiredArgument,
  isRequiredInputField,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type GraphQLSchema,
} from "grafast/graphql";
import type { Chance } from "./random.ts";

const base64 = (text: string): string => Buffer.from(text).toString("base64");

const STRINGS = [
  "", "a", "1", "-1", "\u0000", "\\u0000", "'", '"', "''; --", "%", "_", "\\", "😀", "\ud800", "\u202e", "null", "true",
  "2024-01-01", "2024-02-30", "2024-01-01T00:00:00Z", "0001-01-01 BC", "infinity", "-infinity", "now", "99999-01-01",
  "294277-01-01T00:00:00Z", "24:00:00", "1e10", "1e400", "NaN", "Infinity", "0x10", "99999999999999999999", "9223372036854775807",
  "{}", "[1]", "POINT(0 0)", "$.a", "a".repeat(5_000), "(", "[", "(?:", "*", "1 day", "@", "completed", "pending", "x@example.org",
  base64('["primary_key_asc",[1]]'), base64('["primary_key_asc",["x"]]'), base64('["users",1]'), base64('["users",null]'),
  base64('["users"'), base64("[]"), base64('["natural",1]'), base64('["natural",-5]'), base64('["User",99999999999999]'),
  base64('{"a":1}'), base64("null"), "W10=", "====",
]; // prettier-ignore
const NUMBERS = [
  0, 1, 2, -1, 5, 1_000, 1_001, 2_147_483_647, 2_147_483_648, -2_147_483_649, 9_007_199_254_740_993, 1.5, -0.5, 1e21, 1e308,
  5e-324, 180, 181, -90, 90.0001, 12_345_678.901,
]; // prettier-ignore

/** A JSON value of no type in particular. */
export function anything(by: Chance, depth = 0): unknown {
  const kind = by.below(depth > 4 ? 5 : 7);
  if (kind < 2) return by.pick(STRINGS);
  if (kind < 4) return by.pick(NUMBERS);
  if (kind === 4) return by.pick([null, true, false]);
  if (kind === 5) return by.times(4, () => anything(by, depth + 1));
  return Object.fromEntries(
    by.times(4, () => [
      by.pick(["a", "type", "coordinates", "and", "equalTo", "__proto__", "constructor", ""]),
      anything(by, depth + 1),
    ]),
  );
}

/** A value that is often of the type. */
export function valueOf(by: Chance, type: GraphQLInputType, depth = 0): unknown {
  const nullable = getNullableType(type);
  if (by.is(0.03)) return anything(by, 3);
  if (by.is(0.04)) return null;
  if (isListType(nullable)) return by.times(3, () => valueOf(by, nullable.ofType, depth + 1));
  if (isEnumType(nullable)) return by.pick(nullable.getValues()).name;
  if (isInputObjectType(nullable)) {
    const fields = Object.values(nullable.getFields()).filter(
      (field) =>
        isRequiredInputField(field) ||
        (depth < 5 && by.is(2 / (2 + Object.keys(nullable.getFields()).length))),
    );
    return Object.fromEntries(fields.map((field) => [field.name, valueOf(by, field.type, depth + 1)]));
  }
  const { name } = nullable;
  if (name === "Boolean") return by.is(0.5);
  if (name === "Int" || name === "Float") return by.is(0.7) ? by.below(100) : by.pick(NUMBERS);
  if (name === "JSON") return anything(by);
  if (name === "Datetime")
    return by.is(0.7)
      ? `20${10 + by.below(30)}-0${1 + by.below(9)}-1${by.below(9)}T00:00:00Z`
      : by.pick(STRINGS);
  if (name === "BigInt" || name === "BigFloat")
    return by.is(0.7) ? String(by.below(1_000)) : by.pick(STRINGS);
  return by.pick(STRINGS);
}

const NAME = /^[_a-zA-Z]\w*$/;

/** The value as it is written in a document. */
function literal(value: unknown, isEnum: boolean): string {
  if (isEnum && typeof value === "string" && NAME.test(value)) return value;
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, isEnum)).join(" ")}]`;
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value).filter(([name]) => NAME.test(name));
    return `{${fields.map(([name, item]) => `${name}: ${literal(item, typeof item === "string" && /^[A-Z_]+$/.test(item))}`).join(" ")}}`;
  }
  return JSON.stringify(value);
}

export interface Operation {
  query: string;
  variables: Record<string, unknown>;
}

export function operationOn(
  by: Chance,
  schema: GraphQLSchema,
  root: GraphQLObjectType,
  except: RegExp,
): Operation {
  const variables: Record<string, unknown> = {};
  const declared: string[] = [];

  const argumentsOf = (field: GraphQLField<unknown, unknown>): string => {
    const given = field.args.filter((argument) => isRequiredArgument(argument) || by.is(0.25));
    if (given.length === 0) return "";
    const written = given.map(({ name, type }) => {
      const value = valueOf(by, type);
      if (by.is(0.5)) return `${name}: ${literal(value, isEnumType(getNamedType(type)))}`;
      const variable = `v${declared.length}`;
      declared.push(`$${variable}: ${String(type)}`);
      variables[variable] = value;
      return `${name}: $${variable}`;
    });
    return `(${written.join(" ")})`;
  };

  const selectionOf = (type: GraphQLOutputType, depth: number): string => {
    const named = getNamedType(type);
    if (!isCompositeType(named)) return "";
    if (!isObjectType(named)) return "{ __typename }";
    const fields = Object.values(named.getFields()).filter(
      (field) => !except.test(field.name) && (depth < 7 || !isCompositeType(getNamedType(field.type))),
    );
    const chosen = [...new Set(by.times(depth === 0 ? 1 : 3, () => by.pick(fields)))].filter(Boolean);
    const inner = chosen.map(
      (field) => `${field.name}${argumentsOf(field)} ${selectionOf(field.type, depth + 1)}`,
    );
    return `{ __typename ${inner.join(" ")} }`;
  };

  const body = selectionOf(root, 0);
  const kind = root === schema.getMutationType() ? "mutation" : "query";
  return { query: `${kind} Fuzz${declared.length > 0 ? `(${declared.join(" ")})` : ""} ${body}`, variables };
}

/** The text with a few bytes, words or halves gone wrong. */
export function damaged(by: Chance, text: string): string {
  let result = text;
  for (let i = by.below(3); i >= 0; i--) {
    const at = by.below(result.length + 1);
    const end = at + by.below(10);
    const inserted = by.pick([
      "",
      "{",
      "}",
      '"',
      "\\",
      "\n",
      "\u0000",
      "$",
      "...",
      "@skip",
      "#",
      "😀",
      "null",
      "[[[[",
      "\ufeff",
      "__schema",
      ...STRINGS,
    ]);
    result = by.pick([
      () => result.slice(0, at) + inserted + result.slice(at),
      () => result.slice(0, at) + result.slice(end),
      () => result.slice(0, at) + inserted + result.slice(end),
      () => result.slice(0, at),
      () => result.slice(at, end).repeat(by.below(50)) + result,
    ])();
  }
  return result;
}
