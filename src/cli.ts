#!/usr/bin/env node
// The only executable: commands, exit codes (0 done, 1 failed, 2 wrong usage), errors in one sentence.
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { IngestCommandOptions } from "./commands/ingest.ts";
import type { QuarantineOptions } from "./commands/quarantine.ts";
import type { Dataset } from "./ingest/format.ts";
import type { SampleOptions } from "./sample/sample-data.ts";
import { isRole, toRole, type Role } from "./config.ts";

// Without it Grafast greets every start with a paragraph about development mode.
process.env.GRAPHILE_ENV ??= "production";

const program = new Command("strata")
  .description("A GraphQL data layer over a three-layer PostgreSQL pipeline.")
  .showHelpAfterError("(add --help for usage)");

const withJson = (command: Command): Command => command.option("--json", "print JSON and nothing else");

// Commands load their code when they run: `strata token` need not wait for a GraphQL schema library.
withJson(program.command("serve"))
  .description("serve GraphQL, GraphiQL and ingest; runs scheduled and background work too")
  .option("--no-worker", "leave scheduled and background work to `strata worker`")
  .action(async (options: { worker: boolean; json?: boolean }) =>
    (await import("./commands/serve.ts")).serve(options),
  );

withJson(program.command("worker"))
  .description("run scheduled and background work without serving HTTP")
  .action(async (options: { json?: boolean }) => (await import("./commands/worker.ts")).worker(options));

withJson(program.command("migrate"))
  .description("apply schema.sql to the database (safe to repeat)")
  .action(async (options: { json?: boolean }) => (await import("./commands/migrate.ts")).migrate(options));

withJson(program.command("ingest"))
  .description("land rows of a CSV or NDJSON file, gzipped or not, in staging")
  .addArgument(new Argument("<dataset>", "what the rows are").choices(["users", "transactions", "events"]))
  .argument("<file>", "file to read; - for standard input")
  .option("--source <name>", "where the rows come from", "file")
  .option(
    "--map <column=field>",
    "take a column as a field, or leave it out with column= (repeatable)",
    collect,
    [],
  )
  .addOption(
    new Option("--format <format>", "how to read it (default: as it looks)").choices(["csv", "ndjson"]),
  )
  .action(async (dataset: Dataset, file: string, options: IngestCommandOptions, command: Command) => {
    const { findFault, ingest } = await import("./commands/ingest.ts");
    const fault = findFault(dataset, options);
    if (fault) command.error(`error: ${fault}`);
    await ingest(dataset, file, options);
  });

withJson(program.command("sample"))
  .description("load a year of made-up data, some of it wrong on purpose, through the whole pipeline")
  .option("--users <rows>", "how many users", parseCount, 500)
  .option("--transactions <rows>", "how many transactions", parseCount, 10_000)
  .option("--events <rows>", "how many events", parseCount, 5_000)
  .option("--seed <number>", "the same seed gives the same data", parseCount, 1)
  .option("--force", "also beside data of your own, which it may overwrite")
  .action(async (options: Partial<SampleOptions> & { json?: boolean; force?: boolean }) =>
    (await import("./commands/sample.ts")).sample(options),
  );

withJson(program.command("transform"))
  .description("move new rows from staging to production")
  .action(async (options: { json?: boolean }) => runStep({ step: "transform" }, options));

withJson(program.command("refresh"))
  .description("bring analytics up to date with production")
  .option("--full", "rebuild everything, not only what changed")
  .action(async (options: { json?: boolean; full?: boolean }) =>
    runStep({ step: "refresh", full: options.full ?? false }, options),
  );

withJson(program.command("cleanup"))
  .description("delete staging rows that the transform took long ago")
  .option("--days <days>", "days to keep (default: RETENTION_DAYS)", parseDays)
  .action(async (options: { json?: boolean; days?: number }) =>
    runStep({ step: "cleanup", daysToKeep: options.days }, options),
  );

withJson(program.command("run"))
  .description("transform, then refresh")
  .action(async (options: { json?: boolean }) => runStep({ step: "pipeline" }, options));

withJson(program.command("status"))
  .description("show how fresh each dataset is, and the last runs")
  .action(async (options: { json?: boolean }) => (await import("./commands/status.ts")).status(options));

