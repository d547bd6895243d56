// The table of reads: every contender in turn, round after round, relative to hand-written SQL in the same round.
import { check, answer } from "./check.ts";
import { names, start, type Contender } from "./contenders.ts";
import { load, type Measurement } from "./load.ts";
import { median, spread, table } from "./statistics.ts";
import { works } from "./work.ts";

export interface ReadOptions {
  rounds: number;
  seconds: number;
  connections: number;
  only?: string[];
}

const BASE = "hand-written SQL";

/** Measures each way of asking in turn, several rounds. */
export async function inTurn(
  ways: Record<string, () => Promise<Measurement>>,
  rounds: number,
): Promise<Record<string, Measurement[]>> {
  const measured: Record<string, Measurement[]> = Object.fromEntries(
    Object.keys(ways).map((way) => [way, []]),
  );
  for (const way of Object.values(ways)) await way();
  for (let round = 0; round < rounds; round++) {
    for (const [name, way] of Object.entries(ways)) measured[name]!.push(await way());
  }
  return measured;
}

export const rates = (measurements: readonly Measurement[]): number[] =>
  measurements.map(({ perSecond }) => perSecond);
export const ratios = (measurements: readonly Measurement[], base: readonly Measurement[]): number[] =>
  measurements.map(({ perSecond }, i) => perSecond / base[i]!.perSecond);

export async function compareReads(databaseUrl: string, options: ReadOptions): Promise<string> {
  const contenders: Contender[] = [];
  try {
    for (const name of names) contenders.push(await start(name, databaseUrl));
    const rows: string[][] = [];
    for (const [name, work] of Object.entries(works)) {
      if (options.only && !options.only.includes(name)) continue;
      const mine = contenders.filter((one) => work.peers.length > 0 || [BASE, "Strata"].includes(one.name));
      await check(mine, name, work);
      const how = work.slow ? { connections: 2, seconds: options.seconds * 4 } : options;
      const ways = Object.fromEntries(mine.map((one) => [one.name, () => load(one, name, work, how)]));
      const measured = await inTurn(ways, options.rounds);
      const base = measured[BASE]!;
      const cells = names.map((one) =>
        one === BASE
          ? `${median(rates(base)).toFixed(0)}/s`
          : measured[one]
            ? spread(ratios(measured[one], base))
            : "–",
      );
      rows.push([work.title, ...cells]);
      console.log(table(["work", ...names], [rows.at(-1)!]));
    }
    const strata = contenders.find(({ name }) => name === "Strata")!;
    const base = contenders.find(({ name }) => name === BASE)!;
    const repeated = options.only ? "" : await compareRepeated(strata, base, databaseUrl, options);
    const overload = options.only?.includes("nested") === false ? "" : await overloaded(strata, options);
    return [table(["work", ...names], rows), repeated, overload].filter(Boolean).join("\n\n");
  } finally {
    for (const { stop } of contenders) stop();
  }
}

const TITLES: Record<string, string> = {
  computed: "Strata, computed each time",
  kept: "Strata, kept",
  unsent: "Strata, 304",
};

/** The same question again: computed each time, kept, and not even sent. */
async function compareRepeated(
  strata: Contender,
  base: Contender,
  databaseUrl: string,
  options: ReadOptions,
): Promise<string> {
  const without = await start("Strata", databaseUrl, { RESPONSE_CACHE_MB: "0" });
  try {
    const work = works.analytics!;
    await answer(strata, "analytics", work, 0);
    const { headers } = await fetch(strata.url + strata.path(""), {
      method: "POST",
      headers: strata.headers,
      body: strata.body(work, 0),
    });
    const ways = {
      [BASE]: () => load(base, "analytics", work, options),
      computed: () => load(without, "analytics", work, options),
      kept: () => load(strata, "analytics", work, options),
      unsent: () =>
        load(strata, "analytics", work, { ...options, headers: { "if-none-match": headers.get("etag")! } }),
    };
    const measured = await inTurn(ways, options.rounds);
    return table(
      [work.title, "answers/s", "× hand-written SQL", "× computed each time"],
      Object.entries(measured).map(([way, all]) => [
        TITLES[way] ?? way,
        median(rates(all)).toFixed(0),
        spread(ratios(all, measured[BASE]!)),
        spread(ratios(all, measured.computed!)),
      ]),
    );
  } finally {
    without.stop();
  }
}

/** From this many connections on, twice as many bring less than a tenth more answers. */
async function saturation(measure: (connections: number) => Promise<Measurement>): Promise<number> {
  let best = (await measure(2)).perSecond;
  for (let connections = 4; ; connections *= 2) {
    const { perSecond } = await measure(connections);
    if (perSecond < best * 1.1 || connections === 256) return connections / 2;
    best = perSecond;
  }
}

/**
 * Without load, saturated, at twice that and far beyond. What is answered must not wait for long; the rest is refused.
 */
async function overloaded(strata: Contender, options: ReadOptions): Promise<string> {
  const measure = (connections: number) => load(strata, "nested", works.nested!, { ...options, connections });
  const enough = await saturation(measure);
  const titles = { unloaded: 1, saturated: enough, "twice that": enough * 2, "far beyond": 128 };
  const ways = Object.entries(titles).map(([title, connections]) => [title, () => measure(connections)]);
  const measured = await inTurn(Object.fromEntries(ways), options.rounds);
  const rows = Object.entries(titles).map(([title, connections]) => {
    const all = measured[title]!;
    const middle = (of: (one: Measurement) => number) => median(all.map(of)).toFixed(0);
    return [
      title,
      String(connections),
      middle(({ perSecond }) => perSecond),
      middle(({ p50 }) => p50),
      middle(({ p99 }) => p99),
      spread(
        all.map(({ p99 }, i) => p99 / measured.unloaded![i]!.p99),
        1,
      ),
      middle(({ refusedPerSecond }) => refusedPerSecond),
    ];
  });
  const head = ["answers/s", "p50 of answers, ms", "p99, ms", "× unloaded p99", "refused/s"];
  return table(["nested read", "connections", ...head], rows);
}
