import type { Command } from "commander";
import { printStep } from "./pipeline.ts";

export const transformCommand = (command: Command): Command =>
  command.action((options: { json?: boolean }) => printStep({ step: "transform" }, options));
