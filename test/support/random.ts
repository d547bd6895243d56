// Reproducible chance for tests that try many inputs.

export interface Chance {
  number(): number;
  below(limit: number): number;
  is(probability: number): boolean;
  pick<T>(values: readonly T[]): T;
  times<T>(max: number, make: (index: number) => T): T[];
}

/** mulberry32: the same numbers for the same seed on every machine. */
export function chance(seed: number): Chance {
  const number = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number) => Math.floor(number() * limit);
  return {
    number,
    below,
    is: (probability) => number() < probability,
    pick: (values) => values[below(values.length)]!,
    times: (max, make) => Array.from({ length: below(max + 1) }, (_, index) => make(index)),
  };
}
