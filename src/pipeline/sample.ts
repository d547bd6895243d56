// Sample data on the way that real data takes: ingest, transform, refresh.
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pool } from "pg";
import { ingest } from "./ingest.ts";
import { runStep, type Run } from "./runs.ts";
import {
  SAMPLE_SIZES,
  sampleEvents,
  sampleTransactions,
  sampleUsers,
  type SampleOptions,
} from "./sample-data.ts";

export async function loadSample(
  pool: Pool,
  options: Partial<SampleOptions>,
  onRun: (run: Run, what: string) => void = () => undefined,
): Promise<Run> {
  const complete = { ...SAMPLE_SIZES, end: new Date(new Date().setUTCHours(0, 0, 0, 0)), ...options };
  const sources = { users: sampleUsers, transactions: sampleTransactions, events: sampleEvents };
  for (const [dataset, rows] of Object.entries(sources) as [keyof typeof sources, typeof sampleUsers][]) {
    const run = await ingest(pool, dataset, Readable.from(rows(complete)), {
      format: dataset === "events" ? "ndjson" : "csv",
      sourceSystem: "sample",
      sourceName: dataset === "events" ? "sample-events.ndjson" : `sample-${dataset}.csv`,
      trigger: "sample",
    });
    onRun(run, dataset);
    if (run.status !== "succeeded") return run;
  }
  for (let attempt = 1; ; attempt++) {
    const run = await runStep(pool, { step: "pipeline", trigger: "sample" });
    const { rows } = await pool.query<{ behind: boolean }>(
      "select sum(rows_behind) > 0 as behind from analytics.freshness",
    );
    // A transaction open elsewhere on the server holds the transform back until it ends.
    if (run.status === "succeeded" && rows[0]!.behind && attempt < ATTEMPTS) {
      await sleep(500);
      continue;
    }
    onRun(run, "pipeline");
    return run;
  }
}

const ATTEMPTS = 20;

/** Fills an empty database once; says what it does line by line. */
export async function ensureSampleData(pool: Pool, say: (line: string) => void): Promise<void> {
  const { rows } = await pool.query<{ untouched: boolean }>(
    `select not exists (select from production.users) and not exists (select from analytics.pipeline_runs) as untouched`,
  );
  if (!rows[0]!.untouched) return;
  say("Loading sample data, some of it wrong on purpose …");
  await loadSample(pool, {}, (run, what) => {
    if (run.status !== "succeeded")
      throw new Error(`The sample data could not be loaded (${what}): ${run.error}`);
    say(`  ${what}: ${run.rowsWritten} rows${run.rowsRejected ? `, ${run.rowsRejected} quarantined` : ""}`);
  });
}
