// Types of a proposal, and the wording that its outputs share.
import type { Reference } from "./parents.ts";
import { shown, type Column, type Example } from "./profile.ts";

export interface ColumnProposal {
  header: string;
  name: string;
  type: string;
  notNull: boolean;
  why: string[];
  /** Values that the type rejects: rows with them will be quarantined. */
  misfits: { count: number; examples: Example[] };
  profile: Column;
}

export interface Constraint {
  name: string;
  sql: string;
  /** Comment of the constraint, which is the reason that a rejected row shows. */
  comment: string;
  /** Why the constraint is commented out in the file; undefined if it is active. */
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

/** Share of misfits up to which a column keeps its type; with more, another type is proposed. */
const DIRT = 0.02;
export const MIN_ROWS = 20;

export const dirtOf = (total: number): number =>
  total < MIN_ROWS ? 0 : Math.max(1, Math.floor(total * DIRT));
export const count = (number: number): string => number.toLocaleString("en");
export const rowsThat = (number: number, one: string, many: string): string =>
  `${count(number)} ${number === 1 ? `row ${one}` : `rows ${many}`}`;
export const named = (examples: Example[]): string =>
  examples.map(({ line, value }) => `${shown(value)} (line ${line})`).join(", ");
