import type { Command } from "commander";
import { badOption } from "../ingest/faults.ts";
import { parseDate } from "./options.ts";
import { printStep } from "./pipeline.ts";

interface RefreshOptions {
  json?: boolean;
  full?: boolean;
  from?: string;
  to?: string;
}

async function refresh(options: RefreshOptions): Promise<void> {
  const { full = false, from, to } = options;
  if ((from === undefined) !== (to === undefined) || (from ?? "") > (to ?? ""))
    throw badOption(`A range has --from and --to, the first and the last day; given: ${from} to ${to}`);
  await printStep({ step: "refresh", full, from, to }, options);
}

export const refreshCommand = (command: Command): Command =>
  command
    .option("--full", "recompute everything, not only what changed")
    .option(
      "--from <day>",
      "first day of a range to recompute in metrics by day, besides what changed",
      parseDate,
    )
    .option("--to <day>", "last day of the range", parseDate)
    .action(refresh);
