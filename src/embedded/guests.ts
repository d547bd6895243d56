// Clients that are not Strata's own: psql and BI tools on the port of the embedded database. They share the engine's one
// session, so each of their transactions begins with the login's settings and role, and ends with Strata's own again.
// The role is a convention, not a wall: the session is a superuser's, and a client that sets another role has it. So the
// port listens on 127.0.0.1 alone, and asks for a password.
import pg from "pg";
import { isPasswordOf } from "../database/scram.ts";

/** Runs SQL in turn with other connections and returns the rows as text. */
export type Ask = (sql: string) => Promise<(string | null)[][]>;

export interface Guest {
  login: string;
  /** Settings of the login and its client, stored between transactions, since the session is shared. */
  settings: Map<string, string>;
}

/** A rejection as PostgreSQL would send it. */
export interface Rejected {
  code: string;
  message: string;
}

/** Settings that clients may send when they connect. */
const OF_STARTUP = new Set([
  "application_name",
  "timezone",
  "datestyle",
  "extra_float_digits",
  "intervalstyle",
]);

export const parametersOf = (body: Buffer): Map<string, string> => {
  const words = body.toString("utf8").split("\0");
  const parameters = new Map<string, string>();
  for (let i = 0; i + 1 < words.length && words[i] !== ""; i += 2) parameters.set(words[i]!, words[i + 1]!);
  return parameters;
};

/** Returns the guest if the password is correct. */
export async function admit(
  ask: Ask,
  parameters: Map<string, string>,
  password: string,
  connectedAs: (login: string) => number,
): Promise<Guest | Rejected> {
  const login = parameters.get("user") ?? "";
  const [row] = await ask(
    `select a.rolpassword, a.rolconnlimit::text, coalesce(to_jsonb(s.setconfig)::text, '[]')
     from pg_catalog.pg_authid a left join pg_catalog.pg_db_role_setting s on s.setrole = a.oid and s.setdatabase = 0
     where a.rolname = ${pg.escapeLiteral(login)} and a.rolcanlogin and not a.rolsuper`,
  );
  const [verifier, limit, config] = row ?? [];
  if (!verifier || !isPasswordOf(password, verifier))
    return { code: "28P01", message: `password authentication failed for user "${login}"` };
  if (Number(limit) >= 0 && connectedAs(login) >= Number(limit))
    return { code: "53300", message: `too many connections for role "${login}"` };
  const settings = new Map(
    (JSON.parse(config!) as string[]).map((entry) => {
      const [name = "", ...value] = entry.split("=");
      return [name, value.join("=")];
    }),
  );
  for (const [name, value] of parameters)
    if (OF_STARTUP.has(name.toLowerCase())) settings.set(name.toLowerCase(), value);
  return { login, settings };
}

const setAll = (settings: Map<string, string>): string =>
  settings.size === 0
    ? "select"
    : `select ${[...settings].map(([name, value]) => `pg_catalog.set_config(${pg.escapeLiteral(name)}, ${pg.escapeLiteral(value)}, false)`).join(", ")}`;

/** SQL to run before a guest's transaction. */
export const entering = ({ login, settings }: Guest): string =>
  `${setAll(settings)}; set role ${pg.escapeIdentifier(login)}`;

export const SETTINGS =
  "select name, pg_catalog.current_setting(name), 'setting' from pg_catalog.pg_settings where source = 'session'";

export const settingsOf = (rows: (string | null)[][]): Map<string, string> =>
  new Map(
    rows.flatMap(([name, value, kind]) =>
      kind === "setting" && name != null && value != null ? [[name, value] as const] : [],
    ),
  );

/** SQL to run after a guest's transaction; `own` are the session's settings without guests. */
export const leaving = (own: Map<string, string>): string =>
  `reset session authorization; reset role; ${SETTINGS}; reset all; ${setAll(own)}`;

const REFUSED = /^\s*(discard|listen|unlisten|deallocate\s+all|reset\s+all)\b/i;

/**
 * Returns the SQL of an error to run in place of statements that would remove Strata's listeners, locks and prepared
 * statements from the session.
 */
export function harmless(sql: string): string | undefined {
  const [, word] = REFUSED.exec(sql) ?? [];
  if (word === undefined) return undefined;
  const message = `${word.toUpperCase()} is not possible here: all connections to the embedded database share one session`;
  return `do $guest$ begin raise feature_not_supported using message = ${pg.escapeLiteral(message)}; end $guest$`;
}
