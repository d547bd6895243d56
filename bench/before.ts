// node bench/before.ts FOLDER --server URL [--transactions 20000] [--rounds 9] [--seconds 3] [--only flat,single]
// Reads of this code against another checkout of it (with its own node_modules), in turn, each on a database of its own.
import { parseArgs } from "node:util";
import pg from "pg";
import { root, start } from "./contenders.ts";
import { measure, type Measured } from "./cost.ts";
import { prepare } from "./database.ts";
import { load } from "./load.ts";
import { median, spread, table } from "./statistics.ts";
import { works } from "./work.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: "string", default: process.env.TEST_DATABASE_URL },
    transactions: { type: "string", default: "20000" },
    rounds: { type: "string", default: "9" },
    seconds: { type: "string", default: "3" },
    connections: { type: "string", default: "16" },
    only: { type: "string", default: "flat,single,nested" },
  },
});
if (!values.server || positionals.length !== 1)
  throw new Error(
    "Give the folder of another checkout, and --server or TEST_DATABASE_URL: a server that may be filled",
  );
const options = { seconds: Number(values.seconds), connections: Number(values.connections) };

async function side(folder: string, suffix: string) {
  const transactions = Number(values.transactions);
  const url = await prepare(values.server!, transactions, folder, `strata_bench_${transactions}_${suffix}`);
  return {
    contender: await start("Strata", url, {}, folder),
    pool: new pg.Pool({ connectionString: url, max: 1 }),
    measured: [] as Measured[],
  };
}
type Side = Awaited<ReturnType<typeof side>>;

const sides: Side[] = [];
const rows: string[][] = [];
try {
  sides.push(await side(positionals[0]!, "before"));
  sides.push(await side(root, "after"));
  for (const kind of values.only.split(",")) {
    for (const one of sides) {
      one.measured = [];
      await load(one.contender, kind, works[kind]!, { ...options, seconds: 8 });
    }
    for (let round = 0; round < Number(values.rounds); round++)
      for (const one of sides) one.measured.push(await measure(one.contender, kind, options, one.pool));
    const [before, after] = sides.map(({ measured }) => measured) as [Measured[], Measured[]];
    const ratio = (of: (one: Measured) => number): string =>
      spread(after.map((one, i) => of(one) / of(before[i]!)));
    rows.push([
      works[kind]!.title,
      median(before.map(({ perSecond }) => perSecond)).toFixed(0),
      ratio(({ perSecond }) => perSecond),
      ratio(({ strata }) => strata),
      ratio(({ postgres }) => postgres),
      ratio(({ strata, postgres }) => strata + postgres),
    ]);
  }
} finally {
  for (const { contender, pool } of sides) {
    contender.stop();
    await pool.end();
  }
}
const head = [
  "read",
  "before, reads/s",
  "after: × reads/s",
  "× CPU of Strata",
  "× of PostgreSQL",
  "× of both",
];
console.log(table(head, rows));
