/** @module-tag long */
// The package as its user meets it: packed, installed into an empty folder, started on every Node that is promised.
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { freePort, graphql, until } from "../support/process.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
/** MB in node_modules; what it is now and a little more. */
const LARGEST = 70;
/** Characters of JavaScript that Node reads for `strata --help` and `strata token`; a library of GraphQL has a million. */
const LARGEST_HELP = 200_000;
const LARGEST_TOKEN = 700_000;

let folder: string;
let tarball: string;
const servers: ChildProcess[] = [];

/** Where npm finds the registry. Its other variables speak of the clone, when it has started these tests. */
const KEPT =
  /^(HOME|NODE_EXTRA_CA_CERTS|npm_config_(registry|cache|userconfig|globalconfig)|(https?|no)_proxy)$/i;

const environment = (node?: string): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => KEPT.test(name))),
  PATH: node ? [node, process.env.PATH].join(delimiter) : process.env.PATH,
  NO_COLOR: "1",
  npm_config_audit: "false",
  npm_config_fund: "false",
  npm_config_update_notifier: "false",
});

const run = (command: string, cwd: string, node?: string): string =>
  execFileSync("sh", ["-c", `exec 2>&1; ${command}`], { cwd, env: environment(node), encoding: "utf8" });

describe.skipIf(isServer)("the package", { timeout: 600_000 }, () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "strata-package-"));
    run(`npm pack --pack-destination ${folder}`, root);
    tarball = join(
      folder,
      readdirSync(folder).find((name) => name.endsWith(".tgz"))!,
    );
  }, 300_000);

  afterAll(async () => {
    for (const server of servers) {
      if (server.exitCode !== null || server.signalCode !== null) continue;
      server.kill("SIGKILL");
      await once(server, "close");
    }
    rmSync(folder, { recursive: true, force: true });
  });

  test.each(["20", "22", "24"])("from an empty folder to an answer on Node %s", async (version) => {
    const tools = join(folder, `node-${version}`);
    mkdirSync(tools);
    run(`npm init -y && npm i node@${version}`, tools);
    const node = dirname(
      execFileSync(join(tools, "node_modules/.bin/node"), ["-p", "process.execPath"], {
        encoding: "utf8",
      }).trim(),
    );
    const place = join(folder, `empty-${version}`);
    mkdirSync(place);
    expect(run("node --version", place, node)).toMatch(new RegExp(`^v${version}\\.`));

    run("npm init -y", place, node);
    const installed = run(`npm i ${tarball}`, place, node);
    expect(installed).not.toMatch(/EBADENGINE|deprecated|warn/i);
    expect(Number(run("du -sm node_modules", place).split("\t")[0])).toBeLessThan(LARGEST);
    const next = "cd shop && npx strata-graphql serve";
    expect(run("npx strata-graphql init shop", place, node)).toContain(`Next: ${next}`);
    const help = run("npx strata-graphql --help", join(place, "shop"), node);
    expect(help).toContain("Usage: strata [options] [command]");
    // The name of the command, where the package is installed.
    expect(run("npx strata --help", join(place, "shop"), node)).toBe(help);

    const shop = join(place, "shop");
    // As a supervisor calls it: a process of its own that gets the signals.
    const port = String(await freePort());
    const cli = join(place, "node_modules/strata-graphql/bin/cli.js");
    const server = spawn(join(node, "node"), [cli, "serve"], {
      cwd: shop,
      env: { ...environment(node), PORT: port, LOG_LEVEL: "warn" },
    });
    servers.push(server);
    let output = "";
    for (const stream of [server.stdout, server.stderr])
      stream.on("data", (data: Buffer) => (output += String(data)));
    const url = `http://127.0.0.1:${port}`;
    const ready = async (): Promise<boolean> => {
      expect([server.exitCode, server.exitCode === null ? "" : output]).toEqual([null, ""]);
      return (await fetch(`${url}/readyz`)).ok;
    };
    await until(ready, 300);

    // Another process of the folder: it works on the engine of the first one.
    const token = run("npx strata-graphql token --role operator", shop, node).trim();
    const { data, errors } = await graphql(
      { url },
      token,
      `
        {
          users(first: 2) {
            nodes {
              userId
              transactions(first: 1) {
                nodes {
                  transactionId
                }
              }
            }
            totalCount
          }
        }
      `,
    );
    expect(errors).toBeUndefined();
    expect(data.users.nodes).toHaveLength(2);
    expect(data.users.totalCount).toBeGreaterThan(2);
    const failed = await graphql({ url }, token, "{ users(first: -1) { nodes { userId } } }");
    expect(failed.errors?.[0]?.extensions.code).toBe("PAGE_SIZE_EXCEEDED");

    const page = await (await fetch(`${url}/`)).text();
    const [script] = /\/studio\/[\w-]+\.js/.exec(page) ?? [];
    expect((await fetch(`${url}${script}`)).status).toBe(200);
    for (const path of ["/graphiql", "/ruru-static/ruru.js"])
      expect([path, (await fetch(url + path, { headers: { accept: "text/html" } })).status]).toEqual([
        path,
        200,
      ]);

    server.kill("SIGTERM");
    const [code] = (await once(server, "close")) as [number | null];
    expect(code).toBe(0);
    expect(output).not.toMatch(/Error|deprecat/i);
  });

  test("carries the licences of what is compiled into it, no sources and no tests", () => {
    const packed = run(`tar tzf ${tarball}`, folder).trim().split("\n");
    expect(packed.filter((name) => /\.(ts|tsx|map)$|node_modules|\/test\//.test(name))).toEqual([]);
    const { dependencies, optionalDependencies } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    ) as Record<string, Record<string, string> | undefined>;
    expect(Object.keys(dependencies!)).toEqual(["@electric-sql/pglite", "@electric-sql/pglite-postgis"]);
    expect(optionalDependencies).toBeUndefined();
    // The tutorial's file.
    expect(packed).toContain("package/examples/sales.csv");
    const licences = run(`tar xzOf ${tarball} package/dist/LICENSES.txt`, folder);
    for (const name of ["postgraphile", "graphql", "fastify", "pg", "ruru"])
      expect(licences).toMatch(new RegExp(`^${name} \\d`, "m"));
  });

  test("short commands read little code", () => {
    run(`tar xzf ${tarball}`, folder);
    const dist = join(folder, "package/dist");
    const names = readdirSync(dist);
    const seen = new Map<string, number>();
    const read = (name: string): void => {
      if (seen.has(name)) return;
      const text = readFileSync(join(dist, name), "utf8");
      seen.set(name, text.length);
      for (const [, next] of text.matchAll(/^(?:import|export|\}) .*?"\.\/([\w-]+\.js)";$/gm)) read(next!);
    };
    const total = (): number => [...seen.values()].reduce((sum, size) => sum + size, 0);
    read(names.find((name) => /^cli-/.test(name))!);
    expect(total()).toBeGreaterThan(50_000);
    expect(total()).toBeLessThan(LARGEST_HELP);
    read(names.find((name) => /^token-/.test(name))!);
    expect(total()).toBeLessThan(LARGEST_TOKEN);
  });
});
