// Proposes CHECK constraints that all, or nearly all, values of a column satisfy.
import pg from "pg";
import { inWords } from "./names.ts";
import { shown } from "./profile.ts";
import { count, dirtOf, MIN_ROWS, named, type ColumnProposal, type Constraint } from "./proposal.ts";

/** Length limit for a column: half as long again as its longest value. */
export const roomFor = (length: number): number =>
  [10, 20, 40, 60, 100, 150, 255].find((size) => size >= length * 1.5) ?? Math.ceil(length / 100) * 200;

/** Names of quantities that may be negative, such as balances and temperatures. */
const SIGNED =
  /(^|_)(lat|latitude|lon|lng|long|longitude|balance|temp|temperature|delta|change|diff|difference|profit|margin|x|y|z|offset|score|year)(_|$)/;
const MIN_PER_VALUE = 10;
const RARE = 0.001;

export function checkOf(
  { name, type, profile: found }: ColumnProposal,
  quoted: string,
): Constraint | undefined {
  if (
    type === "text" &&
    found.few &&
    found.few.size > 1 &&
    found.filled >= Math.max(MIN_ROWS, found.few.size * MIN_PER_VALUE)
  ) {
    const values = [...found.few].sort((a, b) => b[1] - a[1]);
    if (values.some(([value]) => value.length > 40)) return undefined;
    const rare = values.filter(([, times]) => times <= Math.max(1, found.filled * RARE));
    return {
      name: `valid_${name}`,
      sql: `check (${quoted} in (${values.map(([value]) => literal(value)).join(", ")}))`,
      comment: `${inWords(name)} must be one of ${values.map(([value]) => value).join(", ")}.`,
      doubt:
        rare.length > 0
          ? `rare, perhaps wrong: ${rare.map(([value, times]) => `${shown(value)} (${times})`).join(", ")}`
          : undefined,
    };
  }
  if (!/^(integer|bigint|numeric|double)/.test(type) || SIGNED.test(name) || found.filled === 0)
    return undefined;
  // Zeros count as valid where no value is negative.
  const wrong = found.negativeCount;
  const positive = found.notPositiveCount === wrong;
  if (wrong > dirtOf(found.filled) || found.filled < MIN_ROWS) return undefined;
  return {
    name: positive ? `positive_${name}` : `not_negative_${name}`,
    sql: `check (${quoted} ${positive ? ">" : ">="} 0)`,
    comment: `${inWords(name)} must ${positive ? "be positive" : "not be negative"}.`,
    doubt:
      wrong > 0
        ? `${count(wrong)} of ${count(found.filled)} values violate it: ${named(found.notPositive)}`
        : undefined,
  };
}

/** pg puts a space before a literal with backslashes. */
export const literal = (text: string): string => pg.escapeLiteral(text).trimStart();
