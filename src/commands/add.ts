// From a file to a dataset: reads all of it, asks the database what it may refer to, proposes the SQL.
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { InvalidArgumentError, type Command } from "commander";
import { DATASET_NAME, DATASET_NAME_RULE, proposeDataset } from "../add/dataset.ts";
import { facts } from "../add/facts.ts";
import { datasetOf } from "../add/names.ts";
import { report } from "../add/report.ts";
import { readOptionsOf, type ReadOptions } from "../ingest/options.ts";
import { withInputOptions, withTextFile, type InputOptions } from "./input.ts";
import { withReadOptions } from "./options.ts";
import { clearProgress, showProgress } from "./progress.ts";
import { withDatabase } from "./with-database.ts";

interface AddOptions extends ReadOptions, InputOptions {
  name?: string;
  key?: string;
  write?: boolean;
  json?: boolean;
}

export async function add(file: string, options: AddOptions): Promise<void> {
  refuseUnreadable(file);
  const dataset = options.name ?? datasetOf(file);
  if (dataset === "") throw new Error(`"${basename(file)}" has no name to call a table by; give --name`);
  await withDatabase(async ({ pool }, { DATASETS_DIR }) => {
    const { key, write: written = false } = options;
    const found = await withTextFile(file, options, (text, format) =>
      proposeDataset(pool, {
        file: text,
        source: file,
        dataset,
        folder: DATASETS_DIR,
        format,
        key,
        reading: readOptionsOf(options),
        onProgress: createProgress(statSync(text).size),
      }),
    ).finally(clearProgress);
    const { rows, proposal, sql, ingest } = found;
    const path = join(DATASETS_DIR, found.fileName);
    if (written) writeNew(path, sql);
    if (options.json)
      return console.log(JSON.stringify({ proposal: { ...facts(found), file: path, written } }));
    report(proposal, rows);
    if (!written) return void process.stdout.write(sql);
    console.log(`Wrote ${path}. Then: npx strata-graphql migrate && ${ingest} && npx strata-graphql run`);
  });
}

const createProgress = (total: number) => (bytes: number, rows: number) =>
  showProgress(`${rows.toLocaleString("en")} rows, ${Math.floor((100 * bytes) / total)} %`);

function refuseUnreadable(file: string): void {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat) throw new Error(`Cannot read "${file}": there is no such file`);
  if (!stat.isFile())
    throw new Error(
      `Cannot read "${file}": it is not a file, which is needed because it is read more than once`,
    );
}

function writeNew(path: string, sql: string): void {
  if (existsSync(path)) throw new Error(`${path} exists already; nothing was written`);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, sql, { flag: "wx" });
}

function parseDataset(value: string): string {
  if (DATASET_NAME.test(value)) return value;
  throw new InvalidArgumentError(`Allowed: ${DATASET_NAME_RULE}.`);
}

export const addCommand = (command: Command): Command =>
  withReadOptions(
    withInputOptions(
      command.argument("<file>", "CSV or NDJSON file (may be gzipped), Excel workbook or Parquet file"),
    )
      .option("--name <dataset>", "name of the table (default: the file's)", parseDataset)
      .option("--key <columns>", "columns that identify a row, separated by commas (default: detected)")
      .option("--write", "write the SQL to a new file of datasets/ instead of printing it"),
  ).action(add);
