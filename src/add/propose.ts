// Proposes a table from the statistics of a file, with the reason for each decision.
import { checkOf, roomFor } from "./checks.ts";
import { inWords, keyRank, singular } from "./names.ts";
import type { Content, Reference } from "./parents.ts";
import { shown, type Profile } from "./profile.ts";
import {
  count,
  MIN_ROWS,
  rowsThat,
  type ColumnProposal,
  type Constraint,
  type Key,
  type Proposal,
  type Quote,
} from "./proposal.ts";

interface Found {
  reference: Reference;
  content: Content;
}

/** Share of values that must exist in the referenced table for a foreign key to be proposed. */
const BELIEVED = 0.8;

export function propose(
  profile: Profile,
  given: { dataset: string; columns: ColumnProposal[]; key: Key; references: Found[]; quote: Quote },
): Proposal {
  const { dataset, columns, key, quote } = given;
  const list = (names: string[]): string => names.map(quote).join(", ");
  const rows = profile.rows - profile.broken.count;
  const byName = new Map(columns.map((column) => [column.name, column]));
  const remarks: string[] = [];
  const constraints: Constraint[] = [];
  const { believed, doubted } = sortReferences(given.references);
  const referring = new Set(believed.flatMap(({ reference }) => reference.columns));

  constraints.push({
    name: `${dataset}_pkey`,
    sql: `primary key (${list(key.columns)})`,
    comment: "",
    doubt: undefined,
  });
  for (const name of key.columns) byName.get(name)!.notNull = true;
  for (const column of columns) {
    const { name, profile: found, type } = column;
    const isKey = key.columns.includes(name);
    if (isKey) column.why.unshift(`key: ${key.why}`);
    const isUnique =
      !isKey &&
      !referring.has(name) &&
      keyRank(name, dataset) >= 50 &&
      !/_id$/.test(name) &&
      rows >= MIN_ROWS &&
      found.filled > 0 &&
      !found.distinct.gaveUp &&
      found.distinct.repeats === 0 &&
      /^(integer|bigint|uuid|text)$/.test(type);
    if (isUnique) {
      column.why.push("no value occurs twice");
      constraints.push({
        name: `${dataset}_${name}_key`,
        sql: `unique (${quote(name)})`,
        comment: `Another row has this ${inWords(name).toLowerCase()}.`,
        doubt: undefined,
      });
    }
    if (type === "text" && (isKey || isUnique) && found.filled > 0)
      column.type = `varchar(${roomFor(found.maxLength)})`;
    if (isKey || isUnique || referring.has(name)) continue;
    const check = checkOf(column, quote(name));
    if (check) constraints.push(check);
  }
  const parents: Reference[] = [];
  for (const [found, isBelieved] of [
    ...believed.map((one) => [one, true] as const),
    ...doubted.map((one) => [one, false] as const),
  ]) {
    const { reference, content } = found;
    const { parent, columns: own } = reference;
    const words = describeContent(found);
    for (const name of own) byName.get(name)!.why.push(words);
    if (isBelieved) {
      parents.push(reference);
      for (const [i, name] of own.entries()) byName.get(name)!.type = parent.types[i]!;
    }
    const one = singular(parent.table);
    const name = constraints.some((known) => known.name === `fk_${one}`)
      ? `fk_${own.join("_")}`
      : `fk_${one}`;
    constraints.push({
      name,
      sql: `foreign key (${list(own)}) references production.${quote(parent.table)} (${list(parent.columns)}) on delete restrict`,
      comment: `The ${inWords(one).toLowerCase()} does not exist, or has not arrived yet.`,
      doubt: isBelieved ? undefined : words,
    });
    if (content.missing > 0 && isBelieved)
      remarks.push(`${own.join(", ")}: ${words}; such rows wait for their parent`);
  }
  const time = mainTime(columns, dataset, rows);
  const day = time && dayOf(time, byName, quote);
  const leading = key.columns[0];
  const indexes = [
    ...parents.map(({ columns: own }) => own).filter(([first]) => first !== leading),
    ...(time ? [[day?.name ?? time.name]] : []),
  ];
  if (profile.broken.count > 0)
    remarks.push(
      `${rowsThat(profile.broken.count, "cannot", "cannot")} be read and will be quarantined: ${profile.broken.examples
        .map(({ line, detail }) => `line ${line}: ${detail}`)
        .join(" ")}`,
    );
  return { dataset, columns, key: key.columns, keyWhy: key.why, constraints, indexes, day, parents, remarks };
}

function sortReferences(references: Found[]): { believed: Found[]; doubted: Found[] } {
  const isBelieved = ({ content }: Found): boolean =>
    content.isEmpty || content.looked === 0 || content.missing <= content.looked * (1 - BELIEVED);
  const believed = references.filter(isBelieved);
  // A reference by a composite key replaces those by its single columns.
  const covered = (found: Found): boolean =>
    believed.some(
      ({ reference }) =>
        reference.columns.length > found.reference.columns.length &&
        found.reference.columns.every((name) => reference.columns.includes(name)),
    );
  return {
    believed: believed.filter((found) => !covered(found)),
    doubted: references.filter((found) => !isBelieved(found)),
  };
}

function describeContent({ reference: { parent }, content }: Found): string {
  const where = `production.${parent.table} (${parent.columns.join(", ")})`;
  if (parent.pending) return `refers to ${where} by its name; ${parent.file} is not applied yet`;
  if (content.isEmpty) return `refers to ${where} by its name; that has no rows yet`;
  const found = content.looked - content.missing;
  const examples = content.missing > 0 ? `, not ${content.examples.map(shown).join(", ")}` : "";
  return `${count(found)} of ${count(content.looked)} values are in ${where}${examples}`;
}

/** The column that tells when a row happened, from which the day for metrics is generated. */
function mainTime(columns: ColumnProposal[], dataset: string, rows: number): ColumnProposal | undefined {
  const one = singular(dataset);
  const rank = ({ name, type, profile: found }: ColumnProposal): number => {
    if (!/^(date|timestamp)/.test(type) || found.filled < rows * 0.9) return 0;
    if (new RegExp(`^(${one}_)?(date|day|time|timestamp)$`).test(name)) return 5;
    if (
      /(^|_)(ordered|sold|paid|purchased|returned|happened|occurred|measured|event|invoice|order|transaction|purchase|sale)_/.test(
        name,
      )
    )
      return 4;
    if (/^(created|inserted)_/.test(name)) return 2;
    return /^(updated|modified|deleted|changed)_|birth|valid|expir|due/.test(name) ? 0 : 3;
  };
  const [best] = columns.filter((column) => rank(column) > 0).sort((a, b) => rank(b) - rank(a));
  return best;
}

function dayOf(
  { name, type }: ColumnProposal,
  byName: Map<string, ColumnProposal>,
  quote: Quote,
): Proposal["day"] {
  if (type === "date") return undefined;
  const base = name.replace(/(^|_)(at|on|date|time|timestamp|datetime)$/, "") || "row";
  const day = [`${base}_day`, `${name}_day`].find((free) => !byName.has(free));
  if (day === undefined) return undefined;
  // The zone is fixed: a generated column may not depend on the session's time zone.
  return {
    name: day,
    expression: type === "timestamptz" ? `(${quote(name)} at time zone 'UTC')::date` : `${quote(name)}::date`,
    of: name,
  };
}
