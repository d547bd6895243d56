// One measurement: so many connections for so many seconds, each sending its next request when answered.
import autocannon from "autocannon";
import type { Contender } from "./contenders.ts";
import type { Work } from "./work.ts";

export interface Measurement {
  perSecond: number;
  p50: number;
  p99: number;
  refused: number;
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
  const result = await autocannon({
    url: contender.url + contender.path(name),
    method: "POST",
    connections: options.connections,
    duration: options.seconds,
    headers: { ...contender.headers, ...options.headers },
    requests: [{ setupRequest: (request: object) => ({ ...request, body: contender.body(work, asked++) }) }],
  });
  const refused = result.statusCodeStats["503"]?.count ?? 0;
  const failed = result.non2xx - refused - (result.statusCodeStats["304"]?.count ?? 0);
  if (failed > 0 || result.errors > 0)
    throw new Error(`${contender.name}: ${failed} failures, ${result.errors} errors in "${name}"`);
  return {
    perSecond: (result.requests.total - refused) / result.duration,
    p50: result.latency.p50,
    p99: result.latency.p99,
    refused,
  };
}
