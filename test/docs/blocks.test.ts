// What can be said of every page without a database: nothing in it escapes the other tests, links lead somewhere.
import { execFileSync } from "node:child_process";
import { existsSync, globSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { dirname, join } from "node:path";
import { buildSchema, parse, validate } from "graphql";
import { expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { blocksOf, pages, root } from "./pages.ts";

const LANGUAGES = {
  run: ["sh", "graphql", "sql"],
  // Run by other products, or by a compiler; parsed here.
  parsed: ["json", "ts", "yaml", "python"],
  // Commands of other products, on machines of their own, and output.
  shown: ["console", "text"],
};

test("every block has a language that says who runs it", () => {
  const known = Object.values(LANGUAGES).flat();
  const odd = pages.flatMap(({ blocks }) => blocks).filter(({ language }) => !known.includes(language));
  expect(odd).toEqual([]);
  // A fence that does not close would hide all that follows it.
  for (const { name, text, blocks } of pages)
    expect([name, [...text.matchAll(/^```/gm)].length]).toEqual([name, 2 * blocks.length]);
});

test("commands of Strata are in blocks that run", () => {
  const hidden = blocksOf("console", "text").filter(({ text }) => /^\s*(npx |npm run )strata\b/m.test(text));
  expect(hidden).toEqual([]);
});

test("no page and no message has a command that fetches somebody else's package", () => {
  const names = globSync(
    ["*.md", "{docs,examples}/**/*.md", "{src,plugins,studio/src,sql}/**/*.*", "*.sql"],
    {
      cwd: root,
      exclude: (name) => name.endsWith("node_modules"),
    },
  );
  expect(names.length).toBeGreaterThan(150);
  const fetching = names.filter((name) =>
    /\b(npx|npm (i|install|exec)( --)?) (-y )?strata(?!-graphql)\b/.test(
      readFileSync(join(root, name), "utf8"),
    ),
  );
  expect(fetching).toEqual([]);
});

test("links lead to files, and to headings of theirs", () => {
  const slug = (heading: string): string =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-");
  const broken: string[] = [];
  for (const { name, text } of pages)
    for (const [, target] of text.replace(/^```[^]*?^```$/gm, "").matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target!)) continue;
      const [path, anchor] = target!.split("#") as [string, string?];
      const file = path === "" ? join(root, name) : join(root, dirname(name), path);
      if (!existsSync(file)) broken.push(`${name}: ${target}`);
      else if (anchor !== undefined) {
        const headings = [...readFileSync(file, "utf8").matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
          slug(title!),
        );
        if (!headings.includes(anchor)) broken.push(`${name}: ${target}`);
      }
    }
  expect(broken).toEqual([]);
});

test.each(blocksOf("json").map((block) => [`${block.page}:${block.line}`, block.text]))(
  "%s is JSON",
  (_, text) => {
    JSON.parse(text);
  },
);

test.each(blocksOf("yaml").map((block) => [`${block.page}:${block.line}`, block.text]))(
  "%s is YAML",
  (_, text) => {
    expect(parseAllDocuments(text).flatMap(({ errors }) => errors)).toEqual([]);
  },
);

test.each(blocksOf("ts").map((block) => [`${block.page}:${block.line}`, block.text]))(
  "%s is TypeScript, and its documents fit the schema",
  (_, text) => {
    stripTypeScriptTypes(text);
    const schema = buildSchema(readFileSync(join(root, "schema.graphql"), "utf8"));
    for (const [, document] of text.matchAll(/(?:graphql|gql|GraphQL \*\/)\s*\(?\s*`([^`]+)`/g))
      // Relay's and codegen's own directives and fragments of other files aside.
      expect(validate(schema, parse(document!.replace(/@\w+Fragment|@connection\([^)]*\)/g, "")))).toEqual(
        [],
      );
  },
);

const hasPython = (() => {
  try {
    execFileSync("python3", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();
test.skipIf(!hasPython).each(blocksOf("python").map((block) => [`${block.page}:${block.line}`, block.text]))(
  "%s is Python",
  (_, text) => {
    execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: text });
  },
);
