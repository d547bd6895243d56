import type { Command } from "commander";
import { badOption } from "../ingest/faults.ts";
import { parseTime } from "./options.ts";
import { printStep } from "./pipeline.ts";

interface TransformOptions {
  json?: boolean;
  replay?: boolean;
  since?: string;
  until?: string;
}

async function transform(dataset: string | undefined, options: TransformOptions): Promise<void> {
  const { replay, since, until } = options;
  if (!replay && (dataset ?? since ?? until) !== undefined)
    throw badOption("A dataset, --since and --until are for --replay; without it all new rows are taken");
  if (replay && dataset === undefined)
    throw badOption("Say which dataset to replay: transform <dataset> --replay");
  if (
    since !== undefined &&
    until !== undefined &&
    (since === until || Date.parse(since) > Date.parse(until))
  )
    throw badOption(`--since (${since}) must be earlier than --until (${until})`);
  const replays = replay ? [{ dataset: dataset!, since, until }] : undefined;
  await printStep({ step: "transform", replays }, options);
}

export const transformCommand = (command: Command): Command =>
  command
    .argument("[dataset]", "dataset to replay, such as users")
    .option(
      "--replay",
      "take the dataset's rows in staging again, by the current mapping and rules, then the new rows",
    )
    .option("--since <time>", "replay rows that arrived at or after this time, such as 2026-01-31", parseTime)
    .option("--until <time>", "replay rows that arrived before this time", parseTime)
    .action(transform);
