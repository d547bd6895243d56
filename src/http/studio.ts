// Serves the studio at /: compressed files from memory, with a policy that allows only its own scripts.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ASSETS_PATH, loadStudio, type Asset, type Studio } from "../../studio/build.ts";
import { apiError } from "../graphql/errors.ts";

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join(";");
const HEADERS = {
  "content-security-policy": POLICY,
  "cross-origin-opener-policy": "same-origin",
  "permissions-policy": "camera=(), geolocation=(), microphone=()",
  vary: "accept-encoding",
};
const FOR_EVER = "public, max-age=31536000, immutable";
// The page names this version's assets, so browsers revalidate it each time, mostly with 304.
const ASK_EACH_TIME = "no-cache";

/** Whether the client accepts an encoding: it is named, and its weight is not zero. */
const accepts = ({ headers }: FastifyRequest, encoding: string): boolean =>
  String(headers["accept-encoding"] ?? "")
    .toLowerCase()
    .split(",")
    .map((part) => part.split(";").map((word) => word.trim()))
    .some(
      ([name, ...weights]) => name === encoding && !weights.some((weight) => /^q=0(\.0*)?$/.test(weight)),
    );

function send(request: FastifyRequest, reply: FastifyReply, asset: Asset, caching: string): FastifyReply {
  const encoding = accepts(request, "br") ? "br" : accepts(request, "gzip") ? "gzip" : undefined;
  const body = encoding === "br" ? asset.brotli : encoding === "gzip" ? asset.gzip : asset.plain;
  const etag = `"${asset.hash}${encoding ? `-${encoding}` : ""}"`;
  void reply.headers(HEADERS).headers({ etag, "cache-control": caching }).type(asset.type);
  const known = String(request.headers["if-none-match"] ?? "").split(/\s*,\s*/);
  if (known.some((tag) => tag === "*" || tag.replace(/^W\//, "") === etag)) return reply.status(304).send();
  if (encoding) void reply.header("content-encoding", encoding);
  return reply.send(body);
}

export function addStudio(app: FastifyInstance): void {
  let loading: Promise<Studio> | undefined;
  const studio = (): Promise<Studio> =>
    (loading ??= loadStudio().catch((error: unknown) => {
      loading = undefined;
      app.log.error({ error }, "the studio could not be built");
      throw apiError("NOT_FOUND", "The studio is not part of this installation; GraphQL answers at /graphql");
    }));
  app.get("/", async (request, reply) => send(request, reply, (await studio()).page, ASK_EACH_TIME));
  app.get<{ Params: { name: string } }>(`${ASSETS_PATH}:name`, async (request, reply) => {
    const asset = (await studio()).assets.get(request.params.name);
    if (!asset) throw apiError("NOT_FOUND", "The studio has no such file; load the page again");
    return send(request, reply, asset, FOR_EVER);
  });
}
