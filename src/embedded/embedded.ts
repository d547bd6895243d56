// The embedded database: one engine per data folder, shared by all Strata processes that use the folder.
import { createHash } from "node:crypto";
import { mkdirSync, realpathSync } from "node:fs";
import { connect, Socket } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { PoolConfig } from "pg";
import { engineModule } from "../paths.ts";
import type { EngineMessage, EngineOptions, EngineRequest } from "./engine.ts";
import { CLOSED, SSL_REQUEST } from "./protocol.ts";

export interface CloseOptions {
  /** Aborted when the engine may no longer wait for other processes that use it. */
  hurry?: AbortSignal;
  /** Called if the engine waits for other processes. */
  onHeld?: () => void;
}

export interface Embedded {
  connection: PoolConfig;
  /** False if another Strata process runs the engine and this one is its client. */
  ours: boolean;
  close(options?: CloseOptions): Promise<void>;
  /** Resolves if the engine ends unexpectedly. */
  failed: Promise<Error>;
}

const STARTING_MS = 60_000;
/** Maximum time in ms for the engine to answer a new connection, which waits while a statement runs. */
export const ANSWER_MS = 120_000;
const MAX_SOCKET_PATH = 100;

function socketPathFor(dataDir: string): string {
  const inside = join(dataDir, ".s.PGSQL.5432");
  if (inside.length <= MAX_SOCKET_PATH) return inside;
  const short = createHash("sha256").update(dataDir).digest("hex").slice(0, 16);
  return join(tmpdir(), `strata-${userInfo().uid}-${short}`, ".s.PGSQL.5432");
}

/**
 * Keeps the engine at `path` open until the returned function is called or this process ends. Being connected is not
 * enough, since the engine may be closing: it has registered the connection only once it answers.
 */
const hold = (path: string): Promise<(() => void) | undefined> =>
  new Promise((done) => {
    const hello = Buffer.alloc(8);
    hello.writeInt32BE(hello.length, 0);
    hello.writeInt32BE(SSL_REQUEST, 4);
    const socket = connect(path, () => socket.write(hello));
    socket.setTimeout(ANSWER_MS, () => socket.destroy());
    socket.once("data", () => {
      socket.setTimeout(0).unref();
      done(() => void socket.destroy());
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => done(undefined));
  });

/** Replaces errors that would name the socket's path, which means nothing to a reader. */
class EngineSocket extends Socket {
  override destroy(error?: NodeJS.ErrnoException): this {
    if (!error?.syscall) return super.destroy(error);
    const code = error.code === "ENOENT" ? "ECONNREFUSED" : error.code;
    return super.destroy(Object.assign(new Error(CLOSED, { cause: error }), { code }));
  }
}

function startEngine(options: EngineOptions): Promise<{ worker: Worker; message: EngineMessage }> {
  const worker = new Worker(engineModule, { workerData: options });
  return new Promise((done, fail) => {
    worker.once("message", (message: EngineMessage) => done({ worker, message }));
    worker.once("error", fail);
    worker.once("exit", (code) =>
      fail(new Error(`the embedded engine stopped while starting (exit code ${code})`)),
    );
  });
}

/** Opens the engine of `dataDir`, or connects to the one that another process has opened. */
export async function openEmbedded(dataDir: string, port?: number): Promise<Embedded> {
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
    stream: () => new EngineSocket(),
  };

  for (const deadline = Date.now() + STARTING_MS; ; await sleep(250)) {
    const release = await hold(socketPath);
    if (release)
      return {
        connection,
        ours: false,
        close: () => Promise.resolve(release()),
        failed: new Promise(() => undefined),
      };
    const { worker, message } = await startEngine({ dataDir: folder, socketPath, port });
    if (message.state === "ready") {
      let closing = false;
      const exited = new Promise<unknown>((done) => worker.once("exit", done));
      const failed = new Promise<Error>((done) => {
        worker.once("error", done);
        void exited.then(() => closing || done(new Error("the embedded engine stopped")));
      });
      const close = async ({ hurry, onHeld }: CloseOptions = {}): Promise<void> => {
        closing = true;
        const ask = (request: EngineRequest): void => worker.postMessage(request);
        const atOnce = (): void => ask("close at once");
        worker.once("message", () => onHeld?.());
        ask(hurry?.aborted ? "close at once" : "close");
        hurry?.addEventListener("abort", atOnce);
        await exited;
        hurry?.removeEventListener("abort", atOnce);
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
