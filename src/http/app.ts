// The HTTP server: authentication, then GraphQL, ingest, export and the operational endpoints.
import websocket from "@fastify/websocket";
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance } from "fastify";
import type { Config } from "../config.ts";
import type { Database } from "../database/connect.ts";
import type { Lifecycle } from "../lifecycle.ts";
import type { Tracing } from "../tracing.ts";
import { createAuthenticator, type Claims } from "./auth.ts";
import { createFindRole } from "./database-roles.ts";
import { addDrain } from "./drain.ts";
import { handleError, apiError } from "../graphql/errors.ts";
import { addPageRules, isPage } from "../graphql/graphiql.ts";
import { createGraphql, settings } from "../graphql/graphql.ts";
import { mayIntrospect } from "../guard/guard.ts";
import { addExport } from "./export-route.ts";
import { addHeaders } from "./headers.ts";
import { addHealth, type Check } from "./health.ts";
import { addIngest } from "./ingest-route.ts";
import { MAX_BODY_BYTES } from "../guard/document.ts";
import { addMetrics, createMetrics } from "./metrics.ts";
import { addRequestLog, requestId } from "./observe.ts";
import { addPipelineMetrics } from "./pipeline-metrics.ts";
import { checksOf, watchNodes } from "./node-status.ts";
import { createProbePool } from "./probe.ts";
import { addPropose } from "./propose-route.ts";
import type { Siblings } from "../processes/siblings.ts";
import { addStudio } from "./studio.ts";
import { addSlowRequests, CHECK_MS, REQUEST_TIMEOUT_MS } from "./request-timeout.ts";

export interface AppOptions {
  config: Config;
  database: Database;
  logger?: FastifyBaseLogger;
  /** Parts other than the database on which readiness depends. */
  parts?: Record<string, () => Check>;
  tracing?: Tracing | undefined;
  lifecycle?: Pick<Lifecycle, "stopping" | "hurry">;
  /** The other processes of PROCESSES. */
  siblings?: Siblings | undefined;
  /** Bytes of the largest file that a dataset is proposed for; a gigabyte by default. */
  maxProposedBytes?: number;
}

