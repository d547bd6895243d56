// node bench/replicas.ts [--transactions 20000] [--rounds 5] [--seconds 4] [--connections 16]
// Reads on a primary alone against a primary with one replica, each client with its position: what routing costs. All of
// it on one machine, so a second server makes nothing faster. CPU time per read, of Strata and of PostgreSQL's backends
// together, says the same where the machine has other things to do. Linux only.
import { parseArgs } from "node:util";
import pg from "pg";
import { createCluster } from "../test/support/cluster.ts";
import { start } from "./contenders.ts";
import { between, usedBy, usedByBackends, type Used } from "./cpu.ts";
import { prepare } from "./database.ts";
import { load } from "./load.ts";
import { median } from "./statistics.ts";
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

const primary = await createCluster();
const url = await prepare(primary.url("postgres"), Number(values.transactions));
const replica = await primary.createReplica();
const READ_DATABASE_URLS = replica.url(new URL(url).pathname.slice(1));
const env = { ANONYMOUS_ROLE: "reader", LOG_LEVEL: "warn" };
const servers = [url, READ_DATABASE_URLS].map(
  (connectionString) => new pg.Pool({ connectionString, max: 1 }),
);

/** Of Strata and its backends on all servers. */
async function usedWith(strata: number): Promise<Used> {
  const backends = await Promise.all(servers.map(usedByBackends));
  return new Map([...usedBy([strata]), ...backends.flatMap((used) => [...used])]);
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
      const starts = [await usedWith(alone.pid)];
      const before = await load(alone, name, work, options);
      starts.push(await usedWith(alone.pid), await usedWith(routed.pid));
      const after = await load(routed, name, work, { ...options, headers: { "strata-position": position } });
      const end = await usedWith(routed.pid);
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
