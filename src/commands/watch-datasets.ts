// Applies the files of DATASETS_DIR when they change, as long as the server runs.
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { Pool } from "pg";
import { applyDatasetFiles, isDatasetFile } from "../database/dataset-files.ts";

/**
 * Polling interval in ms. A change is applied when two polls in a row agree, so that no file is read while an editor
 * writes it. fs.watch misses changes in many container mounts, and folders that are created later or replaced.
 */
const LOOK_MS = 300;

/**
 * Applies the files that have changed since the last call; a file that fails is logged, and the server continues
 * without it.
 */
export async function applyChanges(pool: Pool, folder: string, logger: Logger): Promise<void> {
  try {
    const applied = await applyDatasetFiles(pool, folder, { onlyChanged: true });
    for (const { file, warnings } of applied) {
      logger.info(`Applied ${file}`);
      for (const { line, message } of warnings) logger.warn(`${file}:${line}: ${message}`);
    }
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

/** A fingerprint of the folder, which changes when a file is added, removed or written. */
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
