import { existsSync, readFileSync } from "node:fs";
import type pg from "pg";

const TICKS_PER_MS = 0.1;
/** CPU time in ms that a process has used; 0 if it is gone. Linux only. */
export function cpuOf(pid: number): number {
  const file = `/proc/${pid}/stat`;
  if (!existsSync(file)) return 0;
  const fields = readFileSync(file, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_MS;
}

/** A process and the processes that it has started. Linux only. */
export function familyOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return [pid, ...(children === "" ? [] : children.split(" ").map(Number))];
}

/** CPU time in ms until now, by process. */
export type Used = Map<number, number>;

export const usedBy = (pids: number[]): Used => new Map(pids.map((pid) => [pid, cpuOf(pid)]));

/** Of Strata's backends on a server. */
export async function usedByBackends(server: pg.Pool): Promise<Used> {
  const { rows } = await server.query<{ pid: number }>(
    "select pid from pg_stat_activity where application_name like 'strata%'",
  );
  return usedBy(rows.map(({ pid }) => pid));
}

/** Processes that have ended meanwhile are not counted: the idle backends of another contender. */
export function between(before: Used, after: Used): number {
  let total = 0;
  for (const [pid, ms] of after) total += ms - (before.get(pid) ?? 0);
  return total;
}
