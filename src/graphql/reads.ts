// Executes most queries as one SQL statement whose result is the response's text, in place of Grafast's planning and
// output. The planner gets operations that are not compiled, and those that fail for a reason that it can explain.
import type { FastifyBaseLogger } from "fastify";
import { isAsyncIterable, isSafeError } from "grafast";
import {
  getOperationAST,
  GraphQLError,
  OperationTypeNode,
  type DocumentNode,
  type ExecutionResult,
} from "grafast/graphql";
import type { Config } from "../config.ts";
import { isCancelled, type Settings } from "../database/adaptor.ts";
import { createBatches, TookLong, type Batches, type BatchesOptions } from "../database/batches.ts";
import { ResponseTooLarge } from "../database/budget.ts";
import { isUnavailable } from "../database/unavailable.ts";
import { findForbidden, hideAlways, isMissingRight, nameForbidden, type Forbidden } from "./forbidden.ts";
import type { OperationCache } from "./operation-cache.ts";
import { compileRead, type Read } from "./reads/compile.ts";
import type { Statement } from "./reads/shapes.ts";

/** How a query was answered; a fallback is one that should have been compiled, and was planned. */
export type ReadPath = "compiled" | "planned" | "fallback";

interface ReadsOptions {
  config: Config;
  operations: BatchesOptions;
  operationCache: Pick<OperationCache, "grow">;
  record: (path: ReadPath) => void;
}

/** A compiled read with the statements that it keeps: measured, rounded up. */
const BYTES_PER_READ = 100_000;

type Args = Grafast.ExecutionArgs;
type Context = Grafast.Context & { pgSettings: Settings };
type Next = () => unknown;

/** The argument's own code rejected it; the planner reports the same to the client. */
export const isAboutArguments = (error: unknown): boolean =>
  error instanceof GraphQLError ||
  (error instanceof Error &&
    (isSafeError(error) || /^(Null|Empty object) literals are forbidden/.test(error.message)));

