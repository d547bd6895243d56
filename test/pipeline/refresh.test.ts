/** @module-tag long */
import { expect, test } from "vitest";
import { runStep } from "../../src/pipeline/runs.ts";
import { useDatabase } from "../support/use-database.ts";

const { database, sql } = useDatabase();
const refresh = (full = false) => runStep(database().pool, { step: "refresh", trigger: "cli", full });

// The specification's query, with the values as text: equal means equal to the last digit.
const TRUTH = `
  select date(t.transaction_date)::text as date, u.country, count(distinct u.user_id)::text as active_users,
         sum(t.amount)::text as total_revenue, avg(t.amount)::text as avg_transaction
  from production.users u left join production.transactions t on u.user_id = t.user_id
  group by date(t.transaction_date), u.country`;

const differences = async (relation: string) => {
  const kept = `select date::text, country, active_users::text, total_revenue::text, avg_transaction::text from ${relation}`;
  return sql(`(${TRUTH} except all ${kept}) union all (${kept} except all ${TRUTH})`);
};

/** Reproducible random numbers. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const COUNTRIES = ["DE", "FR", "", null];

function randomStatement(below: (n: number) => number): [string, unknown[]] {
  const user = 1 + below(12);
  const country = COUNTRIES[below(4)];
  const day = `2024-01-${String(1 + below(20)).padStart(2, "0")} ${String(below(24)).padStart(2, "0")}:00`;
  const amount = (1 + below(10_000)) / 100;
  switch (below(9)) {
    case 0:
    case 1:
      return [
        `insert into production.users (user_id, username, email, country)
         values ($1::integer, 'user' || $1::integer, 'user' || $1::integer || '@example.org', $2)
         on conflict (user_id) do update set country = excluded.country`,
        [user, country],
      ];
    case 2:
    case 3:
    case 4:
      return [
        `insert into production.transactions (user_id, amount, transaction_date)
         select user_id, $2, $3 from production.users where user_id in ($1, $1 + 1)`,
        [user, amount, day],
      ];
    case 5:
      return [
        "update production.transactions set transaction_date = $2, amount = $3 where user_id = $1 and amount < 50",
        [user, day, amount],
      ];
    case 6:
      return [
        `update production.transactions set user_id = (select min(user_id) from production.users)
         where user_id = $1 and exists (select from production.users)`,
        [user],
      ];
    case 7:
      return [
        "delete from production.transactions where user_id = $1 and transaction_date < $2",
        [user, day],
      ];
    default:
      return below(3) === 0
        ? ["delete from production.users where user_id = $1", [user]]
        : ["update production.users set country = $2 where user_id = $1", [user, country]];
  }
}

// A run of each subject once takes one seed.
test.each(process.env.TEST_LONG === "1" ? [1, 2, 3] : [1])(
  "stays exact through random changes (seed %i)",
  async (seed) => {
    const below = randomNumbers(seed);
    // Many days that stay clean: few enough others are dirty for the incremental way.
    await sql(
      `insert into production.users (user_id, username, email, country) values (1000, 'steady', 'steady@example.org', 'DE')
     on conflict do nothing`,
    );
    await sql(
      `insert into production.transactions (user_id, amount, transaction_date)
     select 1000, 10, d from generate_series(timestamp '2023-01-01', '2023-06-30', '1 day') d`,
    );
    await refresh();
    for (let round = 0; round < 12; round += 1) {
      for (let i = below(8); i >= 0; i -= 1) {
        const [text, values] = randomStatement(below);
        await sql(text, values);
      }
      expect(await differences("analytics.daily_user_metrics_live"), "live view before").toEqual([]);
      if (below(4) === 0) {
        await sql("refresh materialized view analytics.daily_user_metrics");
        expect(await differences("analytics.daily_user_metrics"), "bare refresh").toEqual([]);
      }
      expect(await refresh(below(10) === 0)).toMatchObject({ status: "succeeded" });
      expect(await differences("analytics.daily_user_metrics"), "after refresh").toEqual([]);
      expect(await differences("analytics.daily_user_metrics_live"), "live view after").toEqual([]);
      expect(
        await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
      ).toEqual([{ wrong: 0 }]);
    }
  },
);

test("follows users into and out of the group without transactions", async () => {
  await sql(
    `insert into production.users (user_id, username, email, country)
     values (2001, 'first', 'first@example.org', 'XX'), (2002, 'second', 'second@example.org', 'XX')
     on conflict do nothing`,
  );
  const without = async () => {
    expect(await differences("analytics.daily_user_metrics_live")).toEqual([]);
    await refresh();
    expect(await differences("analytics.daily_user_metrics")).toEqual([]);
    const [row] = await sql(
      "select active_users::integer as users from analytics.daily_user_metrics where date is null and country = 'XX'",
    );
    return (row?.users ?? 0) as number;
  };
  expect(await without()).toBe(2);
  await sql(
    "insert into production.transactions (user_id, amount, transaction_date) values (2001, 1, '2023-05-05'), (2001, 1, '2023-05-06')",
  );
  expect(await without()).toBe(1);
  await sql("delete from production.transactions where user_id = 2001 and transaction_date < '2023-05-06'");
  expect(await without()).toBe(1);
  await sql("update production.transactions set user_id = 2002 where user_id = 2001");
  expect(await without()).toBe(1);
  await sql("delete from production.transactions where user_id = 2002");
  expect(await without()).toBe(2);
  await sql("update production.users set country = 'YY' where user_id = 2001");
  expect(await without()).toBe(1);
  await sql("delete from production.users where user_id = 2002");
  expect(await without()).toBe(0);
});

test("keeps every day when a transaction gets another number", async () => {
  await sql(
    "update production.transactions set transaction_id = transaction_id + 1000000 where transaction_day = '2023-02-02'",
  );
  expect(await differences("analytics.daily_user_metrics_live")).toEqual([]);
  await sql("refresh materialized view analytics.daily_user_metrics");
  expect(await differences("analytics.daily_user_metrics")).toEqual([]);
  await refresh();
  expect(await differences("analytics.daily_user_metrics")).toEqual([]);
});

test("notices a truncation", async () => {
  await sql("truncate production.transactions");
  expect(await differences("analytics.daily_user_metrics_live")).toEqual([]);
  await refresh();
  expect(await differences("analytics.daily_user_metrics")).toEqual([]);
});

test("computes the changed days only", async () => {
  await sql("truncate production.users cascade");
  await sql(
    "insert into production.users (user_id, username, email, country) values (1, 'ann', 'ann@example.org', 'DE')",
  );
  await sql(
    `insert into production.transactions (user_id, amount, transaction_date)
     select 1, 10, d from generate_series(timestamp '2024-01-01', '2024-02-09', '1 day') d`,
  );
  await refresh();
  // If the rollup of another day were computed again, this would be put right.
  await sql("update strata.daily_rollup set total_revenue = 999 where date = '2024-01-02'");
  await sql(
    "insert into production.transactions (user_id, amount, transaction_date) values (1, 5, '2024-01-31 12:00')",
  );
  // One group in each metric that has this day, of forty.
  const { rowsRead, rowsWritten } = await refresh();
  expect(rowsRead).toBe(1);
  expect(rowsWritten).toBeLessThan(5);
  expect(
    await sql("select date::text from analytics.daily_user_metrics where total_revenue = 999"),
  ).toHaveLength(1);
  expect(
    await sql("select total_revenue from analytics.daily_user_metrics where date = '2024-01-31'"),
  ).toEqual([{ total_revenue: "15.00" }]);
  expect(
    await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
  ).toEqual([{ wrong: 2 }]);
  await refresh(true);
  expect(
    await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
  ).toEqual([{ wrong: 0 }]);
});

test("keeps days that have no next day, and the one before the year 2000", async () => {
  await sql(
    `insert into production.transactions (user_id, amount, transaction_date)
     select 1, 10, d from unnest(array['infinity', '-infinity', '1999-12-31 23:59', '294276-12-31']::timestamp[]) d`,
  );
  await refresh();
  expect(await differences("analytics.daily_user_metrics")).toEqual([]);
  await sql("update production.transactions set amount = 11 where not isfinite(transaction_date)");
  expect(await differences("analytics.daily_user_metrics_live")).toEqual([]);
});

test("raises the data version with every refresh, a bare one too", async () => {
  const version = async () =>
    Number((await sql("select data_version from strata.refresh_state"))[0]!.data_version);
  const before = await version();
  const { id } = await refresh();
  expect(await version()).toBe(before + 1);
  expect(await sql("select run_id from strata.refresh_state")).toEqual([{ run_id: id }]);
  await sql("refresh materialized view analytics.daily_user_metrics");
  expect(await version()).toBe(before + 2);
  expect(await sql("select run_id from strata.refresh_state")).toEqual([{ run_id: null }]);
});

/** One user, with these amounts and times. */
async function annAlone(transactions: string): Promise<void> {
  await sql("truncate production.users cascade");
  await sql(
    "insert into production.users (user_id, username, email, country) values (1, 'ann', 'ann@example.org', 'DE')",
  );
  await sql(`insert into production.transactions (user_id, amount, transaction_date) values ${transactions}`);
}

