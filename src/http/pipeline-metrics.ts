// Metrics of the pipeline, read from the database at each scrape, so that every instance reports the same.
import { Gauge, type Registry } from "prom-client";
import type pg from "pg";

/** Time in ms for which scrapes share one reading. */
const SHARED_MS = 5_000;

interface Reading {
  runs: { step: string; status: string; runs: number }[];
  lastRuns: { step: string; status: string; seconds: number; at: number }[];
  freshness: { dataset: string; lag: number; behind: number }[];
  promises: { dataset: string; seconds: number }[];
  quarantine: { dataset: string; rows: number }[];
  incidents: { kind: string; open: number }[];
  outbox: { receiver: string; state: string; messages: number }[];
  worker: { seen: number }[];
  jobs: { state: string; jobs: number }[];
}

const READINGS: Record<keyof Reading, string> = {
  runs: `select step, status, count(*)::float8 as runs from strata.runs group by step, status`,
  lastRuns: `
    select distinct on (step) step, status, duration_ms / 1000.0::float8 as seconds, extract(epoch from finished_at)::float8 as at
    from strata.runs where finished_at is not null order by step, run_id desc`,
  freshness: `select dataset, lag_seconds::float8 as lag, rows_behind::float8 as behind from analytics.freshness`,
  promises: `select dataset, extract(epoch from fresh_within)::float8 as seconds from strata.promises`,
  quarantine: `select dataset, count(*)::float8 as rows from staging.quarantine where retried_at is null group by dataset`,
  incidents: `
    select k.kind, count(i.incident_id)::float8 as open
    from unnest(array['run_failed', 'freshness', 'quarantine', 'worker']) k (kind)
    left join strata.incidents i on i.kind = k.kind and i.resolved_at is null group by k.kind`,
  outbox: `
    select r.receiver, s.state, count(o.message_id)::float8 as messages
    from strata.receivers r cross join unnest(array['waiting', 'rejected']) s (state)
    left join strata.outbox o on o.receiver = r.receiver and (o.rejected is not null) = (s.state = 'rejected') group by 1, 2`,
  worker: `select extract(epoch from seen_at)::float8 as seen from strata.worker_state where seen_at is not null`,
  jobs: `
    select s.state, count(j.id)::float8 as jobs
    from unnest(array['running', 'given_up', 'scheduled', 'waiting']) s (state)
    left join graphile_worker.jobs j on s.state = case
      when j.locked_at is not null then 'running' when j.attempts >= j.max_attempts then 'given_up'
      when j.run_at > now() then 'scheduled' else 'waiting' end
    group by 1`,
};

export function addPipelineMetrics(registry: Registry, pool: pg.Pool): void {
  async function read(): Promise<Reading | undefined> {
    try {
      const found: Partial<Record<keyof Reading, unknown[]>> = {};
      for (const [name, text] of Object.entries(READINGS) as [keyof Reading, string][])
        found[name] = (await pool.query<Record<string, unknown>>(text)).rows;
      return found as unknown as Reading;
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
      // All processes read the same values.
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
  gauge(
    "strata_dataset_promised_lag_seconds",
    "Lag that strata.promise allows a dataset.",
    ["dataset"],
    (set, { promises }) => promises.forEach(({ dataset, seconds }) => set({ dataset }, seconds)),
  );
  gauge(
    "strata_quarantine_rows",
    "Rows of a dataset that were rejected, and neither corrected nor discarded.",
    ["dataset"],
    (set, { quarantine }) => quarantine.forEach(({ dataset, rows }) => set({ dataset }, rows)),
  );
  gauge("strata_incidents_open", "Incidents that are not over, by kind.", ["kind"], (set, { incidents }) =>
    incidents.forEach(({ kind, open }) => set({ kind }, open)),
  );
  gauge(
    "strata_outbox_messages",
    "Messages that wait for a receiver of alerts or lineage, or that it rejected.",
    ["receiver", "state"],
    (set, { outbox }) =>
      outbox.forEach(({ receiver, state, messages }) => set({ receiver, state }, messages)),
  );
  gauge(
    "strata_worker_seen_timestamp_seconds",
    "When a worker last sent a heartbeat; missing if none ever did.",
    [],
    (set, { worker }) => worker.forEach(({ seen }) => set({}, seen)),
  );
  gauge("strata_jobs", "Jobs in the queue by state.", ["state"], (set, { jobs }) =>
    jobs.forEach(({ state, jobs: count }) => set({ state }, count)),
  );
}
