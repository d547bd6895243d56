// Once a run: one database with schema.sql, which every test file gets a copy of.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { loadConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/database/connect.ts";
import { applySchema } from "../../src/database/migrate.ts";
import { migrateWorker } from "../../src/worker/worker.ts";
import { asAdministrator, serverUrl } from "./server.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** The data folder, or on a server the database, that has the schema and no rows. */
    template: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const template = serverUrl
    ? `strata_template_${process.pid}`
    : mkdtempSync(join(tmpdir(), "strata-template-"));
  project.provide("template", template);
  const url = serverUrl && new URL(serverUrl);
  if (url) {
    await asAdministrator((pool) => pool.query(`create database ${template}`));
    url.pathname = `/${template}`;
  }
  const database = await openDatabase(loadConfig(url ? { DATABASE_URL: url.href } : { DATA_DIR: template }));
  await applySchema(database.pool);
  await migrateWorker(database.pool);
  await database.close();
  return async () => {
    // A skipped test is reported as skipped; these are the reasons.
    if (process.env.TEST_LONG !== "1")
      console.log("\nSkipped as long: TEST_LONG=1 npm test runs these tests, too.");
    if (!serverUrl)
      console.log("Skipped for want of a server: TEST_DATABASE_URL=postgres://… npm test has one.");
    if (serverUrl)
      await asAdministrator((pool) => pool.query(`drop database if exists ${template} with (force)`));
    else rmSync(template, { recursive: true, force: true });
  };
}
