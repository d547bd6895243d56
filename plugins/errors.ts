import { isSafeError } from "grafast";
import { GraphQLError } from "grafast/graphql";
import type {} from "postgraphile";

interface DatabaseError {
  code: string;
  message: string;
  detail?: string;
  column?: string;
  constraint?: string;
}

/** What a constraint is about, and asks for, in the words of the API. */
const checks: Record<string, { field: string; rule: string }> = {
  valid_email: { field: "email", rule: "must be an e-mail address, such as name@example.org" },
  positive_amount: { field: "amount", rule: "must be greater than 0" },
  valid_status: { field: "status", rule: "must be pending, completed, failed or refunded" },
};

const camelCase = (column: string) => column.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** "Key (user_id, date)=(1, …) already exists." names the columns; its values stay in the log. */
function fieldOf({ detail, column }: DatabaseError): string | undefined {
  const columns = column ?? /^Key \(([^)]+)\)=/.exec(detail ?? "")?.[1];
  return columns?.split(", ").map(camelCase).join(", ");
}

type Answer = [message: string, code: string, details?: Record<string, unknown>];

function explain(error: DatabaseError): Answer | undefined {
  const { code, constraint } = error;
  const field = fieldOf(error);
  switch (code) {
    case "23505":
      return [`This ${field ?? "value"} is already taken.`, "UNIQUE_VIOLATION", { field, constraint }];
    case "23503":
      return error.detail?.includes("still referenced")
        ? ["Other rows still refer to this one.", "FOREIGN_KEY_VIOLATION", { field, constraint }]
        : [
            `${field ?? "A field"} refers to a row that does not exist.`,
            "FOREIGN_KEY_VIOLATION",
            { field, constraint },
          ];
    case "23502":
      return [`${field ?? "A field"} must not be null.`, "NOT_NULL_VIOLATION", { field }];
    case "23514": {
      const check = checks[constraint ?? ""];
      const message = check ? `${check.field} ${check.rule}.` : "A value breaks a rule of the data.";
      return [message, "CHECK_VIOLATION", { field: check?.field, constraint }];
    }
    case "42501":
      return ["Your role may not do this, or not read all of these fields.", "FORBIDDEN"];
    case "57014":
      return ["This took too long and was cancelled.", "TIMEOUT"];
    case "40001":
    case "40P01":
    case "55P03":
      return ["Somebody else changed the same rows; try again.", "CONFLICT"];
    case "25006":
      return ["This operation may only read.", "FORBIDDEN"];
  }
  switch (code.slice(0, 2)) {
    // What PostgreSQL says of data names the value and the type, never a statement.
    case "22":
      return [`${error.message[0]!.toUpperCase()}${error.message.slice(1)}.`, "INVALID_INPUT"];
    // Out of connections, shutting down, disk full, connection lost.
    case "08":
    case "53":
    case "57":
      return ["The database does not answer; try again later.", "SERVICE_UNAVAILABLE"];
  }
  return undefined;
}

const unreachable = /^(ECONN|ENOENT|EPIPE|ETIMEDOUT|EAI_)/;
const isDatabaseError = (error: unknown): error is DatabaseError =>
  error instanceof Error &&
  "code" in error &&
  typeof error.code === "string" &&
  /^[0-9A-Z]{5}$/.test(error.code);

/** What connection-filter throws for an empty object or a null; it does not mark them as safe. */
const badFilter = /^(Null literals|Empty objects) are forbidden/;

/** What PostGraphile throws when an update or delete finds nothing. */
const notFound = /^No values were (deleted|updated) in collection/;

/** What a client is told of an error: a sentence, a stable code, and nothing of the inside. */
export function maskError(error: GraphQLError): GraphQLError {
  const cause: unknown = error.originalError;
  const answer = (message: string, code: string, details: Record<string, unknown> = {}) =>
    new GraphQLError(message, {
      nodes: error.nodes,
      source: error.source,
      positions: error.positions,
      path: error.path,
      originalError: cause as Error | undefined,
      extensions: { code, ...details },
    });

  if (!cause || cause instanceof GraphQLError) return error;
  if (isSafeError(cause as Error))
    return error.extensions.code ? error : answer(error.message, "INVALID_INPUT");
  if (isDatabaseError(cause)) {
    const explained = explain(cause);
    if (explained) return answer(...explained);
  }
  const { message, code } = cause as Error & { code?: unknown };
  if (notFound.test(message)) return answer("No such row, or none that your role may change.", "NOT_FOUND");
  if (badFilter.test(message)) return answer(message, "INVALID_INPUT");
  if (typeof code === "string" && unreachable.test(code)) {
    return answer("The database does not answer; try again later.", "SERVICE_UNAVAILABLE");
  }
  return answer("An internal error occurred.", "INTERNAL_SERVER_ERROR");
}