test("sums up quarters by the calendar", async () => {
  await annAlone(`(1, 10, '2024-01-06'), (1, 20, '2024-03-29'), (1, 40, '2024-04-01')`);
  await refresh();
  expect(
    await sql(
      "select year, quarter, total_revenue, weekend_revenue, active_days from analytics.quarterly_revenue order by 1, 2",
    ),
  ).toEqual([
    { year: 2024, quarter: 1, total_revenue: "30.00", weekend_revenue: "10.00", active_days: "2" },
    { year: 2024, quarter: 2, total_revenue: "40.00", weekend_revenue: "0", active_days: "1" },
  ]);
});

test("the calendar follows what was written into production itself", async () => {
  await annAlone(
    `(1, 10, '2009-05-05'), (1, 20, '2041-05-05'), (1, 40, '9999-01-01'), (1, 80, 'infinity'), (1, 160, '0044-03-15 BC')`,
  );
  await refresh();
  expect(await sql("select year, total_revenue from analytics.quarterly_revenue order by 1")).toEqual([
    { year: 2009, total_revenue: "10.00" },
    { year: 2041, total_revenue: "20.00" },
  ]);
  // A date that nobody can mean gets no thousands of years.
  expect(await sql("select from production.dim_date where year not between 1900 and 2041")).toEqual([]);
});

