// Loads sample data like real data: ingest, transform, refresh.
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
    // A transaction that is open elsewhere on the server delays the transform until it ends.
    if (run.status === "succeeded" && rows[0]!.behind && attempt < ATTEMPTS) {
      await sleep(500);
      continue;
    }
    onRun(run, "pipeline");
    return run;
  }
}

const ATTEMPTS = 20;

/** Fills a database that holds nothing but sample data; reports each step as a line. */
export async function ensureSampleData(pool: Pool, say: (line: string) => void): Promise<void> {
  // An interrupted first start has loaded a part: the rest is added without duplicates.
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

/** Sample users have low ids, which would replace real ones. */
export async function refuseBesideRealData(pool: Pool): Promise<void> {
  const { rows } = await pool.query<{ alone: boolean }>(`select ${NO_OTHER_DATA} as alone`);
  if (!rows[0]!.alone)
    throw new Error(
      "The database has other users than those of the sample, which would overwrite some of them; use an empty one, or --force",
    );
}
