// node bench/processes.ts --server URL [--transactions 20000] [--rounds 5] [--seconds 4] [--connections 16]
// Reads of one server with 1, 2 and 4 processes (PROCESSES), and what follows for a larger machine. CPU time per read, of
// Strata, of PostgreSQL's backends and of the client, says the same where the machine has other things to do. Linux only.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import pg from "pg";
import { start, type Contender } from "./contenders.ts";
import { measure, type Cost, type Measured } from "./cost.ts";
import { prepare } from "./database.ts";
import { load } from "./load.ts";
import { median, spread, table } from "./statistics.ts";
import { works } from "./work.ts";

const { values } = parseArgs({
  options: {
    server: { type: "string", default: process.env.TEST_DATABASE_URL },
    transactions: { type: "string", default: "20000" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "4" },
    connections: { type: "string", default: "16" },
  },
});
if (!values.server)
  throw new Error("Give --server or TEST_DATABASE_URL: a PostgreSQL server that may be filled");
const options = { seconds: Number(values.seconds), connections: Number(values.connections) };
const COUNTS = [1, 2, 4];
const KINDS = ["single", "flat", "nested"];

const url = await prepare(values.server, Number(values.transactions));
const server = new pg.Pool({ connectionString: url, max: 1 });

async function serving(contender: Contender, count: number): Promise<void> {
  for (;;) {
    const response = await fetch(`${contender.url}/readyz`);
    if ((await response.text()).includes(`${count} of ${count} serve`)) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/**
 * Reads a second if CPU time is all that bounds them: a process has one core at most, and all that shares the machine
 * has the cores together.
 */
const bound = (cores: number, processes: number, { strata, postgres, client }: Cost): number =>
  1000 * Math.min(processes / strata, cores / (strata + postgres + client));

const all = new Map<string, Measured[]>();
for (let round = 0; round <= Number(values.rounds); round++)
  for (const count of COUNTS) {
    // One at a time: the idle processes of another would hold connections and memory.
    const contender = await start("Strata", url, { PROCESSES: String(count) });
    try {
      if (count > 1) await serving(contender, count);
      for (const kind of KINDS) {
        // Each process compiles its own code.
        await load(contender, kind, works[kind]!, { ...options, seconds: 2 * count });
        const measured = await measure(contender, kind, options, server);
        // The first round warms up PostgreSQL.
        if (round > 0) all.set(`${kind} ${count}`, [...(all.get(`${kind} ${count}`) ?? []), measured]);
      }
    } finally {
      contender.stop();
    }
  }
await server.end();

const of = (kind: string, count: number): Measured[] => all.get(`${kind} ${count}`)!;
const cost = (kind: string, count: number): Cost => ({
  strata: median(of(kind, count).map(({ strata }) => strata)),
  postgres: median(of(kind, count).map(({ postgres }) => postgres)),
  client: median(of(kind, count).map(({ client }) => client)),
});

console.log(
  table(
    [
      "read",
      "PROCESSES",
      "reads/s × one process",
      "CPU of Strata, ms",
      "of PostgreSQL",
      "of both × one process",
    ],
    KINDS.flatMap((kind) =>
      COUNTS.map((count) => [
        works[kind]!.title,
        String(count),
        spread(of(kind, count).map(({ perSecond }, i) => perSecond / of(kind, 1)[i]!.perSecond)),
        cost(kind, count).strata.toFixed(3),
        cost(kind, count).postgres.toFixed(3),
        spread(
          of(kind, count).map(
            (measured, i) =>
              (measured.strata + measured.postgres) / (of(kind, 1)[i]!.strata + of(kind, 1)[i]!.postgres),
          ),
        ),
      ]),
    ),
  ),
);

console.log(
  `\nThe model against this machine of ${availableParallelism()} cores, which the client shares:\n`,
);
console.log(
  table(
    ["read", "PROCESSES", "reads/s", "model", "measured / model"],
    KINDS.flatMap((kind) =>
      COUNTS.map((count) => {
        const model = bound(availableParallelism(), count, cost(kind, count));
        const rate = median(of(kind, count).map(({ perSecond }) => perSecond));
        return [
          works[kind]!.title,
          String(count),
          rate.toFixed(0),
          model.toFixed(0),
          (rate / model).toFixed(2),
        ];
      }),
    ),
  ),
);

// A read on a replica costs what it costs on the primary, and routing what bench/replicas.ts measures.
const CORES = 16;
const REPLICAS = 5;
console.log(`\nThe model for machines of ${CORES} cores, the client elsewhere:\n`);
console.log(
  table(
    [
      "read",
      "PROCESSES=1, PostgreSQL beside it",
      `PROCESSES=${CORES}, PostgreSQL beside it`,
      `PROCESSES=${CORES}, PostgreSQL on a machine of its own`,
      `${REPLICAS + 1} such pairs: one primary, ${REPLICAS} replicas`,
    ],
    KINDS.map((kind) => {
      const { strata, postgres } = cost(kind, 2);
      const beside = { strata, postgres, client: 0 };
      const apart = 1000 * Math.min(CORES / strata, CORES / postgres);
      return [
        works[kind]!.title,
        ...[bound(CORES, 1, beside), bound(CORES, CORES, beside), apart, apart * (REPLICAS + 1)].map(
          (rate) => `${(rate / 1000).toFixed(1)} k/s`,
        ),
      ];
    }),
  ),
);
