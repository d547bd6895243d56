// Measures the CPU time of one read, which other load on the machine disturbs less than rates. Linux only.
import type pg from "pg";
import type { Contender } from "./contenders.ts";
import { between, familyOf, usedBy, usedByBackends } from "./cpu.ts";
import { load } from "./load.ts";
import { works } from "./work.ts";

/** CPU time in ms of one read. */
export interface Cost {
  strata: number;
  postgres: number;
  client: number;
}
export interface Measured extends Cost {
  perSecond: number;
}

/** Loads a server with one kind of read. */
export async function measure(
  contender: Contender,
  kind: string,
  options: { seconds: number; connections: number },
  server: pg.Pool,
): Promise<Measured> {
  const family = familyOf(contender.pid);
  const before = {
    strata: usedBy(family),
    postgres: await usedByBackends(server),
    client: process.cpuUsage(),
  };
  const { perSecond } = await load(contender, kind, works[kind]!, options);
  const client = process.cpuUsage(before.client);
  const reads = perSecond * options.seconds;
  return {
    perSecond,
    strata: between(before.strata, usedBy(family)) / reads,
    postgres: between(before.postgres, await usedByBackends(server)) / reads,
    client: (client.user + client.system) / 1000 / reads,
  };
}
