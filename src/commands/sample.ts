import type { Command } from "commander";
import { loadSample, refuseBesideRealData } from "../sample/sample.ts";
import type { SampleOptions } from "../sample/sample-data.ts";
import { parseCount } from "./options.ts";
import { printRun } from "./pipeline.ts";
import { note, withDatabase } from "./with-database.ts";

export async function sample(
  options: Partial<SampleOptions> & { json?: boolean; force?: boolean },
): Promise<void> {
  const { json, force, ...sizes } = options;
  const run = withDatabase(async ({ pool }) => {
    if (!force) await refuseBesideRealData(pool);
    return loadSample(pool, sizes, (step, what) =>
      note(`${what}: ${step.rowsWritten} rows, ${step.rowsRejected} quarantined`),
    );
  });
  await printRun(run, { json });
}

export const sampleCommand = (command: Command): Command =>
  command
    .option("--users <rows>", "number of users", parseCount, 500)
    .option("--transactions <rows>", "number of transactions", parseCount, 10_000)
    .option("--events <rows>", "number of events", parseCount, 5_000)
    .option("--seed <number>", "seed of the generator; the same seed gives the same data", parseCount, 1)
    .option("--force", "load it beside your own data, which it may overwrite")
    .action(sample);
