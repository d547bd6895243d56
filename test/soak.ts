// An hour's load in a few minutes, hostile parts included: afterwards memory, files and connections are where they
// were. Run it by `npm run soak` (SOAK_ROUNDS, SOAK_SECONDS a round; DATABASE_URL of a database fresh from `strata migrate`, else embedded).
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { freePort, runStrata, startStrata, until } from "./support/process.ts";

const ROUNDS = Number(process.env.SOAK_ROUNDS ?? 5);
const ROUND_MS = Number(process.env.SOAK_SECONDS ?? 30) * 1000;
const CLIENTS = 8;
/** What a heap may gain from the first round to the last, that is not a leak: caches that fill. */
const MAX_GROWTH = 1.15;
/** What it may be after the largest plans, of which none is asked for again. */
const MAX_HEAP_MB = 200;
const LARGE_PLANS = 250;

const METRICS_TOKEN = "a token for the soak test";
const folder = mkdtempSync(join(tmpdir(), "strata-soak-"));
const port = await freePort();
const url = `http://127.0.0.1:${port}`;
const environment: Record<string, string> = {
  ...(process.env.DATABASE_URL ? { DATABASE_URL: process.env.DATABASE_URL } : { DATA_DIR: folder }),
  JWT_SECRET: "a secret of the tests, long enough for HS256",
  RATE_LIMIT_COST: "0",
  METRICS_TOKEN,
  LOG_LEVEL: "error",
  PORT: String(port),
};

// The collector runs when it is told to: what is left is in use.
const COLLECT = "data:text/javascript,process.on('SIGUSR2', () => gc())";

