import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { InvalidArgumentError, type Command } from "commander";
import { isRole, toRole } from "../config.ts";
import { verifierOf } from "../database/scram.ts";
import { badOption } from "../ingest/faults.ts";
import { parseCount } from "./options.ts";
import { note, withDatabase } from "./with-database.ts";

interface CreateOptions {
  role: string;
  passwordFile?: string;
  connections: number;
  statementTimeout: string;
  json?: boolean;
}

interface LoginRow {
  login: string;
  role_name: string;
  connections: number;
  connection_limit: number;
  statement_timeout: string | null;
  is_read_only: boolean;
}

const PASSWORD_BYTES = 24;
/** Minimum length, in characters, of a password that the user chooses. */
const MIN_PASSWORD = 12;

function passwordFrom(file: string): string {
  const text = readFileSync(file === "-" ? 0 : file, "utf8").replace(/\r?\n$/, "");
  if (text.length >= MIN_PASSWORD && /^[ -~]+$/.test(text)) return text;
  throw badOption(
    `The password must be one line of at least ${MIN_PASSWORD} printable characters of ASCII; it has ${text.length} characters`,
  );
}

/** SQLSTATEs that are caused by the command's arguments, not by the state of the database. */
const WRONG_USAGE = ["22023", "42710", "42704"];

const asUsage = (error: unknown): never => {
  const { code, message } = error as { code?: string; message: string };
  throw WRONG_USAGE.includes(code ?? "") ? badOption(message) : error;
};

async function createLogin(login: string, options: CreateOptions): Promise<void> {
  const { passwordFile, connections, statementTimeout, json } = options;
  const short = toRole(options.role);
  const role = isRole(short) ? short : options.role;
  const password = passwordFile === undefined ? undefined : passwordFrom(passwordFile);
  const made = password ?? randomBytes(PASSWORD_BYTES).toString("base64url");
  const schema = await withDatabase(async ({ pool, embedded }, config) => {
    if (embedded && config.EMBEDDED_PORT === undefined)
      note("Nobody can log in to the embedded database until EMBEDDED_PORT opens a port of it");
    const { rows } = await pool
      .query<{ schema: string }>("select strata.create_login($1, $2, $3, $4, $5) as schema", [
        login,
        role,
        verifierOf(made),
        connections,
        statementTimeout,
      ])
      .catch(asUsage);
    return rows[0]!.schema;
  });
  const facts = { login, role, searchPath: [schema, "analytics", "production", "public"] };
  if (json)
    return console.log(JSON.stringify({ ...facts, ...(password === undefined && { password: made }) }));
  console.log(
    `The login "${login}" reads as ${role}; unqualified names are looked up in ${facts.searchPath.join(", ")}.`,
  );
  if (password === undefined) console.log(`Its password, which is not shown again: ${made}`);
}

async function listLogins({ json }: { json?: boolean }): Promise<void> {
  const { rows } = await withDatabase(({ pool }) =>
    pool.query<LoginRow>("select * from strata.login_rows()"),
  );
  const logins = rows.map((row) => ({
    login: row.login,
    role: row.role_name,
    connections: row.connections,
    connectionLimit: row.connection_limit,
    statementTimeout: row.statement_timeout,
    readOnly: row.is_read_only,
  }));
  if (json) return console.log(JSON.stringify(logins));
  if (logins.length === 0)
    return console.log("No logins: npx strata-graphql login create <name> --role reader");
  for (const { login, role, connections, connectionLimit, statementTimeout, readOnly } of logins)
    console.log(
      `${login}  ${role}${readOnly ? ", read only" : ""}  ${connections} of ${connectionLimit} connections  statements up to ${statementTimeout}`,
    );
}

async function dropLogin(login: string, { json }: { json?: boolean }): Promise<void> {
  await withDatabase(({ pool }) => pool.query("select strata.drop_login($1)", [login]).catch(asUsage));
  console.log(json ? JSON.stringify({ dropped: login }) : `The login "${login}" is dropped.`);
}

function parseLogin(value: string): string {
  if (/^[a-z_][a-z0-9_]{0,62}$/.test(value) && !/^(pg|strata)_/.test(value)) return value;
  throw new InvalidArgumentError(
    "Allowed: small letters, digits and _, not first a digit, at most 63, and not with pg_ or strata_ in front.",
  );
}

function parseDuration(value: string): string {
  if (/^\d{1,9}(ms|s|min|h)$/.test(value)) return value;
  throw new InvalidArgumentError("Allowed: a number and ms, s, min or h.");
}

export function loginCommand(command: Command): void {
  command
    .command("create")
    .description("create a login for a BI tool or psql that may read what its role may")
    .argument("<name>", "name of the login", parseLogin)
    .requiredOption("--role <role>", "reader, ingestor, operator, or a database role that is a member of one")
    .option(
      "--password-file <file>",
      "read the password from a file, - for standard input (default: a random one)",
    )
    .option("--connections <count>", "maximum number of connections", parseCount, 10)
    .option(
      "--statement-timeout <duration>",
      "maximum time of a statement, such as 30s or 5min",
      parseDuration,
      "60s",
    )
    .action((name: string, _options: unknown, create: Command) =>
      createLogin(name, create.optsWithGlobals()),
    );
  command
    .command("list")
    .description("list the logins that this command has created")
    .action((_options: unknown, list: Command) => listLogins(list.optsWithGlobals()));
  command
    .command("drop")
    .description("drop a login and close its connections")
    .argument("<name>", "name of the login")
    .action((name: string, _options: unknown, drop: Command) => dropLogin(name, drop.optsWithGlobals()));
}
