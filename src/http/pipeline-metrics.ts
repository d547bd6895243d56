// Metrics of the pipeline, read from the database at each scrape, so that every instance reports the same.
import { Gauge, type Registry } from "prom-client";
import type pg from "pg";

/** Scrapes of several collectors share one reading. */
const SHARED_MS = 5_000;

const RUNS = `
  select step, status, count(*)::float8 as runs from strata.runs group by step, status`;
const LAST_RUNS = `
  select distinct on (step) step, status, duration_ms / 1000.0::float8 as seconds, extract(epoch from finished_at)::float8 as at
  from strata.runs where finished_at is not null order by step, run_id desc`;
const FRESHNESS = `
  select dataset, lag_seconds::float8 as lag, rows_behind::float8 as behind from analytics.freshness`;
const JOBS = `
  select case when locked_at is not null then 'running' when attempts >= max_attempts then 'given_up'
              when run_at > now() then 'scheduled' else 'waiting' end as state, count(*)::float8 as jobs
  from graphile_worker.jobs group by 1`;

interface Reading {
  runs: { step: string; status: string; runs: number }[];
  lastRuns: { step: string; status: string; seconds: number; at: number }[];
  freshness: { dataset: string; lag: number; behind: number }[];
  jobs: { state: string; jobs: number }[];
}

export function addPipelineMetrics(registry: Registry, pool: pg.Pool): void {
  async function read(): Promise<Reading | undefined> {
    try {
      const [runs, lastRuns, freshness, jobs] = [
        await pool.query(RUNS),
        await pool.query(LAST_RUNS),
        await pool.query(FRESHNESS),
        await pool.query(JOBS),
      ];
      return { runs: runs.rows, lastRuns: lastRuns.rows, freshness: freshness.rows, jobs: jobs.rows };
    } catch {
      return undefined;
    }
  }

  let shared: { at: number; reading: Promise<Reading | undefined> } | undefined;
  const reading = (): Promise<Reading | undefined> => {
    if (!shared || Date.now() - shared.at > SHARED_MS) shared = { at: Date.now(), reading: read() };
    return shared.reading;
  };
  function gauge(
    name: string,
    help: string,
    labelNames: string[],
    fill: (set: (labels: Record<string, string>, value: number) => void, reading: Reading) => void,
  ): void {
    new Gauge({
      name,
      help,
      labelNames,
      // All processes read the same.
      aggregator: "max",
      registers: [registry],
      async collect() {
        const found = await reading();
        this.reset();
        if (found) fill((labels, value) => this.set(labels, value), found);
      },
    });
  }

  new Gauge({
    name: "strata_database_up",
    help: "1 if the database answered this scrape.",
    aggregator: "min",
    registers: [registry],
    async collect() {
      this.set((await reading()) ? 1 : 0);
    },
  });
  gauge("strata_pipeline_runs", "Recorded runs by step and status.", ["step", "status"], (set, { runs }) =>
    runs.forEach(({ step, status, runs: count }) => set({ step, status }, count)),
  );
  gauge(
    "strata_pipeline_last_run_duration_seconds",
    "Duration of the last finished run of each step.",
    ["step", "status"],
    (set, { lastRuns }) => lastRuns.forEach(({ step, status, seconds }) => set({ step, status }, seconds)),
  );
  gauge(
    "strata_pipeline_last_run_timestamp_seconds",
    "When the last run of each step finished.",
    ["step", "status"],
    (set, { lastRuns }) => lastRuns.forEach(({ step, status, at }) => set({ step, status }, at)),
  );
  gauge(
    "strata_dataset_lag_seconds",
    "Age of the oldest source row that a dataset does not contain yet.",
    ["dataset"],
    (set, { freshness }) => freshness.forEach(({ dataset, lag }) => set({ dataset }, lag)),
  );
  gauge(
    "strata_dataset_rows_behind",
    "Source rows that a dataset does not contain yet.",
    ["dataset"],
    (set, { freshness }) => freshness.forEach(({ dataset, behind }) => set({ dataset }, behind)),
  );
  gauge("strata_jobs", "Jobs in the queue by state.", ["state"], (set, { jobs }) =>
    jobs.forEach(({ state, jobs: count }) => set({ state }, count)),
  );
}
