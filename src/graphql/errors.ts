// Presents errors to clients: a stable code and a sentence. The log gets the rest, with the same request id.
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from "fastify";
import { isSafeError, SafeError } from "grafast";
import { GraphQLError, type ExecutionResult } from "grafast/graphql";
import { explainDataError } from "../../plugins/support/errors.ts";
import { Cancelled } from "../database/adaptor.ts";
import { ResponseTooLarge } from "../database/budget.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { RETRY_AFTER_S } from "../http/health.ts";
import { ERROR_CODES } from "./codes.ts";

/** The code for a status that another library chose, such as Fastify; several codes share 400 and 403. */
const CODE = Object.fromEntries(Object.entries(ERROR_CODES).map(([code, { status }]) => [status, code]));
CODE[400] = "BAD_REQUEST";
CODE[403] = "FORBIDDEN";

const statusOf = (code: unknown): number => ERROR_CODES[String(code)]?.status ?? 400;
const codeOf = (status: number): string =>
  CODE[status] ?? (status < 500 ? "BAD_REQUEST" : "INTERNAL_SERVER_ERROR");

/** Makes an error whose message is meant for the client. */
export function apiError(code: string, message: string, extensions: Record<string, unknown> = {}): SafeError {
  const statusCode = statusOf(code);
  return Object.assign(new SafeError(message, { ...extensions, code, statusCode }), { statusCode });
}

interface Explanation {
  code: string;
  message: string;
  [extension: string]: unknown;
}

const UNAVAILABLE = { code: "SERVICE_UNAVAILABLE", message: "The database does not answer; try again" };
const INTERNAL = { code: "INTERNAL_SERVER_ERROR", message: "Internal server error" };

/** Errors by SQLSTATE, except those of constraints; the longest prefix comes first. A message of the database is passed on only where it quotes nothing but the input. */
const DATABASE: [prefix: string, code: string, message?: string][] = [
  ["42501", "FORBIDDEN", "Your role may not do this"],
  ["57014", "TIMEOUT", "The statement took too long and was cancelled; nothing of it was saved"],
  ["40", "CONFLICT", "Another transaction changed the same rows; try again"],
  ["55P03", "CONFLICT", "Another transaction holds the same rows; try again"],
  ["55006", "CONFLICT"],
  ["22023", "BAD_USER_INPUT"],
  ["22P02", "BAD_USER_INPUT"],
  ["22003", "BAD_USER_INPUT"],
  ["22007", "BAD_USER_INPUT"],
  ["22008", "BAD_USER_INPUT"],
  ["22", "BAD_USER_INPUT", "A value does not fit its type"],
  ["54", "BAD_USER_INPUT", "The operation is too large for the database"],
];

function explainDatabaseError(error: unknown): Explanation | undefined {
  if (error instanceof ResponseTooLarge)
    return { code: "RESPONSE_TOO_LARGE", message: error.message, limit: error.megabytes };
  if (error instanceof Cancelled) return { code: "CANCELLED", message: "The client disconnected" };
  if (isUnavailable(error)) return UNAVAILABLE;
  const explained = explainDataError(error as Error);
  if (explained) return { ...explained };
  const { code: state, message = "" } = error as { code?: unknown; message?: string };
  const row =
    typeof state === "string" &&
    /^[0-9A-Z]{5}$/.test(state) &&
    DATABASE.find(([prefix]) => state.startsWith(prefix));
  return row ? { code: row[1], message: row[2] ?? message } : undefined;
}

/** Errors of graphql-js have no code; their kind follows from where they occurred. */
const explainGraphqlError = ({ message, extensions, path }: GraphQLError): Explanation => {
  const [, number] =
    (path && /^Float cannot represent non numeric value: (-?Infinity|NaN)$/.exec(message)) ?? [];
  if (number)
    return {
      code: "NOT_REPRESENTABLE",
      message: `The value is ${number}, for which JSON has no number; a view can show the column as text`,
    };
  return {
    code: path === undefined || message.startsWith("Variable ") ? "BAD_USER_INPUT" : "INTERNAL_SERVER_ERROR",
    ...extensions,
    message,
  };
};

