import { styleText } from "node:util";
import type { Pool } from "pg";
import { withDatabase } from "./with-database.ts";

export interface QuarantineOptions {
  json?: boolean;
  limit: number;
  reason?: string;
  ids?: string[];
  all?: boolean;
}

/** Lists what was rejected and why: how many for each reason, then the latest rows. */
export async function listQuarantine({ json, limit, reason }: QuarantineOptions): Promise<void> {
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

export const retryQuarantined = (options: QuarantineOptions & { patch?: string }): Promise<void> =>
  change("retried", options, (pool) =>
    pool.query("select analytics.retry_quarantined($1, $2, $3, $4) as count", [
      ...selection(options),
      options.patch ?? null,
    ]),
  );

export const discardQuarantined = (options: QuarantineOptions): Promise<void> =>
  change("discarded", options, (pool) =>
    pool.query("select analytics.discard_quarantined($1, $2, $3) as count", selection(options)),
  );
