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
    .option("--users <rows>", "how many users", parseCount, 500)
    .option("--transactions <rows>", "how many transactions", parseCount, 10_000)
    .option("--events <rows>", "how many events", parseCount, 5_000)
    .option("--seed <number>", "the same seed gives the same data", parseCount, 1)
    .option("--force", "also beside data of your own, which it may overwrite")
    .action(sample);
