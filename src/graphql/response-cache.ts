// The cache of responses: stored as they were sent, and sent again while the data version is the same.
import { createHash } from "node:crypto";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isAsyncIterable } from "grafast";
import type { DocumentNode, ExecutionResult, GraphQLSchema } from "grafast/graphql";
import { createBoundedMap } from "../bounded-map.ts";
import type { Node } from "../database/nodes.ts";
import { createCacheableCheck } from "./cacheable.ts";
import type { DataVersion, DataVersions } from "./data-version.ts";
import { addPosition, routeOf } from "./position.ts";
import type { CacheOutcome } from "../http/metrics.ts";

interface Answer {
  version: string;
  body: Buffer;
  contentType: string;
  etag: string;
}

interface Lookup {
  key: string;
  version: string;
  /** The node whose version it is; only with replicas. */
  node?: Node | undefined;
}

declare module "fastify" {
  interface FastifyRequest {
    /** Set for operations whose responses may be cached. */
    cacheable?: boolean;
    /** Cache key of the response; null if the response is not cached. */
    answerKey?: string | null;
    lookup?: Lookup;
  }
}

const checks = new WeakMap<GraphQLSchema, (document: DocumentNode) => boolean>();

/** Whether the response may be cached. */
function isCacheable({ schema, document }: { schema: GraphQLSchema; document: DocumentNode }): boolean {
  let check = checks.get(schema);
  if (!check) checks.set(schema, (check = createCacheableCheck(schema)));
  return check(document);
}

/** Marks each operation over HTTP whose response may be cached. */
export function createResponseCachePlugin(): GraphileConfig.Plugin {
  return {
    name: "AnswersPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        async execute(next, { args }) {
          const request = args.requestContext?.fastifyv5?.request;
          const result = (await next()) as ExecutionResult;
          if (request) request.cacheable = !isAsyncIterable(result) && !result.errors && isCacheable(args);
          return result;
        },
      },
    },
  };
}

interface AnswersOptions {
  maxBytes: number;
  dataVersion: DataVersion;
  /** Replaces `dataVersion` if there are replicas. */
  dataVersions?: DataVersions | undefined;
  record: (outcome: CacheOutcome) => void;
  /** Receives a function that returns the bytes of the cached responses. */
  watch: (bytes: () => number) => void;
}

/** Bytes of an entry: a key takes at most two per character; 500 is an estimate of the objects around them. */
const sizeOf = (key: string, answer: Answer | "cacheable"): number =>
  2 * key.length + (answer === "cacheable" ? 0 : answer.body.length) + 500;

/**
 * The same body from the same role has the same response while the data version is the same. The first response shows
 * that a request is cacheable; from then on its version is read before it is executed.
 */
export function addResponseCache(
  app: FastifyInstance,
  { maxBytes, dataVersion, dataVersions, record, watch }: AnswersOptions,
): void {
  /** "cacheable" marks a request without a response yet: its version was not read before it was executed. */
  const answers = createBoundedMap<string, Answer | "cacheable">(maxBytes);
  watch(() => answers.weight);

  const keep = (key: string, answer: Answer | "cacheable"): void =>
    answers.set(key, answer, sizeOf(key, answer));

  /** With replicas, the rows must be of exactly this version: another node may not have a newer one yet. */
  function keepExact({ route }: FastifyRequest, { key, version, node }: Lookup, answer: Answer): void {
    if (!dataVersions || !node) return keep(key, answer);
    if (route?.node !== node) return;
    dataVersions.isStill(node, version).then(
      (isStill) => isStill && keep(key, answer),
      () => undefined,
    );
  }

  app.addHook("preHandler", (request, reply, done) => {
    const key = keyOf(request);
    if (key === null || !answers.has(key)) return done();
    lookUp(key, request, reply).then((isGiven) => isGiven || done(), done);
  });

  async function lookUp(key: string, request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    // The version is read first: the rows that are read later are of this version or a newer one, never of an older one.
    const route = dataVersions && routeOf(request);
    const version = await (dataVersions ? dataVersions.of(route!) : dataVersion()).catch(() => undefined);
    if (version === undefined) return false;
    request.lookup = { key, version, node: route?.node };
    const answer = answers.get(key);
    if (answer === undefined || answer === "cacheable" || answer.version !== version) return false;
    if (route) addPosition(reply, route);
    give(request, reply, answer);
    return true;
  }

  app.addHook("onSend", (request, reply, payload, done) => {
    if (reply.hasHeader("cache-control")) return done();
    if (!request.cacheable || reply.statusCode !== 200 || typeof payload !== "string") {
      reply.header("cache-control", "no-store");
      return done();
    }
    const key = keyOf(request);
    if (key === null) return done();
    const { lookup } = request;
    if (!lookup) keep(key, "cacheable");
    else {
      const answer = {
        version: lookup.version,
        body: Buffer.from(payload),
        contentType: String(reply.getHeader("content-type")),
        etag: `"${createHash("sha1").update(payload).digest("base64url")}"`,
      };
      if (sizeOf(key, answer) <= maxBytes / 4) keepExact(request, lookup, answer);
      reply.headers(headersOf(reply, answer));
    }
    record("miss");
    done();
  });

  function give(request: FastifyRequest, reply: FastifyReply, answer: Answer): FastifyReply {
    reply.headers(headersOf(reply, answer));
    const known = request.headers["if-none-match"];
    if (
      known !== undefined &&
      (known === "*" || known.split(",").some((tag) => tag.trim().replace(/^W\//, "") === answer.etag))
    ) {
      record("not_modified");
      return reply.status(304).send();
    }
    record("hit");
    return reply.type(answer.contentType).send(answer.body);
  }
}

const MAX_KEY = 20_000;

// Private, and revalidated each time: only the server knows whether a refresh happened meanwhile.
const headersOf = (reply: FastifyReply, { etag }: Answer) => ({
  etag,
  "cache-control": "private, no-cache",
  // CORS may have set `vary` already.
  vary: [reply.getHeader("vary") ?? [], "authorization, accept"].flat().join(", "),
});

function keyOf(request: FastifyRequest): string | null {
  if (request.answerKey === undefined) {
    const { method, body, headers, claims, url, ws } = request;
    const asked = method === "POST" ? body : method === "GET" && !ws ? url : undefined;
    const isKept = typeof asked === "string" && asked.length <= MAX_KEY;
    request.answerKey = isKept
      ? `${claims.databaseRole} ${headers["content-type"]} ${headers.accept} ${asked}`
      : null;
  }
  return request.answerKey;
}
