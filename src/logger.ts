// One log for the process: lines for people on a terminal, JSON for everything else.
import pino, { type Logger } from "pino";
import type { Config } from "./config.ts";

export async function createLogger({ LOG_LEVEL }: Pick<Config, "LOG_LEVEL">): Promise<Logger> {
  const options: pino.LoggerOptions = {
    level: LOG_LEVEL,
    base: undefined,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { error: serializeError, err: serializeError },
  };
  if (!process.stdout.isTTY) return pino(options, pino.destination({ dest: 1, sync: true }));
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
