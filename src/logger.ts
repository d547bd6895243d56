// One log for the process: lines for people on a terminal, JSON for everything else.
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

/** A line per request, each written by itself, would take some percent of a busy server's time. Bytes, and milliseconds. */
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
      // It notices that nobody reads any more, after which the next line does nothing instead of trying for ever.
      destination.flush();
      destination.flushSync();
    });
    return pino(options, destination);
  }
  const { default: pretty } = await import("pino-pretty");
  return pino(options, pretty({ translateTime: "SYS:HH:MM:ss", sync: true }));
}

// PostgreSQL's `detail` and a driver's `parameters` quote values: names of things stay, values do not.
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

/** Libraries print faults to the console, and values that clients sent: the former belong in the log, the latter do not. */
export function captureConsole(logger: Logger): void {
  for (const method of ["error", "warn", "dir"] as const)
    console[method] = (...words: unknown[]) => {
      const error = words.find((word) => word instanceof Error);
      if (error && !isSafeError(error)) logger.warn({ error }, "a library reports");
      else logger.trace("a library reports something that a client sent");
    };
}
