import type { Command } from "commander";
import { printStep } from "./pipeline.ts";

export const runCommand = (command: Command): Command =>
  command.action((options: { json?: boolean }) => printStep({ step: "pipeline" }, options));
