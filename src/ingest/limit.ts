// The limit of rejected rows of a load (--max-rejected), as a number or a share.
import { badOption } from "./faults.ts";

export interface RejectLimit {
  /** The limit as given: "10" or "0.5%". */
  text: string;
  rows?: number;
  percent?: number;
}

export function parseLimit(text: string): RejectLimit {
  const [, number, sign] = /^(\d{1,15}(?:\.\d{1,6})?)(%?)$/.exec(text.trim()) ?? [];
  const value = Number(number);
  if (number !== undefined && sign === "%" && value <= 100) return { text, percent: value };
  if (number !== undefined && sign === "" && Number.isInteger(value)) return { text, rows: value };
  throw badOption(
    `"${text}" is not a limit for rejected rows; allowed: a whole number of rows from 0, or a share from 0% to 100%`,
  );
}

/** Whether the limit is exceeded. A share is only known at the end; a number may be exceeded before. */
export const exceeds = (
  { rows, percent }: RejectLimit,
  { rowsRead, rowsRejected }: { rowsRead: number; rowsRejected: number },
  isEnd: boolean,
): boolean => (rows !== undefined ? rowsRejected > rows : isEnd && rowsRejected * 100 > percent! * rowsRead);
