import { existsSync, readFileSync } from "node:fs";

const TICKS_PER_MS = 0.1;
/** CPU time in ms that a process has used; 0 if it is gone. Linux only. */
export function cpuOf(pid: number): number {
  const file = `/proc/${pid}/stat`;
  if (!existsSync(file)) return 0;
  const fields = readFileSync(file, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_MS;
}
