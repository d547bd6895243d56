// node bench/replicas.ts [--transactions 20000] [--rounds 5] [--seconds 4] [--connections 16]
// Reads on a primary alone against a primary with one replica, each client with its position: what routing costs. All of
// it on one machine, so a second server makes nothing faster. CPU time per read, of Strata and of PostgreSQL's backends
// together, says the same where the machine has other things to do. Linux only.
import { parseArgs } from "node:util";
import pg from "pg";
import { createCluster } from "../test/support/cluster.ts";
import { start } from "./contenders.ts";
import { cpuOf } from "./cpu.ts";
import { prepare } from "./database.ts";
import { load } from "./load.ts";
import { works } from "./work.ts";

const { values } = parseArgs({
  options: {
    transactions: { type: "string", default: "20000" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "4" },
    connections: { type: "string", default: "16" },
  },
});
const options = { seconds: Number(values.seconds), connections: Number(values.connections) };
const median = (numbers: number[]): number => numbers.sort((a, b) => a - b)[numbers.length >> 1]!;

const primary = await createCluster();
const url = await prepare(primary.url("postgres"), Number(values.transactions));
const replica = await primary.createReplica();
const READ_DATABASE_URLS = replica.url(new URL(url).pathname.slice(1));
const env = { ANONYMOUS_ROLE: "reader", LOG_LEVEL: "warn" };
const servers = [url, READ_DATABASE_URLS].map(
  (connectionString) => new pg.Pool({ connectionString, max: 1 }),
);

/** CPU time in ms until now, by process: of Strata, and of its backends on all servers. */
async function usedBy(strata: number): Promise<Map<number, number>> {
  const used = new Map([[strata, cpuOf(strata)]]);
  for (const server of servers) {
    const { rows } = await server.query<{ pid: number }>(
      "select pid from pg_stat_activity where application_name like 'strata%'",
    );
    for (const { pid } of rows) used.set(pid, cpuOf(pid));
  }
  return used;
}

/** Backends that have ended meanwhile are not counted: the idle ones of the other contender. */
function between(before: Map<number, number>, after: Map<number, number>): number {
  let total = 0;
  for (const [pid, ms] of after) total += ms - (before.get(pid) ?? 0);
  return total;
}

const alone = await start("Strata", url, env);
const routed = await start("Strata", url, { ...env, READ_DATABASE_URLS });
try {
  for (const name of ["flat", "nested"]) {
    const work = works[name]!;
    const first = await fetch(routed.url + routed.path(name), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: routed.body(work, 0),
    });
    const position = first.headers.get("strata-position");
    if (!position) throw new Error(`No position: ${await first.text()}`);
    const rates = { alone: [] as number[], routed: [] as number[] };
    const ratios: number[] = [];
    const cpu = { alone: [] as number[], routed: [] as number[] };
    for (let round = 0; round <= Number(values.rounds); round++) {
      const starts = [await usedBy(alone.pid)];
      const before = await load(alone, name, work, options);
      starts.push(await usedBy(alone.pid), await usedBy(routed.pid));
      const after = await load(routed, name, work, { ...options, headers: { "strata-position": position } });
      const end = await usedBy(routed.pid);
      // The first warms up.
      if (round === 0) continue;
      rates.alone.push(before.perSecond);
      rates.routed.push(after.perSecond);
      cpu.alone.push(between(starts[0]!, starts[1]!) / (before.perSecond * options.seconds));
      cpu.routed.push(between(starts[2]!, end) / (after.perSecond * options.seconds));
      ratios.push(after.perSecond / before.perSecond);
    }
    console.log(
      `${name}: ${median(rates.alone).toFixed(0)}/s on the primary alone, ${median(rates.routed).toFixed(0)}/s with a replica; ` +
        `ratio of a round ${median(ratios).toFixed(2)} (${ratios.map((ratio) => ratio.toFixed(2)).join(", ")}); ` +
        `CPU per read ${median(cpu.alone).toFixed(3)} and ${median(cpu.routed).toFixed(3)} ms`,
    );
  }
} finally {
  alone.stop();
  routed.stop();
  await Promise.all(servers.map((server) => server.end()));
  replica.remove();
  primary.remove();
}
