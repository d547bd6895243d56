import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { Command } from "commander";
import { buildSchema, findBreakingChanges, introspectionFromSchema } from "graphql";
import { createGraphql } from "../graphql/graphql.ts";
import { root } from "../paths.ts";
import { withDatabase } from "./with-database.ts";

const file = new URL("schema.graphql", root);

export async function schema(options: { write?: boolean; json?: boolean }): Promise<void> {
  const sdl = await withDatabase(async (database, config) => {
    const graphql = createGraphql({ config, database });
    try {
      return await graphql.printSdl();
    } finally {
      await graphql.release();
    }
  });
  if (!options.write)
    return void process.stdout.write(
      options.json ? `${JSON.stringify(introspectionFromSchema(buildSchema(sdl)))}\n` : sdl,
    );
  if (existsSync(file)) reportBreakingChanges(readFileSync(file, "utf8"), sdl);
  writeFileSync(file, sdl);
}

function reportBreakingChanges(before: string, after: string): void {
  for (const { description } of findBreakingChanges(buildSchema(before), buildSchema(after)))
    process.stderr.write(`Breaking change: ${description}\n`);
}

export const schemaCommand = (command: Command): Command =>
  command.option("--write", "write to schema.graphql instead").action(schema);
