// Converts filters between the address, `where=status:equalTo:paid`, and the API.
import type { Detail } from "./schema.ts";

export interface Condition {
  /** Path in the filter type: a column, or a relation and one of its columns. */
  path: string[];
  operator: string;
  value: string;
}

export const parseCondition = (text: string): Condition | undefined => {
  const [, path, operator, value] = /^([\w.]+):(\w+):(.*)$/s.exec(text) ?? [];
  return path === undefined ? undefined : { path: path.split("."), operator: operator!, value: value! };
};
export const printCondition = ({ path, operator, value }: Condition): string =>
  `${path.join(".")}:${operator}:${value}`;

/** Operators of the API in words. */
const WORDS: Record<string, string> = {
  equalTo: "is",
  notEqualTo: "is not",
  greaterThan: ">",
  greaterThanOrEqualTo: "≥",
  lessThan: "<",
  lessThanOrEqualTo: "≤",
  in: "is one of",
  notIn: "is none of",
  isNull: "is empty",
  startsWith: "starts with",
  contains: "contains",
};
export const operatorInWords = (operator: string): string =>
  WORDS[operator] ?? operator.replaceAll(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`);

export function valueOf(text: string, type: string, isList: boolean): unknown {
  if (isList) return text.split(",").map((item) => valueOf(item.trim(), type, false));
  if (type === "Boolean") return text === "true";
  if (type === "Int" || type === "Float") return Number(text);
  if (type === "JSON") {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  return text;
}

const isListOperator = (operator: string): boolean => ["in", "notIn", "overlaps"].includes(operator);

export function toFilter(conditions: Condition[], { columns }: Detail): Record<string, unknown> {
  const parts = conditions.map(({ path, operator, value }) => {
    const column = columns.find(({ name }) => name === path[0]);
    const type = operator === "isNull" ? "Boolean" : path.length > 1 ? "" : (column?.type ?? "");
    const given = valueOf(
      value,
      type,
      isListOperator(operator) || (operator === "contains" && column?.kind === "list"),
    );
    // A relation's key has no type here, so texts that look like numbers are sent as numbers.
    const typed =
      path.length > 1 && /^-?\d{1,15}$/.test(value) && !operator.startsWith("is") ? Number(value) : given;
    return path.reduceRight<unknown>((inner, name) => ({ [name]: inner }), { [operator]: typed }) as Record<
      string,
      unknown
    >;
  });
  return parts.length === 0 ? {} : parts.length === 1 ? parts[0]! : { and: parts };
}