export function createReadsPlugin({
  config,
  operations,
  operationCache,
  record,
}: ReadsOptions): GraphileConfig.Plugin {
  const sizes = { defaultPageSize: config.DEFAULT_PAGE_SIZE, maxPageSize: config.MAX_PAGE_SIZE };
  const { nodes } = operations;
  const batches = createBatches({ ...operations, node: nodes?.primary });
  const batchesOfReplicas = new Map(
    nodes?.replicas.map((node) => [
      node,
      createBatches({ ...operations, pool: node.pool, prepare: true, node }),
    ]),
  );
  /** By document and operation; they last as long as the document is cached. */
  const compiled = new WeakMap<DocumentNode, Map<string, Read | undefined>>();
  /** Each is logged once, however often it is asked for. */
  const logged = new WeakSet<DocumentNode>();

  function readOf({ schema, document, operationName }: Args): Read | undefined {
    const operation = getOperationAST(document, operationName);
    if (!operation) return undefined;
    let reads = compiled.get(document);
    if (!reads) compiled.set(document, (reads = new Map()));
    const name = operation.name?.value ?? "";
    if (!reads.has(name)) {
      // Set before compiling, so that an operation that fails to compile is not tried again.
      reads.set(name, undefined);
      const read = compileRead(schema, document, operation, sizes);
      reads.set(name, read);
      if (read) operationCache.grow(schema, document, BYTES_PER_READ);
    }
    return reads.get(name);
  }

  function fallBack(error: unknown, document: DocumentNode, log: FastifyBaseLogger): void {
    record("fallback");
    if (logged.has(document)) return;
    logged.add(document);
    // Missing rights and wrong values are the caller's faults, which the planner explains; all else may be a fault of
    // the compiler. The document is not logged, as it may hold personal data.
    const isExpected = /^(22|42501)/.test(String((error as { code?: unknown }).code));
    log[isExpected ? "debug" : "warn"]({ error }, "a compiled read failed; the planner answers it");
  }

  /** Small reads share a batch; large and slow ones wait for a turn of their caller and run alone. */
  async function run(context: Context, statement: Statement): Promise<string> {
    const { route } = context.operation;
    if (!nodes || !route) return runOn(batches, context, statement);
    return nodes.read(route, (node) => runOn(batchesOfReplicas.get(node) ?? batches, context, statement));
  }

  async function runOn(batches: Batches, context: Context, statement: Statement): Promise<string> {
    const { operation, pgSettings, turn } = context;
    const { caller, cost } = turn;
    const request = { caller, settings: pgSettings, statement, cost, route: operation.route };
    try {
      if (batches.isSmall(request)) return await operation.waitFor(() => batches.readShared(request));
    } catch (error) {
      if (!(error instanceof TookLong)) throw error;
    }
    const leave = await turn.take();
    try {
      return await operation.waitFor(() => batches.readAlone(request));
    } finally {
      leave();
    }
  }

  /** Returns undefined if the planner is needed. */
  async function answer(args: Args): Promise<ExecutionResult | undefined> {
    const { document, contextValue, requestContext } = args;
    const { log } = requestContext!.fastifyv5!.request;
    let read: Read | undefined;
    try {
      read = readOf(args);
      const statement = read?.statementFor(args.variableValues ?? {});
      if (!statement) return void record("planned");
      const data = await run(contextValue as Context, statement);
      record("compiled");
      return { data: data as never };
    } catch (error) {
      if (error instanceof ResponseTooLarge)
        return { data: null, errors: [new GraphQLError("", { originalError: error })] };
      // Do not fall back: the planner would wait as long again.
      if (read && (isUnavailable(error) || isCancelled(error))) {
        record("compiled");
        const errors = read.keys.map(
          (key) => new GraphQLError("", { path: [key], originalError: error as Error }),
        );
        return { data: JSON.stringify(read.nothing) as never, errors };
      }
      if (isAboutArguments(error)) record("planned");
      else fallBack(error, document, log);
      return undefined;
    }
  }

  /** Like `answer`, but with null for fields that the role may not read. */
  async function answerVisible(args: Args, forbidden: Forbidden, role: string) {
    const statement = readOf(args)?.statementFor(args.variableValues ?? {});
    if (!statement) return undefined;
    try {
      const data = await run(args.contextValue as Context, statement);
      return { data: data as never, errors: hideAlways(forbidden, JSON.parse(data), role) };
    } catch (error) {
      fallBack(error, args.document, args.requestContext!.fastifyv5!.request.log);
      return undefined;
    }
  }

  async function planVisible(next: Next, args: Args, forbidden: Forbidden, role: string) {
    const { document: asked, outputDataAsString, contextValue } = args;
    (contextValue as Context).operation.restart();
    Object.assign(args, { document: forbidden.document, outputDataAsString: false });
    try {
      const result = (await next()) as ExecutionResult;
      const errors = [...hideAlways(forbidden, result.data, role), ...(result.errors ?? [])];
      const data = result.data && outputDataAsString ? JSON.stringify(result.data) : result.data;
      return { data: data as never, errors };
    } finally {
      Object.assign(args, { document: asked, outputDataAsString });
    }
  }

  /** Executes a query again that failed for missing rights, without the forbidden fields. */
  async function withoutForbidden(next: Next, args: Args, failed: ExecutionResult, isRead: boolean) {
    const role = (args.contextValue as Context).claims.databaseRole!;
    const forbidden = await findForbidden(operations.pool, args, role);
    if (!forbidden) return failed;
    const { document } = forbidden;
    const visible =
      document && isRead ? await answerVisible({ ...args, document }, forbidden, role) : undefined;
    const result = visible ?? (document ? await planVisible(next, args, forbidden, role) : failed);
    return nameForbidden(result, forbidden.others, role);
  }

  return {
    name: "ReadsPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        async execute(next, { args }) {
          const operation = getOperationAST(args.document, args.operationName);
          // Over WebSocket results are objects, and only the planner implements `onError`.
          const isQuery = operation?.operation === OperationTypeNode.QUERY;
          const isRead = isQuery && args.requestContext?.fastifyv5 !== undefined && args.onError == null;
          const result = isRead && (await answer(args as Args));
          if (result) return result;
          const leave = await (args.contextValue as Context).turn.take();
          try {
            let planned = await next();
            const { operation: reading } = args.contextValue as Context;
            if (!isAsyncIterable(planned) && reading.startOver()) planned = await next();
            if (!isQuery || isAsyncIterable(planned) || !planned.errors?.some(isMissingRight)) return planned;
            return await withoutForbidden(next, args as Args, planned, isRead);
          } finally {
            leave();
          }
        },
      },
    },
  };
}
