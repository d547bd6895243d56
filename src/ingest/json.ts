// Parses JSON without losing digits, and formats its values for a column.
import { LOSSY } from "./numbers.ts";

// JSON.parse rounds long numbers and loses very large ones; those keep the text they were sent with.
const { rawJSON, isRawJSON } = JSON as unknown as {
  rawJSON: (text: string) => object;
  isRawJSON: (value: unknown) => value is { rawJSON: string };
};
/** Makes a JSON number with all of its digits. */
export const numberOf = (text: string): object => rawJSON(text);
const DEEPEST = 1000;

export function parseJson(text: string): unknown {
  if (text.length > DEEPEST && isDeep(text)) throw new Error(`it is nested deeper than ${DEEPEST} levels`);
  if (!LOSSY.test(text)) return JSON.parse(text);
  const keep = (_key: string, value: unknown, context?: { source: string }): unknown =>
    typeof value === "number" && context && String(value) !== context.source
      ? rawJSON(context.source)
      : value;
  return JSON.parse(text, keep);
}

/** Deeply nested values overflow the stack, here or in the database. */
function isDeep(text: string): boolean {
  let depth = 0;
  for (const [bracket] of text.matchAll(/[[\]{}]/g)) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    if (depth > DEEPEST) return true;
  }
  return false;
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !isRawJSON(value);

export const isNested = (value: unknown): value is object => isObject(value) || Array.isArray(value);

/** Text of a scalar; undefined for an object or array. */
export function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (isNested(value)) return undefined;
  return isRawJSON(value) ? value.rawJSON : JSON.stringify(value);
}

/** Converts a JSON array to PostgreSQL's notation; undefined if it holds objects. */
export function arrayLiteral(items: unknown[], ofJson: boolean): string | undefined {
  const parts: string[] = [];
  for (const item of items) {
    if (item === null) parts.push("NULL");
    else if (Array.isArray(item) && !ofJson) {
      const inner = arrayLiteral(item, ofJson);
      if (inner === undefined) return undefined;
      parts.push(inner);
    } else {
      const text = ofJson ? JSON.stringify(item) : textOf(item);
      if (text === undefined) return undefined;
      parts.push(`"${text.replace(/["\\]/g, "\\$&")}"`);
    }
  }
  return `{${parts.join(",")}}`;
}
