// Reports present and impending faults, each with its remedy.
import { styleText } from "node:util";
import type { Command } from "commander";
import { loadConfig, type Config } from "../config.ts";
import { openDatabase, type Database } from "../database/connect.ts";
import { currentVersion, installedVersion } from "../database/migrate.ts";
import { nameOf } from "../database/nodes.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { findApiFaults } from "../doctor/api.ts";
import { findDrift } from "../doctor/catalogue.ts";
import { sqlChecks, type SqlCheck } from "../doctor/checks.ts";
import { examineReplica } from "../doctor/replicas.ts";
import { findTokenFailures, findTokenWarnings } from "../doctor/settings.ts";
import { closeBehind, note } from "./with-database.ts";

interface Finding {
  name: string;
  status: "ok" | "warning" | "failure" | "skipped";
  problems: string[];
  advice: string;
}

/** Problems shown of one check; a higher limit repeats the same finding more often. */
const MAX_PROBLEMS = 10;

const finding = (
  name: string,
  severity: "warning" | "failure" | "skipped",
  problems: string[],
  advice: string,
): Finding => ({ name, status: problems.length === 0 ? "ok" : severity, problems, advice });

export async function doctor(options: { json?: boolean }): Promise<void> {
  const config = loadConfig();
  const findings: Finding[] = [];
  const add = (found: Finding): void => {
    findings.push(found);
    if (!options.json) print(found);
  };
  add(
    finding(
      "tokens",
      "failure",
      await findTokenFailures(config),
      "See JWT_SECRET and JWKS_URL in .env.example",
    ),
  );
  add(
    finding(
      "token settings",
      "warning",
      findTokenWarnings(config),
      "See .env.example for the allowed values",
    ),
  );
  await examine(config, add);

  const failures = findings.filter(({ status }) => status === "failure").length;
  if (options.json) console.log(JSON.stringify({ ok: failures === 0, checks: findings }));
  else console.log(failures === 0 ? "\nNo failure." : `\n${failures} of ${findings.length} checks failed.`);
  if (failures > 0) process.exitCode = 1;
}

async function examine(config: Config, add: (found: Finding) => void): Promise<void> {
  let database: Database;
  try {
    database = await openDatabase(config);
  } catch (error) {
    return add(
      finding("database", "failure", [(error as Error).message], "Nothing else can be checked before that"),
    );
  }
  try {
    const { rows } = await database.pool.query<{ version: string }>(
      "select current_setting('server_version') as version",
    );
    add({ name: `database: PostgreSQL ${rows[0]!.version}`, status: "ok", problems: [], advice: "" });
    const [wanted, found] = [currentVersion(), await installedVersion(database.pool)];
    const version =
      found === wanted ? [] : [`The database has version ${found ?? "none"}, this Strata needs ${wanted}`];
    const advice =
      found !== undefined && found > wanted ? "Update Strata" : "Run: npx strata-graphql migrate";
    add(finding("schema version", "failure", version, advice));
    if (version.length > 0) return;
    add(
      finding(
        "API",
        "failure",
        await findApiFaults(config, database),
        "Correct the comment, grant or *.json5 file that it names, then run: npx strata-graphql migrate",
      ),
    );
    for (const check of sqlChecks)
      if (!(check.serverOnly && database.embedded)) add(await find(database, check));
    for (const [i, url] of config.READ_DATABASE_URLS.entries()) {
      const { name, failures, warnings } = await examineReplica(nameOf(i), url, config.DATABASE_URL!);
      const severity = failures.length > 0 ? "failure" : "warning";
      add(finding(name, severity, [...failures, ...warnings], "See docs/how-to/replicas.md"));
    }
    await compare(database, add);
  } finally {
    closeBehind(database);
  }
}

/** A materialized view that was never filled, as after a restore without data, cannot be read. */
const NOT_READY = "55000";

async function find(
  { pool }: Database,
  { name, severity, sql, parameters, advice }: SqlCheck,
): Promise<Finding> {
  try {
    const { rows } = await pool.query<{ problem: string }>(sql, parameters?.());
    return finding(
      name,
      severity,
      rows.map(({ problem }) => problem),
      advice,
    );
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === NOT_READY)
      return finding(name, "skipped", [message], "Fill it first: see materialized views");
    if (isUnavailable(error)) throw error;
    // A query of one's own, such as that of a metric, may fail: the other checks are worth no less.
    return finding(name, "failure", [`It cannot be checked: ${message}`], advice);
  }
}

async function compare(database: Database, add: (found: Finding) => void): Promise<void> {
  const name = "schema against its files";
  note("applying the schema to an empty database, to compare with it …");
  try {
    const { missing, changed, unexpected } = await findDrift(database);
    const wrong = [
      ...missing.map((object) => `missing: ${object}`),
      ...changed.map((object) => `changed: ${object}`),
    ];
    add(finding(name, "failure", wrong, "Run: npx strata-graphql migrate; what remains was changed by hand"));
    add(
      finding(
        "additions to the machinery",
        "warning",
        unexpected,
        "Strata did not create them; make sure that they are wanted",
      ),
    );
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code !== "42501") throw error;
    add(
      finding(
        name,
        "skipped",
        [message],
        "Give the login createdb for this check: it needs an empty database",
      ),
    );
  }
}

const MARKS = {
  ok: styleText("green", "✓"),
  warning: styleText("yellow", "!"),
  failure: styleText("red", "✗"),
  skipped: styleText("dim", "–"),
};

function print({ name, status, problems, advice }: Finding): void {
  console.log(`${MARKS[status]} ${name}`);
  for (const problem of problems.slice(0, MAX_PROBLEMS)) console.log(`    ${problem}`);
  if (problems.length > MAX_PROBLEMS) console.log(`    and ${problems.length - MAX_PROBLEMS} more`);
  if (problems.length > 0) console.log(`    → ${advice}`);
}

export const doctorCommand = (command: Command): Command => command.action(doctor);
