import { PgAggregatesPreset } from "@graphile/pg-aggregates";
import { PgSimplifyInflectionPreset } from "@graphile/simplify-inflection";
import { makePgService } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { PostGraphileConnectionFilterPreset } from "postgraphile-plugin-connection-filter";
import { AggregatesPlugin } from "./plugins/AggregatesPlugin.ts";
import { NamesPlugin } from "./plugins/NamesPlugin.ts";
import { PostgisPlugin, PostgisTypesPlugin } from "./plugins/PostgisPlugin.ts";
import { PipelineMutationsPlugin } from "./plugins/PipelineMutationsPlugin.ts";
import { SmartTagsPlugin } from "./plugins/SmartTagsPlugin.ts";

interface PresetOptions {
  pgServices: GraphileConfig.PgServiceConfiguration[];
}

/** The GraphQL schema's configuration; the server adds what belongs to the process (port, context, limits). */
export function createPreset({ pgServices }: PresetOptions): GraphileConfig.Preset {
  return {
    extends: [
      PostGraphileAmberPreset,
      PgSimplifyInflectionPreset,
      PgAggregatesPreset,
      PostGraphileConnectionFilterPreset,
    ],
    plugins: [
      SmartTagsPlugin,
      NamesPlugin,
      AggregatesPlugin,
      PostgisTypesPlugin,
      PostgisPlugin,
      PipelineMutationsPlugin,
    ],
    disablePlugins: ["PgConditionArgumentPlugin", "PgConditionCustomFieldsPlugin", "NodeAccessorPlugin"],
    pgServices,
    gather: { pgStrictFunctions: true },
    schema: {
      defaultBehavior: "-list -nodeId:resource:update -nodeId:resource:delete",
      dontSwallowErrors: true,
      pgForbidSetofFunctionsToReturnNull: true,
      pgJwtSecret: undefined,
      connectionFilterComputedColumns: false,
      connectionFilterSetofFunctions: false,
    },
  };
}

export default createPreset({
  pgServices: [
    makePgService({
      connectionString: process.env.DATABASE_URL,
      schemas: ["production", "analytics"],
    }),
  ],
});
