// The proposal for a file: its types, and its wording.
import type { Reference } from "./parents.ts";
import { shown, type Column, type Example } from "./profile.ts";

export interface ColumnProposal {
  header: string;
  name: string;
  type: string;
  notNull: boolean;
  why: string[];
  /** Values that the type does not take: rows with them will be quarantined. */
  misfits: { count: number; examples: Example[] };
  profile: Column;
}

export interface Constraint {
  name: string;
  sql: string;
  /** The words of a rejection. */
  comment: string;
  /** Why it is only a comment in the file; undefined if it is active. */
  doubt: string | undefined;
}

export interface Proposal {
  dataset: string;
  columns: ColumnProposal[];
  key: string[];
  keyWhy: string;
  constraints: Constraint[];
  indexes: string[][];
  /** Generated day of the main time column. */
  day: { name: string; expression: string; of: string } | undefined;
  parents: Reference[];
  remarks: string[];
}

/** Puts a name in quotes where PostgreSQL needs them. */
export type Quote = (name: string) => string;

export interface Key {
  columns: string[];
  why: string;
}

/** Share of wrong values that is taken for dirt in a column rather than for another type. */
const DIRT = 0.02;
export const MIN_ROWS = 20;

export const dirtOf = (total: number): number =>
  total < MIN_ROWS ? 0 : Math.max(1, Math.floor(total * DIRT));
export const count = (number: number): string => number.toLocaleString("en");
export const rowsThat = (number: number, one: string, many: string): string =>
  `${count(number)} ${number === 1 ? `row ${one}` : `rows ${many}`}`;
export const named = (examples: Example[]): string =>
  examples.map(({ line, value }) => `${shown(value)} (line ${line})`).join(", ");
