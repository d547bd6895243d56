// From a file to a dataset: reads all of it, asks the database what it may refer to, proposes the SQL.
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { styleText } from "node:util";
import { InvalidArgumentError, Option, type Command } from "commander";
import type { Pool } from "pg";
import { keyRank, datasetOf, partRank, singular, toIdentifier } from "../add/names.ts";
import { compare, findReferences, readParents, type Parent } from "../add/parents.ts";
import { findUnique, profileFile, type Profile, type Reading } from "../add/profile.ts";
import {
  describeKey,
  keyCandidates,
  propose,
  proposeColumn,
  rowsThat,
  type ColumnProposal,
  type Key,
  type Proposal,
  type Quote,
} from "../add/propose.ts";
import { writeSql } from "../add/sql.ts";
import type { Format } from "../ingest/read.ts";
import { withDatabase } from "./with-database.ts";

interface AddOptions {
  name?: string;
  key?: string;
  format?: Format;
  write?: boolean;
  json?: boolean;
}

export async function add(file: string, options: AddOptions): Promise<void> {
  refuseUnreadable(file);
  const dataset = options.name ?? datasetOf(file);
  if (dataset === "") throw new Error(`"${basename(file)}" has no name to call a table by; give --name`);
  await withDatabase(async ({ pool }, { DATASETS_DIR }) => {
    const parents = await readParents(pool, DATASETS_DIR);
    const known = parents.find(({ table }) => table === dataset);
    if (known)
      throw new Error(
        `production.${dataset} exists already${known.file ? ` (${join(DATASETS_DIR, known.file)})` : ""}; ` +
          "change it there, with `alter table … add column if not exists`, or choose another --name",
      );
    const quote = await createQuote(pool);
    const { profile, proposal } = await examine(pool, file, dataset, parents, quote, options);
    const path = join(DATASETS_DIR, fileNameOf(proposal));
    const ingest = ingestCommandFor(file, proposal);
    const rows = profile.rows;
    const sql = writeSql(proposal, { source: basename(file), rows, ingest, quote });
    if (options.write) writeNew(path, sql);
    if (options.json)
      return console.log(JSON.stringify(facts(proposal, { rows, path, sql, ingest, options })));
    report(proposal, rows);
    if (!options.write) return void process.stdout.write(sql);
    console.log(`Wrote ${path}. Then: npx strata migrate && ${ingest} && npx strata run`);
  });
}

function refuseUnreadable(file: string): void {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat) throw new Error(`Cannot read "${file}": there is no such file`);
  if (!stat.isFile())
    throw new Error(`Cannot read "${file}": it is no file; it has to be read more than once`);
}

