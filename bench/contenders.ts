// Starts and stops the servers that are compared, each a process of its own.
import { randomBytes } from "node:crypto";
import { spawn, type ChildProcess } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Work } from "./work.ts";

export const root = fileURLToPath(new URL("..", import.meta.url));
const JWT_SECRET = randomBytes(32).toString("base64url");

export interface Contender {
  name: string;
  url: string;
  headers: Record<string, string>;
  path(work: string): string;
  body(work: Work, n: number): string;
  pid: number;
  stop: () => void;
}

interface Definition {
  args: string[];
  env?: Record<string, string>;
  health: string;
  headers?: Record<string, string>;
  path?: (work: string) => string;
  document?: (work: Work) => string;
}

const peer = (name: string, path = "/graphql"): Definition => ({
  args: [`bench/peers/${name}.ts`],
  health: path,
});
const graphql = (work: Work): string => work.graphql;

const definitions: Record<string, Definition> = {
  "hand-written SQL": { ...peer("hand-written"), path: (work) => `/${work}` },
  Strata: {
    args: ["src/cli.ts", "serve", "--no-worker"],
    // As shipped: a token's role, limits and cache on, a log line per request.
    // The rate limit counts, but nobody sends this much from one address.
    env: { JWT_SECRET, NODE_ENV: "production", RATE_LIMIT_COST: "100000000000" },
    health: "/graphql",
  },
  Mercurius: peer("mercurius"),
  Apollo: peer("apollo"),
  PostGraphile: {
    ...peer("postgraphile"),
    env: { GRAPHILE_ENV: "production", NODE_ENV: "production" },
    document: (work) => work.stock ?? work.graphql,
  },
};
export const names = Object.keys(definitions);

let nextPort = 4300 + (process.pid % 500) * 4;

export async function start(
  name: string,
  databaseUrl: string,
  env: Record<string, string> = {},
  folder = root,
): Promise<Contender> {
  const definition = definitions[name]!;
  const port = nextPort++;
  const { args, health, path = () => "/graphql", document = graphql } = definition;
  const child: ChildProcess = spawn(process.execPath, args, {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, DATABASE_URL: databaseUrl, PORT: String(port), ...definition.env, ...env },
  });
  const url = `http://127.0.0.1:${port}`;
  for (let i = 0; ; i++) {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
    if (
      await fetch(url + health).then(
        ({ status }) => status !== 503,
        () => false,
      )
    )
      break;
    if (i === 300) {
      child.kill("SIGKILL");
      throw new Error(`${name} does not answer`);
    }
    await sleep(100);
  }
  const authorization: Record<string, string> =
    name === "Strata" ? { authorization: `Bearer ${await token()}` } : {};
  return {
    name,
    url,
    headers: { "content-type": "application/json", ...authorization },
    path,
    pid: child.pid!,
    body: (work, n) =>
      JSON.stringify(
        path("") === "/"
          ? { variables: work.variables(n) }
          : { query: document(work), variables: work.variables(n) },
      ),
    stop: () => child.kill("SIGKILL"),
  };
}

async function token(): Promise<string> {
  const { loadConfig } = await import("../src/config.ts");
  const { createToken } = await import("../src/http/token.ts");
  return createToken(loadConfig({ JWT_SECRET }), { role: "strata_reader", ttl: "1d" });
}
