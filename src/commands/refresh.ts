import type { Command } from "commander";
import { printStep } from "./pipeline.ts";

export const refreshCommand = (command: Command): Command =>
  command
    .option("--full", "rebuild everything, not only what changed")
    .action((options: { json?: boolean; full?: boolean }) =>
      printStep({ step: "refresh", full: options.full ?? false }, options),
    );
