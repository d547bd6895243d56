// PostGraphile on Fastify: the preset of graphile.config.ts plus what only this process knows.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import type {} from "grafserv/node";
import { grafserv } from "grafserv/fastify/v5";
import { makePgService } from "postgraphile/adaptors/pg";
import type { FastifyBaseLogger, FastifyInstance } from "fastify";
import { lexicographicSortSchema, printSchema } from "grafast/graphql";
import { createPreset } from "../../graphile.config.ts";
import type { PipelineStepRequest } from "../../plugins/PipelineMutationsPlugin.ts";
import type { IngestedRows, IngestRowsRequest } from "../../plugins/IngestMutationsPlugin.ts";
import type { RetryQuarantinedRequest } from "../../plugins/RetryQuarantinedPlugin.ts";
import type { Config } from "../config.ts";
import { SHARED_CONNECTIONS } from "../database/batches.ts";
import { BYTES_PER_MB } from "../database/budget.ts";
import { CONNECTIONS } from "../database/connections.ts";
import { createOperationPool, createPool, type Database } from "../database/connect.ts";
import { createNotifications } from "../database/notifications.ts";
import { isBadInput, isBadOption, isUnknownDataset } from "../ingest/faults.ts";
import { dryRun } from "../ingest/dry-run.ts";
import { ingest, type IngestOptions } from "../ingest/ingest.ts";
import { checkRetry } from "../ingest/retry.ts";
import { retentionOf } from "../pipeline/cleanup.ts";
import { queueStep, runStep, type Run, type RunRequest } from "../pipeline/runs.ts";
import { answerType, checkEncoding } from "../http/accept.ts";
import { addResponseCache, createResponseCachePlugin } from "./response-cache.ts";
import type { Authenticator, Claims } from "../http/auth.ts";
import type { Siblings } from "../processes/siblings.ts";
import { createQueue } from "../guard/queue.ts";
import { createNodes } from "../database/nodes.ts";
import { createDataVersion, createDataVersions } from "./data-version.ts";
import { routeOf } from "./position.ts";
import { apiError } from "./errors.ts";
import { createGraphiqlPlugin, GRAPHIQL_PATH, GRAPHQL_PATH } from "./graphiql.ts";
import { createHttpHandler } from "./http.ts";
import { abortControllerOf, createGuardPlugin, requestOf } from "../guard/guard.ts";
import { createHold } from "../guard/holds.ts";
import { createRateLimit } from "../guard/rate-limit.ts";
import { MAX_BODY_BYTES } from "../guard/document.ts";
import { createObservationPlugin, type ObserveOptions } from "../http/observe.ts";
import { createOperationCache } from "./operation-cache.ts";
import { createPersisted } from "./persisted.ts";
import { watchSchema } from "./schema-watch.ts";
import { createPlansPlugin } from "./plans.ts";
import { createResponseSizePlugin } from "./response-size.ts";
import { createTransactionsPlugin } from "./transactions.ts";
import { createReadsPlugin } from "./reads.ts";
import { createVisiblePlugin } from "./visible.ts";
import { createSocketHandler } from "./websocket.ts";

/** Connections that one caller's large operations leave to others. A higher number slows down a single heavy caller. */
const SPARED_CONNECTIONS = 3;

export interface GraphqlOptions {
  config: Config;
  database: Database;
  /** Receivers of metrics and traces of every operation. */
  observation?: ObserveOptions;
  log?: FastifyBaseLogger | undefined;
  /** Aborted when the process ends without waiting any longer for runs. */
  hurry?: AbortSignal;
  /** The other processes of PROCESSES. */
  siblings?: Siblings | undefined;
}

/** Settings of the transaction that every statement of a request runs in. */
export const settings = (
  config: Config,
  { role, databaseRole, json, subject }: Claims,
): Record<string, string> => ({
  role: databaseRole ?? "none",
  "strata.sub": subject,
  "request.jwt.claims": json,
  timezone: "UTC",
  // A compilation cannot be interrupted: that of a long statement outlasts its time-out.
  jit: "off",
  statement_timeout: String(role === undefined ? 1 : config.STATEMENT_TIMEOUT_MS[role]),
});

/** Runs a step for the caller, or queues it for a worker. */
const runFor = (
  { database, hurry: signal }: GraphqlOptions,
  { databaseRole: role, subject: actor }: Claims,
  request: Omit<RunRequest, "trigger">,
  isLeft: boolean,
): Promise<Run> =>
  (isLeft ? queueStep : runStep)(database.pool, { ...request, trigger: "api", actor, role, signal });

