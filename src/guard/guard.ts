// Checks of every operation, over HTTP and WebSocket, before it is executed, and the presentation of its errors.
import type { FastifyRequest } from "fastify";
import { isAsyncIterable, isSafeError, type SafeError } from "grafast";
import {
  GraphQLError,
  OperationTypeNode,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from "grafast/graphql";
import type {} from "grafserv";
import type { Source } from "../../plugins/support/subscriptions.ts";
import type { Config } from "../config.ts";
import { presentError, apiError } from "../graphql/errors.ts";
import type { OperationCache } from "../graphql/operation-cache.ts";
import { mapEvents, type Result } from "../graphql/results.ts";
import {
  checkVariables,
  costOf,
  createDocumentCheck,
  findOperation,
  type CheckedDocument,
} from "./document.ts";
import type { EnterTurn } from "./queue.ts";
import type { Hold } from "./holds.ts";
import { identityOf, type Spend } from "./rate-limit.ts";
import { endAfter } from "../graphql/transactions.ts";

declare global {
  namespace Grafast {
    interface Context {
      /** The operation's turn among those of its caller, needed before it takes a connection. */
      turn: {
        caller: string;
        cost: number;
        /** Resolves when it is the operation's turn, with a function that ends the turn. */
        take: () => Promise<() => void>;
      };
    }
  }
}

type Next = () => Result | Promise<Result>;
interface ExecuteEvent {
  args: Grafast.ExecutionArgs;
}
type RequestContext = Partial<Grafast.RequestContext>;

/** The HTTP request, or the one that opened the socket. */
export const requestOf = ({ fastifyv5, ws }: RequestContext): FastifyRequest =>
  fastifyv5?.request ?? (ws!.request as unknown as FastifyRequest);

/** Aborted when the client disconnects before its response; over WebSocket by the code that receives the event. */
export function abortControllerOf({ fastifyv5 }: RequestContext): AbortController {
  const controller = new AbortController();
  const response = fastifyv5?.reply?.raw;
  response?.once("close", () => {
    if (!response.writableFinished) controller.abort();
  });
  return controller;
}

export function mayIntrospect({ INTROSPECTION_ROLES }: Config, { claims }: FastifyRequest): boolean {
  return INTROSPECTION_ROLES.includes(claims.isAnonymous ? "anonymous" : claims.role!);
}

/** Subscriptions of one caller on all of its sockets, in all processes; each more takes some 50 kB and a query for each of its events. */
const MAX_SUBSCRIPTIONS = 100;

/** Cost units per character of a document that is not cached; higher values let a caller send fewer new documents. */
const COST_PER_CHARACTER = 1;

type Variables = Record<string, unknown>;

export function createGuardPlugin(
  config: Config,
  enterTurn: EnterTurn,
  operationCache: OperationCache,
  spend: Spend,
  hold: Hold,
): GraphileConfig.Plugin {
  const limits = {
    maxDepth: config.MAX_QUERY_DEPTH,
    defaultPageSize: config.DEFAULT_PAGE_SIZE,
    maxPageSize: config.MAX_PAGE_SIZE,
  };
  const checks = new WeakMap<GraphQLSchema, ReturnType<typeof createDocumentCheck>>();

  function checkDocument(schema: GraphQLSchema, query: string, request: FastifyRequest): CheckedDocument {
    let check = checks.get(schema);
    if (!check) checks.set(schema, (check = createDocumentCheck(schema, limits, operationCache.of(schema))));
    let checked: CheckedDocument;
    try {
      // Documents that fail are charged as well, since parsing and validation are the work.
      checked = check(query, () => spend(request, query.length * COST_PER_CHARACTER));
    } catch (error) {
      return { errors: [toGraphqlError(error)] };
    }
    if (mayIntrospect(config, request)) return checked;
    if (checked.introspects)
      return {
        errors: [toGraphqlError(apiError("FORBIDDEN", "Your role may not read the schema (introspection)"))],
      };
    return checked.errors ? { errors: checked.errors.map(withoutSuggestion) } : checked;
  }

  function admit(operation: OperationDefinitionNode, variables: Variables, request: FastifyRequest): number {
    // A socket outlives the check of its token.
    if (request.claims.expiresAt !== undefined && request.claims.expiresAt * 1000 <= Date.now())
      throw apiError("UNAUTHENTICATED", "The token has expired");
    const tooDeep = checkVariables(variables);
    if (tooDeep) throw tooDeep;
    const cost = costOf(operation, variables);
    if (cost > config.MAX_QUERY_COST)
      throw apiError(
        "QUERY_TOO_EXPENSIVE",
        `The operation may cost ${cost} (objects in its answer, and 50 for a computation over many rows); ` +
          `at most ${config.MAX_QUERY_COST} is allowed: ask for smaller pages or fewer levels`,
        { limit: config.MAX_QUERY_COST, given: cost },
      );
    spend(request, cost);
    return cost;
  }

  function openSubscription(caller: string): () => void {
    const close = hold("subscription", caller, MAX_SUBSCRIPTIONS);
    if (close) return close;
    const message = `You have ${MAX_SUBSCRIPTIONS} subscriptions open already; end some of them`;
    throw apiError("RATE_LIMITED", message, { limit: MAX_SUBSCRIPTIONS });
  }

  const present =
    (request: FastifyRequest) =>
    (error: GraphQLError): GraphQLError =>
      presentError(mayIntrospect(config, request) ? error : withoutSuggestion(error), request);

  /** Each event waits until the client has the one before, is charged, and waits for its turn. */
  async function subscribe(
    next: Next,
    context: Grafast.Context & Partial<Pick<Source, "enterLane">>,
    request: FastifyRequest,
    cost: number,
  ): Promise<Result> {
    const caller = identityOf(request);
    const close = openSubscription(caller);
    let asked = Promise.withResolvers<void>();
    context.enterLane = async (work) => {
      if (work === "event") {
        await asked.promise;
        asked = Promise.withResolvers();
        spend(request, cost);
      }
      return enterTurn(caller, work === "event" ? cost : 1, { signal: context.abortSignal, isPatient: true });
    };
    const result = await endAfter(Promise.resolve().then(next), close);
    if (isAsyncIterable(result)) {
      const take = result.next.bind(result);
      result.next = () => {
        asked.resolve();
        return take();
      };
    }
    return withErrorsPresented(result, present(request));
  }

  const guard = async (next: Next, { args }: ExecuteEvent): Promise<Result> => {
    const request = requestOf(args.requestContext!);
    try {
      const { document, operationName, contextValue } = args;
      const operation = findOperation(document, operationName);
      const isSubscription = operation?.operation === OperationTypeNode.SUBSCRIPTION;
      if (isSubscription && !args.requestContext!.ws)
        throw apiError("BAD_REQUEST", "Subscriptions require WebSocket (graphql-transport-ws)");
      const cost = operation ? admit(operation, args.variableValues ?? {}, request) : 0;
      if (isSubscription) return await subscribe(next, contextValue, request, cost);
      const caller = identityOf(request);
      contextValue.turn = {
        caller,
        cost,
        take: () => enterTurn(caller, cost, { signal: contextValue.abortSignal, place: request.place }),
      };
    } catch (error) {
      return { errors: [presentError(toGraphqlError(error), request)] };
    }
    try {
      return withErrorsPresented(await next(), present(request));
    } catch (error) {
      if (isSafeError(error as Error)) return { errors: [presentError(toGraphqlError(error), request)] };
      throw error;
    }
  };

  return {
    name: "GuardPlugin",
    version: "1.0.0",
    grafserv: {
      middleware: {
        setPreset(next, options) {
          const { getExecutionConfig } = options;
          options.getExecutionConfig = async function (context) {
            const execution = await getExecutionConfig.call(this, context);
            const { schema } = execution;
            const parseAndValidate = (query: string) => checkDocument(schema, query, requestOf(context));
            return { ...execution, parseAndValidate: parseAndValidate as typeof execution.parseAndValidate };
          };
          return next();
        },
      },
    },
    grafast: { middleware: { execute: guard as never, subscribe: guard as never } },
  };
}

function toGraphqlError(error: unknown): GraphQLError {
  if (error instanceof GraphQLError) return error;
  const { message, extensions } = error as SafeError<Record<string, unknown>>;
  return new GraphQLError(message, { originalError: error as Error, extensions });
}

/** Removes "Did you mean …?", which names fields and values of a schema that the caller may not read. */
function withoutSuggestion(error: GraphQLError): GraphQLError {
  const message = error.message.replace(/ Did you mean [^]*$/, "");
  if (message === error.message) return error;
  const { nodes, source, positions, path, extensions } = error;
  return new GraphQLError(message, { nodes, source, positions, path, extensions });
}

function withErrorsPresented(result: Result, present: (error: GraphQLError) => GraphQLError): Result {
  const finish = <T extends { errors?: readonly GraphQLError[] }>(answer: T): T => {
    if (answer.errors) answer.errors = answer.errors.map(present);
    return answer;
  };
  return isAsyncIterable(result) ? mapEvents(result, finish) : finish(result);
}
