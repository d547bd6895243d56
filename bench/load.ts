// One measurement: so many connections for so many seconds, each sending its next request when answered.
import autocannon from "autocannon";
import type { Contender } from "./contenders.ts";
import type { Work } from "./work.ts";

/** Rates and times of answers; what was refused with 503 is only counted. */
export interface Measurement {
  perSecond: number;
  p50: number;
  p99: number;
  refusedPerSecond: number;
}

interface LoadOptions {
  connections: number;
  seconds: number;
  headers?: Record<string, string>;
}

// Never starts over: what one contender was asked, the next round asks with other variables.
let asked = 0;

export async function load(
  contender: Contender,
  name: string,
  work: Work,
  options: LoadOptions,
): Promise<Measurement> {
  const times: number[] = [];
  let refused = 0;
  let failed = 0;
  const run = autocannon({
    url: contender.url + contender.path(name),
    method: "POST",
    connections: options.connections,
    duration: options.seconds,
    headers: { ...contender.headers, ...options.headers },
    requests: [{ setupRequest: (request: object) => ({ ...request, body: contender.body(work, asked++) }) }],
  });
  run.on("response", (_client, status, _bytes, milliseconds) => {
    if (status === 200 || status === 304) times.push(milliseconds);
    else if (status === 503) refused++;
    else failed++;
  });
  const { duration, errors } = await run;
  if (failed > 0 || errors > 0)
    throw new Error(`${contender.name}: ${failed} failures, ${errors} errors in "${name}"`);
  times.sort((a, b) => a - b);
  const quantile = (share: number): number => times[Math.floor(times.length * share)] ?? NaN;
  return {
    perSecond: times.length / duration,
    p50: quantile(0.5),
    p99: quantile(0.99),
    refusedPerSecond: refused / duration,
  };
}