const stepRunner =
  (options: GraphqlOptions, claims: Claims) =>
  ({ background, daysToKeep, ...step }: PipelineStepRequest) => {
    const retention = step.step === "cleanup" ? retentionOf(options.config, daysToKeep) : undefined;
    return runFor(options, claims, { ...step, retention }, background);
  };

/** Rows of a mutation are ingested by the same code as those of a file. */
function rowIngester({ database }: GraphqlOptions, { databaseRole: role, subject }: Claims) {
  return async (request: IngestRowsRequest): Promise<IngestedRows> => {
    const { dataset, rows, once, dryRun: isDryRun, background, ...options } = request;
    if (isDryRun && background)
      throw apiError("BAD_USER_INPUT", "dryRun and background are both true; a dry run is answered at once");
    const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
    const load: IngestOptions = {
      ...options,
      format: "ndjson",
      sha256: once ? createHash("sha256").update(lines.join("")).digest("hex") : undefined,
      trigger: "api",
      actor: subject,
      role,
    };
    try {
      if (isDryRun) return { dryRun: await dryRun(database.pool, dataset, Readable.from(lines), load) };
      return await new Promise<IngestedRows>((resolve, reject) => {
        const onStart = (id: string) => background && resolve({ id });
        ingest(database.pool, dataset, Readable.from(lines), { ...load, onStart }).then(resolve, reject);
      });
    } catch (error) {
      throw explain(error);
    }
  };
}

/** Faults of the caller's input become errors with their message. */
const explain = (error: unknown): unknown =>
  isBadInput(error) || isBadOption(error) || isUnknownDataset(error)
    ? apiError("BAD_USER_INPUT", error.message)
    : error;

function retrier(options: GraphqlOptions, claims: Claims) {
  return async ({ background, patch, ...retry }: RetryQuarantinedRequest) => {
    const text = patch === undefined ? undefined : JSON.stringify(patch);
    try {
      checkRetry(retry, text);
    } catch (error) {
      throw explain(error);
    }
    const run = await runFor(options, claims, { step: "retry", retry, patch: text }, background);
    return background ? { id: run.id } : run;
  };
}

