// Chooses the type of a column from all of its values.
import { keyRank } from "./names.ts";
import type { Column } from "./profile.ts";
import { count, dirtOf, named, type ColumnProposal } from "./proposal.ts";
import type { Kind } from "./values.ts";

const TYPES: [type: string, kinds: Kind[]][] = [
  ["uuid", ["uuid"]],
  ["boolean", ["boolean"]],
  ["integer", ["integer"]],
  ["numeric", ["integer", "decimal"]],
  ["double precision", ["integer", "decimal", "float"]],
  ["date", ["date"]],
  ["timestamp", ["date", "timestamp"]],
  ["timestamptz", ["date", "timestamp", "timestamptz"]],
  ["jsonb", ["json"]],
];

/** Names of columns whose digits identify something or are dialled: as numbers they would lose leading zeros. */
const DIGITS_AS_TEXT =
  /(^|_)(zip|postal|postcode|plz|phone|telephone|mobile|fax|isbn|ean|gtin|iban|bic|vat)(_|$)/;

export function proposeColumn(column: Column, name: string, rows: number): ColumnProposal {
  const why: string[] = [];
  const total = column.filled;
  const countOf = (kinds: Kind[]): number => kinds.reduce((sum, kind) => sum + (column.kinds[kind] ?? 0), 0);
  const proposal: ColumnProposal = {
    header: column.header,
    name,
    type: "text",
    notNull: total === rows && rows > 0,
    why,
    misfits: { count: 0, examples: [] },
    profile: column,
  };
  if (total === 0) why.push("has no value at all");
  else if (total < rows) why.push(`${count(rows - total)} of ${count(rows)} are empty`);

  const isText = DIGITS_AS_TEXT.test(name) || countOf(["zeros"]) > 0;
  if (countOf(["zeros"]) > 0)
    why.push(`leading zeros, which a number would lose: ${named(column.examples.zeros ?? [])}`);
  // Identifiers with a few letters among many digits are text, not dirty numbers.
  const dirt = keyRank(name, "") > 0 ? 0 : dirtOf(total);
  const fitting =
    isText || total === 0
      ? undefined
      : TYPES.find(([, kinds]) => total - countOf(kinds) <= dirt && countOf(kinds) > 0);
  if (fitting) {
    const [type, kinds] = fitting;
    proposal.type = sized(type, column, name);
    const misfits = Object.entries(column.examples).filter(([kind]) => !kinds.includes(kind as Kind));
    proposal.misfits = {
      count: total - countOf(kinds),
      examples: misfits.flatMap(([, examples]) => examples).slice(0, 3),
    };
    why.push(describeType(type, column));
    if (proposal.misfits.count > 0)
      why.push(`${count(proposal.misfits.count)} will be rejected: ${named(proposal.misfits.examples)}`);
    const local = countOf(["date", "timestamp"]);
    if (type === "timestamptz" && local > 0)
      why.push(`${count(local)} have no time zone; they are taken as UTC`);
    return proposal;
  }
  const half = total / 2;
  if (total > 0 && countOf(["ambiguous date"]) > half)
    why.push(
      `${named(column.examples["ambiguous date"]!.slice(0, 1))} is one day in Europe and another in America: left text; bring dates as 2011-10-06`,
    );
  else if (total > 0 && countOf(["local number"]) > half)
    why.push(
      `${named(column.examples["local number"]!.slice(0, 1))} is written for people: left text; bring it as 1234.50`,
    );
  else if (total > 0) why.push(`up to ${count(column.maxLength)} characters`);
  return proposal;
}

function sized(type: string, column: Column, name: string): string {
  if (type === "integer") {
    if (column.integerDigits > 18) return `numeric(${column.integerDigits + 4})`;
    const largest = Math.max(Math.abs(column.min), Math.abs(column.max));
    // Identifiers keep growing, so they become bigint earlier than other integers.
    return largest > (keyRank(name, "") > 0 ? 2 ** 29 : 2 ** 30) ? "bigint" : "integer";
  }
  if (type === "numeric") {
    if (column.scale > 10) return "double precision";
    const scale = Math.max(column.scale, 2);
    return `numeric(${Math.max(10, column.integerDigits + 2 + scale)}, ${scale})`;
  }
  return type;
}

function describeType(type: string, { min, max, kinds }: Column): string {
  if (type === "integer") return `whole numbers from ${min} to ${max}`;
  if (type === "numeric" || type === "double precision") return `numbers from ${min} to ${max}`;
  if (type === "timestamp" && !kinds.date) return "times without a zone";
  return {
    uuid: "UUIDs",
    boolean: "truth values",
    date: "dates",
    timestamp: "dates and times",
    timestamptz: "times with a zone",
    jsonb: "JSON",
  }[type]!;
}