test("fills the view again that somebody emptied", async () => {
  await sql("refresh materialized view analytics.daily_user_metrics with no data");
  expect(await refresh()).toMatchObject({ status: "succeeded", error: null });
  expect(await differences("analytics.daily_user_metrics")).toEqual([]);
});

test("finds a day's transactions by index, however long the history is", async () => {
  await annAlone("(1, 10, '2024-01-01')");
  await sql(
    `insert into production.transactions (user_id, amount, transaction_date)
     select 1, 10, timestamp '2000-01-01' + (n * 7919::bigint % 100000) * interval '2 hours' from generate_series(1, 100000) n`,
  );
  await sql("analyze production.transactions");
  const plan = await sql(
    "explain (costs off) select * from strata.metric_daily_rollup d where d.date = any (array['2010-06-01', '2010-06-02']::date[])",
  );
  const lines = plan.map((row) => String(row["QUERY PLAN"])).join("\n");
  expect(lines).toContain("Index Cond: (transaction_day = ANY");
  expect(lines).not.toContain("Seq Scan on transactions");
  await sql("truncate production.users cascade");
});

test("a materialized view of one's own has a line in freshness, and views of production are listed", async () => {
  await sql(`
    create table production.parcels (parcel_id integer primary key, weight integer not null);
    select strata.add_dataset('parcels');
    create view production.heavy_parcels as select parcel_id from production.parcels where weight > 10;
    create view production.datasets as select 1 as one;
    create materialized view analytics.parcel_weight as select sum(weight) as weight from production.heavy_parcels join production.parcels using (parcel_id)`);
  await sql("select strata.reconcile()");
  await refresh();
  const behind = async () =>
    (
      await sql(
        "select rows_behind::int as rows, lag_seconds > 0 as lags from analytics.freshness where dataset = 'parcel_weight'",
      )
    )[0];
  expect(await behind()).toEqual({ rows: 0, lags: false });
  const add =
    "insert into staging.raw_parcels (parcel_id, weight) select n, 20 from generate_series($1::int, $2::int) n";
  for (const [from, to, count] of [
    [1, 3, 3],
    [4, 5, 5],
  ]) {
    await sql(add, [from, to]);
    await runStep(database().pool, { step: "transform", trigger: "cli" });
    expect(await behind()).toEqual({ rows: count, lags: true });
  }
  await refresh();
  expect(await behind()).toEqual({ rows: 0, lags: false });
  // A run of both steps leaves nothing behind.
  await sql(add, [6, 9]);
  await runStep(database().pool, { step: "pipeline", trigger: "cli" });
  expect(await behind()).toEqual({ rows: 0, lags: false });
  expect(await sql("select weight::int from analytics.parcel_weight")).toEqual([{ weight: 180 }]);
  expect(
    await sql(
      "select dataset, kind, parents from analytics.datasets where dataset in ('heavy_parcels', 'parcel_weight', 'datasets') order by 1",
    ),
  ).toEqual([
    { dataset: "heavy_parcels", kind: "view", parents: ["parcels"] },
    { dataset: "parcel_weight", kind: "materialized view", parents: ["parcels"] },
  ]);
});
