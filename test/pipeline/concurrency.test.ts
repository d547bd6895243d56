// Many writers with random delays while the pipeline runs. Afterwards nothing is lost, nothing is doubled and the
// metrics equal the truth. One session at a time proves nothing here, so this is for servers only.
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { PoolClient } from "pg";
import { isServer } from "../support/database.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run } = usePipeline();

const SECONDS = 8;
const below = (n: number): number => Math.floor(Math.random() * n);
const day = (): string => `2024-01-${String(1 + below(28)).padStart(2, "0")} 12:00`;

/** Source systems: versions of the same records again and again, some invalid, some transactions long or rolledBack. */
async function ingestSomething(client: PoolClient): Promise<void> {
  await client.query("begin");
  for (let i = below(4); i >= 0; i -= 1) {
    const user = 1 + below(30);
    if (below(3) === 0)
      await client.query(
        "insert into staging.raw_users (user_id, username, email, country) values ($1::integer, 'user' || $1::integer, $2, $3)",
        [user, below(6) === 0 ? "broken" : `user${user}@example.org`, ["DE", "FR", null][below(3)]],
      );
    else
      await client.query(
        "insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date) values ($1, $2, $3, $4, $5)",
        [1 + below(300), user, below(8) - 1, below(10) === 0 ? "typo" : "completed", day()],
      );
    if (below(4) === 0) await sleep(below(150));
  }
  await client.query(below(6) === 0 ? "rollback" : "commit");
}

/** API clients: rows of their own (negative ids), and countries of anybody. */
async function changeSomething(client: PoolClient): Promise<void> {
  const id = -1 - below(10);
  const statements: [string, unknown[]][] = [
    [
      "insert into production.users (user_id, username, email, country) values ($1::integer, 'api' || $1::integer, 'api' || $1::integer || '@example.org', 'US') on conflict do nothing",
      [id],
    ],
    [
      "insert into production.transactions (transaction_id, user_id, amount, transaction_date) select $1, user_id, 5, $3 from production.users where user_id = $2 on conflict do nothing",
      [-1 - below(1000), id, day()],
    ],
    [
      "update production.transactions set amount = amount + 1, transaction_date = $2 where transaction_id between $1 and $1 + 50 and transaction_id < 0",
      [-1 - below(1000), day()],
    ],
    [
      "delete from production.transactions where transaction_id between $1 and $1 + 20 and transaction_id < 0",
      [-1 - below(1000)],
    ],
    [
      "update production.users set country = $2 where user_id = $1",
      [1 + below(30), ["DE", "IT", null][below(3)]],
    ],
    ["delete from production.users where user_id = $1", [id]],
  ];
  const [text, values] = statements[below(statements.length)]!;
  await client.query("begin");
  await client.query(text, values);
  if (below(3) === 0) await sleep(below(100));
  await client.query("commit");
}

async function repeat(until: number, work: (client: PoolClient) => Promise<void>): Promise<void> {
  const client = await pool().connect();
  try {
    while (Date.now() < until) {
      // Writers may deadlock with one another: that is theirs to repeat.
      await work(client).catch(async (error: { code?: string }) => {
        await client.query("rollback");
        if (error.code !== "40P01" && error.code !== "23503") throw error;
      });
    }
  } finally {
    client.release();
  }
}

describe.runIf(isServer)("with concurrent writers", () => {
  test("nothing is lost, nothing doubled, and the metrics are exact", async () => {
    const until = Date.now() + SECONDS * 1000;
    const failed: unknown[] = [];
    const steps = async () => {
      while (Date.now() < until)
        for (const step of ["transform", "refresh"] as const) {
          const done = await run(step);
          if (done.status === "failed") failed.push(done);
        }
    };
    await Promise.all([
      steps(),
      ...Array.from({ length: 3 }, () => repeat(until, ingestSomething)),
      ...Array.from({ length: 3 }, () => repeat(until, changeSomething)),
    ]);
    expect(failed).toEqual([]);
    expect(
      await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
    ).toEqual([{ wrong: 0 }]);

    await run("transform");
    await run("transform");
    await run("refresh");
    expect(await sql("select count(*) > 100 as enough from staging.raw_transactions")).toEqual([
      { enough: true },
    ]);
    // The latest valid version of every record, which is what a replay in the order of arrival gives.
    const replay = `
      select distinct on (transaction_id) transaction_id, user_id, round(amount, 2) as amount, status, transaction_date, ingest_seq
      from staging.raw_transactions
      where amount > 0 and status = 'completed' and user_id in (select user_id from production.users)
      order by transaction_id, ingest_seq desc`;
    const kept = `
      select transaction_id, user_id, amount, status, transaction_date, source_seq from production.transactions where transaction_id > 0`;
    expect(await sql(`(${replay}) except (${kept})`)).toEqual([]);
    expect(await sql(`(${kept}) except (${replay})`)).toEqual([]);
    expect(
      await sql(`
        select user_id, ingest_seq from (
          select distinct on (user_id) user_id, ingest_seq from staging.raw_users where email <> 'broken' order by user_id, ingest_seq desc
        ) latest
        except select user_id, source_seq from production.users`),
    ).toEqual([]);
    // Every rejected record is in quarantine, once.
    expect(
      await sql(`
        select (select count(*) from staging.raw_users where email = 'broken') +
               (select count(*) from staging.raw_transactions t where amount <= 0 or status <> 'completed'
                  or user_id not in (select user_id from production.users)) -
               (select count(*) from staging.quarantine) as difference`),
    ).toEqual([{ difference: "0" }]);
    expect(
      await sql("select sum(strata.count_differences(metric))::integer as wrong from strata.metrics"),
    ).toEqual([{ wrong: 0 }]);
    const metrics = (relation: string) =>
      sql(`select * from ${relation} order by date, country, active_users`);
    expect(await metrics("analytics.daily_user_metrics")).toEqual(
      await metrics("analytics.daily_user_metrics_live"),
    );
  }, 60_000);
});
