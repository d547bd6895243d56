import { PgAggregatesPreset } from "@graphile/pg-aggregates";
import { PgSimplifyInflectionPreset } from "@graphile/simplify-inflection";
import { makePgService } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { PostGraphileConnectionFilterPreset } from "postgraphile-plugin-connection-filter";
import { AggregatesPlugin } from "./plugins/AggregatesPlugin.ts";
import { BehaviorCachePlugin } from "./plugins/BehaviorCachePlugin.ts";
import { CataloguePlugin } from "./plugins/CataloguePlugin.ts";
import { DeletesPlugin } from "./plugins/DeletesPlugin.ts";
import { DescriptionsPlugin } from "./plugins/DescriptionsPlugin.ts";
import { EnumsPlugin } from "./plugins/EnumsPlugin.ts";
import { GrafastFixesPlugin } from "./plugins/GrafastFixesPlugin.ts";
import { JsonFilterPreset } from "./plugins/JsonFilterPlugin.ts";
import { GroupKeysPlugin } from "./plugins/GroupKeysPlugin.ts";
import { IngestMutationsPlugin } from "./plugins/IngestMutationsPlugin.ts";
import { NamesPlugin } from "./plugins/NamesPlugin.ts";
import { NullableKeysPlugin } from "./plugins/NullableKeysPlugin.ts";
import { NullOrderPlugin } from "./plugins/NullOrderPlugin.ts";
import { PageSizePlugin } from "./plugins/PageSizePlugin.ts";
import { PostgisPlugin, PostgisTypesPlugin } from "./plugins/PostgisPlugin.ts";
import { PatternsPlugin } from "./plugins/PatternsPlugin.ts";
import { PipelineMutationsPlugin } from "./plugins/PipelineMutationsPlugin.ts";
import { RefreshedPlugin } from "./plugins/RefreshedPlugin.ts";
import { RelationsPlugin } from "./plugins/RelationsPlugin.ts";
import { RetryQuarantinedPlugin } from "./plugins/RetryQuarantinedPlugin.ts";
import { RightsPlugin } from "./plugins/RightsPlugin.ts";
import { ScalarsPlugin } from "./plugins/ScalarsPlugin.ts";
import { SourcesPlugin } from "./plugins/SourcesPlugin.ts";
import { RowSubscriptionsPlugin } from "./plugins/RowSubscriptionsPlugin.ts";
import { SubscriptionsPlugin } from "./plugins/SubscriptionsPlugin.ts";
import { createTagFilesPlugin } from "./plugins/TagFilesPlugin.ts";
import { TextTypesPlugin } from "./plugins/TextTypesPlugin.ts";
import { TrigramsPlugin } from "./plugins/TrigramsPlugin.ts";
import { UpdateNotFoundPlugin } from "./plugins/UpdateNotFoundPlugin.ts";
import { UpsertPlugin } from "./plugins/UpsertPlugin.ts";

interface PresetOptions {
  pgServices: GraphileConfig.PgServiceConfiguration[];
  /** The folder of one's own tables, with smart tags in `*.json5`. */
  datasetsDir: string;
  defaultPageSize?: number;
  maxPageSize?: number;
}

/** Of all operators of connection-filter, those that a common index on the column serves. */
const operators = [
  "isNull",
  "equalTo",
  "notEqualTo",
  "in",
  "notIn",
  "lessThan",
  "lessThanOrEqualTo",
  "greaterThan",
  "greaterThanOrEqualTo",
  "startsWith",
  "contains",
  "overlaps",
  "containsKey",
  "containsAllKeys",
  "containsAnyKeys",
  "path",
  "withinDistance",
  "withinBox",
  "withinPolygon",
];

/** The GraphQL schema's configuration; the server adds what belongs to the process (port, context, limits). */
export function createPreset({ pgServices, datasetsDir, ...limits }: PresetOptions): GraphileConfig.Preset {
  return {
    extends: [
      PostGraphileAmberPreset,
      PgSimplifyInflectionPreset,
      PgAggregatesPreset,
      PostGraphileConnectionFilterPreset,
      JsonFilterPreset,
    ],
    plugins: [
      BehaviorCachePlugin,
      createTagFilesPlugin(datasetsDir),
      CataloguePlugin,
      RightsPlugin,
      RelationsPlugin,
      GrafastFixesPlugin,
      NamesPlugin,
      EnumsPlugin,
      DeletesPlugin,
      DescriptionsPlugin,
      NullableKeysPlugin,
      NullOrderPlugin,
      ScalarsPlugin,
      AggregatesPlugin,
      GroupKeysPlugin,
      PageSizePlugin,
      PatternsPlugin,
      TrigramsPlugin,
      PostgisTypesPlugin,
      PostgisPlugin,
      TextTypesPlugin,
      SourcesPlugin,
      RefreshedPlugin,
      UpdateNotFoundPlugin,
      SubscriptionsPlugin,
      RowSubscriptionsPlugin,
      UpsertPlugin,
      PipelineMutationsPlugin,
      IngestMutationsPlugin,
      RetryQuarantinedPlugin,
    ],
    disablePlugins: ["PgConditionArgumentPlugin", "PgConditionCustomFieldsPlugin", "NodeAccessorPlugin"],
    pgServices,
    gather: { pgStrictFunctions: true },
    schema: {
      ...limits,
      defaultBehavior: "-list -nodeId:resource:update -nodeId:resource:delete",
      dontSwallowErrors: true,
      pgForbidSetofFunctionsToReturnNull: true,
      pgJwtSecret: undefined,
      connectionFilterAllowedOperators: operators,
      connectionFilterComputedColumns: false,
      connectionFilterSetofFunctions: false,
    },
  };
}

export default createPreset({
  datasetsDir: process.env.DATASETS_DIR ?? "datasets",
  pgServices: [
    makePgService({
      connectionString: process.env.DATABASE_URL,
      schemas: ["production", "analytics"],
    }),
  ],
});