async function createQuote(pool: Pool): Promise<Quote> {
  const { rows } = await pool.query<{ word: string }>(
    "select word from pg_catalog.pg_get_keywords() where catcode in ('R', 'T')",
  );
  const reserved = new Set(rows.map(({ word }) => word));
  return (name) =>
    /^[a-z_][a-z0-9_]*$/.test(name) && !reserved.has(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

async function examine(
  pool: Pool,
  file: string,
  dataset: string,
  parents: Parent[],
  quote: Quote,
  options: AddOptions,
): Promise<{ profile: Profile; proposal: Proposal }> {
  const total = statSync(file).size;
  const references = (headers: string[]) =>
    findReferences(parents, dataset, [...nameColumns(headers, dataset).values()]);
  const reading: Reading = {
    file,
    format: options.format,
    referencesOf(headers) {
      const names = nameColumns(headers, dataset);
      const headerOf = (name: string): string => headers.find((header) => names.get(header) === name)!;
      return references(headers).map(({ columns }) => columns.map(headerOf));
    },
    onProgress: (bytes, rows) =>
      void (
        process.stderr.isTTY &&
        process.stderr.write(
          `\r\x1b[K${rows.toLocaleString("en")} rows, ${Math.floor((100 * bytes) / total)} %`,
        )
      ),
  };
  try {
    const profile = await profileFile(reading);
    const headers = profile.columns.map(({ header }) => header);
    const names = nameColumns(headers, dataset);
    const rows = profile.rows - profile.broken.count;
    const columns = profile.columns.map((column) => proposeColumn(column, names.get(column.header)!, rows));
    const key = await findKey(reading, columns, dataset, rows, options.key);
    const own = findReferences(parents, dataset, [...names.values()]);
    const found = [];
    for (const reference of own) {
      const group = reference.columns.map((name) => headers.find((header) => names.get(header) === name)!);
      const sample = profile.samples.find((one) => one.headers.join("\0") === group.join("\0"));
      const content = await compare(pool, reference, [...(sample?.values.keys() ?? [])]);
      found.push({ reference, content });
    }
    return { profile, proposal: propose(profile, { dataset, columns, key, references: found, quote }) };
  } finally {
    if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  }
}

/** Names that the raw table needs for itself. */
const TAKEN = new Set(["ingested_at", "source_system", "ingest_seq", "ingest_xid", "source_seq", "raw_id"]);

function nameColumns(headers: string[], dataset: string): Map<string, string> {
  const names = new Map<string, string>();
  const used = new Set<string>();
  for (const [i, header] of headers.entries()) {
    const plain = toIdentifier(header) || `column_${i + 1}`;
    const free = TAKEN.has(plain) ? `${singular(dataset)}_${plain}` : plain;
    let name = free;
    for (let n = 2; used.has(name); n++) name = `${free}_${n}`;
    used.add(name);
    names.set(header, name);
  }
  return names;
}

/** Columns that are tried in pairs when no single one is a key; more would cost 12 pairs for each. */
const MAX_PAIRED = 12;

async function findKey(
  reading: Reading,
  columns: ColumnProposal[],
  dataset: string,
  rows: number,
  given: string | undefined,
): Promise<Key> {
  if (given !== undefined) return givenKey(reading, columns, rows, given);
  const [best] = keyCandidates(columns, dataset, rows);
  if (best) return { columns: [best.name], why: describeKey(best, rows) };
  const paired = columns
    .filter(
      ({ type, profile }) =>
        rows - profile.filled <= rows * 0.02 &&
        profile.maxLength <= 100 &&
        /^(integer|bigint|uuid|text|date)/.test(type),
    )
    .sort((a, b) => rankOfPart(b.name) - rankOfPart(a.name))
    .slice(0, MAX_PAIRED);
  const pairs = paired.flatMap((first, i) => paired.slice(i + 1).map((second) => [first, second] as const));
  const trackers = await findUnique(
    reading,
    pairs.map((pair) => pair.map(({ header }) => header)),
  );
  const index = pairs
    .map((pair, i) => ({
      i,
      rank: rankOfPart(pair[0].name) + rankOfPart(pair[1].name),
      repeats: trackers[i]!.repeats,
    }))
    .filter(({ i }) => rows > 0 && !trackers[i]!.gaveUp)
    .sort((a, b) => b.rank - a.rank || a.repeats - b.repeats)[0];
  if (!index)
    throw new Error(
      "No column and no pair of columns tells the rows apart; name the key with --key column,column (the last row of each key wins)",
    );
  const pair = pairs[index.i]!.toSorted((a, b) => columns.indexOf(a) - columns.indexOf(b));
  const why =
    index.repeats === 0
      ? "no pair comes twice"
      : `${rowsThat(index.repeats, "repeats", "repeat")} a pair; the last one wins`;
  return { columns: pair.map(({ name }) => name), why };
}

const rankOfPart = (name: string): number => (keyRank(name, "") > 0 ? 2 : 0) + partRank(name);

async function givenKey(
  reading: Reading,
  columns: ColumnProposal[],
  rows: number,
  given: string,
): Promise<Key> {
  const chosen = given.split(",").map((word) => {
    const column = columns.find(({ header, name }) => [header, name].includes(word.trim()));
    if (column) return column;
    throw new Error(
      `--key names "${word}"; the file has: ${columns.map(({ header }) => `"${header}"`).join(", ")}`,
    );
  });
  const [tracker] = await findUnique(reading, [chosen.map(({ header }) => header)]);
  const repeats = tracker!.gaveUp
    ? "many rows repeat it; the last one wins"
    : tracker!.repeats > 0
      ? `${rowsThat(tracker!.repeats, "repeats", "repeat")} it; the last one wins`
      : "no value comes twice";
  const empty = Math.max(...chosen.map(({ profile }) => rows - profile.filled));
  const rejected = empty > 0 ? `, ${rowsThat(empty, "without it", "without it")} will be rejected` : "";
  return { columns: chosen.map(({ name }) => name), why: `given; ${repeats}${rejected}` };
}

/** Files are applied in the order of their names: one that refers to another has to come after it. */
function fileNameOf({ dataset, parents }: Proposal): string {
  const own = `${dataset}.sql`;
  const last = parents
    .flatMap(({ parent }) => parent.file ?? [])
    .sort()
    .at(-1);
  return last === undefined || last < own ? own : `${last.replace(/\.sql$/, "")}_${own}`;
}

function writeNew(path: string, sql: string): void {
  if (existsSync(path)) throw new Error(`${path} exists already; nothing was written`);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, sql, { flag: "wx" });
}

const shell = (word: string): string =>
  /^[\w./=:@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

function ingestCommandFor(file: string, { dataset, columns }: Proposal): string {
  const maps = columns
    .filter(({ header, name }) => header !== name)
    .map(({ header, name }) => `--map ${shell(`${header}=${name}`)}`);
  return ["npx strata ingest", dataset, shell(file), ...maps].join(" ");
}

function report(proposal: Proposal, rows: number): void {
  const { dataset, columns, key, keyWhy, constraints, day, remarks } = proposal;
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  say(
    styleText("bold", `${dataset}: ${rows.toLocaleString("en")} rows, key ${key.join(", ")} (${keyWhy})`, {
      stream: process.stderr,
    }),
  );
  const cells = columns.map(({ header, name, type, notNull, why }) => [
    header === name ? name : `${header} → ${name}`,
    `${type}${notNull ? " not null" : ""}`,
    why.join("; "),
  ]);
  if (day) cells.push([day.name, "date", `the day of ${day.of}, for metrics by day`]);
  const width = (i: number): number => Math.max(...cells.map((row) => row[i]!.length));
  for (const [name, type, why] of cells)
    say(`  ${name!.padEnd(width(0))}  ${type!.padEnd(width(1))}  ${why}`);
  for (const { name, sql, doubt } of constraints)
    say(
      `  ${doubt === undefined ? "" : "not active: "}${name} ${sql}${doubt === undefined ? "" : `; ${doubt}`}`,
    );
  for (const remark of remarks) say(`  ${remark}`);
}

function facts(
  { dataset, columns, key, keyWhy, constraints, parents, day, remarks }: Proposal,
  {
    rows,
    path,
    sql,
    ingest,
    options,
  }: { rows: number; path: string; sql: string; ingest: string; options: AddOptions },
): object {
  return {
    proposal: {
      dataset,
      rows,
      key,
      keyWhy,
      columns: columns.map(({ header, name, type, notNull, why, misfits }) => ({
        header,
        name,
        type,
        notNull,
        why,
        misfits,
      })),
      constraints: constraints.map(({ name, sql: definition, doubt }) => ({
        name,
        definition,
        active: doubt === undefined,
        doubt: doubt ?? null,
      })),
      parents: parents.map(({ parent, columns: own }) => ({
        columns: own,
        table: parent.table,
        key: parent.columns,
      })),
      day: day?.name ?? null,
      remarks,
      file: path,
      written: options.write ?? false,
      sql,
      ingest,
    },
  };
}

function parseDataset(value: string): string {
  if (/^[a-z_][a-z0-9_]{0,49}$/.test(value)) return value;
  throw new InvalidArgumentError("Allowed: up to 50 of a-z, 0-9 and _, not beginning with a digit.");
}

export const addCommand = (command: Command): Command =>
  command
    .argument("<file>", "CSV or NDJSON file, gzipped or not; all of it is read")
    .option("--name <dataset>", "what to call the table (default: as the file)", parseDataset)
    .option("--key <columns>", "the columns that tell rows apart, separated by commas (default: found)")
    .addOption(
      new Option("--format <format>", "how to read it (default: as it looks)").choices(["csv", "ndjson"]),
    )
    .option("--write", "write the SQL to a new file of datasets/ instead of printing it")
    .action(add);
