// Compiles an expression to a function of its columns. The result is the one that PostgreSQL computes for the same
// expression, as a test compares. Columns are text, and are converted where arithmetic needs numbers.
import { createHash } from "node:crypto";
import * as exact from "./exact.ts";
import type { Decimal } from "./exact.ts";
import type { Node } from "./expression.ts";
import { badOption, unfitValue } from "./faults.ts";

export type Value = null | string | boolean | Decimal;
/** Computes the value from those of the columns, in the order of the compiled list. */
export type Evaluate = (columns: readonly Value[]) => Value;

/** A column that an expression refers to. */
export interface Column {
  name: string;
  isQuoted: boolean;
}

type Kind = "number" | "text" | "boolean" | "any";
interface Part {
  kind: Kind;
  evaluate: Evaluate;
}

/** Maximum characters of a text that an expression returns. */
const MAX_TEXT = 100_000;

const shown = (text: string): string => `"${text.slice(0, 50)}${text.length > 50 ? "…" : ""}"`;
const isDecimal = (value: Value): value is Decimal => typeof value === "object" && value !== null;

/** Converts a column's text to a number in PostgreSQL's notation. */
type ReadNumber = (text: string) => string | undefined;

/** Adds columns to the list that earlier expressions have not used. */
export function compile(node: Node, columns: Column[], readNumber: ReadNumber = (text) => text): Evaluate {
  const toNumber = (value: Value): Decimal | null => {
    if (value === null || isDecimal(value)) return value;
    const read = typeof value === "string" ? readNumber(value) : undefined;
    const number = read === undefined ? undefined : exact.parseNumber(read);
    if (number) return number;
    throw unfitValue(`${shown(String(value))} is not a number`);
  };
  const toText = (value: Value): string | null =>
    value === null || typeof value === "string"
      ? value
      : isDecimal(value)
        ? exact.writeNumber(value)
        : String(value);
  /** The text that concat makes of a value. */
  const inRow = (value: Value): string =>
    typeof value === "boolean" ? (value ? "t" : "f") : (toText(value) ?? "");
  const whole = (value: Value, least: number, most: number): number | null => {
    const number = toNumber(value);
    if (number === null) return null;
    const count = Number(exact.round(number, 0).digits);
    if (count < least || count > most) throw unfitValue(`${count} is not a number from ${least} to ${most}`);
    return count;
  };
  const fit = (text: string): string => {
    if (text.length > MAX_TEXT)
      throw unfitValue(`a text of ${text.length} characters is longer than ${MAX_TEXT}`);
    return text;
  };
  const decimal = (number: Decimal | undefined): Decimal => {
    if (!number) throw unfitValue("a number has more digits than can be kept");
    return number;
  };

  const part = (inner: Node): Part => {
    switch (inner.kind) {
      case "number":
      case "text":
      case "boolean": {
        const { kind, value } = inner;
        return { kind, evaluate: () => value };
      }
      case "null":
        return { kind: "any", evaluate: () => null };
      case "column": {
        const { name, isQuoted } = inner;
        let place = columns.findIndex((known) => known.name === name && known.isQuoted === isQuoted);
        if (place === -1) place = columns.push({ name, isQuoted }) - 1;
        return { kind: "text", evaluate: (values) => values[place]! };
      }
      case "cast":
        return cast(inner, part(inner.operand));
      case "case": {
        const branches = inner.branches.map(({ when, then }) => ({
          when: condition(when),
          then: part(then),
        }));
        const otherwise = part(inner.otherwise);
        return {
          kind: common([...branches.map(({ then }) => then), otherwise]),
          evaluate: (values) =>
            (branches.find(({ when }) => when.evaluate(values) === true)?.then ?? otherwise).evaluate(values),
        };
      }
      case "operator":
        return operator(inner.operator, inner.operands);
      case "call":
        return call(inner.name, inner.operands.map(part));
    }
  };

  const common = (parts: Part[]): Kind => {
    const kinds = new Set(parts.map(({ kind }) => kind).filter((kind) => kind !== "any"));
    return kinds.size === 1 ? [...kinds][0]! : "any";
  };

  const condition = (inner: Node): Part => {
    const found = part(inner);
    if (found.kind === "boolean" || inner.kind === "null") return found;
    throw badOption("A condition has to be true or false: compare, or cast with ::boolean");
  };

  const cast = (
    { type, precision, scale = 0 }: Extract<Node, { kind: "cast" }>,
    { evaluate }: Part,
  ): Part => {
    switch (type) {
      case "text":
        return { kind: "text", evaluate: (values) => toText(evaluate(values)) };
      case "boolean":
        return { kind: "boolean", evaluate: (values) => toBoolean(evaluate(values)) };
      case "uuid":
        return { kind: "text", evaluate: (values) => toUuid(toText(evaluate(values))) };
    }
    const limits: Record<string, bigint> = { smallint: 2n ** 15n, integer: 2n ** 31n, bigint: 2n ** 63n };
    const limit = precision === undefined ? limits[type] : 10n ** BigInt(precision);
    return {
      kind: "number",
      evaluate(values) {
        const number = toNumber(evaluate(values));
        if (number === null || limit === undefined) return number;
        const rounded = exact.round(number, scale);
        // The range of integers has one more negative number than positive ones.
        const { digits } = rounded;
        if (digits >= limit || (precision === undefined ? digits < -limit : digits <= -limit))
          throw unfitValue(`${shown(exact.writeNumber(number))} is beyond what ${type} can hold`);
        return rounded;
      },
    };
  };

  const strict =
    (parts: Part[], use: (values: Exclude<Value, null>[]) => Value): Evaluate =>
    (values) => {
      const found: Exclude<Value, null>[] = [];
      for (const { evaluate } of parts) {
        const value = evaluate(values);
        if (value === null) return null;
        found.push(value);
      }
      return use(found);
    };

  const arithmetic = ([left, right]: Part[], use: (a: Decimal, b: Decimal) => Decimal): Part => ({
    kind: "number",
    evaluate(values) {
      const a = toNumber(left!.evaluate(values));
      const b = toNumber(right!.evaluate(values));
      return a === null || b === null ? null : use(a, b);
    },
  });

  const equal = (a: Value, b: Value): boolean | null => {
    if (a === null || b === null) return null;
    if (isDecimal(a) || isDecimal(b)) return exact.compare(toNumber(a)!, toNumber(b)!) === 0;
    return typeof a === "boolean" || typeof b === "boolean" ? toBoolean(a) === toBoolean(b) : a === b;
  };
  /** Comparing texts is rejected: their order depends on the collation, and that of digits is not that of numbers. */
  const order = (operands: Part[]): void => {
    if (!operands.some(({ kind }) => kind === "number"))
      throw badOption(
        "Only numbers can be compared with <, >, <=, >= and between: cast one of them with ::numeric",
      );
  };
  const divisor = (number: Decimal): Decimal => {
    if (exact.isZero(number)) throw unfitValue("a number is divided by zero");
    return number;
  };

  const operator = (name: string, nodes: Node[]): Part => {
    if (name === "and" || name === "or") {
      const [left, right] = nodes.map(condition);
      const decides = name === "or";
      return {
        kind: "boolean",
        evaluate(values) {
          const a = left!.evaluate(values);
          if (a === decides) return a;
          const b = right!.evaluate(values);
          return b === decides ? b : a === null || b === null ? null : !decides;
        },
      };
    }
    if (name === "not") {
      const { evaluate } = condition(nodes[0]!);
      return {
        kind: "boolean",
        evaluate(values) {
          const value = evaluate(values);
          return value === null ? null : !value;
        },
      };
    }
    const operands = nodes.map(part);
    const [left, right] = operands as [Part, Part];
    switch (name) {
      case "+":
        return arithmetic(operands, (a, b) => decimal(exact.add(a, b)));
      case "-":
        return arithmetic(operands, (a, b) => decimal(exact.add(a, exact.negate(b))));
      case "*":
        return arithmetic(operands, (a, b) => decimal(exact.multiply(a, b)));
      case "/":
        return arithmetic(operands, (a, b) => decimal(exact.divide(a, divisor(b))));
      case "%":
        return arithmetic(operands, (a, b) => exact.remainder(a, divisor(b)));
      case "negative":
        return { kind: "number", evaluate: strict(operands, ([value]) => exact.negate(toNumber(value!)!)) };
      case "||":
        return { kind: "text", evaluate: strict(operands, (all) => fit(all.map(toText).join(""))) };
      case "is null":
        return { kind: "boolean", evaluate: (values) => left.evaluate(values) === null };
      case "=":
        return {
          kind: "boolean",
          evaluate: (values) => equal(left.evaluate(values), right.evaluate(values)),
        };
      case "<>":
        return {
          kind: "boolean",
          evaluate(values) {
            const found = equal(left.evaluate(values), right.evaluate(values));
            return found === null ? null : !found;
          },
        };
      case "in":
        return {
          kind: "boolean",
          evaluate(values) {
            const value = left.evaluate(values);
            const found = operands.slice(1).map(({ evaluate }) => equal(value, evaluate(values)));
            return found.includes(true) ? true : found.includes(null) ? null : false;
          },
        };
    }
    order(operands);
    const holds: Record<string, (difference: number) => boolean> = {
      "<": (difference) => difference < 0,
      ">": (difference) => difference > 0,
      "<=": (difference) => difference <= 0,
      ">=": (difference) => difference >= 0,
    };
    const compared = (a: Value, b: Value, by: string): boolean | null => {
      const [first, second] = [toNumber(a), toNumber(b)];
      return first === null || second === null ? null : holds[by]!(exact.compare(first, second));
    };
    if (name !== "between")
      return {
        kind: "boolean",
        evaluate: (values) => compared(left.evaluate(values), right.evaluate(values), name),
      };
    return {
      kind: "boolean",
      evaluate(values) {
        const value = left.evaluate(values);
        const low = compared(value, right.evaluate(values), ">=");
        const high = compared(value, operands[2]!.evaluate(values), "<=");
        return low === false || high === false ? false : low === null || high === null ? null : true;
      },
    };
  };

  const call = (name: string, operands: Part[]): Part => {
    const [first, second] = operands as [Part, Part];
    switch (name) {
      case "coalesce":
        return {
          kind: common(operands),
          evaluate(values) {
            for (const { evaluate } of operands) {
              const value = evaluate(values);
              if (value !== null) return value;
            }
            return null;
          },
        };
      case "nullif":
        return {
          kind: first.kind,
          evaluate(values) {
            const value = first.evaluate(values);
            return equal(value, second.evaluate(values)) === true ? null : value;
          },
        };
      case "concat":
        return {
          kind: "text",
          evaluate: (values) => fit(operands.map(({ evaluate }) => inRow(evaluate(values))).join("")),
        };
      case "round":
        return {
          kind: "number",
          evaluate: strict(operands, ([value, count]) =>
            exact.round(toNumber(value!)!, count === undefined ? 0 : whole(count, 0, 100)!),
          ),
        };
      case "floor":
        return { kind: "number", evaluate: strict(operands, ([value]) => exact.floor(toNumber(value!)!)) };
      case "ceil":
        return {
          kind: "number",
          evaluate: strict(operands, ([value]) => exact.negate(exact.floor(exact.negate(toNumber(value!)!)))),
        };
      case "abs":
        return {
          kind: "number",
          evaluate: strict(operands, ([value]) => {
            const number = toNumber(value!)!;
            return number.digits < 0n ? exact.negate(number) : number;
          }),
        };
      case "length":
        return {
          kind: "number",
          evaluate: strict(operands, ([value]) => ({ digits: lengthOf(toText(value!)!), scale: 0 })),
        };
    }
    const texts = TEXTS[name]!;
    return {
      kind: "text",
      evaluate: strict(operands, (all) => {
        const count = (value: Value) => whole(value, -MAX_TEXT, MAX_TEXT)!;
        return fit(
          texts(
            all.map((value) => toText(value)!),
            (place) => count(all[place]!),
            all.length,
          ),
        );
      }),
    };
  };

  return part(node).evaluate;
}

