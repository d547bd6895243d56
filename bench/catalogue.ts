// node bench/catalogue.ts --server URL [--rounds 5] [--seconds 3] [--connections 16]
// What ten datasets and twenty metrics more cost: a start of the server, and reads of the tables that were there before.
import { parseArgs } from "node:util";
import pg from "pg";
import { start, type Contender } from "./contenders.ts";
import { cpuOf } from "./cpu.ts";
import { prepare } from "./database.ts";
import { load } from "./load.ts";
import { median, spread, table } from "./statistics.ts";
import { works } from "./work.ts";

const { values } = parseArgs({
  options: {
    server: { type: "string", default: process.env.TEST_DATABASE_URL },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "3" },
    connections: { type: "string", default: "16" },
  },
});
if (!values.server)
  throw new Error("Give --server or TEST_DATABASE_URL: a PostgreSQL server that may be filled");
const options = { seconds: Number(values.seconds), connections: Number(values.connections) };
const rounds = Number(values.rounds);
const TRANSACTIONS = 20_000;
const PAIRS = 5;

/** Pairs of a parent and a child, each a dataset, and four metrics of each pair. */
function declarations(): string {
  const statements = Array.from({ length: PAIRS }, (_, n) => {
    const measures = Array.from({ length: 8 }, (_, column) => `measure_${column} numeric(12, 2)`).join(", ");
    return `
      create table production.devices_${n} (device_id bigint primary key, name text not null, place text, ${measures});
      create table production.readings_${n} (
        reading_id bigint primary key, device_id bigint not null references production.devices_${n},
        day date not null, value numeric(12, 2) not null check (value >= 0), ${measures});
      create index on production.readings_${n} (device_id);
      create index on production.readings_${n} (day);
      select strata.add_dataset('devices_${n}');
      select strata.add_dataset('readings_${n}');
      select strata.add_metric('readings_${n}_daily', partition => 'day', query => $$
        select day, count(*) as readings, sum(value) as total from production.readings_${n} group by day $$);
      select strata.add_metric('readings_${n}_devices', partition => 'day', query => $$
        select day, device_id, max(value) as highest from production.readings_${n} group by day, device_id $$);
      select strata.add_metric('readings_${n}_medians', partition => 'day', query => $$
        select day, percentile_cont(0.5) within group (order by value) as median
        from production.readings_${n} group by day $$);
      select strata.add_metric('readings_${n}_places', partition => 'day', query => $$
        select r.day, d.place, avg(r.value) as mean from production.readings_${n} r
        join production.devices_${n} d on d.device_id = r.device_id group by r.day, d.place $$);`;
  });
  return statements.join("\n");
}

async function copyWith(url: string, name: string, sql: string): Promise<string> {
  const copy = new URL(url);
  copy.pathname = `/${name}`;
  const administrator = new pg.Client({ connectionString: values.server });
  await administrator.connect();
  await administrator.query(`drop database if exists ${name} with (force)`);
  await administrator.query(`create database ${name} template ${new URL(url).pathname.slice(1)}`);
  await administrator.end();
  const client = new pg.Client({ connectionString: copy.href });
  await client.connect();
  await client.query(sql);
  await client.query("select strata.reconcile(); select strata.refresh(false)");
  await client.query("vacuum analyze");
  await client.end();
  return copy.href;
}

const before = await copyWith(await prepare(values.server, TRANSACTIONS), "strata_bench_three", "");
const after = await copyWith(before, "strata_bench_many", declarations());

/** CPU time in ms that the server takes until it is ready: unlike the time that passes, it is the same on a busy machine. */
async function costOfStart(url: string): Promise<number> {
  const contender = await start("Strata", url);
  const cost = cpuOf(contender.pid);
  contender.stop();
  return cost;
}
const starts = { before: [] as number[], after: [] as number[] };
for (let round = 0; round < rounds; round++) {
  starts.before.push(await costOfStart(before));
  starts.after.push(await costOfStart(after));
}
console.log(
  `start, CPU time: ${median(starts.before).toFixed(0)} ms with three datasets, ${median(starts.after).toFixed(0)} ms with ` +
    `${2 * PAIRS} more and ${4 * PAIRS} metrics: ${spread(
      starts.after.map((time, i) => time - starts.before[i]!),
      0,
    )} ms more\n`,
);

const few: Contender = await start("Strata", before);
const many: Contender = await start("Strata", after);
try {
  const rows: string[][] = [];
  for (const name of ["single", "flat", "nested"]) {
    const work = works[name]!;
    const ratios: number[] = [];
    // The first round warms up.
    for (let round = 0; round <= rounds; round++) {
      const one = await load(few, name, work, options);
      const other = await load(many, name, work, options);
      if (round > 0) ratios.push(other.perSecond / one.perSecond);
    }
    rows.push([work.title, spread(ratios)]);
  }
  console.log(table(["reads", "per second, relative to three datasets"], rows));
} finally {
  few.stop();
  many.stop();
}
