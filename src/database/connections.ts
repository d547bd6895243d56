// Connections to PostgreSQL that one process opens, by purpose. All pools take their sizes from here.
import type { Config } from "../config.ts";

export const CONNECTIONS = {
  /** GraphQL operations. More of them let more statements run at once, until PostgreSQL's cores are busy. */
  operations: 10,
  /** Ingest, runs, jobs and their LISTEN. Commands and `strata worker` open these alone. */
  main: 10,
  /** The data version of cached responses, which no other work may delay. */
  versions: 1,
  /** LISTEN for subscriptions, refreshes and changes of the catalogue. */
  listen: 1,
  /** /readyz and /metrics: a process that is busy to its last connection is busy, not broken. */
  probes: 2,
  /** Role and position of a node; only where there are replicas. */
  watch: 1,
} as const;

/** Connections of one `strata serve` to the primary, at most; exports have MAX_EXPORTS of their own. */
export const connectionsOf = ({
  READ_DATABASE_URLS,
  MAX_EXPORTS,
}: Pick<Config, "READ_DATABASE_URLS" | "MAX_EXPORTS">): number =>
  Object.values(CONNECTIONS).reduce((sum, count) => sum + count, MAX_EXPORTS) -
  (READ_DATABASE_URLS.length > 0 ? 0 : CONNECTIONS.watch);
