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
  map?: string[];
  set?: string[];
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
        .argument("<dataset>", "name of the dataset, such as users")
        .argument("<file>", "file to read; - for standard input"),
    )
      .option("--source <name>", "source system of the rows", "file")
      .option("--map <column=field>", "use a column as this field; column= omits it (repeatable)", collect)
      .option(
        "--set <field=expression>",
        'compute a field by an SQL expression: "amount=quantity * unit_price" (repeatable)',
        collect,
      )
      .option(
        "--max-rejected <limit>",
        "fail if more rows are rejected, as a number or a share such as 5%; then no row of the file is transformed",
      )
      .option("--delete", "delete the rows with the keys in the file")
      .addOption(
        new Option(
          "--replace",
          "treat the file as a full snapshot: delete the source's other rows, unless a row of the file is rejected",
        ).conflicts("delete"),
      )
      .option(
        "--dry-run",
        "report what the load would do, without changing anything; the first 20,000 rows go through the transform",
      )
      .option("--once", "do nothing if the same content was already ingested with the same options"),
  ).action(ingest);
