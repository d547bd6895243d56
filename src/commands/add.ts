// From a file to a dataset: reads all of it, asks the database what it may refer to, proposes the SQL.
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { InvalidArgumentError, Option, type Command } from "commander";
import { createQuote, examine } from "../add/examine.ts";
import { datasetOf } from "../add/names.ts";
import { readParents } from "../add/parents.ts";
import type { Proposal } from "../add/proposal.ts";
import { facts, ingestCommandFor, report } from "../add/report.ts";
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
    const { format, key, write: written = false } = options;
    const { rows, proposal } = await examine(pool, { file, dataset, parents, quote, format, key });
    const path = join(DATASETS_DIR, fileNameOf(proposal));
    const ingest = ingestCommandFor(file, proposal);
    const sql = writeSql(proposal, { source: basename(file), rows, ingest, quote });
    if (written) writeNew(path, sql);
    if (options.json)
      return console.log(JSON.stringify(facts(proposal, { rows, path, sql, ingest, written })));
    report(proposal, rows);
    if (!written) return void process.stdout.write(sql);
    console.log(`Wrote ${path}. Then: npx strata migrate && ${ingest} && npx strata run`);
  });
}

function refuseUnreadable(file: string): void {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat) throw new Error(`Cannot read "${file}": there is no such file`);
  if (!stat.isFile())
    throw new Error(`Cannot read "${file}": it is no file; it has to be read more than once`);
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
