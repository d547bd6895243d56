// Builds the studio: scripts, style and base map under hashed names, each compressed once.
// The result lies in studio/dist, with the hash of what it was made from; a package brings it ready-made.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";

// The compiled module is in another folder next to studio/.
const FOLDER = join(import.meta.dirname, "../studio");
const DIST = join(FOLDER, "dist");
const MANIFEST = "manifest.json";
export const ASSETS_PATH = "/studio/";

export interface Asset {
  type: string;
  /** Strong validator of the uncompressed bytes. */
  hash: string;
  plain: Buffer;
  brotli: Buffer;
  gzip: Buffer;
}

export interface Studio {
  /** The page; its links name the assets by their hashes. */
  page: Asset;
  /** Files by name, served below ASSETS_PATH. */
  assets: Map<string, Asset>;
}

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".svg": "image/svg+xml",
};

const hashOf = (...parts: (string | Buffer)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("base64url").slice(0, 16);
};

/** Hash of all sources that the build reads, and of the packages' versions. */
async function sourcesHash(): Promise<string | undefined> {
  const sources = join(FOLDER, "src");
  if (!existsSync(sources)) return undefined;
  const names = (await readdir(sources, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const files = [...names, join(FOLDER, "build.ts"), join(FOLDER, "index.html"), join(FOLDER, "icon.svg")];
  const texts = await Promise.all(files.map((file) => readFile(file)));
  const versions = await readFile(join(FOLDER, "../package.json"), "utf8").then(
    (text) => JSON.stringify((JSON.parse(text) as { devDependencies?: object }).devDependencies ?? {}),
    () => "",
  );
  return hashOf(versions, ...files.flatMap((file, index) => [file.slice(FOLDER.length), texts[index]!]));
}

async function bundle(): Promise<Map<string, Buffer>> {
  const esbuild = await import("esbuild");
  const { outputFiles, metafile } = await esbuild.build({
    absWorkingDir: FOLDER,
    entryPoints: ["src/main.tsx", "src/style.css"],
    bundle: true,
    minify: true,
    splitting: true,
    format: "esm",
    target: ["es2023", "chrome115", "firefox120", "safari17"],
    jsx: "automatic",
    jsxImportSource: "preact",
    // Packages that import React get Preact.
    alias: { react: "preact/compat" },
    loader: { ".json": "file", ".svg": "file" },
    publicPath: ASSETS_PATH,
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    assetNames: "[name]-[hash]",
    outdir: "dist",
    write: false,
    metafile: true,
    legalComments: "none",
    logLevel: "silent",
  });
  const entries = Object.entries(metafile.outputs).filter(([, { entryPoint }]) => entryPoint);
  const nameOf = (source: string): string => {
    const found = entries.find(([, { entryPoint }]) => entryPoint === source);
    if (!found) throw new Error(`The build has no ${source}`);
    return ASSETS_PATH + basename(found[0]);
  };
  const files = new Map(outputFiles.map(({ path, contents }) => [basename(path), Buffer.from(contents)]));
  const icon = await readFile(join(FOLDER, "icon.svg"));
  const iconName = `icon-${hashOf(icon).slice(0, 8)}.svg`;
  files.set(iconName, icon);
  const template = await readFile(join(FOLDER, "index.html"), "utf8");
  const page = template
    .replace("{{script}}", nameOf("src/main.tsx"))
    .replace("{{style}}", nameOf("src/style.css"))
    .replace("{{icon}}", ASSETS_PATH + iconName);
  return files.set("index.html", Buffer.from(page));
}

const compressBrotli = promisify(brotliCompress);
const compressGzip = promisify(gzip);

async function compress(name: string, plain: Buffer): Promise<Asset> {
  const [brotli, gzipped] = await Promise.all([
    compressBrotli(plain, {
      params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length },
    }),
    compressGzip(plain, { level: 9 }),
  ]);
  return { type: typeOf(name), hash: hashOf(plain), plain, brotli, gzip: gzipped };
}

const typeOf = (name: string): string => TYPES[extname(name)] ?? "application/octet-stream";

function toStudio(files: Map<string, Asset>): Studio {
  const page = files.get("index.html");
  if (!page) throw new Error("The studio has no index.html");
  return { page, assets: new Map([...files].filter(([name]) => name !== "index.html")) };
}

interface Manifest {
  sources: string;
  files: string[];
}

/** Returns the previous build if its sources have not changed; a package without sources uses it unconditionally. */
async function readBuilt(sources: string | undefined): Promise<Studio | undefined> {
  try {
    const manifest = JSON.parse(await readFile(join(DIST, MANIFEST), "utf8")) as Manifest;
    if (sources !== undefined && manifest.sources !== sources) return undefined;
    const files = new Map<string, Asset>();
    for (const name of manifest.files) {
      const [plain, brotli, gzipped] = await Promise.all(
        ["", ".br", ".gz"].map((suffix) => readFile(join(DIST, name + suffix))),
      );
      files.set(name, {
        type: typeOf(name),
        hash: hashOf(plain!),
        plain: plain!,
        brotli: brotli!,
        gzip: gzipped!,
      });
    }
    return toStudio(files);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Writes under another name first, so that two processes building at once both leave a complete folder. */
async function writeBuilt(sources: string, files: Map<string, Asset>): Promise<void> {
  const draft = await mkdtemp(join(FOLDER, ".dist-"));
  try {
    const folder = join(draft, "dist");
    await mkdir(folder);
    for (const [name, asset] of files) {
      await writeFile(join(folder, name), asset.plain);
      await writeFile(join(folder, `${name}.br`), asset.brotli);
      await writeFile(join(folder, `${name}.gz`), asset.gzip);
    }
    const manifest: Manifest = { sources, files: [...files.keys()] };
    await writeFile(join(folder, MANIFEST), JSON.stringify(manifest));
    if (existsSync(DIST)) await rename(DIST, join(draft, "old"));
    await rename(folder, DIST);
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/**
 * Loads the studio from studio/dist if that is current, else builds it (one second) and stores it there if the folder
 * is writable.
 */
export async function loadStudio(): Promise<Studio> {
  const sources = await sourcesHash();
  const built = await readBuilt(sources);
  if (built) return built;
  if (sources === undefined) throw new Error("The package has neither studio/dist nor studio/src");
  const files = new Map<string, Asset>();
  const compressed = [...(await bundle())].map(
    async ([name, plain]) => [name, await compress(name, plain)] as const,
  );
  for (const [name, asset] of await Promise.all(compressed)) files.set(name, asset);
  // A read-only installation builds at each start.
  await writeBuilt(sources, files).catch((error: NodeJS.ErrnoException) => {
    if (!["EACCES", "EROFS", "EPERM", "ENOTEMPTY", "EEXIST", "ENOENT"].includes(error.code ?? ""))
      throw error;
  });
  return toStudio(files);
}

if (import.meta.main) {
  const { page, assets } = await loadStudio();
  for (const [name, { plain, brotli }] of [["index.html", page] as const, ...assets])
    console.log(
      `${name.padEnd(32)} ${String(plain.length).padStart(8)} ${String(brotli.length).padStart(8)}`,
    );
}
