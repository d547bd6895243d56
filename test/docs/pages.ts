// README and docs/ as their readers see them: pages of text with fenced blocks.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../", import.meta.url));

export interface Block {
  page: string;
  /** Line of the block's first line of text. */
  line: number;
  language: string;
  text: string;
}

export interface Page {
  name: string;
  text: string;
  blocks: Block[];
}

const FENCE = /^```(.*)\n([^]*?)^```$/gm;

export function readPage(name: string): Page {
  const text = readFileSync(join(root, name), "utf8");
  const blocks = [...text.matchAll(FENCE)].map(({ index, 1: language, 2: block }) => ({
    page: name,
    line: text.slice(0, index).split("\n").length + 1,
    language: language!,
    text: block!,
  }));
  return { name, text, blocks };
}

export const pages: Page[] = ["README.md", ...globSync("docs/**/*.md", { cwd: root }).sort()].map(readPage);

export const blocksOf = (...languages: string[]): Block[] =>
  pages.flatMap(({ blocks }) => blocks).filter(({ language }) => languages.includes(language));

/** "-- datasets/revenue.sql" as its first line says into which file a block of SQL belongs. */
export const fileOf = (sql: string): string | undefined => /^-- (datasets\/[\w-]+\.sql)$/m.exec(sql)?.[1];

/** Pages about data that only their own commands bring: walk.test.ts and shop.test.ts run all of them in order. */
export const OWN_DATA = ["README.md", "docs/shop.md", "docs/tutorial.md"];
