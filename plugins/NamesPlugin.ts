import type {} from "postgraphile";

/** Connections whose name no rule of English makes. */
const connections: Record<string, string> = {
  daily_user_metric_live: "dailyUserMetricsLive",
  freshness: "freshness",
};

/** Names of types and fields as the field says them: no schema prefix, no doubled plural. */
export const NamesPlugin: GraphileConfig.Plugin = {
  name: "NamesPlugin",
  version: "1.0.0",
  inflection: {
    // NodeAccessorPlugin is off (`node(id)` does its work); the simplify preset still asks for its name.
    add: { nodeById: (_preset, typeName) => `${typeName}ById` },
    replace: {
      _schemaPrefix: () => "",
      allRowsConnection(previous, _preset, resource) {
        return connections[this._resourceName(resource)] ?? previous!(resource);
      },
    },
  },
};
