/** @module-tag long */
// The sample data: the same for everybody, plausible, and wrong in every way that it should be.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SAMPLE_SIZES, sampleEvents, sampleTransactions, sampleUsers } from "../../src/sample/sample-data.ts";
import { ensureSampleData, loadSample } from "../../src/sample/sample.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

const options = { ...SAMPLE_SIZES, end: new Date("2026-01-01T00:00:00Z") };

it("is the same for the same seed, and another one for another seed", () => {
  for (const make of [sampleUsers, sampleTransactions, sampleEvents]) {
    const rows = [...make(options)];
    expect([...make(options)]).toEqual(rows);
    expect([...make({ ...options, seed: 2 })]).not.toEqual(rows);
  }
});

describe("loaded", () => {
  let database: TestDatabase;
  const query = async (text: string) => (await database.pool.query(text)).rows as Record<string, unknown>[];
  const production = () =>
    query(`select (select md5(string_agg(t::text, '' order by transaction_id))
                   from (select transaction_id, user_id, amount, status, transaction_date from production.transactions) t) as transactions,
                  (select md5(string_agg(u::text, '' order by user_id))
                   from (select user_id, username, email, country, created_at from production.users) u) as users,
                  (select md5(string_agg(e::text, '' order by event_id))
                   from (select event_id, user_id, event_type, event_data, event_time, st_astext(position) from production.events) e) as events`);
  beforeAll(async () => {
    database = await createDatabase();
    await loadSample(database.pool, options);
  });
  afterAll(() => database.drop());

  it("fills every layer, over a year and at least eight countries", async () => {
    expect(
      await query(`select count(*)::int as users, count(distinct country) >= 8 as countries,
                          (select count(*)::int from production.transactions) as transactions,
                          (select count(*)::int from production.events) as events,
                          (select min(transaction_date) >= '2025-01-01' and max(transaction_date) < '2026-01-01' from production.transactions) as year,
                          (select count(*) > 2000 from analytics.daily_user_metrics) as metrics
                   from production.users`),
    ).toEqual([{ users: 488, countries: true, transactions: 9900, events: 4950, year: true, metrics: true }]);
  });

  it("puts events near their cities", async () => {
    const [row] = await query(
      `select count(*)::int as events, count(*) filter (where st_dwithin(position, st_setsrid(st_makepoint(13.405, 52.52), 4326), 0.3))::int as berlin
       from production.events where position is not null`,
    );
    expect(row!.events).toBeGreaterThan(4000);
    expect(row!.berlin).toBeGreaterThan(50);
  });

  it("shows every reason for a rejection", async () => {
    const rows = await query(
      "select distinct dataset || ' ' || reason as reason from staging.quarantine, unnest(reasons) reason",
    );
    expect(rows.map(({ reason }) => reason).sort()).toEqual([
      "events event_type_missing",
      "events fk_user",
      "events impossible_date",
      "events invalid_position",
      "events invalid_timestamp",
      "events missing_key",
      "events unparseable",
      "transactions amount_out_of_range",
      "transactions fk_user",
      "transactions impossible_date",
      "transactions invalid_number",
      "transactions positive_amount",
      "transactions unparseable",
      "transactions user_id_missing",
      "transactions valid_status",
      "transactions wrong_field_count",
      "users email_missing",
      "users impossible_date",
      "users invalid_integer",
      "users invalid_timestamp",
      "users username_missing",
      "users users_email_key",
      "users users_username_key",
      "users valid_email",
    ]);
  });

  it("changes nothing when it is sent again", async () => {
    const before = await production();
    await loadSample(database.pool, options);
    expect(await production()).toEqual(before);
  });

  it("is loaded into an untouched database only", async () => {
    const lines: string[] = [];
    await ensureSampleData(database.pool, (line) => lines.push(line));
    expect(lines).toEqual([]);
  });
});

it("is made up for after a first start that was interrupted", { tags: ["long"] }, async () => {
  const database = await createDatabase();
  try {
    const stopped = new Error("stopped after the users");
    await expect(
      loadSample(database.pool, options, () => {
        throw stopped;
      }),
    ).rejects.toBe(stopped);
    // As a process leaves it that was killed: without an end of the run it was in.
    await database.pool.query(
      "update strata.runs set status = 'running', finished_at = null, heartbeat_at = now() - interval '1 hour'",
    );
    const lines: string[] = [];
    await ensureSampleData(database.pool, (line) => lines.push(line));
    expect(lines.at(-1)).toMatch(/pipeline: \d+ rows/);
    const { rows } = await database.pool.query(
      "select count(*)::int as n, count(distinct user_id)::int as users from production.users",
    );
    expect(rows[0].n).toBeGreaterThan(450);
    expect(rows[0].users).toBe(rows[0].n);
  } finally {
    await database.drop();
  }
});
