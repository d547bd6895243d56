// Allowed origins, and security headers of responses and pages.
import cors from "@fastify/cors";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import helmet, { type HelmetOptions } from "helmet";
import type { Config } from "../config.ts";
import { apiError } from "../graphql/errors.ts";
import { isPage } from "../graphql/graphiql.ts";
import { NODE_HEADER, POSITION_HEADER, READ_HEADER } from "../graphql/position.ts";

/** Pages on this machine, which the embedded database allows by default for development. */
const DEVELOPMENT = /^http:\/\/(localhost|127\.0\.0\.1)(:\d+)?$/;

export async function addHeaders(app: FastifyInstance, config: Config): Promise<void> {
  const { CORS_ORIGINS, DATABASE_URL, READ_DATABASE_URLS } = config;
  const origins: (string | RegExp)[] =
    CORS_ORIGINS.length > 0 || DATABASE_URL !== undefined ? CORS_ORIGINS : [DEVELOPMENT];
  app.addHook("onRequest", (request, _reply, done) => {
    // CORS does not apply to WebSockets, so check the Origin here.
    const isRejected = request.ws && !isOwnOrAllowed(request, origins);
    done(
      isRejected
        ? apiError("FORBIDDEN", "This origin may not open sockets; CORS_ORIGINS lists those that may")
        : undefined,
    );
  });
  const policies = {
    // Policy for data; pages with scripts set their own.
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    },
    crossOriginResourcePolicy: {
      policy: CORS_ORIGINS.length > 0 ? ("cross-origin" as const) : ("same-origin" as const),
    },
  };
  const ofPages = headersOf(policies);
  const ofData = headersOf({ ...policies, ...ONLY_OF_PAGES });
  app.addHook("onRequest", ({ routeOptions }, reply, done) => {
    reply.headers(isPage(routeOptions.url) ? ofPages : ofData);
    done();
  });
  if (origins.length === 0) return;
  // GraphiQL's page may hold a token, so no other origin may read it.
  app.addHook("onRoute", (route) => {
    if (isPage(route.url)) route.config = { ...route.config, cors: false };
  });
  const ofReplicas = (names: string[]): string[] => (READ_DATABASE_URLS.length > 0 ? names : []);
  await app.register(cors, {
    origin: origins,
    methods: ["GET", "POST"],
    allowedHeaders: [
      ...["authorization", "content-type", "if-none-match", "x-request-id", "traceparent"],
      ...ofReplicas([POSITION_HEADER, READ_HEADER]),
    ],
    exposedHeaders: ["etag", "retry-after", "x-request-id", ...ofReplicas([POSITION_HEADER, NODE_HEADER])],
    credentials: false,
    maxAge: 600,
  });
}

function isOwnOrAllowed({ headers, host }: FastifyRequest, allowed: (string | RegExp)[]): boolean {
  const { origin } = headers;
  if (origin === undefined) return true;
  if (allowed.some((one) => (typeof one === "string" ? one === origin : one.test(origin)))) return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}

/** Security headers that matter only for documents, scripts and links. */
const ONLY_OF_PAGES = {
  crossOriginOpenerPolicy: false,
  originAgentCluster: false,
  xDnsPrefetchControl: false,
  xDownloadOptions: false,
  xPermittedCrossDomainPolicies: false,
  xXssProtection: false,
} as const;

/** Calls helmet once, since the headers are the same for every response. */
function headersOf(policies: HelmetOptions): Record<string, string> {
  const headers: Record<string, string> = {};
  const response = {
    setHeader: (name: string, value: string) => void (headers[name.toLowerCase()] = value),
    removeHeader: () => undefined,
  };
  // TLS ends at a proxy, which has to set this header.
  helmet({ ...policies, strictTransportSecurity: false } as HelmetOptions)(
    {} as IncomingMessage,
    response as unknown as ServerResponse,
    () => undefined,
  );
  return headers;
}
