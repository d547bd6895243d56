import type { PgAttribute, PgClass } from "graphile-build-pg/pg-introspection";

type Tagged = Pick<PgClass | PgAttribute, "getTagsAndDescription">;

/** The smart tags of something in the catalogue: what its comment and the tag files say, and what plugins add. */
export const tagsOf = (entity: Tagged): Record<string, string | true | (string | true)[] | undefined> =>
  entity.getTagsAndDescription().tags as never;

/** The tag's values; a tag may be given several times. */
export function valuesOf(entity: Tagged, tag: string): string[] {
  const given = tagsOf(entity)[tag];
  return [given ?? []].flat().filter((value) => typeof value === "string");
}

/** The names in a tag such as `@notNull sales,revenue`. */
export const namesIn = (entity: Tagged, tag: string): string[] =>
  valuesOf(entity, tag).flatMap((value) => value.split(",").map((name) => name.trim()));

/** Before what is there, so that a comment's own `@behavior` has the last word. */
export function addBehavior(entity: Tagged, behavior: string): void {
  tagsOf(entity).behavior = [behavior, ...valuesOf(entity, "behavior")];
}

/** The relation's columns, without PostgreSQL's own and those that were dropped. */
export const columnsOf = (relation: PgClass): PgAttribute[] =>
  relation.getAttributes().filter(({ attnum, attisdropped }) => attnum > 0 && !attisdropped);

/** Is it a table, a view or the like in one of the schemas of the API? */
export const isRelation = (relation: PgClass, schemas: readonly string[]): boolean =>
  "rvmfp".includes(relation.relkind) && schemas.includes(relation.getNamespace()!.nspname);
