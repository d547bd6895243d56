// Parses expressions (`--set`) that make a field out of columns, in a subset of SQL. They are evaluated in this
// process and never reach the database, so they cannot read a table, call a function with side effects, or run for
// long. A full SQL parser would need an allowlist for every construct, and parses numbers as doubles.
import { badOption } from "./faults.ts";
import { parseNumber, type Decimal } from "./exact.ts";

export type Node =
  | { kind: "number"; value: Decimal }
  | { kind: "text"; value: string }
  | { kind: "boolean"; value: boolean }
  | { kind: "null" }
  | { kind: "column"; name: string; isQuoted: boolean }
  | { kind: "operator"; operator: string; operands: Node[] }
  | { kind: "call"; name: string; operands: Node[] }
  | { kind: "cast"; type: string; precision?: number; scale?: number; operand: Node }
  | { kind: "case"; branches: { when: Node; then: Node }[]; otherwise: Node };

/** Characters of an expression, and levels of parentheses and the like. */
const MAX_LENGTH = 2000;
const MAX_DEPTH = 50;

interface Token {
  kind: "number" | "text" | "word" | "quoted" | "symbol" | "end";
  /** Words are in lower case, quoted names unchanged. */
  text: string;
  written: string;
  at: number;
}

/** SQL comments are not supported: -- is two minus signs. */
const TOKEN =
  /\s*(?:(?<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)(?![\p{L}_])|(?<text>'(?:[^']|'')*')|(?<quoted>"(?:[^"]|"")+")|(?<word>[\p{L}_][\p{L}\p{N}_]*)|(?<symbol>::|\|\||<=|>=|<>|!=|-(?!-)|\/(?!\*)|[+*%(),=<>]))/uy;

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  const end = text.trimEnd().length;
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < end) {
    const from = TOKEN.lastIndex;
    const found = TOKEN.exec(text)?.groups;
    if (!found) throw problem(text, from, "this is not allowed");
    const [kind, written] = Object.entries(found).find(([, part]) => part !== undefined) as [
      Token["kind"],
      string,
    ];
    const at = TOKEN.lastIndex - written.length;
    const inner = (quote: string) => written.slice(1, -1).replaceAll(quote + quote, quote);
    const value =
      kind === "text"
        ? inner("'")
        : kind === "quoted"
          ? inner('"')
          : kind === "word"
            ? written.toLowerCase()
            : written;
    tokens.push({ kind, text: value, written, at });
  }
  tokens.push({ kind: "end", text: "", written: "", at: end });
  return tokens;
}

function problem(text: string, at: number, what: string): Error {
  const rest = text.slice(at).trim();
  const where = rest === "" ? "at its end" : `at "${rest.slice(0, 30)}${rest.length > 30 ? "…" : ""}"`;
  return badOption(`The expression "${text.slice(0, 200)}" cannot be read: ${where} ${what}`);
}

/** Functions by name, with the least and the most arguments. */
export const FUNCTIONS: Record<string, [least: number, most: number]> = {
  coalesce: [1, 100],
  nullif: [2, 2],
  concat: [1, 100],
  lower: [1, 1],
  upper: [1, 1],
  trim: [1, 2],
  btrim: [1, 2],
  ltrim: [1, 2],
  rtrim: [1, 2],
  replace: [3, 3],
  split_part: [3, 3],
  left: [2, 2],
  right: [2, 2],
  substr: [2, 3],
  substring: [2, 3],
  lpad: [3, 3],
  length: [1, 1],
  round: [1, 2],
  floor: [1, 1],
  ceil: [1, 1],
  abs: [1, 1],
  md5: [1, 1],
};

/** Types of casts, by their SQL names. */
const TYPES: Record<string, string> = {
  text: "text",
  varchar: "text",
  numeric: "numeric",
  decimal: "numeric",
  integer: "integer",
  int: "integer",
  bigint: "bigint",
  smallint: "smallint",
  boolean: "boolean",
  uuid: "uuid",
};

const BINDING: Record<string, number> = {
  or: 1,
  and: 2,
  is: 4,
  "=": 5,
  "<>": 5,
  "!=": 5,
  "<": 5,
  ">": 5,
  "<=": 5,
  ">=": 5,
  between: 6,
  in: 6,
  not: 6,
  "||": 7,
  "+": 8,
  "-": 8,
  "*": 9,
  "/": 9,
  "%": 9,
  "::": 12,
};
const NOT = 3;
const NEGATIVE = 10;
const RESERVED = new Set(
  "and or not is in between case when then else end null true false cast as from select distinct".split(" "),
);