const quarantine = withJson(program.command("quarantine"))
  .description("list, retry or discard the rows that broke a rule")
  .option("--reason <reason>", "only rows rejected for this reason, such as invalid_email")
  .option("--limit <rows>", "how many rows to list", parseCount, 20)
  .action(async (options: QuarantineOptions) =>
    (await import("./commands/quarantine.ts")).listQuarantine(options),
  );

const withSelection = (command: Command): Command =>
  command
    .argument("[ids...]", "quarantine ids", (id: string, ids: string[] = []) => [
      ...ids,
      String(parseCount(id)),
    ])
    .option("--all", "every row in quarantine");

withSelection(quarantine.command("retry"))
  .description("give rows back to the transform (by id, --reason or --all)")
  .option("--patch <json>", "fields to correct first, as a JSON object; null empties one", parseObject)
  .action(async (ids: string[] | undefined, _options: unknown, command: Command) =>
    (await import("./commands/quarantine.ts")).retryQuarantined(selected(ids, command)),
  );

withSelection(quarantine.command("discard"))
  .description("delete rows for good (by id, --reason or --all)")
  .action(async (ids: string[] | undefined, _options: unknown, command: Command) =>
    (await import("./commands/quarantine.ts")).discardQuarantined(selected(ids, command)),
  );

function selected(ids: string[] | undefined, command: Command): QuarantineOptions {
  const options: QuarantineOptions = { ...command.optsWithGlobals(), ids: ids?.length ? ids : undefined };
  const ways = [options.ids, options.reason, options.all].filter(Boolean).length;
  if (ways !== 1) command.error("error: say which rows: ids, --reason <reason> or --all");
  return options;
}

withJson(program.command("token"))
  .description("print a bearer token for HTTP requests")
  .requiredOption("--role <role>", "reader, ingestor or operator", parseRole)
  .option("--sub <name>", "who the token is for; shown as the actor of runs", parseName)
  .option("--ttl <duration>", "how long it is valid, such as 90s, 15m, 1h, 30d", parseTtl, "1h")
  .action(async (options: { role: Role; sub?: string; ttl: string; json?: boolean }) =>
    (await import("./commands/token.ts")).token(options),
  );

withJson(program.command("doctor"))
  .description("check the database and the configuration, and say what to do")
  .action(async (options: { json?: boolean }) => (await import("./commands/doctor.ts")).doctor(options));

withJson(program.command("schema"))
  .description("print the GraphQL schema; as JSON, the result of introspection")
  .option("--write", "write it to schema.graphql instead")
  .action(async (options: { write?: boolean; json?: boolean }) =>
    (await import("./commands/schema.ts")).schema(options),
  );

async function runStep(
  request: { step: "transform" | "refresh" | "cleanup" | "pipeline"; full?: boolean; daysToKeep?: number },
  options: { json?: boolean },
): Promise<void> {
  return (await import("./commands/pipeline.ts")).runCommand(request, options);
}

function parseRole(value: string): Role {
  const role = toRole(value);
  if (isRole(role)) return role;
  throw new InvalidArgumentError("Allowed: reader, ingestor, operator.");
}

function parseName(value: string): string {
  if (value.trim() !== "") return value;
  throw new InvalidArgumentError("It is empty; allowed: any other text.");
}

function parseTtl(value: string): string {
  if (/^\d+\s?[smhd]$/.test(value)) return value;
  throw new InvalidArgumentError("Allowed: a number and s, m, h or d.");
}

function collect(value: string, values: string[]): string[] {
  return [...values, value];
}

function parseCount(value: string): number {
  if (/^[1-9]\d{0,15}$/.test(value)) return Number(value);
  throw new InvalidArgumentError("Allowed: a whole number from 1.");
}

/** The text as given: numbers beyond 2^53 would not survive being parsed. */
function parseObject(value: string): string {
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)) return value;
  } catch {
    // Said below, as for JSON that is no object.
  }
  throw new InvalidArgumentError('Allowed: a JSON object, such as \'{"email": "ann@example.com"}\'.');
}

function parseDays(value: string): number {
  const days = Number(value);
  if (/^\d+$/.test(value) && days <= 36_500) return days;
  throw new InvalidArgumentError("Allowed: a whole number of days from 0 to 36500.");
}

for (const command of [program, ...program.commands, ...quarantine.commands]) command.exitOverride();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Only --help is asked for; everything else that commander throws is wrong usage.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    process.stderr.write(`strata: ${process.env.LOG_LEVEL === "debug" ? stack : message}\n`);
    process.exitCode = 1;
  }
}
