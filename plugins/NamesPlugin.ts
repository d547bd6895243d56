import type { PgCodecWithAttributes } from "@dataplan/pg";
import { gatherConfig } from "graphile-build";
import type { PgClass, PgProc, PgType } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { PIPELINE_MUTATIONS } from "./PipelineMutationsPlugin.ts";
import { isRelation, tagsOf, valuesOf } from "./support/tags.ts";

/** Names of types and fields that GraphQL, Relay, PostGraphile or Strata use. */
const TAKEN = [
  "query mutation subscription id node cursor page_info int float string boolean",
  "big_int big_float json uuid xml date datetime time interval bit_string oid reg_class reg_type reg_proc reg_role",
  "point line line_segment box path polygon circle internet_address cidr_address mac_address mac_address8 key_value_hash l_tree",
  "date_range datetime_range int_range big_int_range big_float_range",
  "geo_point geo_point_input geo_box_input geo_distance_input geo_polygon_input json_path_input",
].flatMap((names) => names.split(" "));

/**
 * Suffixes of types that are derived from tables, such as `UserFilter`. PostGraphile itself avoids collisions of
 * inputs.
 */
const DERIVED = /(Filter|Edge|Connection|AggregatesGroup|GroupBy|OrderBy|UniqueKey|RangeBound)$/;

/** Types of a table's mutations. */
const OF_MUTATIONS = /^(create|update|delete|upsert|ingest)[A-Z].*(Payload|Row)$/;

/** Mutations of a table, with its name. Upserts are missing: a function of that name replaces them. */
const OF_TABLES = /^(create|update|delete|ingest)([A-Z].*)$/;

/** Rights that a table's mutations require. */
const NEEDED: Record<string, string> = {
  create: "insert",
  upsert: "insert",
  update: "update",
  delete: "delete",
};

const OWN_MUTATIONS = [...PIPELINE_MUTATIONS, "retryQuarantined"];

/** Names that GraphQL does not allow as enum values. */
const LITERALS = ["true", "false", "null"];

/** Makes names of fields distinct, since `a b` and `a_b`, or `id` and `row_id`, lead to the same one. */
export function distinctNames<T>(
  columns: readonly T[],
  nameOf: (column: T, index: number) => string,
  otherwise = "column",
): Map<T, string> {
  const names = new Map<T, string>();
  const taken = new Set<string>();
  for (const [i, column] of columns.entries()) {
    const given = nameOf(column, i);
    const name = /^[_A-Za-z][_0-9A-Za-z]*$/.test(given) ? given : `${otherwise}${i + 1}`;
    let chosen = name;
    for (let n = 2; taken.has(chosen); n++) chosen = `${name}_${n}`;
    taken.add(chosen);
    names.set(column, chosen);
  }
  return names;
}

const fieldsByCodec = new WeakMap<PgCodecWithAttributes, Map<string, string>>();

type Relation = Parameters<GraphileBuild.Inflection["singleRelation"]>[0];

const fieldsOf = (inflection: GraphileBuild.Inflection, codec: PgCodecWithAttributes): string[] =>
  Object.keys(codec.attributes).map((attributeName) => inflection.attribute({ codec, attributeName }));

