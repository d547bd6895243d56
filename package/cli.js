// The package's entry: Strata uses what Node 22 has, and gives Node 20 the same before anything else is loaded.
if (!("rawJSON" in JSON)) await import("./polyfills.js");
await import("../src/cli.ts");
