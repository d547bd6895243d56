// GET /export/{table}.{format}: streams rows as a file, as fast as the client reads.
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { GraphQLSchema } from "grafast/graphql";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { createPool, type Database } from "../database/connect.ts";
import { cancelled, type Settings } from "../database/adaptor.ts";
import { EXPORT_FORMATS, isExportFormat, openExport, type ExportFormat } from "../export/export.ts";
import type { ExportRequest } from "../export/select.ts";
import { apiError } from "../graphql/errors.ts";
import { mayIntrospect } from "../guard/guard.ts";
import { identityOf, type Spend } from "../guard/rate-limit.ts";
import type { Claims } from "./auth.ts";
import { parametersOf } from "./body.ts";
import { RETRY_AFTER_S } from "./health.ts";

interface ExportRouteOptions {
  config: Config;
  database: Database;
  getSchema: () => Promise<GraphQLSchema>;
  settingsOf: (claims: Claims) => Settings;
  spend: Spend;
  stopping?: AbortSignal | undefined;
}

const TYPES: Record<ExportFormat, string> = {
  csv: "text/csv; charset=utf-8; header=present",
  ndjson: "application/x-ndjson; charset=utf-8",
  parquet: "application/vnd.apache.parquet",
};
const PARAMETERS = ["filter", "orderBy", "columns", "limit"];
/** Base cost of an export, as of any computation over many rows; each row adds one unit. */
const BASE_COST = 50;

function formatOf(file: string): { name: string; format: ExportFormat } {
  const [, name, format] = /^([^.]+)\.(\w+)$/s.exec(file) ?? [];
  if (name !== undefined && isExportFormat(format)) return { name, format };
  throw apiError(
    "NOT_FOUND",
    `An export is called by a table or metric and its format; allowed: ${EXPORT_FORMATS.map((one) => `{name}.${one}`).join(", ")}`,
  );
}

const listOf = (text: string | undefined): string[] | undefined =>
  text
    ?.split(",")
    .map((name) => name.trim())
    .filter(Boolean);

function requestOf(request: FastifyRequest, name: string): ExportRequest {
  const { filter, orderBy, columns, limit } = parametersOf(request, PARAMETERS) as Record<
    string,
    string | undefined
  >;
  if (limit !== undefined && !/^\d{1,15}$/.test(limit))
    throw apiError("BAD_REQUEST", `limit is "${limit.slice(0, 100)}"; allowed: a whole number from 0`);
  let parsed: unknown;
  try {
    parsed = filter === undefined ? undefined : JSON.parse(filter);
  } catch {
    throw apiError("BAD_REQUEST", 'The parameter filter is not JSON; allowed: {"status": {"equalTo": "…"}}');
  }
  return {
    name,
    filter: parsed,
    orderBy: listOf(orderBy),
    columns: listOf(columns),
    limit: limit === undefined ? undefined : Number(limit),
  };
}

export function addExport(
  app: FastifyInstance,
  { config, database, getSchema, settingsOf, spend, stopping }: ExportRouteOptions,
  done: () => void,
): void {
  const { MAX_EXPORTS: most } = config;
  const pool: Pool = createPool(database.connection, {
    max: Math.max(most, 1),
    application_name: "strata export",
  });
  app.addHook("onClose", () => pool.end());
  const running = new Map<string, number>();

  /** Grants a place if the caller's exports leave as many free as they take, as in the queue of operations. */
  function takePlace(caller: string): () => void {
    const mine = running.get(caller) ?? 0;
    const all = [...running.values()].reduce((sum, count) => sum + count, 0);
    if (mine >= most - all)
      throw apiError(
        "SERVICE_UNAVAILABLE",
        most === 0
          ? "Exports are off: MAX_EXPORTS is 0"
          : `The server works on ${all} exports, ${mine} of them yours, of ${most} at most; try again when one has ended`,
        { retryAfter: RETRY_AFTER_S, limit: most },
      );
    running.set(caller, mine + 1);
    return () => {
      const left = running.get(caller)! - 1;
      if (left > 0) running.set(caller, left);
      else running.delete(caller);
    };
  }

  async function send(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const { claims } = request;
    const { name, format } = formatOf((request.params as { file: string }).file);
    const wanted = requestOf(request, name);
    spend(request, BASE_COST);
    const leave = takePlace(identityOf(request));
    const controller = new AbortController();
    const { signal } = controller;
    const maxMs = config.EXPORT_TIMEOUT_MS[claims.role!];
    const timer = maxMs > 0 ? setTimeout(() => controller.abort(timedOut(maxMs)), maxMs).unref() : undefined;
    const stop = (): void => controller.abort(apiError("SERVICE_UNAVAILABLE", "The server is stopping"));
    let sent: () => number = () => 0;
    let hasEnded = false;
    const end = (): void => {
      if (hasEnded) return;
      hasEnded = true;
      clearTimeout(timer);
      stopping?.removeEventListener("abort", stop);
      leave();
      // Charge the rows now; an exceeded budget rejects the caller's next request.
      try {
        spend(request, sent());
      } catch {
        request.log.debug("an export has used up its caller's budget");
      }
    };
    reply.raw.once("close", () => {
      controller.abort(cancelled());
      end();
    });
    stopping?.addEventListener("abort", stop);
    if (stopping?.aborted) stop();
    try {
      const opened = await openExport({
        pool,
        schema: await getSchema(),
        request: { ...wanted, mayList: mayIntrospect(config, request) },
        format,
        settings: { ...settingsOf(claims), statement_timeout: String(maxMs) },
        signal,
      });
      sent = opened.rows;
      const stream = Readable.from(opened.bytes, { objectMode: false });
      stream.once("error", (error) => {
        const isClient = reply.raw.destroyed;
        request.log[isClient ? "debug" : "error"]({ error, rows: opened.rows() }, "export ended early");
        // Destroy the connection: that shows any client that the file is incomplete.
        const { socket } = request.raw;
        if (!isClient && typeof socket.resetAndDestroy === "function") socket.resetAndDestroy();
        else reply.raw.destroy();
      });
      stream.once("close", end);
      stream.once("end", () => request.log.info({ rows: opened.rows(), format }, "export"));
      return await reply
        .type(TYPES[format])
        .header("content-disposition", `attachment; filename="${name.replaceAll(/\W/g, "_")}.${format}"`)
        .header("cache-control", "no-store")
        .send(stream);
    } catch (error) {
      end();
      throw error;
    }
  }

  app.get("/export/:file", { exposeHeadRoute: false }, send);
  done();
}

const timedOut = (maxMs: number): Error =>
  apiError("TIMEOUT", `The export took longer than ${maxMs} ms (EXPORT_TIMEOUT_MS) and was cancelled`);
