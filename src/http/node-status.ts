// Reports the replicas' state in /readyz and /metrics.
import { Gauge } from "prom-client";
import type { Node, Nodes } from "../database/nodes.ts";
import type { Check } from "./health.ts";
import type { Metrics } from "./metrics.ts";

/** Always ok, since other nodes answer the reads of a lost replica. */
const check = ({ fault, behind }: Node): Check => ({
  ok: true,
  detail: fault ? `takes no reads: ${fault}` : `takes reads, ${behind} bytes behind`,
});

export const checksOf = ({ replicas }: Nodes): Record<string, () => Check> =>
  Object.fromEntries(replicas.map((node) => [node.name, () => check(node)]));

export function watchNodes(metrics: Metrics, { replicas }: Pick<Nodes, "replicas">): void {
  for (const node of replicas) metrics.watchPool(node.name, node.pool);
  new Gauge({
    name: "strata_replica_up",
    help: "1 while the replica takes reads.",
    labelNames: ["node"],
    aggregator: "min",
    registers: [metrics.registry],
    collect() {
      for (const { name, fault } of replicas) this.set({ node: name }, Number(fault === undefined));
    },
  });
  new Gauge({
    name: "strata_replica_behind_bytes",
    help: "Bytes of write-ahead log that the replica had not replayed when it was last looked at.",
    labelNames: ["node"],
    aggregator: "max",
    registers: [metrics.registry],
    collect() {
      for (const { name, behind } of replicas) this.set({ node: name }, behind);
    },
  });
}
