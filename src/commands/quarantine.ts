import { styleText } from "node:util";
import type { Command } from "commander";
import type { Pool } from "pg";
import { parseCount, parseObject } from "./options.ts";
import { withDatabase } from "./with-database.ts";

interface QuarantineOptions {
  json?: boolean;
  limit: number;
  reason?: string;
  ids?: string[];
  all?: boolean;
}

/** Lists what was rejected and why: how many for each reason, then the latest rows. */
async function listQuarantine({ json, limit, reason }: QuarantineOptions): Promise<void> {
  const { reasons, rows } = await withDatabase(async ({ pool }) => ({
    reasons: (
      await pool.query(
        `select dataset, reason, count(*)::int as rows, count(*) filter (where waiting)::int as waiting
           from analytics.quarantine, unnest(reasons) as reason
          where $1::text is null or reason = $1 group by 1, 2 order by 3 desc, 1, 2`,
        [reason ?? null],
      )
    ).rows,
    rows: (
      await pool.query(
        `select quarantine_id as id, dataset, reasons, detail, waiting, source_system as source, source_name as file,
                source_line as line, payload, raw_text as "rawText", to_json(quarantined_at) #>> '{}' as "quarantinedAt"
           from analytics.quarantine where $1::text is null or $1 = any (reasons) order by quarantine_id desc limit $2`,
        [reason ?? null, limit],
      )
    ).rows,
  }));
  if (json) return console.log(JSON.stringify({ reasons, rows }));
  if (rows.length === 0)
    return console.log(reason ? `No row is quarantined for ${reason}.` : "Quarantine is empty.");
  console.log(styleText("bold", "Reasons"));
  console.table(reasons);
  console.log(styleText("bold", `Latest ${rows.length} rows`));
  // The values stay in --json: a table of them would not fit a terminal.
  console.table(
    rows.map(({ id, dataset, detail, source, file, line }) => ({
      id: Number(id),
      dataset,
      detail,
      source,
      ...(file && { file, line: Number(line) }),
    })),
    ["id", "dataset", "detail", "source", "file", "line"],
  );
}

const selection = ({ ids, reason, all }: QuarantineOptions): unknown[] => [
  ids ?? null,
  reason ?? null,
  all ?? false,
];

async function change(
  verb: "retried" | "discarded",
  options: QuarantineOptions,
  work: (pool: Pool) => Promise<{ rows: { count: number }[] }>,
): Promise<void> {
  const { rows } = await withDatabase(({ pool }) => work(pool));
  const { count } = rows[0]!;
  if (options.json) return console.log(JSON.stringify({ [verb]: count }));
  console.log(`${count} ${count === 1 ? "row" : "rows"} ${verb}.`);
  if (verb === "retried" && count > 0) console.log("The next transform takes them: npx strata transform");
}

const retryQuarantined = (options: QuarantineOptions & { patch?: string }): Promise<void> =>
  change("retried", options, (pool) =>
    pool.query("select analytics.retry_quarantined($1, $2, $3, $4) as count", [
      ...selection(options),
      options.patch ?? null,
    ]),
  );

const discardQuarantined = (options: QuarantineOptions): Promise<void> =>
  change("discarded", options, (pool) =>
    pool.query("select analytics.discard_quarantined($1, $2, $3) as count", selection(options)),
  );

export function quarantineCommand(command: Command): void {
  command
    .option("--reason <reason>", "only rows rejected for this reason, such as valid_email")
    .option("--limit <rows>", "how many rows to list", parseCount, 20)
    .action(listQuarantine);

  withSelection(command.command("retry"))
    .description("give rows back to the transform (by id, --reason or --all)")
    .option("--patch <json>", "fields to correct first, as a JSON object; null empties one", parseObject)
    .action((ids: string[] | undefined, _options: unknown, retry: Command) =>
      retryQuarantined(selected(ids, retry)),
    );

  withSelection(command.command("discard"))
    .description("delete rows for good (by id, --reason or --all)")
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
    .option("--all", "every row in quarantine");

function selected(ids: string[] | undefined, command: Command): QuarantineOptions {
  const options: QuarantineOptions = { ...command.optsWithGlobals(), ids: ids?.length ? ids : undefined };
  const ways = [options.ids, options.reason, options.all].filter(Boolean).length;
  if (ways !== 1) command.error("error: say which rows: ids, --reason <reason> or --all");
  return options;
}
