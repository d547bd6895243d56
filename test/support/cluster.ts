// A PostgreSQL cluster of a test's own, to be stopped, started and filled without disturbing other tests.
import { execFileSync } from "node:child_process";
import { chownSync, existsSync, globSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { serverUrl } from "./server.ts";
import { freePort } from "./process.ts";

const [bin] = globSync("/usr/lib/postgresql/*/bin").sort().reverse();

/** Only where tests run on real PostgreSQL anyway, and can start another one. */
export const canStartCluster = serverUrl !== undefined && bin !== undefined;

export interface Cluster {
  /** Of a superuser; any database of the cluster. */
  url(database: string, user?: string, password?: string): string;
  /** User that the server runs as, if not the one of the tests. */
  uid: number | undefined;
  start(options?: string): void;
  isRunning(): boolean;
  /** "immediate" is a crash: connections break without a word. */
  stop(mode?: "fast" | "immediate"): void;
  remove(): void;
}

const PASSWORD = "a password of the tests";

export async function createCluster(): Promise<Cluster> {
  const folder = mkdtempSync(join(tmpdir(), "strata-pg-"));
  const port = await freePort();
  // PostgreSQL refuses to run as root.
  const identity =
    process.getuid?.() === 0 ? { uid: idOf("-u"), gid: idOf("-g") } : { uid: undefined, gid: undefined };
  if (identity.uid !== undefined) chownSync(folder, identity.uid, identity.gid);
  const data = join(folder, "data");
  const run = (program: string, args: string[]): void =>
    void execFileSync(join(bin!, program), args, { stdio: "ignore", cwd: folder, ...identity });

  writeFileSync(join(folder, "password"), PASSWORD);
  run("initdb", [
    "-D",
    data,
    "-U",
    "postgres",
    "-A",
    "scram-sha-256",
    "-E",
    "UTF8",
    "--locale=C.UTF-8",
    `--pwfile=${folder}/password`,
  ]);
  const settings = `-p ${port} -k ${folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60`;
  const start = (options = ""): void =>
    run("pg_ctl", ["-w", "-D", data, "-l", join(folder, "log"), "-o", `${settings} ${options}`, "start"]);
  const stop = (mode = "fast"): void => run("pg_ctl", ["-w", "-D", data, "-m", mode, "stop"]);
  start();
  return {
    url: (database, user = "postgres", password = PASSWORD) =>
      `postgres://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`,
    uid: identity.uid,
    isRunning: () => existsSync(join(data, "postmaster.pid")),
    start,
    stop,
    remove() {
      try {
        stop("immediate");
      } catch {
        // A test left it stopped.
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const idOf = (flag: "-u" | "-g"): number =>
  Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }));
