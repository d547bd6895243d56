// Formats a proposal as an SQL file for datasets/, with open questions as comments.
import { inWords, singular } from "./names.ts";
import { literal } from "./checks.ts";
import type { ColumnProposal, Proposal, Quote } from "./proposal.ts";

const WIDTH = 118;

export function writeSql(
  { dataset, columns, key, constraints, indexes, day, remarks }: Proposal,
  { source, rows, ingest, quote }: { source: string; rows: number; ingest: string; quote: Quote },
): string {
  const table = `production.${quote(dataset)}`;
  const active = constraints.filter(({ doubt }) => doubt === undefined);
  const doubted = constraints.filter(({ doubt }) => doubt !== undefined);
  const body = [
    ...columns.map((column) => ({ sql: declare(column, quote), remark: remarkOf(column) })),
    ...(day
      ? [{ sql: `${quote(day.name)} date generated always as (${day.expression}) stored`, remark: "" }]
      : []),
    ...active.map(({ name, sql }) => ({ sql: `constraint ${quote(name)} ${sql}`, remark: "" })),
  ];
  const lines = body.map(
    ({ sql, remark }, i) =>
      `  ${sql}${i < body.length - 1 ? "," : ""}${remark ? ` -- ${onOneLine(remark)}` : ""}`,
  );
  const comment = (what: string, text: string): string => `comment on ${what} is ${literal(text)};`;
  const one = inWords(singular(dataset)).toLowerCase();
  return [
    ...wrapped(
      `${inWords(dataset)}, as \`strata add\` found them in ${source} (${rows.toLocaleString("en")} rows). The file is yours: ` +
        "correct what is wrong, and explain columns and units in the comments, which document the API. " +
        "A later column needs `alter table … add column if not exists` below the table.",
    ),
    ...remarks.flatMap((remark) => ["--", ...wrapped(remark)]),
    "",
    `create table if not exists ${table} (`,
    ...lines,
    ");",
    ...doubted.flatMap(({ name, sql, doubt }) => [
      "",
      ...wrapped(`Not active, ${doubt}:`),
      `-- alter table ${table} drop constraint if exists ${quote(name)}, add constraint ${quote(name)} ${sql};`,
    ]),
    ...(indexes.length > 0 ? [""] : []),
    ...indexes.map(
      (names) =>
        `create index if not exists ${quote(`idx_${dataset}_${names.join("_")}`.slice(0, 63))} on ${table} (${names.map(quote).join(", ")});`,
    ),
    "",
    comment(
      `table ${table}`,
      `${inWords(dataset)}; one row per ${key.length === 1 && /_id$|^id$/.test(key[0]!) ? one : key.map(inWords).join(" and ").toLowerCase()}.`,
    ),
    ...columns.map(({ name, header }) =>
      comment(
        `column ${table}.${quote(name)}`,
        `${inWords(name)}${header === name ? "" : ` ("${header}" in the source)`}.`,
      ),
    ),
    ...(day ? [comment(`column ${table}.${quote(day.name)}`, `Day of ${day.of}, in UTC.`)] : []),
    ...active
      .filter(({ comment: words }) => words !== "")
      .map(({ name, comment: words }) => comment(`constraint ${quote(name)} on ${table}`, words)),
    "",
    `-- Load the rows with: ${onOneLine(ingest)}`,
    `select strata.add_dataset(${literal(dataset)});`,
    "",
  ].join("\n");
}

const declare = ({ name, type, notNull }: ColumnProposal, quote: Quote): string =>
  `${quote(name)} ${type}${notNull ? " not null" : ""}`;

/** The file comments only on columns that need a decision by their owner. */
const remarkOf = ({ why }: ColumnProposal): string =>
  why
    .filter((reason) => /will be rejected|left text|empty|no value at all|leading zeros/.test(reason))
    .join("; ");

/** A line break in a name or value of the file would end the comment, and what follows would be SQL. */
const onOneLine = (text: string): string => text.replace(/[\r\n]+/g, " ");

function wrapped(text: string): string[] {
  const lines: string[] = [];
  let line = "--";
  for (const word of onOneLine(text).split(" ")) {
    if (line.length + word.length + 1 > WIDTH && line !== "--") {
      lines.push(line);
      line = "--";
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
