#!/usr/bin/env node
// In the package the compiled command; in a clone the sources, which its Node runs as they are.
import { existsSync } from "node:fs";
import module from "node:module";
import { fileURLToPath } from "node:url";

const source = new URL("../src/cli.ts", import.meta.url);
if (existsSync(source)) {
  if (!process.features.typescript) {
    console.error(
      `strata: Node ${process.version} does not run the TypeScript of a clone; ` +
        "start it with node_modules/.bin/node, or install the package that npm pack makes",
    );
    process.exit(1);
  }
  // Half of a short command's time is reading TypeScript and some hundred modules of its libraries.
  module.enableCompileCache?.(fileURLToPath(new URL("../node_modules/.cache/strata", import.meta.url)));
  await import(source.href);
} else await import("../dist/cli.js");
