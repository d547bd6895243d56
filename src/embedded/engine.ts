// The worker thread of the embedded engine: PGlite gets an event loop, and a core, of its own.
import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { PGlite } from "@electric-sql/pglite";
import { pg_trgm } from "@electric-sql/pglite/contrib/pg_trgm";
import { uuid_ossp } from "@electric-sql/pglite/contrib/uuid_ossp";
import { postgis } from "@electric-sql/pglite-postgis";
import { lockFolder } from "./lock.ts";
import { serveProtocol } from "./protocol.ts";

export interface EngineOptions {
  dataDir: string;
  socketPath: string;
  /** Port for guests; none if not set. */
  port?: number | undefined;
}
export type EngineMessage =
  { state: "ready" } | { state: "locked" } | { state: "held" } | { state: "failed"; message: string };
/** "close" waits until no other process works on the engine. */
export type EngineRequest = "close" | "close at once";

const HELD_POLL_MS = 100;

const { dataDir, socketPath, port } = workerData as EngineOptions;
const tell = (message: EngineMessage): void => parentPort!.postMessage(message);

/**
 * PostGIS whose libraries are compiled when SQL first needs one. The bundle has three (raster and topology too), and
 * emscripten would compile them all before the engine opens: a second of every command.
 */
const lazyPostgis: typeof postgis = {
  name: postgis.name,
  async setup(db, options) {
    const { emscriptenOpts, ...setup } = await postgis.setup(db, options);
    return { ...setup, emscriptenOpts: { ...emscriptenOpts, noWasmDecoding: true } };
  },
};

async function main(): Promise<void> {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const unlock = await lockFolder(dataDir);
  if (!unlock) return tell({ state: "locked" });
  const db = await PGlite.create({
    dataDir: join(dataDir, "postgres"),
    extensions: { postgis: lazyPostgis, uuid_ossp, pg_trgm },
    relaxedDurability: false,
  });
  await db.exec("set timezone = 'UTC'");
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o700 });
  rmSync(socketPath, { force: true });
  const server = await serveProtocol(db, socketPath, port);
  // Only the owner may connect: every client of the socket is a superuser of the engine.
  chmodSync(socketPath, 0o600);
  let timer: NodeJS.Timeout | undefined;
  let closing = false;
  const close = (): void => {
    if (closing) return;
    closing = true;
    clearInterval(timer);
    // This runs in the same turn of the event loop as the last `isHeld`, so no client can be registered in between.
    server.close();
    void db.close().finally(() => {
      rmSync(socketPath, { force: true });
      unlock();
      process.exit(0);
    });
  };
  parentPort!.on("message", (request: EngineRequest) => {
    if (request === "close at once" || !server.isHeld()) return close();
    tell({ state: "held" });
    timer = setInterval(() => server.isHeld() || close(), HELD_POLL_MS);
  });
  tell({ state: "ready" });
}

main().catch((error: unknown) =>
  tell({ state: "failed", message: error instanceof Error ? error.message : String(error) }),
);
