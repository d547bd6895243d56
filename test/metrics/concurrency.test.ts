// Writers, refreshes and readers at once, and backends that are killed in the middle of it. Every reader compares the
// live views with their queries in one snapshot; nobody truncates, since PostgreSQL shows a truncation to older
// snapshots, too. One session at a time proves nothing here: for servers only.
import { setTimeout as sleep } from "node:timers/promises";
import type { PoolClient } from "pg";
import { describe, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { chance } from "../support/random.ts";
import { compare, useMetrics } from "./fixture.ts";
import { randomCase } from "./generate.ts";

const SECONDS = Number(process.env.METRICS_SECONDS ?? 15);
const SEED = Number(process.env.METRICS_SEED ?? 1);

const { pool, sql, refresh } = useMetrics();

/** Whose connection ends by the other's hand, or who loses to another transaction, starts again. */
const EXPECTED = ["57P01", "40P01", "40001", "23503", "23505", "21000", "55P03"];

async function repeat(until: number, work: (client: PoolClient) => Promise<void>): Promise<void> {
  while (Date.now() < until) {
    const client = await pool().connect();
    // The server says good-bye to an idle connection by an event.
    client.on("error", () => {});
    try {
      while (Date.now() < until) await work(client);
      client.release();
    } catch (error) {
      client.release(true);
      const { code, message } = error as { code?: string; message: string };
      if (!EXPECTED.includes(code ?? "") && !/terminat|not queryable|closed/.test(message)) throw error;
    }
  }
}

describe.runIf(isServer)("with concurrent writers and killed backends", () => {
  test(
    "live views are exact in every snapshot, tables after the last refresh",
    async () => {
      const c = chance(SEED);
      const cases = [0, 1, 2].map((i) => randomCase(SEED * 100 + i, `k${i}`));
      for (const { setup, metrics } of cases) {
        await sql(setup.join(";"));
        for (const { name, query, partition } of metrics)
          await sql("select strata.add_metric($1, $2, $3)", [name, query, partition]);
      }
      const metrics = cases.flatMap((x) => x.metrics);
      expect(await sql("select metric from strata.metrics where mode <> 'partition'")).toEqual([]);
      await refresh();

      const until = Date.now() + SECONDS * 1000;
      const done = { transactions: 0, refreshes: 0, comparisons: 0, kills: 0 };
      const write = async (client: PoolClient) => {
        await client.query("begin");
        for (let i = c.below(4); i >= 0; i--) {
          await client.query(
            c
              .pick(cases)
              .statement()
              .replace(/^truncate (\S+) cascade/, "delete from $1"),
          );
          if (c.is(0.2)) await sleep(c.below(300));
        }
        await client.query(c.is(0.2) ? "rollback" : "commit");
        done.transactions += 1;
      };
      const read = async (client: PoolClient) => {
        await client.query("begin isolation level repeatable read read only");
        for (const { name, query } of metrics) {
          expect(await compare(client, query, `analytics.${name}_live`), `${name}: ${query}`).toEqual([]);
          done.comparisons += 1;
        }
        await client.query("commit");
      };
      const refreshNow = async (client: PoolClient) => {
        await client.query("select strata.refresh($1)", [c.is(0.1)]);
        done.refreshes += 1;
        await sleep(c.below(200));
      };
      const kill = async () => {
        while (Date.now() < until) {
          await sleep(200 + c.below(600));
          const killed = await sql(
            `select pg_terminate_backend(pid) from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' and query !~ 'isolation|with truth'
           order by random() limit 1`,
          );
          done.kills += killed.length;
        }
      };
      await Promise.all([
        repeat(until, write),
        repeat(until, write),
        repeat(until, write),
        repeat(until, refreshNow),
        repeat(until, read),
        kill(),
      ]);
      for (const [what, count] of Object.entries(done)) expect(count, what).toBeGreaterThan(3);

      for (const { name, query } of metrics)
        expect(await compare(pool(), query, `analytics.${name}_live`), name).toEqual([]);
      await refresh();
      for (const suffix of ["", "_live"])
        for (const { name, query } of metrics)
          expect(await compare(pool(), query, `analytics.${name}${suffix}`), name).toEqual([]);
      if (process.env.METRICS_SECONDS) console.log(done);
    },
    (SECONDS + 120) * 1000,
  );
});
