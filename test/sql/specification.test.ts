// The specification's own statements, unchanged, on the database that schema.sql builds.
import { expect, test } from "vitest";
import { useDatabase } from "../support/use-database.ts";

const { database, sql } = useDatabase();

/** In a transaction that is rolled back, with the search path that init.sql gives the database. */
async function inSession(work: (run: (text: string) => Promise<unknown[]>) => Promise<void>) {
  const client = await database().pool.connect();
  try {
    await client.query("begin");
    await client.query("set local search_path = public, production, analytics");
    await work(async (text) => (await client.query(text)).rows as unknown[]);
  } finally {
    await client.query("rollback");
    client.release();
  }
}

const columns = async (relation: string) =>
  (
    await sql(
      `select attname || ' ' || format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end
              || coalesce(' default ' || pg_get_expr(adbin, adrelid), '') as line
       from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
       where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`,
      [relation],
    )
  ).map(({ line }) => line as string);

test("the tables have the columns of the specification first, in its order", async () => {
  expect((await columns("staging.raw_users")).slice(0, 8)).toEqual([
    "id uuid not null default uuid_generate_v4()",
    "user_id integer not null",
    "username character varying(100)",
    "email character varying(255)",
    "created_at timestamp without time zone",
    "country character varying(100)",
    "ingested_at timestamp without time zone default CURRENT_TIMESTAMP",
    "source_system character varying(50) default 'api'::character varying",
  ]);
  expect((await columns("production.users")).slice(0, 6)).toEqual([
    "user_id integer not null default nextval('production.users_user_id_seq'::regclass)",
    "username character varying(100) not null",
    "email character varying(255) not null",
    "email_verified boolean default false",
    "created_at timestamp without time zone not null default CURRENT_TIMESTAMP",
    "updated_at timestamp without time zone default CURRENT_TIMESTAMP",
  ]);
  expect((await columns("production.transactions")).slice(0, 4)).toEqual([
    "transaction_id integer not null default nextval('production.transactions_transaction_id_seq'::regclass)",
    "user_id integer not null",
    "amount numeric(10,2) not null",
    "status character varying(20) default 'pending'::character varying",
  ]);
  expect((await columns("production.dim_date")).map((line) => line.split(" ")[0])).toEqual([
    "date_id",
    "full_date",
    "year",
    "quarter",
    "month",
    "month_name",
    "week",
    "day_of_week",
    "day_name",
    "is_weekend",
    "is_holiday",
  ]);
  expect(await columns("analytics.daily_user_metrics")).toEqual([
    "date date",
    "country character varying(100)",
    "active_users bigint",
    "total_revenue numeric",
    "avg_transaction numeric",
  ]);
});

test("its idempotent statements run", () =>
  inSession(async (run) => {
    await run('CREATE EXTENSION IF NOT EXISTS "uuid-ossp"; CREATE EXTENSION IF NOT EXISTS postgis;');
    await run(
      "CREATE SCHEMA IF NOT EXISTS staging; CREATE SCHEMA IF NOT EXISTS production; CREATE SCHEMA IF NOT EXISTS analytics;",
    );
    await run(`CREATE TABLE IF NOT EXISTS production.transactions (transaction_id SERIAL PRIMARY KEY)`);
    await run(`CREATE MATERIALIZED VIEW IF NOT EXISTS analytics.daily_user_metrics AS SELECT 1 AS one`);
    for (const index of ["idx_transactions_user_id", "idx_user_date"])
      await run(`CREATE INDEX IF NOT EXISTS ${index} ON production.transactions(user_id)`);
    await run("CREATE INDEX IF NOT EXISTS idx_events_data ON staging.raw_events USING GIN(event_data)");
    await run(`CREATE OR REPLACE FUNCTION update_updated_at_column()
      RETURNS TRIGGER AS $$
      BEGIN
      NEW.updated_at = CURRENT_TIMESTAMP;
      RETURN NEW;
      END;
      $$ LANGUAGE plpgsql;`);
    await run(`CREATE OR REPLACE TRIGGER update_users_updated_at
      BEFORE UPDATE ON production.users
      FOR EACH ROW
      EXECUTE FUNCTION update_updated_at_column();`);
  }));

