// node bench/replicas.ts [--transactions 20000] [--rounds 5] [--seconds 4] [--connections 16]
// Reads on a primary alone against a primary with one replica, each client with its position: what routing costs. All of
// it on one machine, so a second server makes nothing faster.
import { parseArgs } from "node:util";
import { createCluster } from "../test/support/cluster.ts";
import { start } from "./contenders.ts";
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
    for (let round = 0; round <= Number(values.rounds); round++) {
      const before = await load(alone, name, work, options);
      const after = await load(routed, name, work, { ...options, headers: { "strata-position": position } });
      // The first warms up.
      if (round === 0) continue;
      rates.alone.push(before.perSecond);
      rates.routed.push(after.perSecond);
      ratios.push(after.perSecond / before.perSecond);
    }
    console.log(
      `${name}: ${median(rates.alone).toFixed(0)}/s on the primary alone, ${median(rates.routed).toFixed(0)}/s with a replica; ` +
        `ratio of a round ${median(ratios).toFixed(2)} (${ratios.map((ratio) => ratio.toFixed(2)).join(", ")})`,
    );
  }
} finally {
  alone.stop();
  routed.stop();
  replica.remove();
  primary.remove();
}
