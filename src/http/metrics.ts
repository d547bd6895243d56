// Prometheus metrics of this process and, read at each scrape, of the pipeline.
import { timingSafeEqual } from "node:crypto";
import type { FastifyInstance } from "fastify";
import type pg from "pg";
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Config } from "../config.ts";
import { apiError } from "../graphql/errors.ts";
import type { ReadPath } from "../graphql/reads.ts";
import type { Siblings } from "../processes/siblings.ts";

export interface OperationRecord {
  type: string;
  name: string;
  /** "ok", or the code of the first error. */
  outcome: string;
  seconds: number;
  sqlSeconds: number;
  statements: number;
  /** The node that answered and why it was chosen; only with replicas. */
  node?: string;
  why?: string | undefined;
}

export type CacheOutcome = "hit" | "miss" | "not_modified";

export interface Metrics {
  registry: Registry;
  recordOperation(record: OperationRecord): void;
  recordRequest(labels: { method: string; route: string; status: number }, seconds: number): void;
  /** Counts queries by the way in which they were executed. */
  recordRead(path: ReadPath): void;
  /** Counts the outcomes of operations whose responses may be cached. */
  recordCache(outcome: CacheOutcome): void;
  /** Receives a function that returns the bytes of the cached responses. */
  watchCache(bytes: () => number): void;
  watchSchema(isOutdated: () => boolean): void;
  /** Adds gauges that read the pool's state at each scrape. */
  watchPool(name: string, pool: pg.Pool): void;
}

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/**
 * Operation names with a counter of their own, since clients choose them; further ones are counted together. A higher
 * limit takes more memory.
 */
const MAX_NAMES = 200;

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const requests = new Histogram({
    name: "strata_http_request_duration_seconds",
    help: "Time to answer HTTP requests.",
    labelNames: ["method", "route", "status"],
    buckets: SECONDS,
    registers,
  });
  const operations = new Counter({
    name: "strata_operations_total",
    help: 'GraphQL operations by outcome: "ok", or the code of the first error.',
    labelNames: ["type", "name", "outcome"],
    registers,
  });
  const durations = new Histogram({
    name: "strata_operation_duration_seconds",
    help: "Time to execute GraphQL operations; for subscriptions, to begin them.",
    labelNames: ["type", "name"],
    buckets: SECONDS,
    registers,
  });
  const sqlSeconds = new Counter({
    name: "strata_operation_sql_seconds_total",
    help: "Time in which GraphQL operations waited for SQL.",
    labelNames: ["type", "name"],
    registers,
  });
  const statements = new Counter({
    name: "strata_operation_sql_statements_total",
    help: "SQL statements of GraphQL operations.",
    labelNames: ["type", "name"],
    registers,
  });
  const pools = new Map<string, pg.Pool>();
  new Gauge({
    name: "strata_pool_connections",
    help: "Database connections by state, and callers that wait for one.",
    labelNames: ["pool", "state"],
    registers,
    collect() {
      for (const [pool, { totalCount, idleCount, waitingCount }] of pools) {
        this.set({ pool, state: "active" }, totalCount - idleCount);
        this.set({ pool, state: "idle" }, idleCount);
        this.set({ pool, state: "waiting" }, waitingCount);
      }
    },
  });

  const reads = new Counter({
    name: "strata_reads_total",
    help: "Queries by how they were answered: by one compiled statement, planned, or planned because that one failed.",
    labelNames: ["path"],
    registers,
  });
  const cacheRequests = new Counter({
    name: "strata_cache_requests_total",
    help: "Operations on refreshed data: answered from memory, computed, or not changed since the client asked last.",
    labelNames: ["outcome"],
    registers,
  });
  let cacheBytes = (): number => 0;
  new Gauge({
    name: "strata_cache_bytes",
    help: "Memory used by kept answers.",
    registers,
    collect() {
      this.set(cacheBytes());
    },
  });

  let isOutdated = (): boolean => false;
  new Gauge({
    name: "strata_schema_outdated",
    help: "1 while no GraphQL schema can be built from the database's catalogue and an older one is served.",
    aggregator: "max",
    registers,
    collect() {
      this.set(Number(isOutdated()));
    },
  });

  const names = new Set<string>();
  const bounded = (name: string): string => {
    if (names.size < MAX_NAMES) names.add(name);
    return names.has(name) ? name : "other";
  };
  // Caches counters by their labels: the lookup takes longer than the count.
  const ofOperation = remembered((type: string, name: string, outcome: string) => {
    const labels = { type, name };
    return {
      count: operations.labels({ ...labels, outcome }),
      duration: durations.labels(labels),
      sqlSeconds: sqlSeconds.labels(labels),
      statements: statements.labels(labels),
    };
  });
  const ofRequest = remembered((method: string, route: string, status: string) =>
    requests.labels({ method, route, status }),
  );
  const nodeReads = new Counter({
    name: "strata_node_operations_total",
    help: "Operations by the node that answered, and why that one; only where there are replicas.",
    labelNames: ["node", "why"],
    registers,
  });
  const ofNode = remembered((node: string, why: string) => nodeReads.labels({ node, why }));
  const ofRead = remembered((path: string) => reads.labels({ path }));
  const ofCache = remembered((outcome: string) => cacheRequests.labels({ outcome }));
  return {
    registry,
    recordOperation({ type, name, outcome, seconds, node, why = "", ...sql }) {
      // The reason of a failure is in the log; as a label it would have too many values.
      if (node !== undefined) ofNode(node, why.startsWith("failed") ? "failed" : why).inc();
      const children = ofOperation(type, bounded(name), outcome);
      children.count.inc();
      children.duration.observe(seconds);
      children.sqlSeconds.inc(sql.sqlSeconds);
      children.statements.inc(sql.statements);
    },
    recordRequest: ({ method, route, status }, seconds) =>
      ofRequest(method, route, String(status)).observe(seconds),
    recordRead: (path) => ofRead(path).inc(),
    recordCache: (outcome) => ofCache(outcome).inc(),
    watchCache: (bytes) => void (cacheBytes = bytes),
    watchSchema: (ask) => void (isOutdated = ask),
    watchPool: (name, pool) => void pools.set(name, pool),
  };
}

function remembered<T>(make: (...labels: string[]) => T): typeof make {
  const made = new Map<string, T>();
  return (...labels) => {
    const key = labels.join("\n");
    let one = made.get(key);
    if (!one) made.set(key, (one = make(...labels)));
    return one;
  };
}

/** Serves /metrics to clients with METRICS_TOKEN; without that setting only on the embedded database. */
export function addMetrics(
  app: FastifyInstance,
  { registry }: Metrics,
  { METRICS_TOKEN, DATABASE_URL }: Config,
  siblings?: Siblings,
): void {
  siblings?.shareMetrics(registry);
  const expected = METRICS_TOKEN && Buffer.from(`Bearer ${METRICS_TOKEN}`);
  app.get("/metrics", async (request, reply) => {
    const given = Buffer.from(request.headers.authorization ?? "");
    if (!expected && DATABASE_URL)
      throw apiError("FORBIDDEN", "Metrics are off: set METRICS_TOKEN and send it as a bearer token");
    if (expected && !(given.length === expected.length && timingSafeEqual(given, expected)))
      throw apiError("UNAUTHENTICATED", "Metrics require METRICS_TOKEN as a bearer token");
    return reply
      .type(registry.contentType)
      .send(await (siblings ? siblings.metricsOfAll() : registry.metrics()));
  });
}
