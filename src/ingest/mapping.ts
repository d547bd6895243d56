// Assigns columns to fields (`--map`) and computes fields by expressions (`--set`).
//
// A row in quarantine keeps the columns that expressions read, so that a retry computes its fields again. A field that a
// correction has set is not computed.
import { fieldNames, type Dataset } from "./dataset.ts";
import { compile, type Column, type Evaluate, type Value } from "./evaluate.ts";
import { parseNumber, writeNumber } from "./exact.ts";
import { parseExpression } from "./expression.ts";
import { badInput, badOption, isUnfitValue, quoted, type Fault } from "./faults.ts";
import { isNested, textOf } from "./json.ts";
import type { Rules } from "./options.ts";

/** "column=field" pairs; "column=" leaves a column out. */
export function parseMap(pairs: Iterable<string>, dataset: Dataset): Map<string, string> {
  const map = new Map<string, string>();
  for (const pair of pairs) {
    const [, column, field] = /^(.+)=(.*)$/s.exec(pair) ?? [];
    if (column === undefined || field === undefined)
      throw badOption(`"${pair}" is not of the form column=field, such as "customer=user_id"`);
    if (field !== "") checkField(pair, field, "maps to", dataset);
    map.set(column, field);
  }
  return map;
}

function checkField(pair: string, field: string, does: string, dataset: Dataset): void {
  if (!dataset.extras && !dataset.places.has(field))
    throw badOption(
      `"${pair.slice(0, 200)}" ${does} an unknown field of ${dataset.name}; allowed: ${quoted(fieldNames(dataset))}`,
    );
}

/** Maximum fields that expressions compute; each takes time in every row. */
const MAX_SETS = 200;

export interface Sets {
  fields: { name: string; text: string; evaluate: Evaluate }[];
  /** Columns that the expressions read. */
  columns: Column[];
  map: Map<string, string>;
  nulls: Rules["nulls"];
}

/** "field=expression" pairs; undefined if there are none. */
export function parseSets(
  pairs: string[],
  dataset: Dataset,
  map: Map<string, string>,
  { numbers, nulls }: Rules,
): Sets | undefined {
  if (pairs.length === 0) return undefined;
  if (pairs.length > MAX_SETS)
    throw badOption(`${pairs.length} fields are to be set by expressions; allowed: ${MAX_SETS}`);
  const columns: Column[] = [];
  const fields: Sets["fields"] = [];
  for (const pair of pairs) {
    const [, name, text] = /^\s*([^=]+?)\s*=(.*)$/s.exec(pair) ?? [];
    if (name === undefined || text === undefined)
      throw badOption(
        `"${pair.slice(0, 200)}" is not of the form field=expression, such as "amount=quantity * unit_price"`,
      );
    checkField(pair, name, "sets", dataset);
    if (fields.some((known) => known.name === name) || [...map.values()].includes(name))
      throw badOption(
        `More than one value is given for "${name}", by a column or an expression; allowed: one`,
      );
    fields.push({
      name,
      text: pair.trim(),
      evaluate: compile(parseExpression(text), columns, numbers?.read),
    });
  }
  return { fields, columns, map, nulls };
}

/** The reason why a field could not be computed. */
export class Failure {
  readonly fault: Fault;
  constructor(fault: Fault) {
    this.fault = fault;
  }
}

