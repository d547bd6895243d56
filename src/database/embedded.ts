// The database of those who have none: one engine per data folder, shared by every Strata process on it.
import { createHash } from "node:crypto";
import { mkdirSync, realpathSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { PoolConfig } from "pg";
import type { EngineMessage, EngineOptions } from "./engine.ts";

export interface Embedded {
  connection: PoolConfig;
  /** False when another Strata process runs the engine and this one only talks to it. */
  ours: boolean;
  close(): Promise<void>;
  /** Settles only if the engine dies under us. */
  failed: Promise<Error>;
}

const STARTING_MS = 60_000;
const MAX_SOCKET_PATH = 100;

function socketPathFor(dataDir: string): string {
  const inside = join(dataDir, ".s.PGSQL.5432");
  if (inside.length <= MAX_SOCKET_PATH) return inside;
  const short = createHash("sha256").update(dataDir).digest("hex").slice(0, 16);
  return join(tmpdir(), `strata-${userInfo().uid}-${short}`, ".s.PGSQL.5432");
}

const answers = (path: string): Promise<boolean> =>
  new Promise((done) => {
    const socket = connect(path, () => done((socket.destroy(), true)));
    socket.on("error", () => done(false));
  });

function startEngine(options: EngineOptions): Promise<{ worker: Worker; message: EngineMessage }> {
  const worker = new Worker(new URL("./engine.ts", import.meta.url), { workerData: options });
  return new Promise((done, fail) => {
    worker.once("message", (message: EngineMessage) => done({ worker, message }));
    worker.once("error", fail);
    worker.once("exit", (code) =>
      fail(new Error(`the embedded engine stopped while starting (exit code ${code})`)),
    );
  });
}

/** Opens the engine of `dataDir`, or connects to the one that a running process has already opened. */
export async function openEmbedded(dataDir: string): Promise<Embedded> {
  let folder: string;
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    folder = realpathSync(resolve(dataDir));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(
      `Cannot write to the data folder "${dataDir}" (${code}); set DATA_DIR to a folder you own`,
    );
  }
  const socketPath = socketPathFor(folder);
  const connection: PoolConfig = {
    host: dirname(socketPath),
    port: 5432,
    user: "postgres",
    database: "postgres",
  };
  const shared: Embedded = {
    connection,
    ours: false,
    close: () => Promise.resolve(),
    failed: new Promise(() => undefined),
  };

  for (const deadline = Date.now() + STARTING_MS; ; await sleep(250)) {
    if (await answers(socketPath)) return shared;
    const { worker, message } = await startEngine({ dataDir: folder, socketPath });
    if (message.state === "ready") {
      let closing = false;
      const failed = new Promise<Error>((done) => {
        worker.once("error", done);
        worker.once("exit", () => !closing && done(new Error("the embedded engine stopped")));
      });
      const close = async (): Promise<void> => {
        closing = true;
        const exited = new Promise((done) => worker.once("exit", done));
        worker.postMessage("close");
        await exited;
      };
      return { connection, ours: true, close, failed };
    }
    await worker.terminate();
    if (message.state === "failed")
      throw new Error(`The embedded engine could not open "${dataDir}": ${message.message}`);
    if (Date.now() > deadline)
      throw new Error(`The data folder "${dataDir}" is in use by another process that does not answer`);
  }
}
