// A fresh database with schema.sql applied: on the embedded engine, or on TEST_DATABASE_URL's server.
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { inject } from "vitest";
import { loadConfig, type Config } from "../../src/config.ts";
import { openDatabase, type Database } from "../../src/database/connect.ts";
import { asAdministrator, serverUrl } from "./server.ts";

export interface TestDatabase extends Database {
  config: Config;
  /** What a process of its own needs to work on this database. */
  environment: Record<string, string>;
  drop(): Promise<void>;
}

/** For tests of what only a server has: several sessions, cancel, time-outs. */
export const isServer = serverUrl !== undefined;

const JWT_SECRET = "a secret of the tests, long enough for HS256";

export async function createDatabase(environment: Record<string, string> = {}): Promise<TestDatabase> {
  const place = await createPlace(environment);
  const config = loadConfig(place.environment);
  const database = await openDatabase(config);
  return {
    ...database,
    config,
    environment: place.environment,
    drop: async () => {
      await database.close();
      await place.remove();
    },
  };
}

/** A database without Strata's schema. */
export async function createEmptyDatabase(): Promise<TestDatabase> {
  const place = isServer ? await createOnServer("template0") : createEmptyFolder();
  const config = loadConfig({ JWT_SECRET, ANONYMOUS_ROLE: "", LOG_LEVEL: "silent", ...place.environment });
  const database = await openDatabase(config);
  const drop = async (): Promise<void> => {
    await database.close();
    await place.remove();
  };
  return { ...database, config, environment: place.environment, drop };
}

export interface Place {
  environment: Record<string, string>;
  remove(): Promise<void>;
}

/** A database that nobody has opened yet, a copy of the template: for tests that start processes on it. */
export async function createPlace(
  environment: Record<string, string> = {},
  template = inject("template"),
): Promise<Place> {
  const place = isServer ? await createOnServer(template) : createEmbedded(template);
  const defaults = { JWT_SECRET, ANONYMOUS_ROLE: "", PORT: "0", LOG_LEVEL: "silent" };
  return { ...place, environment: { ...defaults, ...place.environment, ...environment } };
}

/** The template of copies of a place, to be prepared once for many tests; nobody may have it open. */
export const templateOf = ({ environment }: Place): string =>
  isServer ? new URL(environment.DATABASE_URL!).pathname.slice(1) : environment.DATA_DIR!;

function createEmbedded(template: string) {
  const place = createEmptyFolder();
  cpSync(template, place.environment.DATA_DIR, { recursive: true });
  return place;
}

function createEmptyFolder() {
  const dataDir = mkdtempSync(join(tmpdir(), "strata-test-"));
  return {
    environment: { DATA_DIR: dataDir },
    remove: () => Promise.resolve(rmSync(dataDir, { recursive: true, force: true })),
  };
}

async function createOnServer(template = inject("template")) {
  const name = `strata_test_${randomBytes(6).toString("hex")}`;
  await asAdministrator((pool) => pool.query(`create database ${name} template ${template}`));
  const url = new URL(serverUrl!);
  url.pathname = `/${name}`;
  return {
    environment: { DATABASE_URL: url.href },
    remove: () => asAdministrator((pool) => pool.query(`drop database if exists ${name} with (force)`)),
  };
}