/** Names a relation; if a column or a function has the name, the referencing columns are added. */
function relationName(
  inflection: GraphileBuild.Inflection,
  { codec, relationName, registry }: Relation,
  name: string,
): string {
  const functions = Object.values(registry.pgResources).filter(
    (resource) => resource.parameters?.[0]?.codec === codec && !resource.isMutation,
  );
  const fields = new Set([
    ...fieldsOf(inflection, codec),
    ...functions.map((resource) => inflection.computedAttributeField({ resource: resource as never })),
  ]);
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

type Named = PgClass | PgProc | PgType;

const schemaOf = (entity: Named): string => entity.getNamespace()!.nspname;

/** Whether a type is an enum, a domain or a composite type of its own. */
const isOwnType = (type: PgType): boolean =>
  !/^(pg_|information_schema$)/.test(schemaOf(type)) &&
  ("ed".includes(type.typtype!) || (type.typtype === "c" && type.getClass()?.relkind === "c"));

/** Names types and fields without schema prefixes, and resolves collisions. */
export const NamesPlugin: GraphileConfig.Plugin = {
  name: "NamesPlugin",
  version: "1.0.0",
  after: ["RightsPlugin", "RelationsPlugin"],
  before: ["smart-tags"],
  inflection: {
    // The simplify preset needs this inflector, although NodeAccessorPlugin is off in favour of `node(id)`.
    add: { nodeById: (_preset, typeName) => `${typeName}ById` },
    replace: {
      _schemaPrefix: () => "",
      allRowsConnection(previous, _preset, resource) {
        const { tags } = resource.extensions ?? {};
        if (typeof tags?.connectionName === "string") return tags.connectionName;
        // The live view's name follows the metric's plural: `categoryRevenues`, `categoryRevenuesLive`.
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
      // If a column has the name, a row's function gets its schema as prefix.
      computedAttributeField(previous, _preset, details) {
        const { parameters, extensions } = details.resource;
        const name = previous!(details);
        const codec = parameters[0]!.codec as PgCodecWithAttributes;
        const isColumn = ["id", ...fieldsOf(this, codec)].includes(name);
        return isColumn ? this.camelCase(`${extensions!.pg!.schemaName}-${name}`) : name;
      },
      argument(previous, _preset, details) {
        const { param, resource, index } = details;
        const given = resource.parameters.slice(resource.parameters.indexOf(param) - index);
        const nameOf = (one: typeof param, i: number) => previous!({ ...details, param: one, index: i });
        return distinctNames(given, nameOf, "argument").get(param)!;
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
      typeCodecName(previous, _preset, details) {
        const { pgType } = details;
        const element = pgType.typcategory === "A" ? pgType.getElemType() : undefined;
        const { name } = tagsOf(element ?? pgType);
        if (typeof name !== "string") return previous!(details);
        return this.camelCase(element ? `${name}_array` : name);
      },
      // Enums of PostgreSQL may have values such as `in progress`, one of which would make the whole schema invalid.
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
        const bySchema = <T extends Named>(entities: T[]) =>
          entities.toSorted((a, b) => schemas.indexOf(schemaOf(a)) - schemas.indexOf(schemaOf(b)));
        const relations = bySchema(introspection.classes.filter((relation) => isRelation(relation, schemas)));
        const types = introspection.types.filter(isOwnType);
        const taken = new Set(TAKEN.map(nameOf));
        const bases = new Set([
          ...taken,
          ...relations.map(({ relname }) => nameOf(relname)),
          ...types.map(({ typname }) => nameOf(typname)),
        ]);
        const isTaken = (given: string): boolean => {
          const name = nameOf(given);
          const isDerived = DERIVED.test(name) && bases.has(name.replace(DERIVED, ""));
          return taken.has(name) || isDerived || OF_MUTATIONS.test(name);
        };
        // The first of several equal names is kept: relations before types and functions, production before
        // analytics.
        const give = (entity: Named, name: string): void => {
          const tags = tagsOf(entity);
          // A metric's live view has the same comment and with it the same @name, which only one can have.
          const isNew = typeof tags.name === "string" && !isTaken(tags.name);
          const given = isNew ? (tags.name as string) : undefined;
          let chosen = given ?? name;
          if (given === undefined)
            for (let i = 1; isTaken(chosen); i++)
              chosen = `${schemaOf(entity)}_${name}${i > 1 ? `_${i}` : ""}`;
          taken.add(nameOf(chosen));
          tags.name = chosen;
        };
        // Strata's own views come first, since the studio relies on their names.
        const rank = (relation: PgClass): number => {
          const { builtin, name } = tagsOf(relation);
          return builtin ? 0 : typeof name === "string" ? 1 : 2;
        };
        for (const relation of relations.toSorted((a, b) => rank(a) - rank(b))) {
          const { liveOf } = tagsOf(relation);
          give(
            relation,
            typeof liveOf === "string" ? `${inflection.singularize(liveOf)}_live` : relation.relname,
          );
        }
        for (const type of bySchema(types)) give(type, type.typname);
        const names = new Set(relations.map((relation) => String(tagsOf(relation).name ?? relation.relname)));
        const procs = introspection.procs.filter((proc) =>
          schemas.includes(proc.getNamespace()?.nspname ?? ""),
        );
        const tables = new Map(
          relations.toReversed().map((relation) => [nameOf(relation.relname), relation]),
        );
        const isMutationOfOthers = (name: string): boolean => {
          const field = inflection.camelCase(name);
          const [, verb = "", subject = ""] = OF_TABLES.exec(field) ?? [];
          const table = tables.get(nameOf(subject.replace(/By[A-Z].*$/, "")));
          const lacks = (behavior: string) => behavior === `-${NEEDED[verb]}` || behavior === "-*";
          return (
            OWN_MUTATIONS.includes(field) || (table !== undefined && !valuesOf(table, "behavior").some(lacks))
          );
        };
        for (const proc of bySchema(procs)) {
          const tags = tagsOf(proc);
          const name = String(tags.name ?? proc.proname);
          const isMutation = proc.provolatile === "v" && isMutationOfOthers(name);
          const chosen = names.has(name) || isMutation ? `${schemaOf(proc)}_${name}` : name;
          names.add(chosen);
          if (chosen !== name) tags.name = chosen;
        }
      },
    },
  }),
};
