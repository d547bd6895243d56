/** @module-tag long-server */
// Random metrics over random tables with random histories. METRICS_CASES=300 METRICS_SEED=1 for more of them.
import { expect, test } from "vitest";
import type { PoolClient } from "pg";
import { chance } from "../support/random.ts";
import { comparison, useMetrics } from "./fixture.ts";
import { randomCase } from "./generate.ts";

const { pool, sql, refresh } = useMetrics();

const CASES = Number(process.env.METRICS_CASES ?? 12);
const SEED = Number(process.env.METRICS_SEED ?? 1);
const STEPS = 7;

const differing = async (
  metrics: { name: string; query: string }[],
  suffix: string,
  client: PoolClient | undefined = undefined,
) => {
  const queries: string[] = [];
  for (const { name, query } of metrics)
    queries.push(
      `(select '${name}${suffix}' as metric, d.side, d.row from ${await comparison(client ?? pool(), query, `analytics.${name}${suffix}`)} d limit 3)`,
    );
  return (await (client ?? pool()).query(queries.join(" union all "))).rows as unknown[];
};

test.each(Array.from({ length: CASES }, (_, i) => SEED + i))("stays exact (seed %i)", async (seed) => {
  const { setup, metrics, statement, drop } = randomCase(seed);
  await sql(setup.join(";"));
  for (const { name, query, partition } of metrics)
    await sql("select strata.add_metric($1, $2, $3)", [name, query, partition]);
  expect(
    await sql("select metric, why from strata.metrics where mode <> 'partition'"),
    metrics.map(({ query }) => query).join("\n"),
  ).toEqual([]);
  await refresh();
  const c = chance(-seed);
  const history: string[] = [];
  const check = async (suffix: string) =>
    expect(
      await differing(metrics, suffix),
      [...metrics.map(({ query }) => query), ...history].join("\n"),
    ).toEqual([]);
  for (let step = 0; step < STEPS; step++) {
    for (let i = c.below(3); i >= 0; i--) {
      const text = statement();
      history.push(text);
      await sql(text).catch((error: { code?: string; message: string }) => {
        // A foreign or unique key rejects some: then nothing has changed.
        if (error.code !== "23503" && error.code !== "23505" && error.code !== "21000")
          throw new Error(`${error.message}: ${text}`);
      });
    }
    await check("_live");
    if (c.is(0.4) || step === STEPS - 1) {
      history.push("-- refresh");
      await refresh();
      await check("");
      await check("_live");
    }
  }
  expect(await sql("select metric, error from strata.metrics where error is not null")).toEqual([]);
  for (const { name } of [...metrics].reverse()) {
    await sql("select strata.remove_metric($1)", [name]);
    await sql(`drop table analytics.${name}`);
  }
  await sql(drop);
});
