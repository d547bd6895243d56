// Deletes expired rows, batch by batch: raw rows that the transform has taken, runs, rejected rows.
import type { Config } from "../config.ts";
import { withRetries } from "./batch.ts";
import type { Work } from "./runs.ts";

const BATCH_ROWS = 20_000;

export interface Retention {
  daysToKeep: number;
  runDaysToKeep: number;
  quarantineDaysToKeep: number;
}

export const retentionOf = (config: Config, daysToKeep = config.RETENTION_DAYS): Retention => ({
  daysToKeep,
  runDaysToKeep: config.RUN_RETENTION_DAYS,
  quarantineDaysToKeep: config.QUARANTINE_RETENTION_DAYS,
});

const DEFAULT: Retention = { daysToKeep: 30, runDaysToKeep: 90, quarantineDaysToKeep: 365 };

export async function cleanup({ pool, runId, arguments: given, afterBatch }: Work): Promise<void> {
  const { daysToKeep, runDaysToKeep, quarantineDaysToKeep } = { ...DEFAULT, ...given };
  async function repeat(batch: string, parameters: number[]): Promise<void> {
    let deleted: number;
    do {
      const { rows } = await withRetries(() =>
        pool.query<{ deleted: number }>(`select ${batch} as deleted`, [runId, ...parameters, BATCH_ROWS]),
      );
      deleted = rows[0]!.deleted;
      await afterBatch();
    } while (deleted > 0);
  }
  await repeat("strata.cleanup_batch($1, $2, $3)", [daysToKeep]);
  await repeat("strata.prune_batch($1, $2, $3, $4)", [runDaysToKeep, quarantineDaysToKeep]);
}
