// Chooses the media type of a GraphQL response by the Accept header, and checks the Content-Encoding of a body.
import type { FastifyRequest } from "fastify";
import { apiError } from "../graphql/errors.ts";

const RESPONSE = "application/graphql-response+json";
const LEGACY = "application/json";
const MATCHES: Record<string, string> = {
  [RESPONSE]: RESPONSE,
  [LEGACY]: LEGACY,
  // The specification requires the older type for clients that name none.
  "application/*": LEGACY,
  "*/*": LEGACY,
};

/** Returns the type that the client prefers by its weights; undefined if it accepts neither. */
export function answerType(accept: string = "*/*"): string | undefined {
  let best: string | undefined;
  let bestWeight = 0;
  for (const range of accept.split(",")) {
    const [type = "", ...parameters] = range.split(";").map((part) => part.trim().toLowerCase());
    const match = Object.hasOwn(MATCHES, type) ? MATCHES[type] : undefined;
    const weight = Number(parameters.find((parameter) => parameter.startsWith("q="))?.slice(2) ?? 1);
    if (!match || !(weight > bestWeight)) continue;
    best = match;
    bestWeight = weight;
  }
  return best;
}

/** Rejects a body whose Content-Encoding is not supported. */
export function checkEncoding({ headers }: FastifyRequest, allowed: string[]): void {
  const encoding = headers["content-encoding"]?.trim().toLowerCase() ?? "identity";
  if (allowed.includes(encoding)) return;
  throw apiError(
    "UNSUPPORTED_MEDIA_TYPE",
    `Content-Encoding "${encoding}" is not taken; allowed: ${allowed.join(", ")}`,
  );
}
