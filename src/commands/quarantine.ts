import { userInfo } from "node:os";
import { styleText } from "node:util";
import type { Command } from "commander";
import { valueOptionsOf, type ValueOptions } from "../ingest/options.ts";
import { checkRetry } from "../ingest/retry.ts";
import { runStep } from "../pipeline/runs.ts";
import { parseCount, parseObject, withValueOptions } from "./options.ts";
import { printRun, showRun } from "./pipeline.ts";
import { clearProgress } from "./progress.ts";
import { stoppable } from "./stop-signal.ts";
import { withDatabase } from "./with-database.ts";

interface QuarantineOptions {
  json?: boolean;
  limit: number;
  reason?: string;
  dataset?: string;
  ids?: string[];
  all?: boolean;
}

/** Lists what was rejected and why: how many for each reason, then the latest rows. */
async function listQuarantine({ json, limit, reason, dataset }: QuarantineOptions): Promise<void> {
  const { reasons, rows } = await withDatabase(async ({ pool }) => ({
    reasons: (
      await pool.query(
        `select dataset, reason, count(*)::int as rows, count(*) filter (where waiting)::int as waiting
           from analytics.quarantine, unnest(reasons) as reason
          where ($1::text is null or reason = $1) and ($2::text is null or dataset = $2) group by 1, 2 order by 3 desc, 1, 2`,
        [reason ?? null, dataset ?? null],
      )
    ).rows,
    rows: (
      await pool.query(
        `select quarantine_id as id, dataset, reasons, detail, waiting, source_system as source, source_name as file,
                source_line as line, row_key as key, operation, payload, raw_text as "rawText", to_json(quarantined_at) #>> '{}' as "quarantinedAt"
           from analytics.quarantine where ($1::text is null or $1 = any (reasons)) and ($2::text is null or dataset = $2)
          order by quarantine_id desc limit $3`,
        [reason ?? null, dataset ?? null, limit],
      )
    ).rows,
  }));
  if (json) return console.log(JSON.stringify({ reasons, rows }));
  if (rows.length === 0)
    return console.log(reason || dataset ? "No such row is quarantined." : "Quarantine is empty.");
  console.log(styleText("bold", "Reasons"));
  console.table(reasons);
  console.log(styleText("bold", `Latest ${rows.length} rows`));
  // The payload is left to --json: it would not fit a terminal's width.
  console.table(
    rows.map(({ id, dataset, key, operation, detail, source, file, line }) => ({
      id: Number(id),
      dataset,
      key: operation === "delete" ? `delete ${key}` : key,
      detail,
      source,
      ...(file && { file, line: Number(line) }),
    })),
    ["id", "dataset", "key", "detail", "source", "file", "line"],
  );
}

/** Gives rows back to the transform, in a run of its own. */
async function retryQuarantined(
  options: QuarantineOptions & ValueOptions & { patch?: string },
): Promise<void> {
  const { ids, reason, dataset, all, patch } = options;
  const retry = { ids, reason, dataset, everything: all, ...valueOptionsOf(options) };
  checkRetry(retry, patch);
  const run = stoppable("retry", (signal) =>
    withDatabase(({ pool }) =>
      runStep(pool, {
        step: "retry",
        retry,
        patch,
        trigger: "cli",
        actor: userInfo().username,
        onProgress: showRun,
        signal,
      }).finally(clearProgress),
    ),
  );
  await printRun(run, options);
  const { rowsWritten } = await run;
  if (!options.json && rowsWritten > 0)
    console.log("The next transform takes them: npx strata-graphql transform");
}

async function discardQuarantined({ ids, reason, dataset, all, json }: QuarantineOptions): Promise<void> {
  const { rows } = await withDatabase(({ pool }) =>
    pool.query<{ count: number }>("select analytics.discard_quarantined($1, $2, $3, $4) as count", [
      ids ?? null,
      reason ?? null,
      all ?? false,
      dataset ?? null,
    ]),
  );
  const { count } = rows[0]!;
  if (json) return console.log(JSON.stringify({ discarded: count }));
  console.log(`${count} ${count === 1 ? "row" : "rows"} discarded.`);
}

export function quarantineCommand(command: Command): void {
  command
    .option("--reason <reason>", "only rows rejected for this reason, such as valid_email")
    .option("--dataset <dataset>", "only rows of this dataset")
    .option("--limit <rows>", "maximum number of rows to list", parseCount, 20)
    .action(listQuarantine);

  withValueOptions(
    withSelection(command.command("retry"))
      .description("requeue rows for the transform (by id, --reason and --dataset, or --all)")
      .option(
        "--patch <json>",
        "fields to correct first, as a JSON object; null removes a field",
        parseObject,
      ),
  ).action((ids: string[] | undefined, _options: unknown, retry: Command) =>
    retryQuarantined(selected(ids, retry)),
  );

  withSelection(command.command("discard"))
    .description("delete rows permanently (by id, --reason and --dataset, or --all)")
    .action((ids: string[] | undefined, _options: unknown, discard: Command) =>
      discardQuarantined(selected(ids, discard)),
    );
}

const withSelection = (command: Command): Command =>
  command
    .argument("[ids...]", "quarantine ids", (id: string, ids: string[] = []) => [
      ...ids,
      String(parseCount(id)),
    ])
    .option("--all", "all rows in quarantine");

function selected(ids: string[] | undefined, command: Command): QuarantineOptions {
  const options: QuarantineOptions = { ...command.optsWithGlobals(), ids: ids?.length ? ids : undefined };
  const ways = [options.ids, options.reason ?? options.dataset, options.all].filter(Boolean).length;
  if (ways !== 1) command.error("error: say which rows: ids, --reason and --dataset, or --all");
  return options;
}
