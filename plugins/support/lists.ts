import { LIST_TYPES, listOfCodec, TYPES } from "@dataplan/pg";

/** A list's codec was made of what its items' codec was before it was changed. */
export function relist(name: keyof typeof TYPES & keyof typeof LIST_TYPES): void {
  const { fromPg, castFromPg, listCastFromPg } = listOfCodec({ ...TYPES[name], arrayOfCodec: undefined });
  Object.assign(LIST_TYPES[name], { fromPg, castFromPg, listCastFromPg });
}
