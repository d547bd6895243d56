// Writes docs/reference/*.md that can be made from the code: `npm run reference`. A test fails when they are out of date.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Pool } from "pg";
import { loadConfig } from "../src/config.ts";
import { openDatabase } from "../src/database/connect.ts";
import { applySchema } from "../src/database/migrate.ts";
import { ERROR_CODES } from "../src/graphql/codes.ts";
import { createMetrics } from "../src/http/metrics.ts";
import { watchNodes } from "../src/http/node-status.ts";
import { addPipelineMetrics } from "../src/http/pipeline-metrics.ts";
import { migrateWorker } from "../src/worker/worker.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const NOTE = "<!-- Made by `npm run reference`; changes of this file by hand are lost. -->";

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const table = (head: string[], rows: string[][]): string =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");
const page = (title: string, ...parts: string[]): string =>
  `# ${title}\n\n${NOTE}\n\n${parts.join("\n\n")}\n`;
const code = (text: string): string => `\`${text}\``;

/** Commander's own words, in the width of a terminal. */
async function cliPage(): Promise<string> {
  const help = async (...words: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [join(root, "src/cli.ts"), ...words, "--help"],
      {
        env: { PATH: process.env.PATH, NO_COLOR: "1" },
      },
    );
    return `\`\`\`text\n${stdout.trim()}\n\`\`\``;
  };
  const subcommands = (text: string): string[] =>
    [...(text.split("\nCommands:\n")[1] ?? "").matchAll(/^ {2}(\w+)/gm)]
      .map(([, name]) => name!)
      .filter((name) => name !== "help");
  const overview = await help();
  const parts = [
    "Exit codes: 0 done, 1 failed, 2 wrong usage. Every command takes `--json`: it then prints one JSON value and nothing else, `serve` and `worker` a line of it for each event. Settings come from the environment and `.env`: [settings](settings.md).",
    overview,
  ];
  for (const command of subcommands(overview)) {
    const words = await help(command);
    parts.push(`## strata ${command}`, words);
    for (const verb of subcommands(words))
      parts.push(`### strata ${command} ${verb}`, await help(command, verb));
  }
  return page("Commands", ...parts);
}

/** .env.example is the source: a test compares its names and values with src/config.ts. */
function settingsPage(): string {
  const parts: string[] = [
    "From the environment, or from `.env` in the folder where Strata starts; the environment wins. A value that is not allowed ends the start, and the message lists every fault with what is allowed.",
  ];
  let rows: string[][] = [];
  let words: string[] = [];
  const close = (): void => {
    if (rows.length > 0) parts.push(table(["setting", "unset means", "meaning"], rows));
    rows = [];
  };
  for (const line of readFileSync(join(root, ".env.example"), "utf8").split("\n")) {
    const title = /^# --- (.*?) -+$/.exec(line)?.[1];
    const setting = /^#?([A-Z][A-Z_]+)=(.*)$/.exec(line);
    if (title !== undefined) {
      close();
      parts.push(`## ${title}`);
      words = [];
    } else if (setting) {
      const [, name, value] = setting;
      rows.push([code(name!), value === "" ? "" : code(value!), words.join(" ")]);
      words = [];
    } else if (line.startsWith("# ")) words.push(line.slice(2));
    else if (line === "") words = [];
  }
  close();
  return page("Settings", ...parts);
}

const errorsPage = (): string =>
  page(
    "Error codes",
    "Every error has `extensions.code` and `extensions.requestId`; the log has the rest under that id. The message is for people and may change, the code does not without a new major version. The status is that of a request without `data`; a request whose operation ran answers 200, with the code in `errors`.",
    table(
      ["code", "status", "meaning"],
      Object.entries(ERROR_CODES).map(([name, { status, meaning }]) => [code(name), String(status), meaning]),
    ),
  );

