// From what a file holds to what a table should be, with the reason for each decision.
import { inWords, keyRank, singular } from "./names.ts";
import type { Content, Reference } from "./parents.ts";
import { shown, type Column, type Example, type Profile } from "./profile.ts";
import type { Kind } from "./values.ts";

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

interface Found {
  reference: Reference;
  content: Content;
}

/** Share of wrong values that is taken for dirt in a column rather than for another type. */
const DIRT = 0.02;
const MIN_ROWS = 20;

const dirtOf = (total: number): number => (total < MIN_ROWS ? 0 : Math.max(1, Math.floor(total * DIRT)));
const count = (number: number): string => number.toLocaleString("en");
export const rowsThat = (number: number, one: string, many: string): string =>
  `${count(number)} ${number === 1 ? `row ${one}` : `rows ${many}`}`;
export const named = (examples: Example[]): string =>
  examples.map(({ line, value }) => `${shown(value)} (line ${line})`).join(", ");

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

/** Digits that identify or are dialled, not counted: a leading zero would be lost one day. */
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
    // Identifiers go on growing.
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

/** Columns that could be a key by what is in them, the likeliest first. */
export function keyCandidates(columns: ColumnProposal[], dataset: string, rows: number): ColumnProposal[] {
  const isKey = ({ profile, type, misfits }: ColumnProposal): boolean =>
    rows > 0 &&
    rows - profile.filled <= dirtOf(rows) &&
    misfits.count <= dirtOf(rows) &&
    profile.maxLength <= 100 &&
    !profile.distinct.gaveUp &&
    /^(integer|bigint|uuid|text|date)/.test(type);
  const rank = ({ name, profile }: ColumnProposal): number =>
    keyRank(name, dataset) || (profile.distinct.repeats > 0 || profile.filled < rows ? -1 : 0);
  return columns.filter((column) => isKey(column) && rank(column) >= 0).sort((a, b) => rank(b) - rank(a));
}

export function describeKey(column: ColumnProposal, rows: number): string {
  const { repeats, share } = column.profile.distinct;
  const empty = rows - column.profile.filled;
  const whole = share === 1 ? "" : ` (looked at every ${1 / share}th value)`;
  return [
    repeats === 0
      ? `no value comes twice${whole}`
      : `${rowsThat(Math.round(repeats / share), "repeats", "repeat")} a value; the last one wins${whole}`,
    ...(empty > 0 ? [`${rowsThat(empty, "without it", "without it")} will be rejected`] : []),
  ].join(", ");
}

/** Share of values that have to be in the table for a foreign key to be believed. */
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
      column.why.push("no value comes twice");
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
      comment: `There is no such ${inWords(one).toLowerCase()}.`,
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
  // A composite key says more than the tables that its parts refer to.
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

/** Room for values half as long again. */
const roomFor = (length: number): number =>
  [10, 20, 40, 60, 100, 150, 255].find((size) => size >= length * 1.5) ?? Math.ceil(length / 100) * 200;

/** Numbers whose sign says nothing about their being wrong. */
const SIGNED =
  /(^|_)(lat|latitude|lon|lng|long|longitude|balance|temp|temperature|delta|change|diff|difference|profit|margin|x|y|z|offset|score|year)(_|$)/;
const MIN_PER_VALUE = 10;
const RARE = 0.001;

function checkOf({ name, type, profile: found }: ColumnProposal, quoted: string): Constraint | undefined {
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
      comment: `${inWords(name)} is one of ${values.map(([value]) => value).join(", ")}.`,
      doubt:
        rare.length > 0
          ? `rare, perhaps wrong: ${rare.map(([value, times]) => `${shown(value)} (${times})`).join(", ")}`
          : undefined,
    };
  }
  if (!/^(integer|bigint|numeric|double)/.test(type) || SIGNED.test(name) || found.filled === 0)
    return undefined;
  const positive = found.notPositiveCount <= dirtOf(found.filled);
  const wrong = positive ? found.notPositiveCount : found.negativeCount;
  if (wrong > dirtOf(found.filled) || found.filled < MIN_ROWS) return undefined;
  return {
    name: positive ? `positive_${name}` : `not_negative_${name}`,
    sql: `check (${quoted} ${positive ? ">" : ">="} 0)`,
    comment: `${inWords(name)} must ${positive ? "be positive" : "not be negative"}.`,
    doubt:
      wrong > 0
        ? `${count(wrong)} of ${count(found.filled)} values break it: ${named(found.notPositive)}`
        : undefined,
  };
}

export const literal = (text: string): string =>
  text.includes("\\")
    ? `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`
    : `'${text.replaceAll("'", "''")}'`;

/** The time that says when a row happened, for metrics by day. */
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
  // A day that depended on the session's time zone could not be stored.
  return {
    name: day,
    expression: type === "timestamptz" ? `(${quote(name)} at time zone 'UTC')::date` : `${quote(name)}::date`,
    of: name,
  };
}
