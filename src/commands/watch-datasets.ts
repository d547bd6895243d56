// Applies the files of DATASETS_DIR when they change, as long as the server runs.
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { Pool } from "pg";
import { applyDatasetFiles, isDatasetFile } from "../database/dataset-files.ts";

/**
 * Pause between two looks at the folder, in ms; a change is applied once two looks in a row agree, so that no file is
 * read while an editor writes it. Looks instead of fs.watch, which sees nothing in many container mounts, nor a folder
 * that is made later or replaced.
 */
const LOOK_MS = 300;

/** Applies what has changed since the last time; a file that fails is logged, and the server goes on without it. */
export async function applyChanges(pool: Pool, folder: string, logger: Logger): Promise<void> {
  try {
    const applied = await applyDatasetFiles(pool, folder, { onlyChanged: true });
    for (const { file } of applied) logger.info(`Applied ${file}`);
  } catch (error) {
    logger.error((error as Error).message);
  }
}

/** Resolves when it has stopped. */
export async function watchDatasets(
  pool: Pool,
  folder: string,
  { logger, stopping, seen = "" }: { logger: Logger; stopping: AbortSignal; seen?: string },
): Promise<void> {
  let applied = seen;
  let last = applied;
  while (!stopping.aborted) {
    await sleep(LOOK_MS, undefined, { signal: stopping }).catch(() => undefined);
    const now = lookAt(folder);
    if (now === last && now !== applied && !stopping.aborted) {
      applied = now;
      await applyChanges(pool, folder, logger);
    }
    last = now;
  }
}

/** Differs when a file has come, gone or been written to. */
export function lookAt(folder: string): string {
  try {
    return readdirSync(folder)
      .filter(isDatasetFile)
      .sort()
      .map((name) => {
        const { mtimeMs, size, ino } = statSync(join(folder, name));
        return `${name} ${mtimeMs} ${size} ${ino}`;
      })
      .join("\n");
  } catch {
    // No folder yet, or a file that went away between the two calls.
    return "";
  }
}
