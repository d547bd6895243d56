import type { PgCodecWithAttributes } from "@dataplan/pg";
import { gatherConfig } from "graphile-build";
import type { PgClass, PgProc } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { isRelation, tagsOf } from "./support/tags.ts";

/** Types that GraphQL, Relay or PostGraphile have already. */
const TAKEN = [
  "query",
  "mutation",
  "subscription",
  "node",
  "cursor",
  "date",
  "datetime",
  "json",
  "uuid",
  "page_info",
];

/** Names of GraphQL that cannot be values of an enum. */
const LITERALS = ["true", "false", "null"];

/** Names of fields by columns: different ones, although `a b` and `a_b`, or `id` and `row_id`, come to the same. */
export function distinctNames(columns: string[], nameOf: (column: string) => string): Map<string, string> {
  const names = new Map<string, string>();
  const taken = new Set<string>();
  for (const [i, column] of columns.entries()) {
    const given = nameOf(column);
    const name = /^[_A-Za-z][_0-9A-Za-z]*$/.test(given) ? given : `column${i + 1}`;
    let chosen = name;
    for (let n = 2; taken.has(chosen); n++) chosen = `${name}_${n}`;
    taken.add(chosen);
    names.set(column, chosen);
  }
  return names;
}

const fieldsByCodec = new WeakMap<PgCodecWithAttributes, Map<string, string>>();

type Relation = Parameters<GraphileBuild.Inflection["singleRelation"]>[0];

/** The name of a relation, unless a column has it: then with the columns that refer. */
function relationName(
  inflection: GraphileBuild.Inflection,
  { codec, relationName, registry }: Relation,
  name: string,
): string {
  const columns = Object.keys(codec.attributes);
  const fields = new Set(columns.map((attributeName) => inflection.attribute({ codec, attributeName })));
  if (!fields.has(name)) return name;
  const { isReferencee, localAttributes, remoteAttributes, remoteResource } =
    registry.pgRelations[codec.name]![relationName]!;
  const referring = (isReferencee ? remoteAttributes : localAttributes).map((attributeName) =>
    inflection.attribute({ codec: isReferencee ? remoteResource.codec : codec, attributeName }),
  );
  let chosen = inflection.camelCase(`${name}-by-${referring.join("-and-")}`);
  while (fields.has(chosen)) chosen += "Row";
  return chosen;
}

const schemaOf = (entity: PgClass | PgProc): string => entity.getNamespace()!.nspname;

/** Names of types and fields as the field says them: no schema prefix, no doubled plural. */
export const NamesPlugin: GraphileConfig.Plugin = {
  name: "NamesPlugin",
  version: "1.0.0",
  after: ["RightsPlugin", "RelationsPlugin"],
  before: ["smart-tags"],
  inflection: {
    // NodeAccessorPlugin is off (`node(id)` does its work); the simplify preset still asks for its name.
    add: { nodeById: (_preset, typeName) => `${typeName}ById` },
    replace: {
      _schemaPrefix: () => "",
      allRowsConnection(previous, _preset, resource) {
        const { tags } = resource.extensions ?? {};
        if (typeof tags?.connectionName === "string") return tags.connectionName;
        // The metric itself has the plural: `categoryRevenues`, `categoryRevenuesLive`.
        if (typeof tags?.liveOf === "string") return this.camelCase(`${this.pluralize(tags.liveOf)}-live`);
        return previous!(resource);
      },
      attribute(previous, _preset, details) {
        const { codec, attributeName } = details;
        let names = fieldsByCodec.get(codec);
        if (!names?.has(attributeName)) {
          names = distinctNames(Object.keys(codec.attributes), (column) =>
            previous!({ ...details, attributeName: column }),
          );
          fieldsByCodec.set(codec, names);
        }
        return names.get(attributeName)!;
      },
      singleRelation(previous, _preset, details) {
        return relationName(this, details, previous!(details));
      },
      singleRelationBackwards(previous, _preset, details) {
        return relationName(this, details, previous!(details));
      },
      _manyRelation(previous, _preset, details) {
        return relationName(this, details, previous!(details));
      },
      // Types of PostgreSQL have values such as `in progress`, one of which would end the whole schema.
      enumValue(previous, _preset, given, codec) {
        const names = new Map<string, string>();
        for (const { value } of codec.values) {
          const plain = previous!(value, codec).replaceAll(/[^_0-9A-Za-z]+/g, "_") || "SYMBOL";
          const isName = !/^\d/.test(plain) && !LITERALS.includes(plain);
          const name = (isName ? plain : `_${plain}`).replace(/^__+/, "_");
          let chosen = name;
          for (let i = 2; names.has(chosen); i++) chosen = `${name}_${i}`;
          names.set(chosen, value);
        }
        return [...names].find(([, value]) => value === given)![0];
      },
    },
  },
  gather: gatherConfig({
    hooks: {
      pgIntrospection_introspection({ inflection, resolvedPreset }, { introspection, serviceName }) {
        const { schemas = [] } = resolvedPreset.pgServices!.find(({ name }) => name === serviceName)!;
        const nameOf = (name: string) => inflection.singularize(inflection.camelCase(name));
        const taken = new Set(TAKEN.map(nameOf));
        // The first of several equal names keeps it: production before analytics, relations before functions.
        const give = (entity: PgClass | PgProc, name: string): void => {
          const tags = tagsOf(entity);
          // The comment of a metric, and with it a name, is also that of its live view.
          const isNew = typeof tags.name === "string" && !taken.has(nameOf(tags.name));
          const given = isNew ? (tags.name as string) : undefined;
          let chosen = given ?? name;
          if (given === undefined)
            for (let i = 1; taken.has(nameOf(chosen)); i++)
              chosen = `${schemaOf(entity)}_${name}${i > 1 ? `_${i}` : ""}`;
          taken.add(nameOf(chosen));
          tags.name = chosen;
        };
        const bySchema = <T extends PgClass | PgProc>(entities: T[]) =>
          entities.toSorted((a, b) => schemas.indexOf(schemaOf(a)) - schemas.indexOf(schemaOf(b)));
        const relations = bySchema(introspection.classes.filter((relation) => isRelation(relation, schemas)));
        const isNamed = (entity: PgClass | PgProc) => Number(typeof tagsOf(entity).name !== "string");
        for (const relation of relations.toSorted((a, b) => isNamed(a) - isNamed(b))) {
          const { liveOf } = tagsOf(relation);
          give(
            relation,
            typeof liveOf === "string" ? `${inflection.singularize(liveOf)}_live` : relation.relname,
          );
        }
        const names = new Set(relations.map((relation) => String(tagsOf(relation).name ?? relation.relname)));
        const procs = introspection.procs.filter((proc) =>
          schemas.includes(proc.getNamespace()?.nspname ?? ""),
        );
        for (const proc of bySchema(procs)) {
          const tags = tagsOf(proc);
          const name = String(tags.name ?? proc.proname);
          const chosen = names.has(name) ? `${schemaOf(proc)}_${name}` : name;
          names.add(chosen);
          if (chosen !== name) tags.name = chosen;
        }
      },
    },
  }),
};
