// Distinguishes temporary errors, after which the caller may repeat the request, from permanent ones.

/**
 * SQLSTATEs of a lost connection, of exhausted resources (disk, memory, connections) and of a server that starts or
 * stops.
 */
const CLASSES = /^(08|53|57P0|58030)/;

/** The server is in recovery or read-only: another one is the primary now. */
const READ_ONLY = "25006";

const NETWORK = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "EHOSTDOWN",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EMFILE",
  "ENFILE",
]);

// Errors of pg and pg-pool that have no code.
const MESSAGES =
  /^(Connection terminated|timeout exceeded when trying to connect|Query read timeout|Client (has encountered a connection error|was closed) and is not queryable|Cannot use a pool after calling end)/;

interface Fault {
  code?: unknown;
  message?: unknown;
  cause?: unknown;
  originalError?: unknown;
  errors?: unknown;
}

/** True if the database is unavailable for the moment and may recover by itself. */
export function isUnavailable(error: unknown): boolean {
  for (let fault = error as Fault | null | undefined, depth = 0; fault && depth < 8; depth++) {
    const { code, message } = fault;
    if (typeof code === "string" && (CLASSES.test(code) || code === READ_ONLY || NETWORK.has(code)))
      return true;
    if (typeof message === "string" && MESSAGES.test(message)) return true;
    // Node tries every address of a host and reports them together.
    if (Array.isArray(fault.errors) && fault.errors.some(isUnavailable)) return true;
    fault = (fault.originalError ?? fault.cause) as Fault | undefined;
  }
  return false;
}
