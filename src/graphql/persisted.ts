// Operations known to the server by name or hash: shorter requests, and if wanted the only ones answered.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { PersistedPlugin } from "@grafserv/persisted";
import type { FastifyRequest } from "fastify";
import type { Config } from "../config.ts";
import { refusal } from "./errors.ts";

interface Body {
  id?: unknown;
  documentId?: unknown;
  query?: unknown;
  extensions?: Record<string, unknown> | null;
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Every *.graphql file is known by its name without extension and by the SHA-256 of its text. */
export function readOperations(folder: string): Map<string, string> {
  const operations = new Map<string, string>();
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith(".graphql"));
  } catch {
    throw new Error(`PERSISTED_OPERATIONS_DIR "${folder}" is not a folder that can be read`);
  }
  if (names.length === 0) throw new Error(`PERSISTED_OPERATIONS_DIR "${folder}" holds no .graphql file`);
  for (const name of names) {
    const text = readFileSync(join(folder, name), "utf8");
    operations.set(basename(name, ".graphql"), text).set(sha256(text), text);
  }
  return operations;
}

const idOf = ({ id, documentId, extensions }: Body): unknown =>
  (extensions?.persistedQuery as { sha256Hash?: unknown } | undefined)?.sha256Hash ?? documentId ?? id;

export function createPersisted(
  config: Config,
  requestOf: (context: Partial<Grafast.RequestContext>) => FastifyRequest,
): GraphileConfig.Preset {
  if (config.PERSISTED_OPERATIONS_DIR === undefined) return {};
  const operations = readOperations(config.PERSISTED_OPERATIONS_DIR);

  // Apollo Client sends the whole text after this very answer. A rejection: what is thrown at once is swallowed.
  const find = (id: string): string | Promise<string> =>
    operations.get(id) ?? Promise.reject(refusal("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound"));

  return {
    plugins: [PersistedPlugin],
    grafserv: {
      persistedOperationsGetter: find,
      hashFromPayload: (body) => idOf(body as Body) as string,
      // Runs before the operation is looked up, so that a rejection can say its reason.
      allowUnpersistedOperation(event) {
        const body = event.body as Body;
        const id = idOf(body);
        if (typeof id === "string" && (operations.has(id) || typeof body.query !== "string")) return false;
        if (typeof body.query !== "string")
          throw refusal("BAD_REQUEST", "The request has neither `query` nor the id of a persisted operation");
        const context = event.request?.requestContext ?? { ws: event.graphqlWsContext!.extra };
        const { claims } = requestOf(context as Partial<Grafast.RequestContext>);
        if (config.PERSISTED_OPERATIONS_ONLY && claims.role !== "strata_operator")
          throw refusal("OPERATION_NOT_PERSISTED", "Only persisted operations are answered here");
        if (typeof id === "string" && body.extensions?.persistedQuery && id !== sha256(body.query))
          throw refusal("BAD_REQUEST", "The sha256Hash is not the SHA-256 of the query");
        body.id = body.documentId = undefined;
        body.extensions = { ...body.extensions, persistedQuery: undefined };
        return true;
      },
    },
  };
}
