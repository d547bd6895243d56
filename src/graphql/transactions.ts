// Opens the transaction of each GraphQL operation and ends it with the operation.
import { PgSelectStep, PgUnionAllStep } from "@dataplan/pg";
import { AccessStep, isAsyncIterable, isPromiseLike, ObjectStep, type OperationPlan } from "grafast";
import type pg from "pg";
import { createOperation, type Operation } from "../database/adaptor.ts";
import type { Nodes, Route } from "../database/nodes.ts";
import { addPosition, routeOf, routeOfExtensions, withPosition } from "./position.ts";
import { mapEvents, type Result } from "./results.ts";

declare global {
  namespace Grafast {
    interface Context {
      operation: Operation;
      /** Aborted when the client no longer waits for the response. */
      abortSignal?: AbortSignal;
      /** Cancels the operation. */
      abort: () => void;
    }
  }
}

interface TransactionsOptions {
  pool: pg.Pool;
  prepare: boolean;
  maxBytes: number;
  nodes?: Nodes | undefined;
}

export function createTransactionsPlugin(options: TransactionsOptions): GraphileConfig.Plugin {
  const { nodes } = options;

  /** Adds the position that the client has now seen to the result. */
  async function finish(result: unknown, route: Route, args: Grafast.ExecutionArgs): Promise<unknown> {
    const answer = await (result as Promise<Result>);
    if (isAsyncIterable(answer)) return mapEvents(answer, (event) => withPosition(event, route));
    const { operation } = args.contextValue;
    // The position is read after the last commit, since runs have transactions of their own.
    if (operation.kind() === "mutation") await nodes!.noteWritten(route).catch(() => undefined);
    const reply = args.requestContext?.fastifyv5?.reply;
    if (!reply) return withPosition(answer, route);
    addPosition(reply, route);
    return answer;
  }

  function run<T>(result: T, args: Grafast.ExecutionArgs): T {
    const { operation } = args.contextValue;
    const ending = endAfter(result, operation.end);
    return operation.route ? (finish(ending, operation.route, args) as T) : ending;
  }

  return {
    name: "TransactionsPlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        async prepareArgs(next, { args }) {
          const prepared = await next();
          const context = args.contextValue;
          const request = args.requestContext?.fastifyv5?.request;
          const route = nodes && (request ? routeOf(request) : routeOfExtensions(args.extensions));
          context.operation = createOperation({ ...options, signal: context.abortSignal, route });
          context.withPgClient = context.operation.withPgClient as typeof context.withPgClient;
          return prepared;
        },
        establishOperationPlan(next, event) {
          const plan = next();
          const { operation } = event.context as Grafast.Context;
          operation?.describe(plan.operation.operation, countStatements(plan));
          return plan;
        },
        execute(next, { args }) {
          // Over HTTP Grafast writes the response as text, without objects in between.
          if (args.requestContext?.fastifyv5) args.outputDataAsString = true;
          return run(next(), args as Grafast.ExecutionArgs);
        },
        subscribe: (next, { args }) => run(next(), args as Grafast.ExecutionArgs),
      },
    },
  };
}

/**
 * Calls `end` when the result is complete: of a subscription, after its last event or when it is closed. May call it
 * more than once.
 */
export function endAfter<T>(result: T, end: () => void): T {
  if (isPromiseLike(result)) {
    return Promise.resolve(result).then(
      (value) => endAfter(value, end),
      (error: unknown) => {
        end();
        throw error;
      },
    ) as T;
  }
  if (!isAsyncIterable(result)) {
    end();
    return result;
  }
  const iterator = result[Symbol.asyncIterator]();
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      try {
        const item = await iterator.next();
        if (item.done) end();
        return item;
      } catch (error) {
        end();
        throw error;
      }
    },
    async return(value: unknown) {
      end();
      return iterator.return?.(value) ?? { done: true, value };
    },
    async throw(error: unknown) {
      end();
      if (iterator.throw) return iterator.throw(error);
      throw error;
    },
  } as T;
}

/** Members of a plan that its published types leave out. */
interface PlannedStep {
  layerPlan: PlannedLayer;
  dependents: { step: PlannedStep }[];
}
interface PlannedLayer {
  reason: { type: string; stream?: unknown };
  parentLayerPlan: PlannedLayer | null;
}

const counts = new WeakMap<OperationPlan, number>();

/** Upper bound of the SQL statements that a query sends; Infinity if its plan does not tell. */
function countStatements(plan: OperationPlan): number {
  let count = counts.get(plan);
  if (count === undefined) counts.set(plan, (count = statementsOf(plan)));
  return count;
}

const ONCE = new Set(["root", "nullableBoundary", "listItem"]);

/** Whether every layer down to this step runs once, for all items together. */
function runsOnce({ layerPlan }: PlannedStep): boolean {
  for (let layer: PlannedLayer | null = layerPlan; layer; layer = layer.parentLayerPlan)
    if (!ONCE.has(layer.reason.type) || layer.reason.stream) return false;
  return true;
}

function statementsOf(plan: OperationPlan): number {
  const kind: string = plan.operation.operation;
  if (kind !== "query") return Infinity;
  const { contextStep } = plan as unknown as { contextStep: PlannedStep };
  let count = 0;
  for (const { step } of contextStep.dependents) {
    if (!(step instanceof AccessStep)) return Infinity;
    if (step.path[0] !== "withPgClient") continue;
    for (const { step: executorContext } of (step as unknown as PlannedStep).dependents) {
      if (!(executorContext instanceof ObjectStep)) return Infinity;
      for (const { step: user } of (executorContext as unknown as PlannedStep).dependents) {
        const isSelect = user instanceof PgSelectStep || user instanceof PgUnionAllStep;
        if (!isSelect || !runsOnce(user)) return Infinity;
        count++;
      }
    }
  }
  return count || Infinity;
}
