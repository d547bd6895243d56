// Bounds the length of the planner's responses while they are written: rows that PostgreSQL sent once can occur in
// them any number of times, under several aliases or in several parents.
import { isAsyncIterable, type OperationPlan } from "grafast";
import { GraphQLError, OperationTypeNode, type ExecutionResult } from "grafast/graphql";
import { ResponseTooLarge } from "../database/budget.ts";
import { mapEvents, type Result } from "./results.ts";

/** The part of Grafast's output plans that writes a response, beyond its published types. */
interface Output {
  type: { mode: string };
  keys: Record<string, { outputPlan?: Output }>;
  child: Output | null;
  childByTypeName: Record<string, Output> | undefined;
  deferredOutputPlans: Output[];
  executeString: Write;
}
interface Root {
  errorBehavior: string;
  /** Characters of the parts that are complete. */
  written?: number;
}
type Write = (this: Output, root: Root, ...rest: unknown[]) => string;

/** Output plans whose text is counted; lists and unions around them add only brackets. */
const COUNTED = new Set(["root", "object", "leaf"]);

function boundOutput(output: Output, maxLength: number, tooLarge: () => Error, done: Set<Output>): void {
  if (done.has(output)) return;
  done.add(output);
  if (COUNTED.has(output.type.mode)) {
    const write = output.executeString;
    output.executeString = function (root, ...rest) {
      const before = root.written ?? 0;
      const text = write.call(this, root, ...rest);
      // Replace the count of an object's parts by that of the whole.
      root.written = before + text.length;
      if (root.written > maxLength) {
        root.errorBehavior = "HALT";
        throw tooLarge();
      }
      return text;
    };
  }
  const children = [
    ...Object.values(output.keys).map(({ outputPlan }) => outputPlan),
    ...Object.values(output.childByTypeName ?? {}),
    ...output.deferredOutputPlans,
    output.child,
  ];
  for (const child of children) if (child) boundOutput(child, maxLength, tooLarge, done);
}

/** Whether a value's JSON would be longer than the limit; escaping is not counted. */
function isLonger(value: unknown, maxLength: number): boolean {
  let length = 0;
  const add = (part: unknown): void => {
    if (length > maxLength) return;
    length += typeof part === "string" ? part.length + 3 : 5;
    if (typeof part !== "object" || part === null) return;
    if (Array.isArray(part)) for (const item of part) add(item);
    else
      for (const key in part) {
        length += key.length + 4;
        add((part as Record<string, unknown>)[key]);
      }
  };
  add(value);
  return length > maxLength;
}

const failed = (error: Error): ExecutionResult => ({
  data: null,
  errors: [new GraphQLError("", { originalError: error })],
});

export function createResponseSizePlugin(maxBytes: number): GraphileConfig.Plugin {
  const bounded = new WeakSet<OperationPlan>();
  // A mutation has been committed when its response is written.
  const tooLarge = (isMutation: boolean): Error =>
    new ResponseTooLarge(maxBytes, isMutation ? "; the mutation was carried out" : "");

  /** Text was bounded while it was written; objects (over WebSocket) are bounded here. */
  const bound = (result: Result, isText: boolean | undefined, isMutation = false): Result => {
    if (isAsyncIterable(result)) return mapEvents(result, (event) => bound(event, isText) as ExecutionResult);
    return !isText && isLonger(result.data, maxBytes) ? failed(tooLarge(isMutation)) : result;
  };

  return {
    name: "ResponseSizePlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        establishOperationPlan(next) {
          const plan = next();
          if (!bounded.has(plan)) {
            bounded.add(plan);
            const { rootOutputPlan } = plan as unknown as { rootOutputPlan: Output };
            const isMutation = plan.operation.operation === OperationTypeNode.MUTATION;
            boundOutput(rootOutputPlan, maxBytes, () => tooLarge(isMutation), new Set());
          }
          return plan;
        },
        async execute(next, { args }) {
          const result = (await next()) as Result;
          const { operation } = args.contextValue as Grafast.Context;
          // One error in place of one for each row that could not be read.
          if (operation.kind() === "query" && operation.isTooLarge()) return failed(tooLarge(false));
          const isMutation = operation.kind() === "mutation";
          return bound(result, args.outputDataAsString, isMutation) as ExecutionResult;
        },
        async subscribe(next) {
          return bound((await next()) as Result, false) as ExecutionResult;
        },
      },
    },
  };
}
