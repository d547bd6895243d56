import { loadSample, refuseBesideRealData } from "../sample/sample.ts";
import type { SampleOptions } from "../sample/sample-data.ts";
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
