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
