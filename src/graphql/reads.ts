// Most reads: one statement, sent as soon as they are let in, and its result passed on as it is. The planner behind
// gets what is left, also what turns out unusual on the way, and says what there is to say about it.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isSafeError } from "grafast";
import {
  getOperationAST,
  GraphQLError,
  type DocumentNode,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from "grafast/graphql";
import type pg from "pg";
import type { Config } from "../config.ts";
import { isCancelled } from "../database/adaptor.ts";
import { ResponseTooLarge } from "../database/budget.ts";
import { createBatches, TookLong, type Reading, type ReadRequest } from "../database/batches.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { compileRead, type Read } from "./reads/compile.ts";
import { isCacheable } from "./response-cache.ts";
import type { Claims } from "../http/auth.ts";
import { presentError } from "./errors.ts";
import { abortControllerOf, toGraphqlError, type Guard } from "../guard/guard.ts";
import type { OperationRecord } from "../http/metrics.ts";
import { recordOperation, type ObserveOptions } from "../http/observe.ts";
import type { Persisted } from "./persisted.ts";
import { identityOf } from "../guard/rate-limit.ts";

export interface ReadsOptions {
  config: Config;
  getSchema: () => GraphQLSchema | PromiseLike<GraphQLSchema>;
  textOf: Persisted["textOf"];
  guard: Guard;
  operations: { pool: pg.Pool; prepare: boolean; maxBytes: number };
  settings: (claims: Claims) => Record<string, string>;
  observation: ObserveOptions | undefined;
}

interface Compiled {
  operation: OperationDefinitionNode;
  read: Read;
}

interface Exchange {
  request: FastifyRequest;
  reply: FastifyReply;
}

/** When the last of its statements was sent, and how many there were. */
interface Sql {
  startedAt: number;
  statements: number;
}

interface Asked {
  query: string;
  variables: Record<string, unknown>;
  operationName: string | undefined;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What a request asks for; undefined if there may be something wrong with it. */
function askedBy({ method, body: text }: FastifyRequest, textOf: Persisted["textOf"]): Asked | undefined {
  if (method !== "POST" || typeof text !== "string") return undefined;
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(body) || !isObject(body.extensions ?? {}) || body.onError != null) return undefined;
  const query = textOf(body);
  const variables = body.variables ?? {};
  const operationName = body.operationName ?? undefined;
  if (query === undefined || !isObject(variables)) return undefined;
  if (operationName !== undefined && typeof operationName !== "string") return undefined;
  return { query, variables, operationName };
}

export function addReads(app: FastifyInstance, options: ReadsOptions): void {
  const { config, getSchema, textOf, guard, operations, settings, observation } = options;
  const sizes = { defaultPageSize: config.DEFAULT_PAGE_SIZE, maxPageSize: config.MAX_PAGE_SIZE };
  const batches = createBatches(operations);
  const known = new Map<string, Compiled | undefined>();
  let knownCharacters = 0;
  let schema: GraphQLSchema;

  function compiledOf(document: DocumentNode, { query, operationName }: Asked): Compiled | undefined {
    const operation = getOperationAST(document, operationName || undefined);
    if (!operation) return undefined;
    // By a name that it has: any other text might go on into the query, and be the key of another one.
    const key = `${operation.name?.value ?? ""} ${query}`;
    if (known.has(key)) {
      const compiled = known.get(key);
      known.delete(key);
      known.set(key, compiled);
      return compiled;
    }
    if (key.length > MAX_LENGTH) return undefined;
    const made = compileRead(schema, document, operation, sizes);
    const compiled = made && { operation, read: made };
    known.set(key, compiled);
    knownCharacters += sizeOf(key);
    for (const oldest of known.keys()) {
      if (knownCharacters <= MAX_KNOWN_CHARACTERS) break;
      known.delete(oldest);
      knownCharacters -= sizeOf(oldest);
    }
    return compiled;
  }

  const settingsByClaims = new WeakMap<Claims, Record<string, string>>();
  const settingsOf = (claims: Claims): Record<string, string> => {
    let made = settingsByClaims.get(claims);
    if (!made) settingsByClaims.set(claims, (made = settings(claims)));
    return made;
  };

  /** Small reads go together; the others, and those that turn out to take long, each have a place in a lane. */
  async function read(asks: ReadRequest, { request, reply }: Exchange, sql: Sql): Promise<string> {
    const wait = async (start: (asks: ReadRequest) => Reading): Promise<string> => {
      sql.startedAt = performance.now();
      sql.statements++;
      const { answer, forget } = start(asks);
      reply.raw.once("close", forget);
      if (reply.raw.destroyed) forget();
      try {
        return await answer;
      } finally {
        reply.raw.off("close", forget);
      }
    };
    try {
      if (batches.isSmall(asks)) return await wait(batches.readShared);
    } catch (error) {
      if (!(error instanceof TookLong)) throw error;
    }
    const { signal } = abortControllerOf({ fastifyv5: { request, reply } });
    const leave = await guard.enterLane(request, asks.cost, signal);
    try {
      return await wait(batches.readAlone);
    } finally {
      leave();
    }
  }

  app.addHook("preHandler", async (request, reply) => {
    const asked = askedBy(request, textOf);
    if (!asked) return;
    const current = await getSchema();
    if (current !== schema) {
      schema = current;
      known.clear();
      knownCharacters = 0;
    }
    const { variables } = asked;
    const { document } = guard.checkDocument(schema, asked.query, request);
    const compiled = document && compiledOf(document, asked);
    if (!compiled) return;
    const { operation } = compiled;
    const startedAt = performance.now();
    const sql: Sql = { startedAt, statements: 0 };
    const finish = (outcome: string): void => {
      const now = performance.now();
      const record: OperationRecord = {
        type: "query",
        name: operation.name?.value ?? "anonymous",
        outcome,
        seconds: (now - startedAt) / 1000,
        sqlSeconds: sql.statements > 0 ? (now - sql.startedAt) / 1000 : 0,
        statements: sql.statements,
      };
      if (observation) recordOperation(observation, record, request, true);
    };
    try {
      const cost = await guard.admit({ schema, document, operation, variables }, request);
      const statement = compiled.read.statementFor(variables);
      if (!statement) return;
      const asks = {
        caller: identityOf(request),
        settings: settingsOf(request.claims),
        statement,
        cost,
      };
      const data = await read(asks, { request, reply }, sql);
      finish("ok");
      request.cacheable = isCacheable({ schema, document });
      return send(request, reply, `{"data":${data}}`);
    } catch (thrown) {
      const error = thrown as Error;
      if (isSafeError(error) || error instanceof GraphQLError) {
        const refused = presentError(toGraphqlError(error), request);
        finish(String(refused.extensions.code));
        return send(request, reply, { errors: [refused] });
      }
      if (error instanceof ResponseTooLarge) {
        const refused = presentError(new GraphQLError("", { originalError: error }), request);
        finish(String(refused.extensions.code));
        return send(request, reply, { data: null, errors: [refused] });
      }
      // The planner says what is wrong with a statement, but would wait as long again.
      if (!isUnavailable(error) && !isCancelled(error)) return;
      const errors = compiled.read.keys.map((key) =>
        presentError(new GraphQLError("", { path: [key], originalError: error }), request),
      );
      finish(String(errors[0]!.extensions.code));
      return send(request, reply, { data: compiled.read.nothing, errors });
    }
  });
}

/** Of the operations whose statements are kept, the most recently asked ones: what is kept of one is many times as long. */
const MAX_KNOWN_CHARACTERS = 500_000;
/** The shortest one has statements of its own, too. */
const sizeOf = (key: string): number => Math.max(key.length, 500);
/** Of their text: planning a longer one takes no larger part of its time. */
const MAX_LENGTH = 20_000;

const send = ({ headers }: FastifyRequest, reply: FastifyReply, answer: unknown): FastifyReply =>
  reply.type(`${headers.accept};charset=utf-8`).send(answer);
