// The HTTP server: who asks, then GraphQL, ingest and the pages that operations need.
import websocket from "@fastify/websocket";
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance } from "fastify";
import type { Config } from "../config.ts";
import type { Database } from "../database/connect.ts";
import { AuthenticationError, createAuthenticator } from "./auth.ts";
import { createGraphql } from "./graphql.ts";
import { addHealth, type Check } from "./health.ts";
import { addMetrics, createMetrics } from "./metrics.ts";
import { addRequestLog, createObservationPlugin, requestId } from "./observe.ts";
import { addPipelineMetrics } from "./pipeline-metrics.ts";
import { createProbePool } from "./probe.ts";

export interface AppOptions {
  config: Config;
  database: Database;
  logger?: FastifyBaseLogger;
  /** What readiness depends on beside the database. */
  parts?: Record<string, () => Check>;
  stopping?: AbortSignal;
}

export async function createApp(options: AppOptions): Promise<FastifyInstance> {
  const { config, database, logger, parts, stopping } = options;
  const authenticator = createAuthenticator(config);
  const probes = createProbePool(database);
  const metrics = createMetrics();
  metrics.watchPool("main", database.pool);
  addPipelineMetrics(metrics.registry, probes);
  const observation = { metrics, slowMs: config.SLOW_OPERATION_MS };
  const graphql = createGraphql({
    config,
    database,
    authenticator,
    plugins: [createObservationPlugin(observation)],
  });
  metrics.watchPool("operations", graphql.pool);
  const app = Fastify({
    ...(logger && { loggerInstance: logger }),
    // One line of our own replaces the two of Fastify.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "requestId" }),
    genReqId: requestId,
  });
  addRequestLog(app, observation);

  app.decorateRequest("claims");
  app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, request, reply) => {
    const status = error.statusCode ?? 500;
    if (status >= 500) request.log.error(error);
    const code =
      error instanceof AuthenticationError ? error.code : (CODES[status] ?? "INTERNAL_SERVER_ERROR");
    if (status === 401) reply.header("www-authenticate", "Bearer");
    const message = status >= 500 ? "Internal server error" : error.message;
    return reply.status(status).send({ errors: [{ message, extensions: { code, requestId: request.id } }] });
  });
  await app.register(websocket, {
    options: { maxPayload: 1024 * 1024 },
    // 1001, going away: clients connect again, to another instance.
    preClose(done) {
      const clients = [...app.websocketServer.clients];
      for (const client of clients) client.close(1001, "The server is stopping");
      setTimeout(() => clients.forEach((client) => client.terminate()), CLOSING_MS).unref();
      app.websocketServer.close(() => done());
    },
  });

  addHealth(app, { pool: probes, parts: parts ?? {}, stopping: stopping ?? new AbortController().signal });
  addMetrics(app, metrics, config);

  // Everything below acts for somebody.
  await app.register(async (scope) => {
    scope.addHook("onRequest", async (request) => {
      const isUpgrade = request.headers.upgrade !== undefined;
      const isPage = request.url.startsWith("/graphiql") || request.url.startsWith("/ruru-static/");
      // A page has no token yet, and a socket brings it in connection_init.
      if (isUpgrade || isPage) return;
      request.claims = await authenticator.authenticate(request.headers.authorization);
      if (request.claims.role === undefined)
        throw new AuthenticationError(
          "This server answers only requests with a token: Authorization: Bearer <token>",
        );
    });
    scope.get("/schema.graphql", async (_request, reply) =>
      reply.type("text/plain; charset=utf-8").send(await graphql.printSdl()),
    );
    await graphql.addTo(scope);
  });
  app.addHook("onClose", async () => {
    await graphql.release();
    await probes.end();
  });
  try {
    // A schema that cannot be built fails the start, not the first request.
    await graphql.instance.getSchema();
  } catch (error) {
    await app.close();
    throw error;
  }
  return app;
}

/** A client that does not answer our goodbye by then is cut off. */
const CLOSING_MS = 3_000;

const CODES: Record<number, string> = {
  400: "BAD_REQUEST",
  401: "UNAUTHENTICATED",
  403: "FORBIDDEN",
  404: "NOT_FOUND",
  413: "PAYLOAD_TOO_LARGE",
  415: "UNSUPPORTED_MEDIA_TYPE",
  429: "TOO_MANY_REQUESTS",
  503: "SERVICE_UNAVAILABLE",
};
