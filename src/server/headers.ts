// From where: origins, and what browsers are told about our pages.
import cors from "@fastify/cors";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import helmet, { type HelmetOptions } from "helmet";
import type { Config } from "../config.ts";
import { refusal } from "./errors.ts";

export async function addHeaders(app: FastifyInstance, { CORS_ORIGINS }: Config): Promise<void> {
  app.addHook("onRequest", (request, _reply, done) => {
    // Browsers open sockets to any address; only their Origin says for whom.
    const isRefused = request.ws && !isOwnOrAllowed(request, CORS_ORIGINS);
    done(
      isRefused
        ? refusal("FORBIDDEN", "This origin may not open sockets; CORS_ORIGINS lists those that may")
        : undefined,
    );
  });
  const fixed = headersOf({
    // For data; the one page that has scripts brings its own policy.
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    },
    crossOriginResourcePolicy: { policy: CORS_ORIGINS.length > 0 ? "cross-origin" : "same-origin" },
    // TLS ends in front of this process, and so does this promise.
    strictTransportSecurity: false,
  });
  app.addHook("onRequest", (_request, reply, done) => {
    reply.headers(fixed);
    done();
  });
  if (CORS_ORIGINS.length === 0) return;
  await app.register(cors, {
    origin: CORS_ORIGINS,
    methods: ["GET", "POST"],
    allowedHeaders: ["authorization", "content-type", "if-none-match", "x-request-id", "traceparent"],
    exposedHeaders: ["etag", "retry-after", "x-request-id"],
    credentials: false,
    maxAge: 600,
  });
}

function isOwnOrAllowed({ headers, host }: FastifyRequest, allowed: string[]): boolean {
  const { origin } = headers;
  if (origin === undefined || allowed.includes(origin)) return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}

/** They are the same for every answer, so helmet is asked once. */
function headersOf(options: HelmetOptions): Record<string, string> {
  const headers: Record<string, string> = {};
  const response = {
    setHeader: (name: string, value: string) => void (headers[name.toLowerCase()] = value),
    removeHeader: () => undefined,
  };
  helmet(options)({} as IncomingMessage, response as unknown as ServerResponse, () => undefined);
  return headers;
}
