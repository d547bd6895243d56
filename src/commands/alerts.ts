// Incidents, and whether the receiver of alerts answers.
import type { Command } from "commander";
import { loadConfig } from "../config.ts";
import { sendTestAlert } from "../worker/alerts.ts";
import { parseCount } from "./options.ts";
import { withDatabase } from "./with-database.ts";

async function listIncidents({ json, limit }: { json?: boolean; limit: number }): Promise<void> {
  const { rows } = await withDatabase(({ pool }) =>
    pool.query<Record<string, string | null>>(
      `select incident_id as id, kind, subject, detail, run_id as "runId", strata.iso_time(opened_at) as "openedAt",
              strata.iso_time(resolved_at) as "resolvedAt"
       from strata.incidents order by resolved_at is not null, incident_id desc limit $1`,
      [limit],
    ),
  );
  if (json) return console.log(JSON.stringify({ incidents: rows }));
  if (rows.length === 0) return console.log("No incidents.");
  for (const { detail, openedAt, resolvedAt } of rows)
    console.log(`${openedAt}  ${resolvedAt ? `over at ${resolvedAt}` : "open"}  ${detail}`);
}

async function testReceiver({ json }: { json?: boolean }): Promise<void> {
  const config = loadConfig();
  if (config.ALERT_WEBHOOK_URL === undefined)
    throw new Error("ALERT_WEBHOOK_URL is not set, so nobody is told of incidents; see .env.example");
  const { host, status, ms } = await sendTestAlert(config);
  if (json) console.log(JSON.stringify({ host, status, ms }));
  else console.log(`${host} answered ${status} after ${ms} ms.`);
}

export function alertsCommand(command: Command): void {
  command
    .option("--limit <incidents>", "maximum number of incidents, open ones first", parseCount, 20)
    .action(listIncidents);
  command
    .command("test")
    .description("send a test message to ALERT_WEBHOOK_URL and show the response")
    .action((_options: unknown, test: Command) => testReceiver(test.optsWithGlobals()));
}
