// One database a test file, emptied before each test, and short ways to fill it and to run steps.
import type { Selection } from "../../src/ingest/retry.ts";
import { beforeEach } from "vitest";
import { runStep, type RunRequest, type Step } from "../../src/pipeline/runs.ts";
import { useDatabase } from "../support/use-database.ts";

export function usePipeline() {
  const { database, sql } = useDatabase();
  const pool = () => database().pool;

  beforeEach(async () => {
    await sql("truncate production.users cascade");
    await sql("truncate production.events");
    await sql("truncate staging.raw_users, staging.raw_transactions, staging.raw_events, staging.quarantine");
    await sql("delete from strata.runs");
  });

  const insert = (table: string, rows: Record<string, unknown>[]) =>
    sql(
      `insert into ${table} (${Object.keys(rows[0]!).join(", ")})
         select ${Object.keys(rows[0]!).join(", ")} from jsonb_populate_recordset(null::${table}, $1)`,
      [JSON.stringify(rows)],
    );

  const run = (step: Step, request: Partial<RunRequest> = {}) =>
    runStep(pool(), { step, trigger: "cli", actor: "test", ...request });

  return {
    pool,
    sql,
    run,
    /** Gives quarantined rows back to the transform, corrected by a patch if there is one; how many went on. */
    retry: async (selection: Selection, patch?: object): Promise<number> => {
      const done = await run("retry", { retry: selection, patch: patch && JSON.stringify(patch) });
      if (done.status !== "succeeded") throw new Error(done.error ?? "");
      return done.rowsWritten;
    },
    rawUsers: (...rows: Record<string, unknown>[]) =>
      insert(
        "staging.raw_users",
        rows.map((row) => ({
          username: `user${row.user_id}`,
          email: `user${row.user_id}@example.org`,
          country: "DE",
          created_at: "2023-01-01",
          ...row,
        })),
      ),
    rawTransactions: (...rows: Record<string, unknown>[]) =>
      insert(
        "staging.raw_transactions",
        rows.map((row) => ({
          user_id: 1,
          amount: 10,
          status: "completed",
          transaction_date: "2024-05-01",
          ...row,
        })),
      ),
    rawEvents: (...rows: Record<string, unknown>[]) =>
      insert(
        "staging.raw_events",
        rows.map((row) => ({
          user_id: 1,
          event_type: "login",
          event_time: "2024-05-01",
          latitude: 50,
          longitude: 8,
          event_data: {},
          ...row,
        })),
      ),
    quarantine: () =>
      sql(
        "select dataset, stage, reasons, detail, waiting, attempts, payload from analytics.quarantine order by quarantine_id",
      ),
  };
}