/** Reasons that are no constraints, with what they mean; a test finds those that the code gives and this lacks. */
export const REASONS: Record<string, string> = {
  unparseable: "The text is not a row: a quote is not closed, or a line is not a JSON object.",
  wrong_field_count: "The CSV row has more or fewer fields than the header.",
  missing_key: "A key column is empty.",
  unknown_field: "The row has a field that the dataset does not have.",
  invalid_encoding:
    "Bytes are invalid in the input's encoding (UTF-8 by default), or the text has a NUL character or half of a surrogate pair.",
  invalid_json: "The value of a JSON field is not JSON, or the line is not.",
  invalid_integer: "The value is not a whole number.",
  invalid_number: "The value is not a number.",
  invalid_text: "The value is an object or array; a text is expected.",
  invalid_timestamp: "The value is not a date or time.",
  ambiguous_date:
    "The date has more than one reading, such as 06/10/2011; set `--date-format` or `?dateFormat=`. Or the local time occurred twice because of a clock change.",
  impossible_date:
    "The date or time does not exist in the calendar, was skipped by a clock change, or is outside the range that a mapping view allows.",
  out_of_range: "The number is beyond the range of its type.",
  too_long: "The text, number or record is longer than its limit.",
  invalid_expression:
    "An expression of `--set` cannot be evaluated for the row, such as a text that is not a number, or a division by zero.",
  invalid_value: "PostgreSQL does not accept the value for the column's type; the detail has its message.",
  left_out_by_mapping: "The mapping view omits a record that deletes, so the key of its row is unknown.",
  owned_by_another_source:
    "The dataset is owned by source, and the row belongs to another source, which the detail names.",
  rejected_by_trigger: "A trigger of your own raised an exception.",
  rejected_by_database: "PostgreSQL rejected the row when it was written; the detail has its message.",
};

async function reasonsPage(pool: Pool): Promise<string> {
  const { rows } = await pool.query<{ reason: string; dataset: string; words: string }>(
    `select r.key as reason, d.dataset, r.value ->> 'words' as words
       from strata.datasets d, jsonb_each(strata.reason_words(d.dataset)) r order by d.place, d.dataset, r.key`,
  );
  return page(
    "Reasons of rejection",
    "A rejected row is in `analytics.quarantine` with its `reasons`. A reason is one of the codes below, the name of a constraint, or what a mapping view says in its column `reasons`.",
    "## Of every dataset",
    table(
      ["reason", "meaning"],
      [
        ...Object.entries(REASONS).map(([reason, meaning]) => [code(reason), meaning]),
        [
          "`referenced_by_<table>`",
          "The row cannot be deleted: rows of the table refer to it. The record waits until none does.",
        ],
        ["`<column>_missing`", "The column is NOT NULL and has no value."],
        [
          "`<column>_too_long`, `<column>_out_of_range`, `<column>_invalid`",
          "The value is not valid for the column's type in production.",
        ],
      ],
    ),
    "## Of the datasets that Strata brings",
    "The names of their constraints, in the words of the constraints' comments. `strata quarantine` shows those of your own datasets.",
    table(
      ["dataset", "reason", "meaning"],
      rows.map(({ dataset, reason, words }) => [code(dataset), code(reason), words]),
    ),
    "Their mapping views add `impossible_date`, `invalid_position`, `transaction_date_missing` and `event_time_missing`.",
  );
}

/** What people call; everything else in schema strata is machinery. */
const PUBLIC = [
  "strata.add_dataset",
  "strata.remove_dataset",
  "strata.add_metric",
  "strata.remove_metric",
  "strata.announce_changes",
  "strata.promise",
  "strata.resolve_incident",
  "strata.count_differences",
  "strata.refresh",
  "strata.reconcile",
  "strata.schema_version",
  "analytics.discard_quarantined",
  "production.extend_dim_date",
  "staging.cleanup_old_data",
  "staging.is_possible_time",
];