export function createGraphql(options: GraphqlOptions) {
  const { config, database } = options;
  const primary = createOperationPool(config, database);
  const urls = config.READ_DATABASE_URLS;
  const nodes =
    urls.length > 0
      ? createNodes({ pool: primary.pool, connection: database.connection, urls, log: options.log })
      : undefined;
  const operations = { ...primary, nodes };
  const notifications = createNotifications(database.connection, nodes?.announce);
  // This connection is used for nothing else.
  const versions = createPool(database.connection, { max: CONNECTIONS.versions, query_timeout: 5_000 });
  const hold = createHold(options.siblings);
  const queue = createQueue({
    maxPlaces: config.MAX_CONCURRENT_OPERATIONS,
    maxTurns: Math.max(operations.pool.options.max - SHARED_CONNECTIONS - SPARED_CONNECTIONS, 1),
    maxCost: config.MAX_QUERY_COST,
    hold,
  });
  const operationCache = createOperationCache(config.OPERATION_CACHE_MB * BYTES_PER_MB);
  const spend = createRateLimit(config.RATE_LIMIT_COST, options.siblings);
  const persisted = createPersisted(config, requestOf);
  // One object per claims, so that what statements derive from it is cached.
  const settingsByClaims = new WeakMap<Claims, Record<string, string>>();
  const settingsOf = (claims: Claims): Record<string, string> => {
    let made = settingsByClaims.get(claims);
    if (!made) settingsByClaims.set(claims, (made = settings(config, claims)));
    return made;
  };
  const preset: GraphileConfig.Preset = {
    extends: [
      createPreset({
        pgServices: [
          makePgService({
            pool: database.pool,
            schemas: ["production", "analytics"],
            pgSubscriber: notifications,
          }),
        ],
        datasetsDir: config.DATASETS_DIR,
        defaultPageSize: config.DEFAULT_PAGE_SIZE,
        maxPageSize: config.MAX_PAGE_SIZE,
      }),
      persisted,
    ],
    plugins: [
      ...(options.observation ? [createObservationPlugin(options.observation)] : []),
      createTransactionsPlugin(operations),
      createPlansPlugin(operationCache),
      createGuardPlugin(config, queue.enterTurn, operationCache, spend, hold),
      createResponseCachePlugin(),
      createReadsPlugin({
        config,
        operations,
        operationCache,
        record: (path) => options.observation?.metrics.recordRead(path),
      }),
      createVisiblePlugin(operations.pool),
      createResponseSizePlugin(operations.maxBytes),
      createGraphiqlPlugin(config),
    ],
    grafserv: {
      graphqlPath: GRAPHQL_PATH,
      graphiqlPath: GRAPHIQL_PATH,
      graphiql: config.GRAPHIQL_ROLES.length > 0,
      maxRequestLength: MAX_BODY_BYTES,
      graphiqlOnGraphQLGET: false,
      websockets: true,
    },
    grafast: {
      context(context: Partial<Grafast.RequestContext>) {
        const request = requestOf(context);
        const { claims } = request;
        const controller = abortControllerOf(context);
        // A run has connections and a time limit of its own, so it gives up the operation's place.
        const runPipelineStep = stepRunner(options, claims);
        const ingestRows = rowIngester(options, claims);
        const retryQuarantined = retrier(options, claims);
        return {
          pgSettings: settingsOf(claims),
          claims,
          abortSignal: controller.signal,
          abort: () => controller.abort(),
          runPipelineStep: (step: PipelineStepRequest) => (request.place?.leave(), runPipelineStep(step)),
          ingestRows: (rows: IngestRowsRequest) => (request.place?.leave(), ingestRows(rows)),
          retryQuarantined: (rows: RetryQuarantinedRequest) => (
            request.place?.leave(),
            retryQuarantined(rows)
          ),
        };
      },
    },
  };
  const instance = watchSchema({ preset, pool: versions, notifications });
  const serv = grafserv({ preset, schema: instance.getSchema() });
  return {
    instance,
    follow: (log: FastifyBaseLogger | undefined) => instance.follow((schema) => serv.setSchema(schema), log),
    pool: operations.pool,
    nodes,
    /** Charges a caller's budget, for requests outside GraphQL. */
    spend,
    isListening: () => notifications.isListening(),
    /** Replaces grafserv's handlers; must be called before the WebSocket plugin, which wraps them. */
    addHandlersTo(app: FastifyInstance, authenticator: Authenticator): void {
      queue.watch(app.server);
      const handler = createHttpHandler(serv);
      const wsHandler = createSocketHandler(serv, authenticator);
      app.addHook("onRoute", (route) => {
        if (route.url !== GRAPHQL_PATH) return;
        route.handler = handler;
        if (route.wsHandler) route.wsHandler = wsHandler;
      });
    },
    async printSdl(): Promise<string> {
      const schema = await instance.getSchema();
      return `${printSchema(lexicographicSortSchema(schema))}\n`;
    },
    async release(): Promise<void> {
      await notifications.release();
      await instance.release();
      await serv.release();
      await Promise.all([operations.pool.end(), versions.end(), nodes?.release()]);
    },
    async addTo(app: FastifyInstance): Promise<void> {
      app.addHook("onRequest", (request, reply, done) => {
        const { headers, ws, routeOptions } = request;
        // The route decides, since the same path can be written in several ways.
        if (routeOptions.url !== GRAPHQL_PATH || ws) return done();
        checkEncoding(request, ["identity"]);
        if (nodes) routeOf(request);
        headers.accept = answerType(headers.accept);
        if (headers.accept) return queue.arrive(request, reply.raw, done);
        done(
          apiError(
            "NOT_ACCEPTABLE",
            "Responses are application/graphql-response+json or application/json; the Accept header allows neither",
          ),
        );
      });
      // The raw body is part of the response cache's key; ./http.ts parses it later.
      app.addContentTypeParser("application/json", { parseAs: "string" }, (_request, body, done) =>
        done(null, body),
      );
      if (config.RESPONSE_CACHE_MB > 0)
        addResponseCache(app, {
          maxBytes: config.RESPONSE_CACHE_MB * BYTES_PER_MB,
          dataVersion: createDataVersion(versions, () => instance.current()!, instance.rebuild),
          dataVersions: nodes && createDataVersions(nodes, () => instance.current()!, instance.rebuild),
          record: (outcome) => options.observation?.metrics.recordCache(outcome),
          watch: (bytes) => options.observation?.metrics.watchCache(bytes),
        });
      await serv.addTo(app);
    },
  };
}

declare global {
  namespace Grafast {
    interface Context {
      claims: Claims;
    }
  }
}
declare module "fastify" {
  interface FastifyRequest {
    claims: Claims;
  }
}
