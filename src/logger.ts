// The process's log: readable lines on a terminal, JSON elsewhere.
import { isSafeError } from "grafast";
import pino, { type Logger } from "pino";
import type { Config } from "./config.ts";

let lastTime = 0;
let lastText = "";

/** Writes the time as pino does, but formats it once for all lines of a millisecond. */
function isoTime(): string {
  const now = Date.now();
  if (now !== lastTime) lastText = `,"time":"${new Date(now).toISOString()}"`;
  lastTime = now;
  return lastText;
}

/**
 * Buffer size in bytes and flush interval in ms: writing each request's line separately takes some percent of a busy
 * server's time.
 */
const BUFFERED = { minLength: 4_000, periodicFlush: 100 };

export async function createLogger(
  { LOG_LEVEL }: Pick<Config, "LOG_LEVEL">,
  { json }: { json?: boolean } = {},
): Promise<Logger> {
  const options: pino.LoggerOptions = {
    level: LOG_LEVEL,
    base: undefined,
    timestamp: isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { error: serializeError, err: serializeError },
  };
  if (json || !process.stdout.isTTY) {
    const destination = pino.destination({ dest: 1, sync: true, ...BUFFERED });
    process.once("exit", () => {
      // Flushing detects a closed pipe, after which further lines are dropped; pino would retry them forever.
      destination.flush();
      destination.flushSync();
    });
    return pino(options, destination);
  }
  const { default: pretty } = await import("pino-pretty");
  return pino(options, pretty({ translateTime: "SYS:HH:MM:ss", sync: true }));
}

// Removes values from errors, such as PostgreSQL's `detail` and a driver's `parameters`; names of objects stay.
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code, schema, table, column, constraint } = error as unknown as Record<string, unknown>;
  return {
    type: error.name,
    message: error.message,
    stack: error.stack,
    ...Object.fromEntries(
      Object.entries({ code, schema, table, column, constraint }).filter(([, value]) => value !== undefined),
    ),
    ...(error.cause !== undefined && { cause: serializeError(error.cause) }),
  };
}

/** Redirects console output of libraries to the log, without the values of clients that it may contain. */
export function captureConsole(logger: Logger): void {
  for (const method of ["error", "warn", "dir"] as const)
    console[method] = (...words: unknown[]) => {
      const error = words.find((word) => word instanceof Error);
      if (error && !isSafeError(error)) logger.warn({ error }, "a library reports");
      else logger.trace("a library reports something that a client sent");
    };
}