async function load(token: string, end: number, counts: Map<string, number>, seed: number): Promise<void> {
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const post = (path: string, body: string, init: RequestInit = {}) =>
    fetch(url + path, { method: "POST", headers, body, ...init });
  const ask = (query: string, init?: RequestInit) => post("/graphql", JSON.stringify({ query }), init);
  const kinds: Record<string, (i: number) => Promise<unknown>> = {
    nested: () =>
      ask("{ users(first: 20) { nodes { username transactions(first: 5) { nodes { amount } } } } }"),
    aggregate: () =>
      ask("{ dailyUserMetrics(first: 50) { totalCount nodes { date country totalRevenue } } }"),
    // Each document is a new one: caches of plans and documents must stay bounded.
    unique: (i) => ask(`query Unique${seed}x${i} { a${i}: users(first: ${1 + (i % 50)}) { totalCount } }`),
    invalid: (i) => ask(`{ nothing${i} }`),
    malformed: () => post("/graphql", "{"),
    forged: () => ask("{ users { totalCount } }", { headers: { ...headers, authorization: "Bearer a.b.c" } }),
    unknown: (i) => fetch(`${url}/nowhere/${i}`),
    // The client does not wait for the answer.
    aborted: () => ask("{ events(first: 1000) { nodes { eventData } } }", { signal: AbortSignal.timeout(5) }),
    ingest: (i) =>
      post("/ingest/users", `{"user_id": ${i}, "username": "soak${seed}x${i}"}\nnot a row\n`, {
        headers: { ...headers, "content-type": "application/x-ndjson" },
      }),
    socket: () => listenBriefly(token),
  };
  const names = Object.keys(kinds);
  for (let i = 0; Date.now() < end; i++) {
    const name = names[(i + seed) % names.length]!;
    try {
      const answer = await kinds[name]!(i);
      if (answer instanceof Response) {
        await answer.arrayBuffer();
        if (answer.status >= 500 && answer.status !== 503)
          throw new Error(`${name} was answered with ${answer.status}`);
      }
    } catch (error) {
      if (name !== "aborted") throw error;
    }
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
}

/** Of documents that differ. */
async function planLargely(token: string): Promise<void> {
  const sums = "aggregates { sum { amount } distinctCount { amount } min { amount } max { amount } }";
  const user = `userId transactions(first: 1) @include(if: $a) { nodes { amount } ${sums} } events(first: 1) @skip(if: $b) { nodes { eventId } }`;
  const fields = Array.from({ length: 5 }, (_, i) => `a${i}: users(first: 1) { nodes { ${user} } }`);
  for (let i = 0; i < LARGE_PLANS; i++) {
    const query = `query Large${i}($a: Boolean!, $b: Boolean!) { ${fields.join(" ")} }`;
    const variables = { a: true, b: false };
    const response = await fetch(`${url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      body: JSON.stringify({ query, variables }),
    });
    if (!response.ok) throw new Error(`a large plan was answered with ${response.status}`);
    await response.arrayBuffer();
  }
}

function listenBriefly(token: string): Promise<void> {
  const socket = new WebSocket(`${url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
  const send = (message: object): void => socket.send(JSON.stringify(message));
  return new Promise((resolve, reject) => {
    socket.on("open", () => send({ type: "connection_init", payload: { authorization: `Bearer ${token}` } }));
    socket.on("message", () => {
      send({
        id: "1",
        type: "subscribe",
        payload: { query: "subscription { pipelineRunUpdated { run { status } } }" },
      });
      setTimeout(() => socket.terminate(), 20);
    });
    socket.on("close", () => resolve());
    socket.on("error", reject);
  });
}

async function measure(pid: number) {
  // What was cut off takes a moment to be cleared away.
  await sleep(3_000);
  process.kill(pid, "SIGUSR2");
  await sleep(500);
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${METRICS_TOKEN}` } });
  const text = await response.text();
  const read = (name: string): number =>
    Number(new RegExp(`^${name.replace(/[{}]/g, "\\$&")} (\\S+)$`, "m").exec(text)?.[1]);
  return {
    heapMB: Math.round(read("nodejs_heap_size_used_bytes") / 1e5) / 10,
    rssMB: Math.round(read("process_resident_memory_bytes") / 1e6),
    files: read("process_open_fds"),
    active: read('strata_pool_connections{pool="operations",state="active"}'),
    waiting: read('strata_pool_connections{pool="operations",state="waiting"}'),
  };
}

const faults: string[] = [];
const strata = startStrata(["serve"], environment, ["--expose-gc", "--import", COLLECT]);
try {
  const started = until(async () => (await fetch(`${url}/readyz`)).ok, 300);
  await Promise.race([started, strata.exit.then(() => Promise.reject(new Error("The server ended")))]);
  const token = (
    await runStrata(["token", "--role", "operator", "--sub", "soak"], environment)
  ).stdout.trim();
  const samples: Awaited<ReturnType<typeof measure>>[] = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const counts = new Map<string, number>();
    const end = Date.now() + ROUND_MS;
    await Promise.all(
      Array.from({ length: CLIENTS }, (_, i) => load(token, end, counts, round * CLIENTS + i)),
    );
    const sample = await measure(strata.child.pid!);
    // The first round fills the caches.
    if (round > 0) samples.push(sample);
    console.log(
      round === 0 ? "warm-up" : `round ${round}`,
      JSON.stringify({ ...Object.fromEntries(counts), ...sample }),
    );
  }
  const [first, last] = [samples[0]!, samples.at(-1)!];
  if (!(last.heapMB <= first.heapMB * MAX_GROWTH))
    faults.push(`the heap grew from ${first.heapMB} to ${last.heapMB} MB`);
  if (!(last.files <= first.files + 5)) faults.push(`open files grew from ${first.files} to ${last.files}`);
  if (last.active !== 0 || last.waiting !== 0)
    faults.push(`${last.active} connections are still busy, ${last.waiting} callers wait`);
  await planLargely(token);
  const planned = await measure(strata.child.pid!);
  console.log("large plans", JSON.stringify(planned));
  if (!(planned.heapMB <= MAX_HEAP_MB)) faults.push(`large plans took the heap to ${planned.heapMB} MB`);
  if ((await strata.stop()) !== 0) faults.push("the server did not stop in order");
} catch (error) {
  faults.push(`${String(error)}\n${strata.output.stderr}${strata.output.stdout.slice(-2000)}`);
} finally {
  strata.child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}
console.log(faults.length === 0 ? "Nothing leaked." : faults.join("\n"));
// Not left to the event loop: a server that never came up is still being asked.
process.exit(faults.length === 0 ? 0 : 1);