export function parseExpression(text: string): Node {
  if (text.length > MAX_LENGTH)
    throw badOption(`An expression has ${text.length} characters; allowed: ${MAX_LENGTH}`);
  const tokens = tokensOf(text);
  let place = 0;
  let depth = 0;
  const peek = (): Token => tokens[place]!;
  const fail = (what: string): Error => problem(text, peek().at, what);
  const isAt = (...words: string[]): boolean => {
    const { kind, text: word } = peek();
    return (kind === "word" || kind === "symbol") && words.includes(word);
  };
  const accept = (word: string): boolean => isAt(word) && ++place > 0;
  const expect = (word: string): void => {
    if (!accept(word)) throw fail(`"${word}" is missing`);
  };

  function expression(least = 0): Node {
    if (++depth > MAX_DEPTH) throw fail(`it is nested deeper than ${MAX_DEPTH} levels`);
    let left = operand();
    for (;;) {
      const { kind, text: operator } = peek();
      const binding = kind === "word" || kind === "symbol" ? BINDING[operator] : undefined;
      if (binding === undefined || binding < least) break;
      place++;
      left = continued(left, operator, binding);
    }
    depth--;
    return left;
  }

  function continued(left: Node, operator: string, binding: number): Node {
    const negated = (node: Node): Node => ({ kind: "operator", operator: "not", operands: [node] });
    switch (operator) {
      case "::":
        return cast(left);
      case "is": {
        const isNot = accept("not");
        expect("null");
        const test: Node = { kind: "operator", operator: "is null", operands: [left] };
        return isNot ? negated(test) : test;
      }
      case "not":
        if (isAt("in", "between")) {
          const { text: word } = tokens[place++]!;
          return negated(continued(left, word, binding));
        }
        throw fail('after "not" there has to be "in" or "between"');
      case "between": {
        const low = expression(binding + 1);
        expect("and");
        return { kind: "operator", operator: "between", operands: [left, low, expression(binding + 1)] };
      }
      case "in":
        expect("(");
        return { kind: "operator", operator: "in", operands: [left, ...list()] };
    }
    const right = expression(binding + 1);
    return { kind: "operator", operator: operator === "!=" ? "<>" : operator, operands: [left, right] };
  }

  /** Parses a list up to the closing parenthesis. */
  function list(): Node[] {
    const nodes = [expression()];
    while (accept(",")) nodes.push(expression());
    expect(")");
    return nodes;
  }

  function cast(node: Node): Node {
    const { kind, text: word } = peek();
    if (kind !== "word" || !Object.hasOwn(TYPES, word))
      throw fail(`there has to be a type; allowed: ${Object.keys(TYPES).join(", ")}`);
    place++;
    const type = TYPES[word]!;
    if (type !== "numeric" || !accept("(")) return { kind: "cast", type, operand: node };
    const [precision, scale = 0] = list().map((size) => {
      const count = size.kind === "number" && size.value.scale === 0 ? Number(size.value.digits) : -1;
      if (count < 0 || count > 100) throw fail("precision and scale have to be numbers up to 100");
      return count;
    });
    return { kind: "cast", type, precision: precision!, scale, operand: node };
  }

  function operand(): Node {
    const token = peek();
    place++;
    switch (token.kind) {
      case "number": {
        const value = parseNumber(token.written);
        if (value) return { kind: "number", value };
        break;
      }
      case "text":
        return { kind: "text", value: token.text };
      case "quoted":
        return { kind: "column", name: token.text, isQuoted: true };
      case "symbol":
        if (token.text === "(") {
          const node = expression();
          expect(")");
          return node;
        }
        if (token.text === "-" || token.text === "+") {
          const node = expression(NEGATIVE);
          return token.text === "+" ? node : { kind: "operator", operator: "negative", operands: [node] };
        }
        break;
      case "word":
        return word(token);
    }
    place--;
    throw fail("a value is missing");
  }

  function word({ text: name, written }: Token): Node {
    if (name === "null") return { kind: "null" };
    if (name === "true" || name === "false") return { kind: "boolean", value: name === "true" };
    if (name === "not") return { kind: "operator", operator: "not", operands: [expression(NOT)] };
    if (name === "case") return choice();
    if (name === "cast") {
      expect("(");
      const node = expression();
      expect("as");
      const result = cast(node);
      expect(")");
      return result;
    }
    if (isAt("(")) {
      if (!Object.hasOwn(FUNCTIONS, name)) {
        place--;
        throw fail(`there is no such function; allowed: ${Object.keys(FUNCTIONS).join(", ")}`);
      }
      place++;
      const operands = list();
      const [least, most] = FUNCTIONS[name]!;
      if (operands.length < least || operands.length > most)
        throw fail(
          `${name} has ${operands.length} arguments; allowed: ${least === most ? least : `${least} to ${most}`}`,
        );
      return { kind: "call", name, operands };
    }
    if (RESERVED.has(name)) {
      place--;
      throw fail("a value is missing");
    }
    return { kind: "column", name: written, isQuoted: false };
  }

  function choice(): Node {
    const subject = isAt("when") ? undefined : expression();
    const branches: { when: Node; then: Node }[] = [];
    while (accept("when")) {
      const value = expression();
      expect("then");
      const when: Node = subject ? { kind: "operator", operator: "=", operands: [subject, value] } : value;
      branches.push({ when, then: expression() });
    }
    if (branches.length === 0) throw fail('"when" is missing');
    const otherwise: Node = accept("else") ? expression() : { kind: "null" };
    expect("end");
    return { kind: "case", branches, otherwise };
  }

  const node = expression();
  if (peek().kind !== "end") throw fail("the expression should have ended");
  return node;
}
