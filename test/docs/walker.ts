// Follows a page as its reader does: commands in a folder, SQL into files or the database, queries to the server.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/database/connect.ts";
import { createToken } from "../../src/http/token.ts";
import { createPlace } from "../support/database.ts";
import { freePort, graphql, until } from "../support/process.ts";
import { fileOf, root, type Page } from "./pages.ts";

export interface Walk {
  /** Where the reader is. */
  folder(): string;
  /** What each block of commands printed, by its text. */
  outputs: Map<string, string>;
  /** Data of the queries, in their order. */
  answers: any[];
  follow(page: Page): Promise<void>;
  run(script: string): Promise<string>;
  end(): Promise<void>;
}

/** The address of a server in the pages; each walk has a port of its own. */
const ADDRESS = "localhost:4000";
/** Goes on for as long as the page: a reader takes a second terminal. */
const SERVES = /^((?:npm ci && )?npm start|npx strata-graphql serve)$/m;

function inOrder(value: unknown): unknown {
  if (Array.isArray(value))
    return value.map(inOrder).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inOrder(item)]));
}

export async function createWalk(): Promise<Walk> {
  const place = await createPlace();
  const base = mkdtempSync(join(tmpdir(), "strata-walk-"));
  const state = join(base, "state");
  const port = String(await freePort());
  // `npx strata-graphql` of the pages is this working copy, which lies where an installed package would, and beside the
  // examples, as in the repository. What `npm ci`, `npm pack` and `npm test` do is for the gate to prove.
  mkdirSync(join(base, "bin"));
  const script = (name: string, text: string): void =>
    writeFileSync(join(base, "bin", name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  script(
    "npx",
    `[ "$1" = strata-graphql ] || exit 1; shift\nexec "${process.execPath}" "${join(root, "src/cli.ts")}" "$@"`,
  );
  script("npm", `case "$1" in ci|test) exit 0;; *) exit 1;; esac`);
  symlinkSync(process.execPath, join(base, "bin/node"));
  symlinkSync(join(root, "examples"), join(base, "examples"));
  mkdirSync(join(base, "node_modules"));
  symlinkSync(root, join(base, "node_modules/strata-graphql"));
  writeFileSync(state, `cd '${base}'\n`);
  const environment: Record<string, string> = {
    PATH: `${join(base, "bin")}:${process.env.PATH}`,
    HOME: base,
    NO_COLOR: "1",
    ...place.environment,
    ANONYMOUS_ROLE: "reader",
    PORT: port,
  };
  const servers: ChildProcess[] = [];
  const outputs = new Map<string, string>();
  const answers: any[] = [];

  const start = (script: string) =>
    spawn("sh", ["-ec", `. '${state}'\n${script}`], { cwd: base, env: environment, detached: true });

  /** What a shell remembers from one command to the next: its folder and its variables. */
  async function run(script: string): Promise<string> {
    const child = start(
      `set -a\n${script.replaceAll(ADDRESS, `127.0.0.1:${port}`)}\nset +a\n{ export -p; printf "cd '%s'\\n" "$PWD"; } > '${state}.new'\nmv '${state}.new' '${state}'`,
    );
    let output = "";
    child.stdout.on("data", (data: Buffer) => (output += String(data)));
    child.stderr.on("data", (data: Buffer) => (output += String(data)));
    const [code] = (await once(child, "close")) as [number];
    if (code !== 0) throw new Error(`Exit code ${code} of:\n${script}\n\n${output}`);
    return output;
  }

  async function serve(): Promise<void> {
    if (servers.length > 0) return;
    const server = start("exec npx strata-graphql serve > server.log 2>&1");
    servers.push(server);
    await until(async () => {
      if (server.exitCode !== null) throw new Error(readFileSync(join(folder(), "server.log"), "utf8"));
      return (await fetch(`http://127.0.0.1:${port}/readyz`)).ok;
    }, 120);
  }

  const folder = (): string =>
    /^cd '(.*)'$/m.exec(
      readFileSync(state, "utf8")
        .split("\n")
        .findLast((line) => line.startsWith("cd "))!,
    )![1]!;

  async function execute(sql: string): Promise<void> {
    const file = fileOf(sql);
    if (file) {
      mkdirSync(dirname(join(folder(), file)), { recursive: true });
      writeFileSync(join(folder(), file), sql);
      return;
    }
    const database = await openDatabase(loadConfig(place.environment));
    try {
      await database.pool.query(sql);
    } finally {
      await database.close();
    }
  }

  /** A server notices new datasets within seconds; until then it does not know their fields. */
  async function ask(query: string): Promise<void> {
    const token = await createToken(loadConfig(place.environment), { role: "strata_operator" });
    await serve();
    let errors: { message: string }[] | undefined;
    await until(async () => {
      const answer = await graphql({ url: `http://127.0.0.1:${port}` }, token, query);
      errors = answer.errors;
      if (!errors) answers.push(answer.data);
      return !errors?.some(({ message }) => message.startsWith("Cannot query field"));
    }, 30);
    // Valid, or it would have been refused for something else before.
    if (/^\s*subscription\b/.test(query) && errors?.[0]?.message.includes("require WebSocket")) return;
    if (errors) throw new Error(`${errors.map(({ message }) => message).join("\n")}\n\n${query}`);
  }

  function quote(text: string): void {
    const said = [...outputs.values()].join("\n").replace(/ +/g, " ");
    for (const line of text.trim().split("\n")) expect(said).toContain(line.trim().replace(/ +/g, " "));
  }

  return {
    folder,
    outputs,
    answers,
    run,
    async follow({ blocks }) {
      for (const [place, { language, text }] of blocks.entries()) {
        if (language === "sql") await execute(text);
        // The answer to the query above it; groups come in any order.
        else if (language === "json" && blocks[place - 1]?.language === "graphql")
          expect({ data: inOrder(answers.at(-1)) }).toEqual(inOrder(JSON.parse(text)));
        // What the page quotes is what its commands have said so far.
        else if (language === "text") quote(text);
        else if (language === "graphql") await ask(text);
        else if (language === "sh") {
          const printed: string[] = [];
          for (const part of text.trim().split(SERVES))
            if (SERVES.test(part)) await serve();
            else if (part.trim() !== "") printed.push(await run(part));
          outputs.set(text.trim(), printed.join("\n"));
        }
      }
    },
    async end() {
      for (const server of servers) {
        if (server.exitCode !== null) continue;
        server.kill();
        await once(server, "close");
      }
      await place.remove();
      rmSync(base, { recursive: true, force: true });
    },
  };
}
