// Prints the server's addresses for a person at the terminal, once it answers.
import { styleText } from "node:util";
import type { Config } from "../config.ts";
import type { Database } from "../database/connect.ts";
import { createToken } from "../http/token.ts";

export type Say = (line: string) => void;

export const say: Say = (line) => void process.stdout.write(`${line}\n`);

interface Announcement {
  config: Config;
  database: Database;
  port: number;
  startedAt: number;
  /** Receives the addresses as an object, for programs, in place of the text. */
  tell?: ((facts: object) => void) | undefined;
}

export async function announce({ config, database, port, startedAt, tell }: Announcement): Promise<void> {
  const host = ["0.0.0.0", "::", "127.0.0.1"].includes(config.HOST) ? "localhost" : config.HOST;
  const origin = `http://${host}:${port}`;
  const token = database.embedded
    ? await createToken(config, { role: "strata_operator", subject: "operator", ttl: "7d" })
    : undefined;
  if (tell)
    return tell({
      studio: `${origin}/`,
      graphql: `${origin}/graphql`,
      graphiql: `${origin}/graphiql`,
      operatorToken: token,
    });
  const link = (text: string): string => styleText(["cyan", "underline"], text);
  say("");
  say(`Strata is ready after ${((Date.now() - startedAt) / 1000).toFixed(1)} s.`);
  say("");
  // The fragment never reaches the server; the studio takes the token out of the address at once.
  say(`  Studio     ${link(token ? `${origin}/#token=${token}` : `${origin}/`)}`);
  say(`  GraphiQL   ${link(`${origin}/graphiql`)}`);
  say(`  GraphQL    ${origin}/graphql`);
  if (token) {
    say("");
    say(
      "An operator token for 7 days (more: npx strata-graphql token --role operator), and a mutation with it:",
    );
    say("");
    say(`  TOKEN=${token}`);
    say("");
    say(
      `  curl -s ${origin}/graphql -H "authorization: Bearer $TOKEN" -H "content-type: application/json" ` +
        `-d '{"query":"mutation { refreshAnalytics { run { status durationMs rowsWritten } } }"}'`,
    );
  }
  say("");
  say("Stop it with Ctrl-C.");
}
