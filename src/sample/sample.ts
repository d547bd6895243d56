// Sample data on the way that real data takes: ingest, transform, refresh.
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pool } from "pg";
import { ingest } from "../ingest/ingest.ts";
import { runStep, type Run } from "../pipeline/runs.ts";
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

/** Fills a database that nothing but samples have touched; says what it does line by line. */
export async function ensureSampleData(pool: Pool, say: (line: string) => void): Promise<void> {
  // A first start that was interrupted left some of it: the rest is made up for, and nothing is doubled.
  const { rows } = await pool.query<{ wanted: boolean }>(
    `select not exists (select from strata.runs where trigger <> 'sample'
                        or (step = 'pipeline' and status = 'succeeded')) and (${NO_OTHER_DATA}) as wanted`,
  );
  if (!rows[0]!.wanted) return;
  say("Loading sample data, some of it wrong on purpose …");
  await loadSample(pool, {}, (run, what) => {
    if (run.status !== "succeeded")
      throw new Error(`The sample data could not be loaded (${what}): ${run.error}`);
    say(`  ${what}: ${run.rowsWritten} rows${run.rowsRejected ? `, ${run.rowsRejected} quarantined` : ""}`);
  });
}

const NO_OTHER_DATA = `
  not exists (select from staging.raw_users where source_system is distinct from 'sample')
  and not exists (
    select from production.users u where u.source_seq is null
      or not exists (select from staging.raw_users r where r.ingest_seq = u.source_seq and r.source_system = 'sample'))`;

/** Sample users have low ids: they would take the places of real ones. */
export async function refuseBesideRealData(pool: Pool): Promise<void> {
  const { rows } = await pool.query<{ alone: boolean }>(`select ${NO_OTHER_DATA} as alone`);
  if (!rows[0]!.alone)
    throw new Error(
      "The database has other users than those of the sample, which would overwrite some of them; use an empty one, or --force",
    );
}
