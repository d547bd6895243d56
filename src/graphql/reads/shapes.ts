// Cache of an operation's statements by the shape of its variables: building one takes longer than running it.
// A trial finds which parameter takes which variable. It builds the statement twice with values that occur nowhere
// else: the text must be the same, and each parameter that differs must hold one of those values unchanged.
import { hash } from "node:crypto";
import { Kind, visit, type OperationDefinitionNode, type TypeNode } from "grafast/graphql";

export interface Statement {
  text: string;
  name?: string;
  values: unknown[];
}

export type Variables = Record<string, unknown>;

type Build = (variables: Variables) => Statement | undefined;

/** A statement's text, and the source of each of its parameters. */
interface Shape {
  text: string;
  name: string;
  values: unknown[];
  variables: (string | undefined)[];
}

const MAX_SHAPES = 20;
/** Characters of the longest key or text that is cached. */
const MAX_LENGTH = 20_000;
/** Characters that the shapes of one operation may take together: there are many operations. */
const MAX_TOTAL = 50_000;

const digits = (n: number): string => String(n).padStart(2, "0");
/** Valid trial values by type, which no client sends; texts contain all characters that may need escaping. */
const TRIALS: Record<string, (n: number) => unknown> = {
  Int: (n) => 1_734_000_000 + n,
  BigInt: (n) => `17340000${digits(n)}`,
  BigFloat: (n) => `17340000${digits(n)}.25`,
  String: (n) => `%_\\\\'"*?\\n{[(.Ä ${n}`,
  Date: (n) => `19${digits(n)}-02-03`,
  Datetime: (n) => `19${digits(n)}-02-03T04:05:06Z`,
};
const MAX_VARIABLES = 40;
/** Type of variables whose values rarely repeat, so that a cached shape would not be used again. */
const UNIQUE = "Cursor";

const nameOf = (type: TypeNode): string | undefined =>
  type.kind === Kind.NON_NULL_TYPE
    ? nameOf(type.type)
    : type.kind === Kind.NAMED_TYPE
      ? type.name.value
      : undefined;

/** Finds variables whose values do not change the statement's text, unlike a page's size. */
function freeVariables(operation: OperationDefinitionNode): Map<string, (n: number) => unknown> {
  const free = new Map<string, (n: number) => unknown>();
  for (const { variable, type } of operation.variableDefinitions ?? []) {
    const trial = TRIALS[nameOf(type) ?? ""];
    if (trial && free.size < MAX_VARIABLES) free.set(variable.name.value, trial);
  }
  visit(operation, {
    Argument({ name, value }) {
      if (name.value === "first" && value.kind === Kind.VARIABLE) free.delete(value.name.value);
    },
  });
  return free;
}

export function createShapes(operation: OperationDefinitionNode, build: Build): Build {
  const free = freeVariables(operation);
  const unique = (operation.variableDefinitions ?? [])
    .filter(({ type }) => nameOf(type) === UNIQUE)
    .map(({ variable }) => variable.name.value);
  const shapes = new Map<string, Shape | undefined>();
  let total = 0;

  const keyOf = (variables: Variables): string => {
    let key = "";
    for (const name in variables) {
      const value = variables[name];
      key += free.has(name) && value !== null ? `${name};` : `${name}:${JSON.stringify(value)};`;
    }
    return key;
  };

  /** A trial may be rejected although real values are accepted. */
  const attempt: Build = (variables) => {
    try {
      return build(variables);
    } catch {
      return undefined;
    }
  };

  function shapeOf(variables: Variables): Shape | undefined {
    const names = Object.keys(variables).filter((name) => free.has(name) && variables[name] !== null);
    const tried = [0, 1].map((round) => {
      const values = new Map(names.map((name, i) => [free.get(name)!(2 * i + round), name]));
      const trial = Object.fromEntries([...values].map(([value, name]) => [name, value]));
      return { values, statement: attempt({ ...variables, ...trial }) };
    });
    const [one, other] = tried;
    const text = one!.statement?.text;
    if (text === undefined || text !== other!.statement?.text || text.length > MAX_LENGTH) return undefined;
    const { values } = one!.statement!;
    const sources: (string | undefined)[] = [];
    for (const [i, value] of values.entries()) {
      const second = other!.statement.values[i];
      const source = one!.values.get(value);
      if (source === undefined ? !isSame(value, second) : other!.values.get(second) !== source)
        return undefined;
      sources.push(source);
    }
    return { text, name: hash("sha1", text, "base64url"), values, variables: sources };
  }

  // The text may still be prepared on a connection.
  const unshaped: Build = (variables) => {
    const statement = build(variables);
    return statement && { ...statement, name: hash("sha1", statement.text, "base64url") };
  };

  return (variables) => {
    if (unique.some((name) => variables[name] != null)) return unshaped(variables);
    const key = keyOf(variables);
    if (key.length > MAX_LENGTH) return unshaped(variables);
    let shape = shapes.get(key);
    if (!shape) {
      if (shapes.has(key) || shapes.size >= MAX_SHAPES || total > MAX_TOTAL) return unshaped(variables);
      shapes.set(key, (shape = shapeOf(variables)));
      total += key.length + (shape?.text.length ?? 0);
      if (!shape) return unshaped(variables);
    }
    const { text, name, values, variables: sources } = shape;
    return { text, name, values: values.map((value, i) => (sources[i] ? variables[sources[i]] : value)) };
  };
}

const isSame = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other);