async function sqlPage(pool: Pool): Promise<string> {
  const { rows: functions } = await pool.query<{
    name: string;
    signature: string;
    words: string;
    roles: string[];
  }>(
    `select n.nspname || '.' || p.proname as name,
            n.nspname || '.' || p.proname || '(' || pg_get_function_arguments(p.oid) || ') → ' || pg_get_function_result(p.oid) as signature,
            obj_description(p.oid, 'pg_proc') as words,
            array(select r.rolname::text from aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
                  where r.rolname like 'strata\\_%' order by 1) as roles
       from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('staging', 'production', 'analytics', 'strata') and p.prorettype <> 'trigger'::regtype
      order by n.nspname = 'strata' desc, p.proname`,
  );
  const missing = PUBLIC.filter((name) => !functions.some((one) => one.name === name));
  if (missing.length > 0)
    throw new Error(`docs/build.ts lists functions that do not exist: ${missing.join(", ")}`);
  const { rows: views } = await pool.query<{
    view: string;
    words: string;
    name: string;
    type: string;
    about: string | null;
  }>(
    `select c.relname as view, obj_description(c.oid, 'pg_class') as words, a.attname as name,
            format_type(a.atttypid, a.atttypmod) as type, col_description(c.oid, a.attnum) as about
       from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.relnamespace = 'analytics'::regnamespace
        and c.relname in ('datasets', 'freshness', 'lineage', 'pipeline_incidents', 'pipeline_runs', 'quarantine', 'refresh_state', 'run_datasets')
      order by c.relname, a.attnum`,
  );
  // Comments begin with smart tags for the API.
  const plain = (words: string | null): string => (words ?? "").replace(/^(@.*(\n|$))+/, "").trim();
  const rowsOf = (chosen: typeof functions): string[][] =>
    chosen.map(({ signature, words, roles }) => [code(signature), plain(words), roles.join(", ") || "owner"]);
  return page(
    "SQL",
    "## Functions for you",
    "The owner of the database may call all of them; a role is named where it may as well.",
    table(
      ["function", "does", "who"],
      rowsOf(PUBLIC.map((name) => functions.find((one) => one.name === name)!)),
    ),
    "## Views about the pipeline",
    ...[...new Set(views.map(({ view }) => view))].flatMap((view) => {
      const columns = views.filter((one) => one.view === view);
      return [
        `### analytics.${view}`,
        plain(columns[0]!.words),
        table(
          ["column", "type", "meaning"],
          columns.map(({ name, type, about }) => [code(name), type, plain(about)]),
        ),
      ];
    }),
    "## Machinery",
    "Functions that Strata itself calls. They may change in any version.",
    table(
      ["function", "does"],
      functions
        .filter(({ name }) => name.startsWith("strata.") && !PUBLIC.includes(name))
        .map(({ signature, words }) => [code(signature), plain(words)]),
    ),
  );
}

async function metricsPage(pool: Pool): Promise<string> {
  const metrics = createMetrics();
  const { registry } = metrics;
  watchNodes(metrics, { replicas: [] });
  addPipelineMetrics(registry, pool);
  const all = await registry.getMetricsAsJSON();
  const types: Record<string, string> = { counter: "counter", gauge: "gauge", histogram: "histogram" };
  return page(
    "Metrics",
    "`GET /metrics` in the format of Prometheus, with the bearer token `METRICS_TOKEN`; the metrics of the Node process (`process_…`, `nodejs_…`) come with them. Instances that share a database report the same `strata_pipeline_…`, `strata_dataset_…` and `strata_jobs`.",
    table(
      ["metric", "type", "meaning"],
      all
        .filter(({ name }) => name.startsWith("strata_"))
        .map(({ name, type, help }) => [code(name), types[String(type)] ?? String(type), help])
        .sort(([a], [b]) => a!.localeCompare(b!)),
    ),
  );
}

export async function buildReference(pool: Pool): Promise<Record<string, string>> {
  return {
    "cli.md": await cliPage(),
    "settings.md": settingsPage(),
    "errors.md": errorsPage(),
    "reasons.md": await reasonsPage(pool),
    "sql.md": await sqlPage(pool),
    "metrics.md": await metricsPage(pool),
  };
}

if (import.meta.main) {
  const folder = mkdtempSync(join(tmpdir(), "strata-reference-"));
  const database = await openDatabase(loadConfig({ DATA_DIR: folder }));
  try {
    await applySchema(database.pool);
    await migrateWorker(database.pool);
    for (const [name, text] of Object.entries(await buildReference(database.pool)))
      writeFileSync(join(root, "docs/reference", name), text);
  } finally {
    await database.close();
    rmSync(folder, { recursive: true, force: true });
  }
}
