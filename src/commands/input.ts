// Opens the files that commands are given; Excel and Parquet become NDJSON.
import { createReadStream, createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { Option, type Command } from "commander";
import type { FileFormat } from "../ingest/convert.ts";
import { badOption } from "../ingest/faults.ts";
import type { Format } from "../ingest/read.ts";

export interface InputOptions {
  format?: Format | FileFormat;
  sheet?: string;
}

export const withInputOptions = (command: Command): Command =>
  command
    .addOption(
      new Option("--format <format>", "format of the file (default: detected)").choices([
        "csv",
        "ndjson",
        "xlsx",
        "parquet",
      ]),
    )
    .option("--sheet <name>", "name or number of the Excel sheet (default: the first)");

interface Input {
  input: Readable;
  /** Undefined if it is to be detected from the content. */
  format: Format | undefined;
  totalBytes?: number;
  /** True if the text was made from an Excel or Parquet file. */
  isConverted?: boolean;
}

export async function openInput(
  file: string,
  { format = formatOf(file), sheet }: InputOptions,
): Promise<Input> {
  const isText = format !== "xlsx" && format !== "parquet";
  if (isText && sheet !== undefined)
    throw badOption("--sheet is for Excel workbooks; a text file has one table");
  if (file === "-") {
    if (!isText) throw badOption(`A file of the format ${format} is read in any order: give its name`);
    return { input: process.stdin, format };
  }
  const opened = await openFile(file);
  if (isText) return { ...opened, format };
  opened.input.destroy();
  const { asNdjson } = await import("../ingest/convert.ts");
  return { input: await asNdjson(format, file, sheet), format: "ndjson", isConverted: true };
}

/** Calls `use` with a text file: the given one, or a temporary one made from an Excel or Parquet file. */
export async function withTextFile<T>(
  file: string,
  options: InputOptions,
  use: (text: string, format: Format | undefined) => Promise<T>,
): Promise<T> {
  const { input, format, isConverted } = await openInput(file, options);
  if (!isConverted) {
    input.destroy();
    return use(file, format);
  }
  const folder = mkdtempSync(join(tmpdir(), "strata-"));
  try {
    const text = join(folder, "rows.ndjson");
    await pipeline(input, createWriteStream(text));
    return await use(text, format);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function openFile(file: string): Promise<{ input: Readable; totalBytes?: number }> {
  try {
    const handle = await open(file);
    const stat = await handle.stat();
    if (stat.isDirectory()) throw Object.assign(new Error(), { code: "EISDIR" });
    const input = createReadStream("", { fd: handle });
    return { input, totalBytes: stat.isFile() ? stat.size : undefined };
  } catch (error) {
    const reasons: Record<string, string> = {
      ENOENT: "there is no such file",
      EACCES: "this user may not read it",
      EISDIR: "it is a folder",
    };
    const { code = "", message } = error as NodeJS.ErrnoException;
    throw new Error(`Cannot read "${file}": ${reasons[code] ?? message}`);
  }
}

/** The format according to the file's extension; undefined if that does not tell. */
function formatOf(file: string): InputOptions["format"] {
  const extension = /\.(?:(csv|ndjson|jsonl)(?:\.gz)?|xlsx|parquet)$/i.exec(file)?.[0]?.toLowerCase();
  if (extension === ".xlsx") return "xlsx";
  if (extension === ".parquet") return "parquet";
  if (extension === undefined) return undefined;
  return extension.startsWith(".csv") ? "csv" : "ndjson";
}
