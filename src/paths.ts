// Paths of files other than code. This module is one level below the root, both as a source (src/) and compiled
// (dist/).

const isSource = import.meta.url.endsWith(".ts");

/** The root of the clone or package, which has sql/, schema.sql and schema.graphql. */
export const root = new URL("../", import.meta.url);

/** The worker thread's module of the embedded engine. */
export const engineModule = new URL(isSource ? "embedded/engine.ts" : "engine.js", import.meta.url);
