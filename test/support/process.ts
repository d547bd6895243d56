// Strata as its users start it: a process of its own, with nothing of this one's environment but the paths.
import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

const cli = fileURLToPath(new URL("../../src/cli.ts", import.meta.url));

export interface Strata {
  child: ChildProcessWithoutNullStreams;
  /** Everything it wrote so far. */
  output: { stdout: string; stderr: string };
  /** Its exit code; null if a signal ended it. */
  exit: Promise<number | null>;
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

export function startStrata(
  args: string[],
  environment: Record<string, string> = {},
  nodeArguments: string[] = [],
): Strata {
  const child = spawn(process.execPath, [...nodeArguments, cli, ...args], {
    env: {
      PATH: process.env.PATH!,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      NO_COLOR: "1",
      ...environment,
    },
    // Not the project's folder: a developer's .env must not matter here.
    cwd: "/",
    stdio: ["pipe", "pipe", "pipe"],
  });
  const output = { stdout: "", stderr: "" };
  child.stdout.on("data", (data: Buffer) => (output.stdout += String(data)));
  child.stderr.on("data", (data: Buffer) => (output.stderr += String(data)));
  const exit = once(child, "close").then(([code]) => code as number | null);
  return {
    child,
    output,
    exit,
    stop: (signal = "SIGTERM") => {
      child.kill(signal);
      return exit;
    },
  };
}

export async function runStrata(args: string[], environment?: Record<string, string>) {
  const strata = startStrata(args, environment);
  const code = await strata.exit;
  return { code, ...strata.output };
}

export interface Server extends Strata {
  url: string;
}

/** `strata serve` on a free port; resolves once it listens, ready or not. */
export async function startServer(environment: Record<string, string>, args: string[] = []): Promise<Server> {
  const port = String(await freePort());
  const strata = startStrata(["serve", ...args], { LOG_LEVEL: "warn", ...environment, PORT: port });
  const url = `http://127.0.0.1:${port}`;
  await until(async () => {
    if (strata.child.exitCode !== null) throw new Ended(`serve ended: ${strata.output.stderr}`);
    return (await fetch(`${url}/healthz`)).ok;
  });
  return Object.assign(strata, { url });
}

export async function startReadyServer(
  environment: Record<string, string>,
  args?: string[],
): Promise<Server> {
  const server = await startServer(environment, args);
  await until(async () => {
    if (server.child.exitCode !== null) throw new Ended(`serve ended: ${server.output.stderr}`);
    return (await readiness(server)).status === 200;
  });
  return server;
}

export async function readiness({ url }: Server) {
  const response = await fetch(`${url}/readyz`);
  const body = (await response.json()) as { checks: Record<string, { ok: boolean; detail: string }> };
  return { status: response.status, retryAfter: response.headers.get("retry-after"), checks: body.checks };
}

export async function graphql({ url }: { url: string }, token: string, query: string) {
  const response = await fetch(`${url}/graphql`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ query }),
  });
  const body = (await response.json()) as { data?: any; errors?: { message: string; extensions: any }[] };
  return { status: response.status, retryAfter: response.headers.get("retry-after"), ...body };
}

class Ended extends Error {}

/** Asks until the answer is true; what it throws counts as "not yet". */
export async function until(ask: () => Promise<boolean>, seconds = 60): Promise<void> {
  let last: unknown = "the answer stayed no";
  for (const deadline = Date.now() + seconds * 1000; Date.now() < deadline; await sleep(100)) {
    try {
      if (await ask()) return;
    } catch (error) {
      if (error instanceof Ended) throw error;
      last = error;
    }
  }
  throw new Error(`Not within ${seconds} s: ${String(last)}`);
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
