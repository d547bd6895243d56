import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { runStep } from "../../src/pipeline/runs.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const sql = async <T extends object = Record<string, any>>(text: string, values?: unknown[]): Promise<T[]> =>
  (await database.pool.query<T>(text, values)).rows;
const transform = () => runStep(database.pool, { step: "transform", trigger: "cli", actor: "test" });

beforeEach(async () => {
  await sql("truncate production.users cascade");
  await sql("truncate staging.raw_users, staging.raw_transactions, staging.raw_events, staging.quarantine");
});

test("takes over users, transactions and events, and says how many", async () => {
  await sql(
    "insert into staging.raw_users (user_id, username, email, country) values (1, ' ann ', 'ann@example.org', '')",
  );
  await sql(
    "insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date) values (7, 1, 9.5, 'Completed', '2024-05-01 10:00')",
  );
  await sql(
    "insert into staging.raw_events (event_id, user_id, event_type, event_time, latitude, longitude) values (3, 1, 'login', '2024-05-01', 50, 8)",
  );
  const run = await transform();
  expect(run).toMatchObject({
    step: "transform",
    status: "succeeded",
    trigger: "cli",
    rowsRead: 3,
    rowsWritten: 3,
    rowsRejected: 0,
    error: null,
  });
  expect(run.durationMs).toBeGreaterThan(0);
  expect(await sql("select username, email, country from production.users")).toEqual([
    { username: "ann", email: "ann@example.org", country: null },
  ]);
  expect(await sql("select transaction_id, amount, status from production.transactions")).toEqual([
    { transaction_id: 7, amount: "9.50", status: "completed" },
  ]);
  expect(await sql("select event_id, public.st_y(position) as latitude from production.events")).toEqual([
    { event_id: "3", latitude: 50 },
  ]);
  expect(await transform()).toMatchObject({ rowsRead: 0, rowsWritten: 0 });
});
