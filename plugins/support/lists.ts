import { LIST_TYPES, listOfCodec, TYPES } from "@dataplan/pg";

/** Rebuilds a list's codec, which was derived from its item's before that was changed. */
export function relist(name: keyof typeof TYPES & keyof typeof LIST_TYPES): void {
  const { fromPg, castFromPg, listCastFromPg } = listOfCodec({ ...TYPES[name], arrayOfCodec: undefined });
  Object.assign(LIST_TYPES[name], { fromPg, castFromPg, listCastFromPg });
}
