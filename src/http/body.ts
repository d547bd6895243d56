// A CSV or NDJSON body that stays a stream: what it may be, and the parameters beside it.
import { createHash } from "node:crypto";
import { PassThrough, Transform, type Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { refusal } from "../graphql/errors.ts";
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
// The first bytes decide: a body that a proxy has unpacked may still be labelled gzip.
const ENCODINGS = ["gzip", "identity"];

/** Takes the parsers, and the limit on a body's size, from the routes of this scope. */
export function takeStreams(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, parsed) => parsed(null));
}

/** Runs a handler of such a body, which may take hours to come. A rejected body is not read to its end. */
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
    if (isUnknownDataset(error)) throw refusal("NOT_FOUND", error.message);
    if (isBadInput(error) || isBadOption(error)) throw refusal("BAD_REQUEST", error.message);
    throw error;
  } finally {
    ended();
  }
}

export function formatOf(request: FastifyRequest): Format {
  const type = request.headers["content-type"]?.split(";", 1)[0]!.trim().toLowerCase() ?? "";
  if (!Object.hasOwn(FORMATS, type))
    throw refusal(
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
      throw refusal("BAD_REQUEST", `Unknown parameter "${name}"; allowed: ${allowed.join(", ")}`);
    if (Array.isArray(value) && !repeatable.includes(name))
      throw refusal("BAD_REQUEST", `Parameter "${name}" is given more than once`);
  }
  return query;
}

/** Parameters that say how the body is written. */
export const READ_PARAMETERS = ["delimiter", "encoding", "decimal", "dateFormat", "timezone", "null"];
export const REPEATABLE_READ_PARAMETERS = ["null"];

/** The charset of the content type is an encoding as well. */
export function readParametersOf(request: FastifyRequest): ReadOptions {
  const query = request.query as ReadOptions & { null?: string | string[] };
  const charset = /;\s*charset="?([^";\s]+)/i.exec(request.headers["content-type"] ?? "")?.[1];
  return readOptionsOf({
    ...query,
    encoding: query.encoding ?? charset,
    null: query.null === undefined ? undefined : [query.null].flat(),
  });
}

/** The body as a stream. It ends apart from the connection, which still has to carry an answer, and fails if its digest is another. */
export function bodyOf({ raw }: FastifyRequest, sha256?: string): Readable {
  const body = sha256 === undefined ? new PassThrough() : checkDigest(sha256);
  raw.on("error", () => body.destroy(new Error("The connection ended before the body did")));
  return raw.pipe(body);
}

/** Passes bytes on, and fails at their end if they are others than was said. */
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
