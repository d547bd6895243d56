#!/usr/bin/env node
// In the package the compiled command; in a clone the sources, which its Node runs as they are.
import { existsSync } from "node:fs";

const source = new URL("../src/cli.ts", import.meta.url);
await import(existsSync(source) ? source.href : "../dist/cli.js");