export async function createApp(options: AppOptions): Promise<FastifyInstance> {
  const { config, database, logger, parts, lifecycle, tracing, siblings } = options;
  const probes = createProbePool(database);
  const authenticator = createAuthenticator(config, createFindRole(probes));
  const metrics = createMetrics();
  metrics.watchPool("main", database.pool);
  addPipelineMetrics(metrics.registry, probes);
  const observation = { metrics, slowMs: config.SLOW_OPERATION_MS, tracing };
  const graphql = createGraphql({
    config,
    database,
    observation,
    log: logger,
    hurry: lifecycle?.hurry,
    siblings,
  });
  metrics.watchPool("operations", graphql.pool);
  if (graphql.nodes) watchNodes(metrics, graphql.nodes);
  metrics.watchSchema(graphql.instance.isOutdated);
  const app = Fastify({
    ...(logger && { loggerInstance: logger }),
    // Strata logs one line per request (./observe.ts) in place of Fastify's two.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "requestId" }),
    genReqId: requestId,
    // URLs that cannot be decoded do not reach the handlers below.
    frameworkErrors: (...fault) => void handleError(...fault),
    requestTimeout: REQUEST_TIMEOUT_MS,
    // The port stays open until sockets are closed; requests that arrive meanwhile are answered as usual.
    return503OnClosing: false,
    http: { connectionsCheckingInterval: CHECK_MS },
    trustProxy: config.TRUSTED_PROXIES.length > 0 && config.TRUSTED_PROXIES,
  });
  addRequestLog(app, observation);
  addDrain(app, lifecycle?.stopping);
  addSlowRequests(app);

  // Declared at the start, so that request objects keep one shape.
  for (const name of ["claims", "place", "answerKey", "lookup", "cacheable", "operation", "route"])
    app.decorateRequest(name);
  app.setErrorHandler(handleError);
  const methods = new Map<string, string[]>();
  app.addHook("onRoute", ({ url, method }) => {
    methods.set(url, [...(methods.get(url) ?? []), method].flat());
  });
  /** Methods of the route itself, or of one with a parameter, such as /ingest/:dataset. */
  const methodsOf = (path: string): string[] | undefined =>
    methods.get(path) ??
    [...methods].find(
      ([route]) => route.includes(":") && new RegExp(`^${route.replace(/:\w+/g, "[^/]+")}$`).test(path),
    )?.[1];
  app.setNotFoundHandler(({ method, url }) => {
    const path = url.split("?")[0]!;
    const allow = methodsOf(path)?.join(", ");
    if (allow)
      throw apiError("METHOD_NOT_ALLOWED", `${path} does not allow ${method}; allowed: ${allow}`, { allow });
    throw apiError("NOT_FOUND", `There is no ${method} ${path.slice(0, 100)} here`);
  });
  // Browsers send forms and plain text across origins without a preflight, so these types are not accepted.
  app.removeContentTypeParser("text/plain");
  graphql.addHandlersTo(app, authenticator);
  await app.register(websocket, {
    options: { maxPayload: MAX_BODY_BYTES },
    // Closes with 1001 (going away), so that clients reconnect to another instance.
    preClose(done) {
      const clients = [...app.websocketServer.clients];
      for (const client of clients) client.close(1001, "The server is stopping");
      setTimeout(() => clients.forEach((client) => client.terminate()), CLOSING_MS).unref();
      app.websocketServer.close(() => done());
    },
  });

  await addHeaders(app, config);
  const listen = (): Check =>
    graphql.isListening()
      ? { ok: true, detail: "listening" }
      : { ok: false, detail: "not listening for changes" };
  addHealth(app, {
    pool: probes,
    parts: {
      listen,
      api: graphql.instance.check,
      ...(graphql.nodes && checksOf(graphql.nodes)),
      ...(siblings && { processes: () => checkSiblings(siblings) }),
      ...parts,
    },
    stopping: lifecycle?.stopping,
  });
  addMetrics(app, metrics, config, siblings);
  // The studio is public: the page holds no data, and requests it with the user's token.
  addStudio(app);

  // Everything below requires authentication.
  await app.register(async (scope) => {
    scope.addHook("onRequest", (request, _reply, done) => {
      // Sockets send their token in connection_init.
      if (request.ws) return done();
      const { authorization } = request.headers;
      const take = (claims: Claims): void => {
        request.claims = isPage(request.routeOptions.url) ? claims : authenticator.requireRole(claims);
        done();
      };
      const known = authenticator.recall(authorization);
      if (known) take(known);
      else authenticator.authenticate(authorization).then(take).catch(done);
    });
    addPageRules(scope, config);
    scope.get("/schema.graphql", async (request, reply) => {
      if (!mayIntrospect(config, request)) throw apiError("FORBIDDEN", "Your role may not read the schema");
      return reply.type("text/plain; charset=utf-8").send(await graphql.printSdl());
    });
    await scope.register(addIngest, {
      pool: database.pool,
      nodes: graphql.nodes,
      stopping: lifecycle?.hurry,
    });
    await scope.register(addPropose, {
      pool: database.pool,
      folder: config.DATASETS_DIR,
      maxBytes: options.maxProposedBytes,
      stopping: lifecycle?.hurry,
    });
    await scope.register(addExport, {
      config,
      database,
      getSchema: () => graphql.instance.getSchema(),
      settingsOf: (claims: Claims) => settings(config, claims),
      spend: graphql.spend,
      stopping: lifecycle?.hurry,
    });
    await scope.register((operations) => graphql.addTo(operations));
  });
  app.addHook("onClose", async () => {
    await graphql.release();
    await probes.end();
  });
  try {
    // Fail the start, not the first request, if the schema cannot be built.
    await graphql.instance.getSchema();
    await graphql.nodes?.ready;
  } catch (error) {
    await app.close();
    throw error;
  }
  graphql.follow(logger);
  return app;
}

/** Always ok: this process answers, and the supervisor starts the others again. */
const checkSiblings = ({ serving, orders }: Siblings): Check => ({
  ok: true,
  detail: `${serving()} of ${orders.processes} serve`,
});

/** Time in ms for clients to answer the closing handshake, after which the socket is destroyed. */
const CLOSING_MS = 3_000;
