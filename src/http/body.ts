// Streamed CSV and NDJSON bodies: their content types, encodings and query parameters.
import { createHash } from "node:crypto";
import { PassThrough, Transform, type Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { apiError } from "../graphql/errors.ts";
import { isBadInput, isBadOption, isUnknownDataset } from "../ingest/faults.ts";
import { readOptionsOf, type ReadOptions } from "../ingest/options.ts";
import type { Format } from "../ingest/read.ts";
import { checkEncoding } from "./accept.ts";
import { mayTakeLong } from "./request-timeout.ts";

const FORMATS: Record<string, Format> = {
  "text/csv": "csv",
  "application/x-ndjson": "ndjson",
  "application/ndjson": "ndjson",
};
// The first bytes decide, since a proxy may have decompressed a body that is still labelled gzip.
const ENCODINGS = ["gzip", "identity"];

/** Removes body parsers and the body limit from the routes of this scope. */
export function takeStreams(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, parsed) => parsed(null));
}

/** Runs the handler of a streamed body, which may take hours to arrive. A rejected body is not read to its end. */
export async function withBody<T>(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  handle: () => Promise<T>,
): Promise<T> {
  const ended = mayTakeLong(app, request.raw);
  try {
    return await handle();
  } catch (error) {
    reply.header("connection", "close");
    if (isUnknownDataset(error)) throw apiError("NOT_FOUND", error.message);
    if (isBadInput(error) || isBadOption(error)) throw apiError("BAD_REQUEST", error.message);
    throw error;
  } finally {
    ended();
  }
}

export function formatOf(request: FastifyRequest): Format {
  const type = request.headers["content-type"]?.split(";", 1)[0]!.trim().toLowerCase() ?? "";
  if (!Object.hasOwn(FORMATS, type))
    throw apiError(
      "UNSUPPORTED_MEDIA_TYPE",
      `Content-Type "${type}" is not taken; allowed: text/csv, application/x-ndjson`,
    );
  checkEncoding(request, ENCODINGS);
  return FORMATS[type]!;
}

export function parametersOf(
  request: FastifyRequest,
  allowed: string[],
  repeatable: string[] = [],
): Record<string, unknown> {
  const query = request.query as Record<string, unknown>;
  for (const [name, value] of Object.entries(query)) {
    if (!allowed.includes(name))
      throw apiError("BAD_REQUEST", `Unknown parameter "${name}"; allowed: ${allowed.join(", ")}`);
    if (Array.isArray(value) && !repeatable.includes(name))
      throw apiError("BAD_REQUEST", `Parameter "${name}" is given more than once`);
  }
  return query;
}

/** Query parameters that say how the body's values are written. */
export const READ_PARAMETERS = ["delimiter", "encoding", "decimal", "dateFormat", "timezone", "null"];
export const REPEATABLE_READ_PARAMETERS = ["null"];

/** The content type's charset is used as the encoding if no parameter names one. */
export function readParametersOf(request: FastifyRequest): ReadOptions {
  const query = request.query as ReadOptions & { null?: string | string[] };
  const charset = /;\s*charset="?([^";\s]+)/i.exec(request.headers["content-type"] ?? "")?.[1];
  return readOptionsOf({
    ...query,
    encoding: query.encoding ?? charset,
    null: query.null === undefined ? undefined : [query.null].flat(),
  });
}

/**
 * Returns the body as a stream that ends independently of the connection, which still carries the response. It fails
 * if the digest does not match.
 */
export function bodyOf({ raw }: FastifyRequest, sha256?: string): Readable {
  const body = sha256 === undefined ? new PassThrough() : checkDigest(sha256);
  raw.on("error", () => body.destroy(new Error("The connection ended before the body did")));
  return raw.pipe(body);
}

/** Passes bytes through, and fails at the end if their digest does not match. */
function checkDigest(sha256: string): Transform {
  const hash = createHash("sha256");
  return new Transform({
    transform(piece: Buffer, _encoding, done) {
      hash.update(piece);
      done(null, piece);
    },
    flush(done) {
      const found = hash.digest("hex");
      done(found === sha256 ? null : new Error(`The SHA-256 of the body is ${found}; given: ${sha256}`));
    },
  });
}
