#!/usr/bin/env node
// The only executable: the table of commands, exit codes (0 done, 1 failed, 2 wrong usage), errors in one sentence.
import { Command, CommanderError } from "commander";
import { isBadOption, isUnknownDataset } from "./ingest/faults.ts";

// Without this setting Grafast prints a paragraph about development mode at every start.
process.env.GRAPHILE_ENV ??= "production";

/** Adds the arguments, options and action of one command. */
type Define = (command: Command) => unknown;

// Only the command that is asked for is loaded: `strata token` need not wait for a GraphQL schema library.
const COMMANDS: Record<string, [description: string, load: () => Promise<Define>]> = {
  serve: [
    "serve GraphQL, GraphiQL and ingest; runs scheduled and background work too",
    async () => (await import("./commands/serve.ts")).serveCommand,
  ],
  worker: [
    "run scheduled and background work without serving HTTP",
    async () => (await import("./commands/worker.ts")).workerCommand,
  ],
  init: [
    "create a folder for your own tables and metrics",
    async () => (await import("./commands/init.ts")).initCommand,
  ],
  add: [
    "propose a dataset for a file, from its contents",
    async () => (await import("./commands/add.ts")).addCommand,
  ],
  migrate: [
    "apply Strata's schema, then the files of datasets/ (safe to repeat)",
    async () => (await import("./commands/migrate.ts")).migrateCommand,
  ],
  datasets: [
    "list datasets and metrics with rows, key, freshness and lineage",
    async () => (await import("./commands/datasets.ts")).datasetsCommand,
  ],
  ingest: [
    "load rows of a file (CSV, NDJSON, Excel or Parquet) into staging",
    async () => (await import("./commands/ingest.ts")).ingestCommand,
  ],
  sample: [
    "load a year of generated data, with some wrong rows, through the whole pipeline",
    async () => (await import("./commands/sample.ts")).sampleCommand,
  ],
  transform: [
    "move new rows from staging to production",
    async () => (await import("./commands/transform.ts")).transformCommand,
  ],
  refresh: [
    "update analytics with the changes of production",
    async () => (await import("./commands/refresh.ts")).refreshCommand,
  ],
  cleanup: [
    "delete transformed rows, runs and rejected rows older than their retention",
    async () => (await import("./commands/cleanup.ts")).cleanupCommand,
  ],
  run: ["transform, then refresh", async () => (await import("./commands/run.ts")).runCommand],
  status: [
    "show the freshness of each dataset, and the latest runs",
    async () => (await import("./commands/status.ts")).statusCommand,
  ],
  export: [
    "write a table or metric as CSV, NDJSON or Parquet",
    async () => (await import("./commands/export.ts")).exportCommand,
  ],
  quarantine: [
    "list, retry or discard rejected rows",
    async () => (await import("./commands/quarantine.ts")).quarantineCommand,
  ],
  alerts: [
    "list incidents, or send a test message to ALERT_WEBHOOK_URL",
    async () => (await import("./commands/alerts.ts")).alertsCommand,
  ],
  token: [
    "print a bearer token for HTTP requests",
    async () => (await import("./commands/token.ts")).tokenCommand,
  ],
  login: [
    "create, list or drop logins for BI tools and psql",
    async () => (await import("./commands/login.ts")).loginCommand,
  ],
  doctor: [
    "check the database and the configuration, with advice",
    async () => (await import("./commands/doctor.ts")).doctorCommand,
  ],
  schema: [
    "print the GraphQL schema; as JSON, the result of introspection",
    async () => (await import("./commands/schema.ts")).schemaCommand,
  ],
};

async function createProgram(words: string[]): Promise<Command> {
  // Subcommands inherit both settings.
  const program = new Command("strata").exitOverride().showHelpAfterError("(add --help for usage)");
  program.description("A GraphQL data layer over a three-layer PostgreSQL pipeline.");
  const asked = words[0] === "help" ? words[1] : words[0];
  for (const [name, [description, load]] of Object.entries(COMMANDS)) {
    const command = program
      .command(name)
      .description(description)
      .option("--json", "print JSON and nothing else");
    if (name === asked) (await load())(command);
  }
  return program;
}

try {
  const program = await createProgram(process.argv.slice(2));
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Only --help is asked for; everything else that commander throws is wrong usage.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    process.stderr.write(`strata: ${process.env.LOG_LEVEL === "debug" ? stack : message}\n`);
    process.exitCode = isBadOption(error) || isUnknownDataset(error) ? 2 : 1;
  }
}
