import type { PgAttribute, PgClass } from "graphile-build-pg/pg-introspection";

type Tagged = Pick<PgClass | PgAttribute, "getTagsAndDescription">;

/** Returns the smart tags of an entity of the catalogue: from its comment, from tag files, and added by plugins. */
export const tagsOf = (entity: Tagged): Record<string, string | true | (string | true)[] | undefined> =>
  entity.getTagsAndDescription().tags as never;

/** Returns the values of a tag, which may be given several times. */
export function valuesOf(entity: Tagged, tag: string): string[] {
  const given = tagsOf(entity)[tag];
  return [given ?? []].flat().filter((value) => typeof value === "string");
}

/** Returns the names in a tag such as `@notNull sales,revenue`. */
export const namesIn = (entity: Tagged, tag: string): string[] =>
  valuesOf(entity, tag).flatMap((value) => value.split(",").map((name) => name.trim()));

/** Adds a behavior in front, so that a comment's own `@behavior` takes precedence. */
export function addBehavior(entity: Tagged, behavior: string): void {
  tagsOf(entity).behavior = [behavior, ...valuesOf(entity, "behavior")];
}

/** Returns the relation's columns, without system columns and dropped ones. */
export const columnsOf = (relation: PgClass): PgAttribute[] =>
  relation.getAttributes().filter(({ attnum, attisdropped }) => attnum > 0 && !attisdropped);

/** Whether it is a table, view or the like in one of the API's schemas. */
export const isRelation = (relation: PgClass, schemas: readonly string[]): boolean =>
  "rvmfp".includes(relation.relkind) && schemas.includes(relation.getNamespace()!.nspname);
