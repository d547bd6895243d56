// Moves rows from staging to production, dataset by dataset, parents before children.
import { withRetries } from "./batch.ts";
import { dropFailedLoads } from "./failed-loads.ts";
import type { Work } from "./runs.ts";

/** Rows of a batch, which is one transaction. More need fewer round trips, and hold locks for longer. */
const BATCH_ROWS = 20_000;

/** Maximum passes over the datasets; a tree needs one per level if its rows arrive children first. */
const MAX_PASSES = 100;

interface Window {
  upperXid: string;
  datasets: { dataset: string; rows: number }[];
}

/** Takes raw rows again that were taken before, by the current mapping and rules. */
async function replay({ pool, runId, arguments: { replays = [] }, afterBatch }: Work): Promise<void> {
  for (const { dataset, since, until } of replays) {
    let read = "";
    for (let after = { xid: "0", seq: "0" }; read !== "0";) {
      const { rows } = await withRetries(() =>
        pool.query<{ xid: string; seq: string; read: string }>(
          `select after_xid as xid, after_seq as seq, rows_read as read
           from strata.replay_batch($1, $2, $3::timestamptz at time zone 'UTC', $4::timestamptz at time zone 'UTC', $5, $6, $7)`,
          [runId, dataset, since ?? null, until ?? null, after.xid, after.seq, BATCH_ROWS],
        ),
      );
      ({ read } = rows[0]!);
      after = rows[0]!;
      await afterBatch();
    }
  }
}

export async function transform(work: Work): Promise<void> {
  const { pool, runId, afterBatch } = work;
  const failures = new Map<string, string>();
  let done = 0;
  let total = 0;

  async function openWindow(): Promise<Window> {
    const { rows } = await pool.query<Window>(
      `select upper_xid as "upperXid", datasets from strata.transform_window()`,
    );
    return rows[0]!;
  }

  async function take(dataset: string, upperXid: string): Promise<void> {
    let read: number;
    do {
      const progress = total === 0 ? null : Math.min(1, done / total);
      const { rows } = await withRetries(() =>
        pool.query<{ read: number }>(
          "select rows_read::integer as read from strata.transform_batch($1, $2, $3, $4, $5)",
          [runId, dataset, upperXid, BATCH_ROWS, progress],
        ),
      );
      read = rows[0]!.read;
      done += read;
      await afterBatch();
    } while (read === BATCH_ROWS);
  }

  /** Returns quarantined rows to the transform whose parents exist now. */
  async function requeueWaiting(dataset: string): Promise<number> {
    let found: number;
    let requeued = 0;
    do {
      const { rows } = await withRetries(() =>
        pool.query<{ found: number }>("select strata.requeue_waiting($1, $2, $3) as found", [
          runId,
          dataset,
          BATCH_ROWS,
        ]),
      );
      found = rows[0]!.found;
      requeued += found;
      await afterBatch();
    } while (found === BATCH_ROWS);
    return requeued;
  }

  /** If a dataset's tables or view do not match, its rows stay in staging and the other datasets continue. */
  async function unlessFailed(dataset: string, work: () => Promise<void>): Promise<void> {
    if (failures.has(dataset)) return;
    try {
      await work();
    } catch (error) {
      if (!isAboutDataset(error)) throw error;
      failures.set(dataset, (error as Error).message);
    }
  }

  await pool.query("select strata.renumber_restored()");
  await dropFailedLoads(pool);
  await replay(work);
  const { datasets, upperXid } = await openWindow();
  total = datasets.reduce((sum, { rows }) => sum + rows, 0);
  // The second pass takes rows that arrived before their parents, in another batch or in a later dataset.
  for (let pass = 1, requeued = 1; (requeued > 0 || pass === 2) && pass <= MAX_PASSES; pass++) {
    requeued = 0;
    for (const { dataset } of datasets) {
      await unlessFailed(dataset, async () => {
        const found = await requeueWaiting(dataset);
        requeued += found;
        if (pass > 1 && found === 0) return;
        // Returned rows are newer than the window opened before, so open another one.
        await take(dataset, found > 0 ? (await openWindow()).upperXid : upperXid);
      });
    }
  }
  for (const { dataset, message } of await readSnapshotFaults(pool, runId))
    failures.set(dataset, [failures.get(dataset), message].filter(Boolean).join("; "));
  if (failures.size > 0)
    throw new Error([...failures].map(([dataset, message]) => `${dataset}: ${message}`).join("; "));
}

/** Finds snapshots that deleted nothing because of a fault; their rows were taken like any others. */
async function readSnapshotFaults(
  pool: Work["pool"],
  runId: string,
): Promise<{ dataset: string; message: string }[]> {
  const { rows } = await pool.query<{ dataset: string; message: string }>(
    `select dataset, format('The full snapshot of the source %s (run %s) deleted nothing: %s', source_system, run_id, problem) as message
     from strata.snapshots where taken_by = $1 and problem is not null order by ingest_seq`,
    [runId],
  );
  return rows;
}

/**
 * True for errors of a dataset's declaration: undefined objects, wrong types, missing rights (class 42), unsupported
 * features (0A).
 */
const isAboutDataset = (error: unknown): boolean =>
  /^(42|0A)/.test(String((error as { code?: unknown }).code));
