import type { Command } from "commander";
import { parseDays } from "./options.ts";
import { printStep } from "./pipeline.ts";

export const cleanupCommand = (command: Command): Command =>
  command
    .option("--days <days>", "retention of transformed rows in days (default: RETENTION_DAYS)", parseDays)
    .action((options: { json?: boolean; days?: number }) =>
      printStep({ step: "cleanup", daysToKeep: options.days }, options),
    );
