// Makes a text column an enum in the API if a CHECK limits it to a few names, and it belongs to the pipeline or its
// comment has the tag @enumerated. Values have the names that are stored, so that responses and variables do not
// change.
import { enumCodec, isEnumCodec, TYPES, type PgCodec } from "@dataplan/pg";
import { gatherConfig } from "graphile-build";
import type { PgAttribute, PgClass } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { isRelation, tagsOf } from "./support/tags.ts";

declare global {
  namespace GraphileConfig {
    interface GatherHelpers {
      strataEnums: Record<string, never>;
    }
  }
  namespace DataplanPg {
    interface PgCodecExtensions {
      /** Set if the values' names are those that are stored. */
      strataNames?: true;
    }
  }
}

/** Whether the API's values are those that the column stores. */
export const hasPlainNames = (codec: PgCodec): boolean =>
  isEnumCodec(codec) && codec.extensions?.strataNames === true;

/** Name of the datasets' enum, which exists if their names are valid in GraphQL. */
export const DATASET_NAME = "DatasetName";

export const hasDatasetNames = ({ input }: GraphileBuild.Build): boolean =>
  Object.values(input.pgRegistry.pgCodecs).some(
    (codec) => hasPlainNames(codec as PgCodec) && codec.extensions?.tags?.name === DATASET_NAME,
  );

const upperCamel = (name: string): string =>
  name.replace(/(?:^|[^A-Za-z0-9]+)([A-Za-z0-9])/g, (_, letter: string) => letter.toUpperCase());

const createCodec = (name: string, typeName: string, column: PgAttribute, names: string[]): PgCodec => ({
  ...(enumCodec({
    name,
    identifier: (column.getType()?.typname === "varchar" ? TYPES.varchar : TYPES.text).sqlType,
    values: names.map((value) => ({ value, description: `The row holds \`${value}\`.` })),
    description:
      typeName === DATASET_NAME
        ? "A dataset, by its name."
        : `Values that the database allows for \`${column.attname}\`.`,
    extensions: { strataNames: true, tags: { name: typeName } } as never,
  }) as PgCodec),
  // The values sort as text, so the column's order and indexes are used.
  hasNaturalOrdering: true,
  isEnum: false,
});

export const EnumsPlugin: GraphileConfig.Plugin = {
  name: "EnumsPlugin",
  version: "1.0.0",
  after: ["NamesPlugin", "RightsPlugin", "RelationsPlugin"],
  before: ["smart-tags"],
  gather: gatherConfig({
    namespace: "strataEnums",
    initialCache: () => ({}),
    initialState: () => ({
      ofColumn: new Map<PgAttribute, PgCodec>(),
      byType: new Map<string, PgCodec>(),
    }),
    hooks: {
      async pgIntrospection_introspection(info, { introspection, serviceName }) {
        const { inflection, resolvedPreset, state } = info;
        const { schemas = [] } = resolvedPreset.pgServices!.find(({ name }) => name === serviceName)!;
        const { enums } = await info.helpers.strataCatalogue.get();
        const byId = new Map(introspection.classes.map((relation) => [relation._id, relation]));
        const nameOf = (relation: PgClass) =>
          upperCamel(inflection.singularize(String(tagsOf(relation).name ?? relation.relname)));
        const taken = new Set(
          introspection.classes.filter((relation) => isRelation(relation, schemas)).map(nameOf),
        );
        const byBase = new Map<string, PgCodec>();
        for (const { relation, column: name, base, base_column: baseColumn, names } of enums) {
          const shown = byId.get(relation);
          const column = shown?.getAttribute({ name });
          if (!shown || !column || !isRelation(shown, schemas)) continue;
          const own = byId.get(base)!;
          // Other columns stay texts unless they are tagged: documents with string literals would break.
          const isAsked = tagsOf(own.getAttribute({ name: baseColumn })!).enumerated !== undefined;
          if (isRelation(own, schemas) && !isAsked) continue;
          const key = `names_${base}_${baseColumn}`;
          let codec = byBase.get(key);
          if (!codec) {
            // The enum is named after the column's table, or the first relation that shows it.
            const isDataset = own.relname === "datasets" && own.getNamespace()!.nspname === "strata";
            let type = isDataset
              ? DATASET_NAME
              : `${nameOf(isRelation(own, schemas) ? own : shown)}${upperCamel(baseColumn)}`;
            while (taken.has(type)) type += "Name";
            taken.add(type);
            codec = createCodec(key, type, column, names);
            byBase.set(key, codec);
            state.byType.set(type, codec);
          }
          state.ofColumn.set(column, codec);
        }
      },
      pgCodecs_attribute({ state }, { pgAttribute, attribute }) {
        attribute.codec = state.ofColumn.get(pgAttribute) ?? attribute.codec;
      },
      pgProcedures_PgResourceOptions({ state }, { pgProc, resourceOptions: { parameters } }) {
        const codec = state.byType.get(DATASET_NAME);
        if (!codec || pgProc.proname !== "discard_quarantined") return;
        for (const parameter of parameters ?? []) if (parameter.name === "dataset") parameter.codec = codec;
      },
    },
  }),
};
