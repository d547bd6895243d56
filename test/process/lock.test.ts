// Two processes and one data folder: one of them has it, whichever locks their Node can take, until it ends or is killed.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

const lock = new URL("../../src/embedded/lock.ts", import.meta.url).href;
const PROGRAM = `
  const { lockFolder } = await import(${JSON.stringify(lock)});
  const unlock = await lockFolder(process.argv[1]);
  console.log(unlock ? "has it" : "another process has it");
  process.stdin.once("data", () => (unlock(), console.log("released"))).on("end", () => process.exit());
`;

let folder: string;
const children: ChildProcess[] = [];
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "strata-lock-"))));
afterEach(async () => {
  for (const child of children.splice(0)) await end(child, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
  await once(child, "close");
}

async function start(flags: string[], place = folder) {
  const child = spawn(process.execPath, [...flags, "--input-type=module", "-e", PROGRAM, place], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  children.push(child);
  const line = async (): Promise<string> => {
    const [data] = (await Promise.race([
      once(child.stdout, "data"),
      once(child, "close").then(() => ["ended"]),
    ])) as [Buffer | string];
    return String(data).trim();
  };
  return { child, line, says: await line() };
}

/** What Node before 22.13 is. */
const OLD = ["--no-experimental-sqlite"];
const NEW: string[] = [];

test.each([
  ["with SQLite", NEW, NEW],
  ["without SQLite", OLD, OLD],
  ["of which the first has no SQLite", OLD, NEW],
  ["of which the second has no SQLite", NEW, OLD],
])("processes %s exclude each other, until one is killed", async (_, first, second) => {
  const one = await start(first);
  expect(one.says).toBe("has it");
  expect((await start(second)).says).toBe("another process has it");
  // By whatever path.
  const link = join(folder, "link");
  symlinkSync(folder, link);
  expect((await start(second, link)).says).toBe("another process has it");
  // The folder, not the machine, is locked.
  const elsewhere = mkdtempSync(join(tmpdir(), "strata-lock-"));
  expect((await start(second, elsewhere)).says).toBe("has it");
  rmSync(elsewhere, { recursive: true });

  await end(one.child, "SIGKILL");
  expect((await start(second)).says).toBe("has it");
});

test.each([
  ["with SQLite", NEW],
  ["without SQLite", OLD],
])("a process %s that goes on gives the folder back", async (_, flags) => {
  const one = await start(flags);
  const released = one.line();
  one.child.stdin.write("release\n");
  expect(await released).toBe("released");
  expect((await start(flags)).says).toBe("has it");
});
