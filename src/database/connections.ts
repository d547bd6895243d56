// Connections to PostgreSQL that one process opens, by purpose. All pools take their sizes from here.
import type { Config } from "../config.ts";

export const CONNECTIONS = {
  /** For GraphQL operations. A higher number runs more statements at once, until PostgreSQL's cores are busy. */
  operations: 10,
  /** For ingest, runs, jobs and their LISTEN. Commands and `strata worker` open only these. */
  main: 10,
  /** For reading the data version of cached responses, which other work must not delay. */
  versions: 1,
  /** For LISTEN, which serves subscriptions, refreshes and changes of the catalogue. */
  listen: 1,
  /** For /readyz and /metrics, which must work while all other connections are in use. */
  probes: 2,
  /** For polling a node's role and position; only if there are replicas. */
  watch: 1,
} as const;

/** Connections of one `strata serve` to the primary, at most; exports have MAX_EXPORTS of their own. */
export const connectionsOf = ({
  READ_DATABASE_URLS,
  MAX_EXPORTS,
}: Pick<Config, "READ_DATABASE_URLS" | "MAX_EXPORTS">): number =>
  Object.values(CONNECTIONS).reduce((sum, count) => sum + count, MAX_EXPORTS) -
  (READ_DATABASE_URLS.length > 0 ? 0 : CONNECTIONS.watch);
