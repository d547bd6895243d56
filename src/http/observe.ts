// Observes requests: a log line for each, a warning for slow ones, and metrics.
import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { isAsyncIterable, isPromiseLike } from "grafast";
import { getOperationAST } from "grafast/graphql";
import type { Route } from "../database/nodes.ts";
import type { Tracing } from "../tracing.ts";
import type { Metrics, OperationRecord } from "./metrics.ts";

declare module "fastify" {
  interface FastifyRequest {
    operation?: OperationRecord;
  }
}

export interface ObserveOptions {
  metrics: Metrics;
  slowMs: number;
  tracing?: Tracing | undefined;
}

/** Paths without a log line: probes and scrapes come every few seconds. */
const QUIET = new Set(["/healthz", "/readyz", "/metrics"]);

/** Uses the id of a proxy if it is valid, so that both logs can be joined. */
export function requestId({ headers }: { headers: IncomingHttpHeaders }): string {
  const given = headers["x-request-id"];
  return typeof given === "string" && /^[\w.:-]{8,128}$/.test(given) ? given : randomUUID();
}

export function addRequestLog(app: FastifyInstance, { metrics, slowMs, tracing }: ObserveOptions): void {
  app.addHook("onRequest", (request, reply, done) => {
    reply.header("x-request-id", request.id);
    done();
  });
  app.addHook("onRequestAbort", (request, done) => {
    request.log.info({ method: request.method, path: request.url.split("?", 1)[0] }, "client went away");
    done();
  });
  app.addHook("onResponse", (request, reply, done) => {
    const { operation } = request;
    // Omit the query string, which may hold variables.
    const path = request.url.split("?", 1)[0]!;
    const ms = Math.round(reply.elapsedTime * 10) / 10;
    const route = request.routeOptions.url ?? "none";
    const role = (request as Partial<FastifyRequest>).claims?.role;
    const line = { method: request.method, path, status: reply.statusCode, ms, role };
    request.log[QUIET.has(path) ? "debug" : "info"]({ ...line, ...describe(operation) }, "request");
    // Slow GraphQL operations have a warning of their own.
    if (ms > slowMs && !operation) request.log.warn(line, "slow request");
    metrics.recordRequest(
      { method: request.method, route, status: reply.statusCode },
      reply.elapsedTime / 1000,
    );
    if (!QUIET.has(path))
      tracing?.record({
        name: operation ? `${operation.type} ${operation.name}` : `${request.method} ${route}`,
        startedAt: new Date(Date.now() - reply.elapsedTime),
        failed: reply.statusCode >= 500 || (operation !== undefined && operation.outcome !== "ok"),
        traceparent: String(request.headers.traceparent),
        attributes: {
          "http.request.method": request.method,
          "http.route": route,
          "http.response.status_code": reply.statusCode,
          "strata.request_id": request.id,
          "strata.role": role,
          ...(operation && attributesOf(operation)),
        },
      });
    done();
  });
}

const attributesOf = ({ type, name, outcome, sqlSeconds, statements }: OperationRecord) => ({
  "graphql.operation.type": type,
  "graphql.operation.name": name,
  "strata.outcome": outcome,
  "strata.sql_ms": milliseconds(sqlSeconds),
  "strata.sql_statements": statements,
});

const milliseconds = (seconds: number): number => Math.round(seconds * 10_000) / 10;

const describe = (operation: OperationRecord | undefined) =>
  operation && {
    operation: operation.name,
    type: operation.type,
    outcome: operation.outcome,
    sqlMs: milliseconds(operation.sqlSeconds),
    statements: operation.statements,
    ...(operation.node && { node: operation.node, why: operation.why }),
  };

/** Records a finished operation; over HTTP it becomes part of the request's log line. */
function recordOperation(
  { metrics, slowMs, tracing }: ObserveOptions,
  record: OperationRecord,
  request: FastifyRequest | undefined,
  isHttp: boolean,
): void {
  metrics.recordOperation(record);
  const role = request?.claims?.role;
  const line = () => ({ ...describe(record), ms: milliseconds(record.seconds), role });
  if (record.seconds * 1000 > slowMs) request?.log.warn(line(), "slow operation");
  else if (!isHttp) request?.log.info(line(), "operation");
  // Operations of a socket get log lines of their own.
  if (request && isHttp) request.operation = record;
  else
    tracing?.record({
      name: `${record.type} ${record.name}`,
      startedAt: new Date(Date.now() - record.seconds * 1000),
      failed: record.outcome !== "ok",
      attributes: { "strata.role": role, ...attributesOf(record) },
    });
}

export function createObservationPlugin(options: ObserveOptions): GraphileConfig.Plugin {
  function observe<T>(next: () => T, { args }: { args: Grafast.ExecutionArgs }): T {
    const startedAt = performance.now();
    const ast = getOperationAST(args.document, args.operationName);
    const { fastifyv5, ws } = args.requestContext ?? {};
    const request = fastifyv5?.request ?? (ws?.request as unknown as FastifyRequest | undefined);
    const finish = (outcome: string): void => {
      const { sql, route } = (args.contextValue as Measured).operation ?? {};
      const record: OperationRecord = {
        type: ast?.operation ?? "query",
        name: ast?.name?.value ?? "anonymous",
        outcome,
        seconds: (performance.now() - startedAt) / 1000,
        sqlSeconds: (sql?.milliseconds ?? 0) / 1000,
        statements: sql?.statements ?? 0,
        ...(route?.node && { node: route.node.name, why: route.why }),
      };
      recordOperation(options, record, request, fastifyv5 !== undefined);
    };
    const settle = (result: unknown): void => {
      const [error] = (!isAsyncIterable(result) && (result as { errors?: Faults }).errors) || [];
      finish(error ? (error.extensions?.code ?? "INTERNAL_SERVER_ERROR") : "ok");
    };
    let result: T;
    try {
      result = next();
    } catch (error) {
      finish("INTERNAL_SERVER_ERROR");
      throw error;
    }
    if (!isPromiseLike(result)) settle(result);
    else result.then(settle, () => finish("INTERNAL_SERVER_ERROR"));
    return result;
  }
  return {
    name: "ObservationPlugin",
    version: "1.0.0",
    grafast: { middleware: { execute: observe as never, subscribe: observe as never } },
  };
}

type Faults = { extensions?: { code?: string } }[];

interface Measured {
  operation?: { sql: { milliseconds: number; statements: number }; route?: Route };
}
