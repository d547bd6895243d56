import { loadSample } from "../pipeline/sample.ts";
import type { SampleOptions } from "../pipeline/sample-data.ts";
import { printRun } from "./pipeline.ts";
import { note, withDatabase } from "./with-database.ts";

export async function sample(options: Partial<SampleOptions> & { json?: boolean }): Promise<void> {
  const { json, ...sizes } = options;
  const run = await withDatabase(({ pool }) =>
    loadSample(pool, sizes, (step, what) =>
      note(`${what}: ${step.rowsWritten} rows, ${step.rowsRejected} quarantined`),
    ),
  );
  printRun(run, { json });
}
