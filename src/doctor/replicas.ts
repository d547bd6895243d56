// Checks of a replica, by statements that run on the replica itself.
import { createPool, REPLICA_CONNECTIONS } from "../database/connect.ts";
import { bytesBetween, IDENTITY, toLsn } from "../database/positions.ts";

interface Identity {
  system: string;
  recovering: boolean;
  lsn: string;
  timeline: string;
}

export interface ReplicaFindings {
  /** Its address, without user and password. */
  name: string;
  failures: string[];
  warnings: string[];
}

async function ask<Row extends object>(connectionString: string, sql: string): Promise<Row> {
  const pool = createPool({ connectionString }, { ...REPLICA_CONNECTIONS, max: 1 });
  try {
    return (await pool.query<Row>(sql)).rows[0]!;
  } finally {
    await pool.end();
  }
}

const SETTINGS = `
  select current_setting('hot_standby_feedback') = 'on' as feedback,
    pg_has_role('pg_read_all_stats', 'usage') as "seesTimeline"`;

export async function examineReplica(
  name: string,
  url: string,
  primaryUrl: string,
): Promise<ReplicaFindings> {
  const named = `${name}: ${new URL(url).host}`;
  const failures: string[] = [];
  const warnings: string[] = [];
  try {
    const primary = await ask<Identity>(primaryUrl, IDENTITY);
    const replica = await ask<Identity>(url, IDENTITY);
    const settings = await ask<{ feedback: boolean; seesTimeline: boolean }>(url, SETTINGS);
    if (replica.system !== primary.system) failures.push("It belongs to another cluster");
    else if (!replica.recovering) failures.push("It takes writes: it was promoted, or is no replica");
    else if (replica.timeline !== primary.timeline)
      failures.push(`It is on timeline ${replica.timeline}, the primary on ${primary.timeline}`);
    if (failures.length > 0) return { name: named, failures, warnings };
    if (!settings.feedback)
      warnings.push(
        "hot_standby_feedback is off: clean-up on the primary cancels reads here, which it then answers",
      );
    if (!settings.seesTimeline)
      warnings.push("The login does not see the replica's timeline: grant pg_read_all_stats to it");
    const behind = bytesBetween(toLsn(replica.lsn), toLsn(primary.lsn));
    return { name: `${named}, ${behind} bytes behind`, failures, warnings };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return { name: named, failures: [`It does not answer: ${message || code}`], warnings };
  }
}
