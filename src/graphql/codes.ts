// Every code that an error of GraphQL or HTTP can have: its HTTP status, and what it means for a client.
// docs/reference/errors.md is made from this table; a test finds codes that are missing here.

interface ErrorCode {
  /** HTTP status of a response without `data`; 200 beside `data`, or for application/json where the specification asks for it. */
  status: number;
  meaning: string;
}

export const ERROR_CODES: Record<string, ErrorCode> = {
  UNAUTHENTICATED: {
    status: 401,
    meaning:
      "The token is missing, malformed, expired (`reason: expired`) or has no known role. Get a new one; do not retry with the same.",
  },
  FORBIDDEN: {
    status: 403,
    meaning:
      "The role may not do this. A field that it may not read is null, and `type` and `field` name it; the rest of the response is returned.",
  },
  OPERATION_NOT_PERSISTED: {
    status: 403,
    meaning: "`PERSISTED_OPERATIONS_ONLY` is on, and the operation is not persisted.",
  },
  NOT_FOUND: {
    status: 404,
    meaning: "The path, dataset, table or row does not exist, or is not visible to the role.",
  },
  METHOD_NOT_ALLOWED: {
    status: 405,
    meaning: "The path exists for other methods, which the header `allow` lists.",
  },
  NOT_ACCEPTABLE: { status: 406, meaning: "The header `accept` names no type that the server sends." },
  PAYLOAD_TOO_LARGE: {
    status: 413,
    meaning:
      "The body is too large: that of a GraphQL request (send rows to `/ingest`), or a file for `/propose`.",
  },
  UNSUPPORTED_MEDIA_TYPE: {
    status: 415,
    meaning: "The header `content-type` or `content-encoding` names a type that the server does not read.",
  },
  RATE_LIMITED: {
    status: 429,
    meaning:
      "The caller used up its cost for this minute, or has too many subscriptions. Wait for `retry-after` seconds.",
  },
  INTERNAL_SERVER_ERROR: {
    status: 500,
    meaning: "A fault of the server. The log has details under `requestId`.",
  },
  SERVICE_UNAVAILABLE: {
    status: 503,
    meaning:
      "The server is starting, stopping or busy, or the database does not answer. Retry after `retry-after` seconds.",
  },
  BAD_REQUEST: {
    status: 400,
    meaning: "The HTTP request is not valid for the path; the message says why.",
  },
  BAD_USER_INPUT: {
    status: 400,
    meaning: "A variable or argument has a value that is not allowed; `field` names it where it is known.",
  },
  GRAPHQL_PARSE_FAILED: { status: 400, meaning: "The document is not GraphQL." },
  GRAPHQL_VALIDATION_FAILED: { status: 400, meaning: "The document does not match the schema." },
  PERSISTED_QUERY_NOT_FOUND: {
    status: 400,
    meaning: "The server does not know the id. Apollo's link then sends the text as well.",
  },
  PERSISTED_QUERY_NOT_SUPPORTED: {
    status: 400,
    meaning:
      "The server has no persisted operations (`PERSISTED_OPERATIONS_DIR`). Apollo's link then sends texts only.",
  },
  QUERY_TOO_DEEP: { status: 400, meaning: "More levels of fields than `limit` (`MAX_QUERY_DEPTH`)." },
  QUERY_TOO_EXPENSIVE: {
    status: 400,
    meaning: "The operation may cost more than `limit` (`MAX_QUERY_COST`). Ask for smaller pages.",
  },
  QUERY_TOO_LARGE: { status: 400, meaning: "The document has more tokens than `limit`." },
  TOO_MANY_ALIASES: { status: 400, meaning: "More aliases than `limit`." },
  TOO_MANY_DIRECTIVES: { status: 400, meaning: "More directives than `limit`." },
  TOO_MANY_FIELDS: {
    status: 400,
    meaning: "More fields than `limit`, fragments counted where they are used.",
  },
  PAGE_SIZE_EXCEEDED: { status: 400, meaning: "`first` or `last` is more than `limit` (`MAX_PAGE_SIZE`)." },
  RESPONSE_TOO_LARGE: {
    status: 400,
    meaning: "The response has more than `limit` megabytes (`MAX_RESPONSE_MB`).",
  },
  TIMEOUT: {
    status: 400,
    meaning:
      "A statement took longer than `STATEMENT_TIMEOUT_MS`, or an export than `EXPORT_TIMEOUT_MS`, and was cancelled; nothing of it was saved.",
  },
  CANCELLED: { status: 400, meaning: "The client disconnected. Only logs and metrics have this code." },
  NOT_REPRESENTABLE: {
    status: 400,
    meaning:
      "The database has `Infinity` or `NaN`, which JSON cannot hold. The field is null; if it is non-null, its parent is.",
  },
  CONFLICT: { status: 400, meaning: "Another transaction changed or holds the same rows. Retry." },
  UNIQUE_VIOLATION: {
    status: 400,
    meaning: "Another row has this value, or excludes it; `field` and `constraint` say which.",
  },
  FOREIGN_KEY_VIOLATION: {
    status: 400,
    meaning: "The row refers to a missing one, or other rows refer to it.",
  },
  NOT_NULL_VIOLATION: { status: 400, meaning: "`field` must not be null." },
  CHECK_VIOLATION: { status: 400, meaning: "A value violates the constraint `constraint`." },
};
