// Builds what `npm pack` packs: dist/ with all code in JavaScript, the libraries among it, and the studio.
// Node does not run TypeScript inside node_modules. Libraries come along for three reasons: some of them do not declare
// Node 20, where they run with the polyfills, and npm would warn of each; a start reads a few files in place of
// thousands; and a megabyte of GraphiQL's bundle takes the place of everything it is made from.
import { existsSync } from "node:fs";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build, type Plugin } from "esbuild";
import { loadStudio } from "../studio/build.ts";

const ROOT = join(import.meta.dirname, "..");
const DIST = join(ROOT, "dist");

/** Never reached from Strata, and two thirds of the bundle: a compiler for configuration files, source maps of GraphiQL. */
const unused: Plugin = {
  name: "unused",
  setup(bundle) {
    bundle.onResolve({ filter: /^typescript$|\/bundleMeta\.js$/ }, ({ path }) => ({
      path,
      namespace: "unused",
    }));
    bundle.onLoad({ filter: /.*/, namespace: "unused" }, () => ({ contents: "exports.bundleData = {};" }));
  },
};

/**
 * A chunk that is loaded by `import()` exports of a CommonJS module only its default, where Node knows the names too.
 */
const namesOfCommonJs: Plugin = {
  name: "names of CommonJS",
  setup(bundle) {
    bundle.onResolve(
      { filter: /^[^./]|bundleCode/ },
      async ({ path, kind, importer, resolveDir, pluginData }) => {
        if (kind !== "dynamic-import" || pluginData === namesOfCommonJs) return undefined;
        const found = await bundle.resolve(path, { kind, importer, resolveDir, pluginData: namesOfCommonJs });
        if (found.external || !found.path.includes("node_modules")) return undefined;
        const names = Object.keys((await import(found.path)) as object);
        if (!names.includes("module.exports")) return undefined;
        return { path: found.path, namespace: "commonjs", pluginData: names };
      },
    );
    bundle.onLoad({ filter: /.*/, namespace: "commonjs" }, ({ path, pluginData }) => {
      const names = (pluginData as string[]).filter(
        (name) => !/^(default|__esModule)$/.test(name) && /^[\w$]+$/.test(name),
      );
      return {
        resolveDir: ROOT,
        contents: `const all = require(${JSON.stringify(path)}); export default all; export const { ${names.join(", ")} } = all;`,
      };
    });
  },
};

async function compile(): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: { cli: "package/cli.js", engine: "src/embedded/engine.ts" },
    outdir: DIST,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    // Names of functions and classes are seen: in errors, and by libraries that compare them.
    keepNames: true,
    // PGlite loads files that lie beside its code; esbuild is for clones, which build the studio themselves.
    external: ["@electric-sql/*", "esbuild"],
    // A module is started by bin/cli.js only.
    define: { "import.meta.main": "false" },
    // For the libraries that are CommonJS.
    banner: {
      js: 'import { createRequire as createRequireOfBundle } from "node:module"; const require = createRequireOfBundle(import.meta.url);',
    },
    plugins: [unused, namesOfCommonJs],
    legalComments: "none",
    logLevel: "warning",
    metafile: true,
  });
  const packages = new Set<string>();
  for (const { inputs } of Object.values(metafile.outputs))
    for (const [input, { bytesInOutput }] of Object.entries(inputs)) {
      const [, folder] = /\b(node_modules\/(?:.*node_modules\/)?(?:@[^/]+\/)?[^/]+)\//.exec(input) ?? [];
      if (folder && bytesInOutput > 0) packages.add(folder);
    }
  return [...packages].sort();
}

/** The licences of the libraries ask for their text beside a copy. */
async function licences(packages: string[]): Promise<string> {
  const parts = packages.map(async (folder) => {
    const path = join(ROOT, folder);
    const { name, version, license } = JSON.parse(
      await readFile(join(path, "package.json"), "utf8"),
    ) as Record<"name" | "version" | "license", string>;
    const file = (await readdir(path)).find((entry) => /^(licen[cs]e|copying)/i.test(entry));
    const text = file ? await readFile(join(path, file), "utf8") : `License: ${license}`;
    return `${name} ${version}\n\n${text.trim()}\n`;
  });
  return (await Promise.all(parts)).join(`\n${"-".repeat(80)}\n\n`);
}

if (existsSync(DIST)) await rm(DIST, { recursive: true });
const packages = await compile();
await writeFile(join(DIST, "LICENSES.txt"), await licences(packages));
await loadStudio();