test("its upserts run, and updated_at is kept", () =>
  inSession(async (run) => {
    const upsert = `INSERT INTO production.users (username, email) VALUES ('alice', 'alice@example.com')`;
    await run(`${upsert} ON CONFLICT (username) DO NOTHING`);
    await run("update production.users set updated_at = '2020-01-01'");
    await run(
      `${upsert.replace("alice@", "alice2@")} ON CONFLICT (username) DO UPDATE SET email = EXCLUDED.email`,
    );
    expect(
      await run(
        "select email, email_verified, updated_at = now()::timestamp as touched from production.users",
      ),
    ).toEqual([{ email: "alice2@example.com", email_verified: false, touched: true }]);
  }));

test("its question runs: revenue by quarter", () =>
  inSession(async (run) => {
    await run(
      "insert into production.users (user_id, username, email) values (1, 'alice', 'alice@example.com')",
    );
    await run(
      "insert into production.transactions (user_id, amount, transaction_date) values (1, 10, '2024-02-29 23:59'), (1, 5, '2024-04-01')",
    );
    expect(
      await run(`SELECT d.quarter, SUM(t.amount)
        FROM transactions t
        JOIN dim_date d ON DATE(t.transaction_date) = d.full_date
        GROUP BY d.quarter;`),
    ).toEqual(
      expect.arrayContaining([
        { quarter: 1, sum: "10.00" },
        { quarter: 2, sum: "5.00" },
      ]),
    );
    await run("REFRESH MATERIALIZED VIEW analytics.daily_user_metrics;");
    expect(
      await run("select date::text, total_revenue from analytics.daily_user_metrics order by date"),
    ).toEqual([
      { date: "2024-02-29", total_revenue: "10.00" },
      { date: "2024-04-01", total_revenue: "5.00" },
    ]);
    expect(await run("SELECT staging.cleanup_old_data(7); -- Keep 7 days")).toEqual([
      { cleanup_old_data: 0 },
    ]);
    expect(await run("SELECT staging.cleanup_old_data()")).toEqual([{ cleanup_old_data: 0 }]);
  }));

test.each([
  ["insert into production.users (username, email) values ('a', 'not an address')", "valid_email"],
  ["insert into production.transactions (user_id, amount) values (1, 0)", "positive_amount"],
  ["insert into production.transactions (user_id, amount, status) values (1, 1, 'paid')", "valid_status"],
  ["insert into production.transactions (user_id, amount) values (404, 1)", "fk_user"],
])("%s breaks %s", async (statement, constraint) => {
  await expect(
    inSession(async (run) => {
      await run(
        "insert into production.users (user_id, username, email) values (1, 'alice', 'alice@example.com')",
      );
      await run(statement);
    }),
  ).rejects.toMatchObject({ constraint });
});

test("deleting a user deletes their transactions", () =>
  inSession(async (run) => {
    await run(
      "insert into production.users (user_id, username, email) values (1, 'alice', 'alice@example.com')",
    );
    await run("insert into production.transactions (user_id, amount) values (1, 10)");
    await run("delete from production.users");
    expect(await run("select from production.transactions")).toEqual([]);
  }));

test("the calendar is complete and right", async () => {
  expect(
    await sql(
      `select full_date::text, year, quarter, month, month_name, week, day_of_week, day_name, is_weekend, is_holiday
       from production.dim_date where full_date in ('2024-12-29', '2024-12-30') order by 1`,
    ),
  ).toEqual([
    {
      full_date: "2024-12-29",
      year: 2024,
      quarter: 4,
      month: 12,
      month_name: "December",
      week: 52,
      day_of_week: 7,
      day_name: "Sunday",
      is_weekend: true,
      is_holiday: false,
    },
    {
      full_date: "2024-12-30",
      year: 2024,
      quarter: 4,
      month: 12,
      month_name: "December",
      week: 1,
      day_of_week: 1,
      day_name: "Monday",
      is_weekend: false,
      is_holiday: false,
    },
  ]);
  expect(await sql("select production.extend_dim_date('2014-12-30', '2015-01-02') as added")).toEqual([
    { added: 2 },
  ]);
  await expect(sql("select production.extend_dim_date('2024-01-02', '2024-01-01')")).rejects.toThrow(
    "cannot be extended from 2024-01-02 to 2024-01-01",
  );
});
