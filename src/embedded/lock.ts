// One process at a time opens a data folder. The operating system drops these locks when their process dies, however it
// dies: no stale lock files.
import { createHash } from "node:crypto";
import { closeSync, constants, openSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

/** Releases the lock. */
type Unlock = () => void;

/** Undefined when another process has the folder. */
export async function lockFolder(folder: string): Promise<Unlock | undefined> {
  const { DatabaseSync } = (await import("node:sqlite").catch(() => undefined)) ?? {};
  if (!DatabaseSync) return lockWithoutSqlite(folder);
  const database = new DatabaseSync(join(folder, "lock"));
  try {
    database.exec("begin exclusive");
    return () => database.close();
  } catch (error) {
    database.close();
    if (error instanceof Error && /locked/.test(error.message)) return undefined;
    throw error;
  }
}

/** Of BSD's open(2), which macOS has and Linux has not. */
const O_EXLOCK = 0x20;

/**
 * Before Node 22.13 there is no SQLite. A name of the folder that only one process can listen to takes its place: an
 * abstract socket on Linux, a named pipe on Windows. It is one of this machine (of this container), where SQLite's lock
 * reaches as far as the file system.
 */
function lockWithoutSqlite(folder: string): Promise<Unlock | undefined> {
  if (process.platform === "darwin") return Promise.resolve(lockFile(join(folder, "lock-file")));
  const name = `strata-${createHash("sha256").update(folder).digest("hex").slice(0, 32)}`;
  const server = createServer((socket) => socket.destroy());
  return new Promise((done, fail) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? done(undefined) : fail(error),
    );
    server.listen(process.platform === "win32" ? `\\\\.\\pipe\\${name}` : `\0${name}`, () => {
      server.unref();
      done(() => server.close());
    });
  });
}

function lockFile(path: string): Unlock | undefined {
  try {
    const file = openSync(
      path,
      constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK | O_EXLOCK,
      0o600,
    );
    return () => closeSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return undefined;
    throw error;
  }
}