/** A computed number, whose decimal separator is a point, whatever the input uses. */
export class Computed {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

type Made = string | boolean | Computed | Failure | undefined;

/** Computes the fields from the columns' values. */
export const make = ({ fields }: Sets, values: Value[]): Made[] =>
  fields.map(({ name, text, evaluate }) => {
    try {
      const value = evaluate(values);
      if (value === null) return undefined;
      return typeof value === "object" ? new Computed(writeNumber(value)) : value;
    } catch (error) {
      if (!isUnfitValue(error)) throw error;
      const shown = text.length > 200 ? `${text.slice(0, 200)}…` : text;
      return new Failure({ reason: "invalid_expression", detail: `${name}: ${error.message} (${shown}).` });
    }
  });

/** Unquoted names are case-insensitive, as in SQL; an exact match takes precedence. */
const isCalled = ({ name, isQuoted }: Column, other: string): boolean =>
  name === other || (!isQuoted && name.toLowerCase() === other.toLowerCase());

function find(column: Column, names: readonly string[]): string | undefined {
  if (names.includes(column.name)) return column.name;
  const found = names.filter((name) => isCalled(column, name));
  if (found.length > 1)
    throw badInput(
      `More than one column may be meant by ${column.name}: ${quoted(found)}; write it in double quotes`,
    );
  return found[0];
}

/** The use of each column of a CSV file. */
export interface Placement {
  /** Field of each column; empty if it has none. */
  fields: string[];
  /** Name of each column in quarantine; empty if it is not stored. */
  kept: string[];
  /** Index of each column that expressions read. */
  read: number[];
}

export function placeColumns(
  columns: string[],
  dataset: Dataset,
  map: Map<string, string>,
  sets?: Sets,
): Placement {
  const fields = columns.map((column) => map.get(column) ?? column);
  if (!sets) return { fields, kept: fields, read: [] };
  const read = sets.columns.map((column) => {
    const name = find(column, columns);
    if (name === undefined)
      throw badInput(
        `An expression reads the column "${column.name}", which the input does not have; it has: ${quoted(columns)}`,
      );
    return columns.indexOf(name);
  });
  const kept = fields.map((field, i) => {
    if (read.includes(i)) return field === "" ? columns[i]! : field;
    return sets.fields.some(({ name }) => name === field) ? "" : field;
  });
  const twice = kept.find((name, i) => name !== "" && kept.indexOf(name) !== i);
  if (twice !== undefined)
    throw badInput(
      `"${twice}" is a column that an expression reads, and the field of another one; rename a column of the input`,
    );
  return {
    fields: fields.map((field, i) => (isMade(field, sets) || isOnlyRead(field, i) ? "" : field)),
    kept,
    read,
  };

  function isOnlyRead(field: string, i: number): boolean {
    return read.includes(i) && !dataset.extras && !dataset.places.has(field);
  }
}

const isMade = (field: string, { fields }: Sets): boolean => fields.some(({ name }) => name === field);

/** A row as the quarantine stores it: by field name, with the columns that expressions read. */
export function renamed(
  row: Record<string, unknown>,
  map: Map<string, string>,
  sets?: Sets,
): Record<string, unknown> {
  if (map.size === 0 && !sets) return row;
  const isRead = (name: string): boolean => sets?.columns.some((column) => isCalled(column, name)) ?? false;
  return Object.fromEntries(
    Object.entries(row).flatMap(([column, content]) => {
      const field = map.get(column) ?? column;
      if (isRead(column)) return [[field === "" ? column : field, content]];
      return field === "" || (sets && isMade(field, sets)) ? [] : [[field, content]];
    }),
  );
}

/** Converts a row from the quarantine to its fields. */
export function withSets(
  row: Record<string, unknown>,
  dataset: Dataset,
  sets: Sets,
  isCsv: boolean,
): Record<string, unknown> {
  const names = Object.keys(row);
  const read = new Set<string>();
  const values = sets.columns.map((column): Value => {
    const own = find(column, names);
    const mapped = own ?? sets.map.get(find(column, [...sets.map.keys()]) ?? "");
    if (!mapped || !Object.hasOwn(row, mapped)) return null;
    read.add(mapped);
    return valueOf(row[mapped], sets, isCsv);
  });
  const fields = Object.entries(row).filter(
    ([name]) =>
      !read.has(name) ||
      (sets.map.get(name) !== "" && (dataset.extras !== undefined || dataset.places.has(name))),
  );
  const made = make(sets, values).flatMap((value, i) => {
    const { name } = sets.fields[i]!;
    return Object.hasOwn(row, name) && !read.has(name) ? [] : [[name, value] as const];
  });
  return Object.fromEntries([...fields, ...made]);
}

function valueOf(content: unknown, { nulls }: Sets, isCsv: boolean): Value {
  if (content === null || content === undefined) return null;
  if (typeof content === "string") return textValue(content, nulls, isCsv);
  if (typeof content === "boolean") return content;
  if (isNested(content)) return JSON.stringify(content);
  const text = textOf(content)!;
  return parseNumber(text) ?? text;
}

export const textValue = (text: string, nulls: Rules["nulls"], isCsv: boolean): string | null =>
  (isCsv && text === "") || nulls?.has(text) ? null : text;
