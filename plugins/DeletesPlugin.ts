// Describes in delete mutations which rows are deleted with a row, and which prevent the deletion, by the foreign
// keys.
import type { PgResource } from "@dataplan/pg";
import { gatherConfig } from "graphile-build";
import type { Introspection, PgClass } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { isRelation, tagsOf, valuesOf } from "./support/tags.ts";

declare module "graphile-build-pg" {
  interface PgResourceTags {
    /** Sentences on rows that reference a deleted one. */
    onDelete: string;
  }
}

// Codes of pg_constraint for ON DELETE CASCADE, SET NULL and SET DEFAULT, RESTRICT and NO ACTION.
const CASCADE = "c";
const EMPTIED = ["n", "d"];

function wordsOf(
  relation: PgClass,
  { constraints }: Introspection,
  /** Name of a table in the API; undefined if it is not shown there. */
  nameOf: (child: PgClass) => string | undefined,
): string {
  const goes = new Set([relation]);
  const emptied = new Set<PgClass>();
  const kept = new Set<PgClass>();
  for (const parent of goes)
    for (const { contype, confrelid, confdeltype, ...constraint } of constraints) {
      if (contype !== "f" || confrelid !== parent._id) continue;
      const child = constraint.getClass()!;
      (confdeltype === CASCADE ? goes : EMPTIED.includes(confdeltype!) ? emptied : kept).add(child);
    }
  goes.delete(relation);
  for (const child of goes) for (const others of [emptied, kept]) others.delete(child);
  const list = (relations: Iterable<PgClass>): string => {
    const all = [...relations];
    const names = all.flatMap((child) => nameOf(child) ?? []).map((name) => `\`${name}\``);
    if (names.length < all.length) names.push("rows that the API does not show");
    return names.join(", ").replace(/, ([^,]+)$/, " and $1");
  };
  return [
    goes.size > 0 ? `Also deletes its ${list(goes)}.` : [],
    emptied.size > 0 ? `Its ${list(emptied)} stay, without referring to it.` : [],
    kept.size > 0 ? `Rejected while ${list(kept)} refer to it.` : [],
  ]
    .flat()
    .join(" ");
}

export const DeletesPlugin: GraphileConfig.Plugin = {
  name: "DeletesPlugin",
  version: "1.0.0",
  after: ["NamesPlugin", "RightsPlugin"],
  before: ["smart-tags"],
  gather: gatherConfig({
    hooks: {
      pgIntrospection_introspection({ inflection, resolvedPreset }, { introspection, serviceName }) {
        const { schemas = [] } = resolvedPreset.pgServices!.find(({ name }) => name === serviceName)!;
        const nameOf = (relation: PgClass) =>
          isRelation(relation, schemas) && !valuesOf(relation, "behavior").includes("-*")
            ? inflection.camelCase(String(tagsOf(relation).name ?? relation.relname))
            : undefined;
        for (const relation of introspection.classes.filter((one) => isRelation(one, schemas))) {
          const words = wordsOf(relation, introspection, nameOf);
          if (words !== "") tagsOf(relation).onDelete = words;
        }
      },
    },
  }),
  schema: {
    hooks: {
      GraphQLObjectType_fields_field(field, _build, { scope }) {
        if (!scope.isPgDeleteMutation) return field;
        const words = (scope.pgFieldResource as PgResource).extensions?.tags?.onDelete;
        return words === undefined ? field : { ...field, description: `${field.description} ${words}` };
      },
    },
  },
};
