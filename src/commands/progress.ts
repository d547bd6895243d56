// Progress of an ingest for a person at a terminal; scripts and logs do not get it.
import type { IngestProgress } from "../ingest/ingest.ts";

export function createProgress(totalBytes?: number): (progress: IngestProgress) => void {
  const startedAt = performance.now();
  return ({ bytesRead, rowsRead, rowsRejected }) => {
    const seconds = (performance.now() - startedAt) / 1000;
    const parts = [
      `${rowsRead.toLocaleString("en")} rows`,
      `${Math.round(rowsRead / seconds).toLocaleString("en")} rows/s`,
      ...(rowsRejected > 0 ? [`${rowsRejected.toLocaleString("en")} quarantined`] : []),
      ...(totalBytes ? [`${Math.floor((100 * bytesRead) / totalBytes)} %`] : []),
    ];
    showProgress(parts.join(", "));
  };
}

/** Replaces the current line; an empty text erases it. */
export const showProgress = (text: string): void =>
  void (process.stderr.isTTY && process.stderr.write(`\r\x1b[K${text}`));

export const clearProgress = (): void => showProgress("");
