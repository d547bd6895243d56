import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { userInfo } from "node:os";
import { basename } from "node:path";
import { Option, type Command } from "commander";
import { badOption } from "../ingest/faults.ts";
import { dryRun } from "../ingest/dry-run.ts";
import { ingest as ingestStream, type IngestOptions } from "../ingest/ingest.ts";
import { readOptionsOf, type ReadOptions } from "../ingest/options.ts";
import { describeDryRun } from "./dry-run.ts";
import { openInput, withInputOptions, type InputOptions } from "./input.ts";
import { collect, withReadOptions } from "./options.ts";
import { printRun } from "./pipeline.ts";
import { clearProgress, createProgress } from "./progress.ts";
import { stoppable } from "./stop-signal.ts";
import { withDatabase } from "./with-database.ts";

export interface IngestCommandOptions extends ReadOptions, InputOptions {
  json?: boolean;
  source: string;
  map: string[];
  set: string[];
  maxRejected?: string;
  delete?: boolean;
  replace?: boolean;
  once?: boolean;
  dryRun?: boolean;
}

/** Lands a file, or standard input for "-"; what landed before a failure or Ctrl-C stays. */
export async function ingest(dataset: string, file: string, options: IngestCommandOptions): Promise<void> {
  if (options.once && file === "-")
    throw badOption("--once needs a file: the digest of standard input is known only when it has landed");
  const { input, format, totalBytes } = await openInput(file, options);
  const sha256 = options.once ? await digestOf(file) : undefined;
  const load: IngestOptions = {
    format,
    sourceSystem: options.source,
    sourceName: file === "-" ? undefined : basename(file),
    map: options.map,
    set: options.set,
    ...readOptionsOf(options),
    maxRejected: options.maxRejected,
    operation: options.delete ? "delete" : options.replace ? "replace" : undefined,
    sha256,
    totalBytes,
    trigger: "cli",
    actor: userInfo().username,
  };
  try {
    if (options.dryRun) {
      const tried = await withDatabase(({ pool }) => dryRun(pool, dataset, input, load));
      console.log(options.json ? JSON.stringify({ dryRun: tried }) : describeDryRun(dataset, tried));
      if (tried.error) process.exitCode = 1;
      return;
    }
    const onProgress = createProgress(totalBytes);
    const run = stoppable("ingest", (signal) =>
      withDatabase(({ pool }) =>
        ingestStream(pool, dataset, input, { ...load, onProgress, signal }).finally(clearProgress),
      ),
    );
    await printRun(run, options);
  } finally {
    input.destroy();
  }
}

async function digestOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(file)) hash.update(piece as Buffer);
  return hash.digest("hex");
}

export const ingestCommand = (command: Command): Command =>
  withReadOptions(
    withInputOptions(
      command
        .argument("<dataset>", "what the rows are, such as users")
        .argument("<file>", "file to read; - for standard input"),
    )
      .option("--source <name>", "where the rows come from", "file")
      .option(
        "--map <column=field>",
        "take a column as a field, or leave it out with column= (repeatable)",
        collect,
        [],
      )
      .option(
        "--set <field=expression>",
        'make a field of columns, in SQL: "amount=quantity * unit_price" (repeatable)',
        collect,
        [],
      )
      .option(
        "--max-rejected <limit>",
        "fail if more rows are rejected, a number or a share such as 5%; then none of the file's rows goes on",
      )
      .option("--delete", "the rows name rows to delete, by their key")
      .addOption(
        new Option(
          "--replace",
          "the file is all that the source has: its other rows are deleted, if none of the file's is rejected",
        ).conflicts("delete"),
      )
      .option(
        "--dry-run",
        "say what would land, be replaced and be rejected, and change nothing; the first 20,000 rows go through the transform",
      )
      .option("--once", "do nothing if the same content was ingested before with the same options"),
  ).action(ingest);
