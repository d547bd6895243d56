import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import JSON5 from "json5";
import { jsonPgSmartTags, type JSONPgSmartTags } from "postgraphile/utils";

interface Tree {
  [key: string]: unknown;
}
const isTree = (value: unknown): value is Tree =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Merges two trees; the later one takes precedence. */
function merge(earlier: Tree, later: Tree): Tree {
  const merged = { ...earlier };
  for (const [key, value] of Object.entries(later)) {
    const before = merged[key];
    merged[key] = isTree(before) && isTree(value) ? merge(before, value) : value;
  }
  return merged;
}

async function readTags(path: string): Promise<Tree> {
  try {
    const tags: unknown = JSON5.parse(await readFile(path, "utf8"));
    if (isTree(tags) && tags.version === 1 && isTree(tags.config)) return tags;
    throw new Error("expected { version: 1, config: { class: { … } } }");
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** Reads smart tags from the folder's `*.json5` files, each in the format of `postgraphile.tags.json5`. */
export function createTagFilesPlugin(folder: string): GraphileConfig.Plugin {
  const readAll = async () => {
    const names = await readdir(folder).catch(() => []);
    const paths = names.filter((name) => name.endsWith(".json5")).map((name) => join(folder, name));
    const files = await Promise.all(paths.sort().map(readTags));
    return files.reduce(merge, { version: 1, config: {} }) as unknown as JSONPgSmartTags;
  };
  return jsonPgSmartTags(readAll, null, { name: "TagFilesPlugin" });
}
