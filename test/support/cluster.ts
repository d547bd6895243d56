// A PostgreSQL cluster of a test's own, to be stopped, started and filled without disturbing other tests.
import { execFileSync } from "node:child_process";
import { chownSync, existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
  /** Follows it by streaming replication, from a copy of what it is now. */
  createReplica(this: void, options?: string): Promise<Replica>;
}

export interface Replica extends Omit<Cluster, "createReplica"> {
  promote(): void;
  /** Its processes stop without a word, and go on: its connections stay open meanwhile. */
  freeze(): void;
  thaw(): void;
  /** Another cluster's copy in its place, at the same address. */
  replaceBy(other: Cluster): void;
}

const PASSWORD = "a password of the tests";

export async function createCluster(): Promise<Cluster> {
  const prepared = prepareFolder(await freePort());
  const { folder, data, run } = prepared;
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
  return startCluster(prepared);
}

interface Prepared {
  folder: string;
  data: string;
  port: number;
  identity: { uid: number | undefined; gid: number | undefined };
  run: (program: string, args: string[], environment?: Record<string, string>) => void;
}

function prepareFolder(port: number): Prepared {
  const folder = mkdtempSync(join(tmpdir(), "strata-pg-"));
  // PostgreSQL refuses to run as root.
  const identity =
    process.getuid?.() === 0 ? { uid: idOf("-u"), gid: idOf("-g") } : { uid: undefined, gid: undefined };
  if (identity.uid !== undefined) chownSync(folder, identity.uid, identity.gid);
  const run: Prepared["run"] = (program, args, environment) =>
    void execFileSync(join(bin!, program), args, {
      stdio: "ignore",
      cwd: folder,
      env: { ...process.env, ...environment },
      ...identity,
    });
  return { folder, data: join(folder, "data"), port, identity, run };
}

function startCluster({ folder, data, port, identity, run }: Prepared, standing = ""): Cluster {
  const settings = `-p ${port} -k ${folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60 ${standing}`;
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
    createReplica: async (options) => startReplica(port, await freePort(), options),
  };
}

function copyCluster({ data, run }: Prepared, port: number): void {
  const from = ["-h", "127.0.0.1", "-p", String(port), "-U", "postgres"];
  // -R makes it a standby that connects as this does.
  run("pg_basebackup", [...from, "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync"], {
    PGPASSWORD: PASSWORD,
  });
}

function startReplica(primaryPort: number, port: number, options?: string): Replica {
  const prepared = prepareFolder(port);
  copyCluster(prepared, primaryPort);
  const { createReplica: _, ...cluster } = startCluster(prepared, options);
  /** The postmaster and what it has started. */
  const signal = (name: "SIGSTOP" | "SIGCONT"): void => {
    const postmaster = Number(readFileSync(join(prepared.data, "postmaster.pid"), "utf8").split("\n")[0]);
    const children = execFileSync("ps", ["-o", "pid=", "--ppid", String(postmaster)], { encoding: "utf8" });
    for (const pid of [postmaster, ...children.split("\n").filter(Boolean).map(Number)])
      process.kill(pid, name);
  };
  return {
    ...cluster,
    promote: () => prepared.run("pg_ctl", ["-w", "-D", prepared.data, "promote"]),
    freeze: () => signal("SIGSTOP"),
    thaw: () => signal("SIGCONT"),
    replaceBy(other) {
      cluster.stop("immediate");
      rmSync(prepared.data, { recursive: true });
      copyCluster(prepared, Number(new URL(other.url("postgres")).port));
      cluster.start();
    },
  };
}

const idOf = (flag: "-u" | "-g"): number =>
  Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }));
