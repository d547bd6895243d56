/** @module-tag long */
// Random datasets × random dirty histories: production and quarantine have to be what the model says.
// DATASETS_SCHEMAS=200 tries more of them; DATASETS_FIRST=17 DATASETS_SCHEMAS=1 one alone.
import { expect, test } from "vitest";
import { chance } from "../support/random.ts";
import { name, useDatasets } from "./fixture.ts";
import { ddl, makeRecord, makeTables, Model, PREPARATION, type Row, type Table } from "./model.ts";

const { sql, declare, arrive, retry } = useDatasets();

const first = Number(process.env.DATASETS_FIRST ?? 0);
const seeds = Array.from({ length: Number(process.env.DATASETS_SCHEMAS ?? 4) }, (_, i) => first + i);

test.each(seeds)("schema %i", async (seed) => {
  const dice = chance(seed);
  const tables = makeTables(`r${seed}`, dice);
  await sql(PREPARATION);
  await declare(tables.map(ddl).join(";\n"), ...tables.map((table) => table.name));
  const order = await sql<{ dataset: string }>(
    "select dataset from strata.datasets where dataset = any ($1) order by place",
    [tables.map((table) => table.name)],
  );
  const model = new Model(order.map(({ dataset }) => tables.find((table) => table.name === dataset)!));

  const rounds = 2 + dice.below(4);
  for (let round = 0; round < rounds; round++) {
    const sent: [Table, Row[]][] = tables.flatMap((table) =>
      dice.times(3, (): [Table, Row[]] => [
        table,
        dice.times(12, () => makeRecord(table, dice)).concat(makeRecord(table, dice)),
      ]),
    );
    // Some are sent again, some parents come late.
    for (let i = 0; i < sent.length; i++) sent.splice(dice.below(sent.length), 0, ...sent.splice(i, 1));
    if (sent.length > 0 && dice.is(0.3)) sent.push(dice.pick(sent));
    for (const [table, records] of sent) {
      await arrive(table.name, ...records);
      model.arrive(table, records);
    }
    if (dice.is(0.3)) {
      const table = dice.pick(tables);
      await retry(table.name);
      model.retry(table);
    }
    const size = dice.pick([5, 11, 20_000, 20_000]);
    await transform(size);
    model.transform(size);
    await compare(model, `seed ${seed}, round ${round}, batches of ${size}`);
    if (dice.is(0.4)) await removeOne(model, dice.pick(tables), dice.number());
  }
});

/** What src/pipeline/transform.ts does, with batches of another size. */
async function transform(size: number): Promise<void> {
  const open = async () =>
    (
      await sql<{ upper_xid: string; datasets: { dataset: string }[] }>(
        "select upper_xid::text, datasets from strata.transform_window()",
      )
    )[0]!;
  const { datasets } = await open();
  const run = Date.now();
  await sql(
    "insert into strata.runs (run_id, step, status, heartbeat_at) overriding system value values ($1, 'transform', 'running', clock_timestamp())",
    [run],
  );
  for (let pass = 1, requeued = 1; (requeued > 0 || pass === 2) && pass <= 100; pass++) {
    requeued = 0;
    for (const { dataset } of datasets) {
      const [waiting] = await sql<{ found: number }>(
        "select strata.requeue_waiting($1, $2, 20000) as found",
        [run, dataset],
      );
      requeued += waiting!.found;
      const { upper_xid } = await open();
      for (let read = size; read === size;) {
        const [batch] = await sql<{ read: number }>(
          "select rows_read::integer as read from strata.transform_batch($1, $2, $3, $4)",
          [run, dataset, upper_xid, size],
        );
        read = batch!.read;
      }
    }
  }
  await sql("select strata.finish_run($1)", [run]);
}

async function compare(model: Model, context: string): Promise<void> {
  for (const { table, production, quarantine } of model.contents.values()) {
    const held = await sql<{ row: Row }>(
      `select to_jsonb(t) - 'strata_source' as row from ${name("production", table.name)} t`,
    );
    const byKey = (rows: Row[]) =>
      Object.fromEntries(rows.map((row) => [JSON.stringify(table.key.map((column) => row[column])), row]));
    expect(byKey(held.map(({ row }) => trimmed(row))), `production of ${table.name}, ${context}`).toEqual(
      byKey([...production.values()].map(({ row, seq }) => ({ ...row, source_seq: seq }))),
    );
    const entries = await sql<{ seq: number; reasons: string[]; waiting: boolean }>(
      "select ingest_seq::integer as seq, reasons, waiting from staging.quarantine where dataset = $1 and retried_at is null",
      [table.name],
    );
    const found = Object.fromEntries(
      entries.map(({ seq, reasons, waiting }) => [seq, { reasons: reasons.sort(), waiting }]),
    );
    expect(found, `quarantine of ${table.name}, ${context}`).toEqual(
      Object.fromEntries(
        [...quarantine]
          .filter(([seq, { isOptional }]) => !isOptional || seq in found)
          .map(([seq, { reasons, waiting }]) => [seq, { reasons: [...reasons].sort(), waiting }]),
      ),
    );
  }
}

/** char(n) is filled up with spaces. */
const trimmed = (row: Row): Row =>
  typeof row.word === "string" ? { ...row, word: row.word.trimEnd() } : row;

async function removeOne(model: Model, table: Table, place: number): Promise<void> {
  const { production } = model.contents.get(table)!;
  const key = [...production.keys()][Math.floor(place * production.size)];
  if (key === undefined) return;
  const condition = table.key.map((column, i) => `"${column}" = $${i + 1}`).join(" and ");
  await sql(`delete from ${name("production", table.name)} where ${condition}`, JSON.parse(key) as unknown[]);
  model.delete(table, key);
}
