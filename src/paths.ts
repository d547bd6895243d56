// Where files lie that are not code. This module's folder is one level below the root both as a source (src/) and
// compiled (dist/).

const isSource = import.meta.url.endsWith(".ts");

/** The folder of the clone or package: sql/, schema.sql, schema.graphql. */
export const root = new URL("../", import.meta.url);

/** The module of the embedded engine's thread. */
export const engineModule = new URL(isSource ? "embedded/engine.ts" : "engine.js", import.meta.url);
