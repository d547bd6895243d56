// Persisted operations, which requests name by id or hash; optionally the only ones that are allowed.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { PersistedPlugin } from "@grafserv/persisted";
import type { FastifyRequest } from "fastify";
import type { Config } from "../config.ts";
import { isObject } from "../ingest/json.ts";
import { apiError } from "./errors.ts";

interface Body {
  id?: unknown;
  documentId?: unknown;
  doc_id?: unknown;
  query?: unknown;
  extensions?: Record<string, unknown> | null;
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Reads a manifest of Apollo's or Relay's compiler: a list of operations, or their texts by id. */
function readManifest(path: string, text: string): [id: string, text: string][] {
  let manifest: unknown;
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`, { cause: error });
  }
  const { format, operations } = isObject(manifest) ? manifest : {};
  const entries =
    format === APOLLO_FORMAT && Array.isArray(operations)
      ? operations.map((operation: { id?: unknown; body?: unknown } | null) => [
          operation?.id,
          operation?.body,
        ])
      : Object.entries(isObject(manifest) ? manifest : {});
  const isOperation = (entry: unknown[]): entry is [string, string] =>
    entry.every((part) => typeof part === "string" && part !== "");
  if (entries.length > 0 && entries.every(isOperation)) return entries;
  throw new Error(
    `${path} is no manifest of operations; expected Relay's {"<id>": "<text>"}, ` +
      `or Apollo's {"format": "${APOLLO_FORMAT}", "operations": [{"id": "<id>", "body": "<text>"}]}`,
  );
}

const APOLLO_FORMAT = "apollo-persisted-query-manifest";

/**
 * Reads a file, or every file of a folder: a *.graphql is known by its name without extension, an operation of a *.json
 * by its id, and both by the SHA-256 of their text.
 */
export function readOperations(path: string): Map<string, string> {
  let paths: string[];
  try {
    paths = statSync(path).isDirectory() ? readdirSync(path).map((name) => join(path, name)) : [path];
  } catch (error) {
    throw new Error(`PERSISTED_OPERATIONS_DIR "${path}" is not a folder or file that can be read`, {
      cause: error,
    });
  }
  const operations = new Map<string, string>();
  for (const file of paths.filter((name) => /\.(graphql|json)$/.test(name))) {
    const text = readFileSync(file, "utf8");
    const entries = file.endsWith(".json") ? readManifest(file, text) : [[basename(file, ".graphql"), text]];
    for (const [id, operation] of entries as [string, string][])
      operations.set(id, operation).set(sha256(operation), operation);
  }
  if (operations.size > 0) return operations;
  throw new Error(`PERSISTED_OPERATIONS_DIR "${path}" holds no .graphql file and no manifest (.json)`);
}

const idOf = ({ id, documentId, doc_id: docId, extensions }: Body): unknown =>
  (extensions?.persistedQuery as { sha256Hash?: unknown } | undefined)?.sha256Hash ??
  documentId ??
  docId ??
  id;

/** Answers hashes if no operations are configured: Apollo Client then sends full texts from there on. */
const NotSupportedPlugin: GraphileConfig.Plugin = {
  name: "NotSupportedPlugin",
  version: "1.0.0",
  grafserv: {
    middleware: {
      processGraphQLRequestBody(next, { body }) {
        if (typeof body.query !== "string" && typeof idOf(body as Body) === "string")
          throw apiError("PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported");
        return next();
      },
    },
  },
};

export function createPersisted(
  config: Config,
  requestOf: (context: Partial<Grafast.RequestContext>) => FastifyRequest,
): GraphileConfig.Preset {
  if (config.PERSISTED_OPERATIONS_DIR === undefined) return { plugins: [NotSupportedPlugin] };
  const operations = readOperations(config.PERSISTED_OPERATIONS_DIR);

  // Apollo Client expects exactly this message to send the full text. It must be a rejection, since grafserv swallows
  // what is thrown synchronously.
  const find = (id: string): string | Promise<string> =>
    operations.get(id) ?? Promise.reject(apiError("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound"));

  return {
    plugins: [PersistedPlugin],
    grafserv: {
      persistedOperationsGetter: find,
      hashFromPayload: (body) => idOf(body as Body) as string,
      // Runs before the operation is looked up, so that an error can give the reason.
      allowUnpersistedOperation(event) {
        const body = event.body as Body;
        const id = idOf(body);
        if (typeof id === "string" && (operations.has(id) || typeof body.query !== "string")) return false;
        if (typeof body.query !== "string")
          throw apiError(
            "BAD_REQUEST",
            "The request has neither `query` nor the id of a persisted operation",
          );
        const context = event.request?.requestContext ?? { ws: event.graphqlWsContext!.extra };
        const { claims } = requestOf(context as Partial<Grafast.RequestContext>);
        if (config.PERSISTED_OPERATIONS_ONLY && claims.role !== "strata_operator")
          throw apiError("OPERATION_NOT_PERSISTED", "Only persisted operations are allowed");
        if (typeof id === "string" && body.extensions?.persistedQuery && id !== sha256(body.query))
          throw apiError("BAD_REQUEST", "The sha256Hash is not the SHA-256 of the query");
        body.id = body.documentId = body.doc_id = undefined;
        body.extensions = { ...body.extensions, persistedQuery: undefined };
        return true;
      },
    },
  };
}