function explain(error: GraphQLError): Explanation {
  let cause: unknown = error;
  while (cause instanceof GraphQLError && cause.originalError) cause = cause.originalError;
  // graphql-js wraps the error of a scalar in a message about the client's variable.
  if (cause instanceof GraphQLError || error.message.startsWith('Variable "$'))
    return explainGraphqlError(error);
  if (isSafeError(cause as Error)) {
    const { statusCode: _, ...extensions } =
      (cause as SafeError<Record<string, unknown> | undefined>).extensions ?? {};
    return { code: "BAD_USER_INPUT", ...extensions, message: (cause as Error).message };
  }
  return explainDatabaseError(cause) ?? INTERNAL;
}

interface ErrorContext {
  id: string;
  log: FastifyBaseLogger;
}

/** Makes the error for the client. Idempotent: an error with a request id is returned unchanged. */
export function presentError(error: GraphQLError, context: ErrorContext): GraphQLError {
  if (error.extensions?.requestId !== undefined) return error;
  const { message, ...extensions } = explain(error);
  logFault(error.originalError ?? error, extensions.code, context.log);
  const { nodes, source, positions, path } = error;
  return new GraphQLError(message, {
    nodes,
    source,
    positions,
    path,
    extensions: { ...extensions, requestId: context.id },
  });
}

function logFault(error: unknown, code: string, log: FastifyBaseLogger): void {
  if (code === "INTERNAL_SERVER_ERROR") log.error({ error, code }, "operation failed");
  else if (code === "SERVICE_UNAVAILABLE" && (error as { isRepeated?: boolean }).isRepeated !== true)
    log.warn({ error, code }, "a service that this server needs does not answer");
  else log.debug({ code }, "operation rejected");
}

/** Handles errors outside GraphQL: invalid bodies, tokens, unknown paths, and unexpected ones. */
export function handleError(error: ThrownError, request: FastifyRequest, reply: FastifyReply) {
  const isForClient =
    isSafeError(error as Error) || (error.statusCode !== undefined && error.statusCode < 500);
  const explanation: Explanation = isForClient
    ? { code: codeOf(error.statusCode ?? 400), ...error.extensions, message: error.message }
    : (explainDatabaseError(error) ?? INTERNAL);
  const { message, statusCode: _, ...extensions } = explanation;
  const status = (isForClient && error.statusCode) || statusOf(extensions.code);
  logFault(error, extensions.code, request.log);
  return reply
    .status(status)
    .headers({ ...headersOf(status, extensions), "x-request-id": request.id })
    .type("application/json; charset=utf-8")
    .send({ errors: [{ message, extensions: { ...extensions, requestId: request.id } }] });
}

interface ThrownError {
  message: string;
  statusCode?: number;
  extensions?: Record<string, unknown>;
}

function headersOf(status: number, { retryAfter, allow }: Record<string, unknown>): Record<string, string> {
  if (status === 401) return { "www-authenticate": "Bearer" };
  if (status === 405) return { allow: typeof allow === "string" ? allow : "POST" };
  if (status === 429 || status === 503) return { "retry-after": String(Number(retryAfter ?? RETRY_AFTER_S)) };
  return {};
}

/** Gives every error a code and the request's id, and the response the status and headers that HTTP has for them. */
export function finishErrors(
  request: FastifyRequest,
  reply: FastifyReply,
  { data, errors }: ExecutionResult,
): ExecutionResult {
  // Copies the errors, since those of a document are cached with it.
  const finished = errors!.map((error) => {
    const { statusCode: _, ...extensions } = error.extensions;
    return { ...error.toJSON(), extensions: { code: "BAD_REQUEST", ...extensions, requestId: request.id } };
  });
  const { code, ...details } = finished[0]!.extensions as Record<string, unknown>;
  const status = statusOf(code);
  const isLegacy = !request.headers.accept!.startsWith("application/graphql-response+json");
  // With application/json, GraphQL over HTTP requires 200 for any well-formed request. Authentication, rate-limit and
  // availability errors precede execution and keep their status.
  if (code === "SERVICE_UNAVAILABLE") reply.status(503);
  else if (data === undefined && (!isLegacy || [401, 403, 429, 500].includes(status))) reply.status(status);
  reply.headers(headersOf(reply.statusCode, details));
  return { data, errors: finished as never };
}
