// Locks a data folder for one process at a time. The operating system releases these locks when the process ends in
// any way, so there are no stale lock files.
import { closeSync, constants, openSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

/** Releases a lock; undefined if another process holds it. */
type Unlock = (() => void) | undefined;

/**
 * Takes two locks. SQLite's works across containers that share the folder, but needs Node 22.13. The other one works
 * within a machine or container, with every version of Node: by it a process on Node 20 and one on Node 24 exclude
 * each other.
 */
export async function lockFolder(folder: string): Promise<Unlock> {
  const hasNames = ["linux", "win32"].includes(process.platform);
  const unlock = hasNames ? await lockName(folder) : lockFile(join(folder, "lock-file"));
  if (!unlock) return undefined;
  const { DatabaseSync } = (await import("node:sqlite").catch(() => undefined)) ?? {};
  if (!DatabaseSync) return unlock;
  const database = new DatabaseSync(join(folder, "lock"));
  try {
    database.exec("begin exclusive");
  } catch (error) {
    database.close();
    unlock();
    if (error instanceof Error && /locked/.test(error.message)) return undefined;
    throw error;
  }
  return () => {
    database.close();
    unlock();
  };
}

/** Only one process can listen to a name: an abstract socket on Linux, a named pipe on Windows. */
function lockName(folder: string): Promise<Unlock> {
  // The name is made of device and inode: containers that share the host's network may have different folders at one path.
  const { dev, ino } = statSync(folder, { bigint: true });
  const name = `strata-${dev}-${ino}`;
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

/** A flag of open(2) on macOS and the BSDs. */
const O_EXLOCK = 0x20;

function lockFile(path: string): Unlock {
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