const TRUE = /^(?:t|true|y|yes|on|1)$/i;
const FALSE = /^(?:f|false|n|no|off|0)$/i;

function toBoolean(value: Value): boolean | null {
  if (value === null || typeof value === "boolean") return value;
  const text = isDecimal(value) ? exact.writeNumber(value) : value.trim();
  if (TRUE.test(text)) return true;
  if (FALSE.test(text)) return false;
  throw unfitValue(`${shown(text)} is neither true nor false`);
}

function toUuid(text: string | null): string | null {
  if (text === null) return null;
  const hex = text.replaceAll("-", "").toLowerCase();
  if (!/^[0-9a-f]{32}$/.test(hex)) throw unfitValue(`${shown(text)} is not a UUID`);
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const ASCII = /^[\x00-\x7f]*$/;
/** PostgreSQL counts characters, not units of UTF-16. */
const charactersOf = (text: string): string[] => (ASCII.test(text) ? text.split("") : [...text]);
const lengthOf = (text: string): number => (ASCII.test(text) ? text.length : [...text].length);
/** Maps one character to one, as PostgreSQL does: ß stays ß in upper case. */
const mapped = (text: string, map: (character: string) => string): string =>
  ASCII.test(text)
    ? map(text)
    : [...text].map((character) => (lengthOf(map(character)) === 1 ? map(character) : character)).join("");

type OfTexts = (texts: string[], count: (place: number) => number, given: number) => string;

const trimmed =
  (atStart: boolean, atEnd: boolean): OfTexts =>
  ([text, of = " "]) => {
    const unwanted = new Set(charactersOf(of));
    const characters = charactersOf(text!);
    let start = 0;
    let end = characters.length;
    while (atStart && start < end && unwanted.has(characters[start]!)) start++;
    while (atEnd && end > start && unwanted.has(characters[end - 1]!)) end--;
    return start === 0 && end === characters.length ? text! : characters.slice(start, end).join("");
  };

/** Functions of texts; they can read an argument as a number as well. */
const TEXTS: Record<string, OfTexts> = {
  lower: ([text]) => mapped(text!, (some) => some.toLowerCase()),
  upper: ([text]) => mapped(text!, (some) => some.toUpperCase()),
  trim: trimmed(true, true),
  btrim: trimmed(true, true),
  ltrim: trimmed(true, false),
  rtrim: trimmed(false, true),
  replace([text, from, to]) {
    if (from === "") return text!;
    const parts = text!.split(from!);
    if (
      text!.length + (parts.length - 1) * (to!.length - from!.length) > MAX_TEXT &&
      to!.length > from!.length
    )
      throw unfitValue(`replace makes a text that is longer than ${MAX_TEXT} characters`);
    return parts.join(to);
  },
  split_part([text, by], count) {
    const place = count(2);
    if (place === 0) throw unfitValue("split_part counts from 1, or from -1 at the end");
    const parts = by === "" ? [text!] : text!.split(by!);
    return (place > 0 ? parts[place - 1] : parts[parts.length + place]) ?? "";
  },
  left([text], count) {
    const characters = charactersOf(text!);
    return characters.slice(0, count(1) >= 0 ? count(1) : Math.max(characters.length + count(1), 0)).join("");
  },
  right([text], count) {
    const characters = charactersOf(text!);
    return characters.slice(count(1) >= 0 ? Math.max(characters.length - count(1), 0) : -count(1)).join("");
  },
  substr: ([text], count, given) => part(text!, count(1), given === 3 ? count(2) : undefined),
  substring: ([text], count, given) => part(text!, count(1), given === 3 ? count(2) : undefined),
  lpad([text, , fill], count) {
    const length = Math.max(count(1), 0);
    const characters = charactersOf(text!);
    const missing = length - characters.length;
    if (missing <= 0 || fill === "") return characters.slice(0, length).join("");
    const filling = charactersOf(fill!);
    return Array.from({ length: missing }, (_, i) => filling[i % filling.length]).join("") + text;
  },
  md5: ([text]) => createHash("md5").update(text!).digest("hex"),
};

function part(text: string, from: number, length: number | undefined): string {
  if (length !== undefined && length < 0) throw unfitValue("substring has a negative length");
  const characters = charactersOf(text);
  const end = length === undefined ? characters.length : Math.max(from - 1 + length, 0);
  return characters.slice(Math.max(from - 1, 0), end).join("");
}
