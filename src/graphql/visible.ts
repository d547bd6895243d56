// Mutations and events of subscriptions cannot be executed again, so fields that the role may not read are found
// beforehand and left out. ./reads.ts does the same for queries after a failure.
import { isAsyncIterable } from "grafast";
import { getOperationAST, OperationTypeNode, type DocumentNode, type ExecutionResult } from "grafast/graphql";
import type pg from "pg";
import { findForbidden, hideFields, isMissingRight, nameForbidden, type Forbidden } from "./forbidden.ts";
import { mapEvents, type Result } from "./results.ts";

type Args = Grafast.ExecutionArgs;
type Next = () => Result | Promise<Result>;

export function createVisiblePlugin(pool: pg.Pool): GraphileConfig.Plugin {
  /** Caches the documents of which a role may read everything. */
  const allowed = new WeakMap<DocumentNode, Set<string>>();
  const keyOf = (args: Args, role: string): string => `${role} ${args.operationName ?? ""}`;

  async function lookFor(args: Args, role: string): Promise<Forbidden | undefined> {
    const { document } = args;
    const key = keyOf(args, role);
    if (allowed.get(document)?.has(key)) return undefined;
    let forbidden: Forbidden | undefined;
    try {
      forbidden = await findForbidden(pool, args, role);
    } catch {
      // Execute the operation: it will report the database's error.
      return undefined;
    }
    if (!forbidden) allowed.set(document, (allowed.get(document) ?? new Set()).add(key));
    return forbidden;
  }

  /** Names forbidden fields that could not be left out: they are not null, or the right was revoked meanwhile. */
  async function explain(
    result: ExecutionResult,
    args: Args,
    left: Forbidden | undefined,
    role: string,
  ): Promise<ExecutionResult> {
    if (!result.errors?.some(isMissingRight)) return result;
    allowed.get(args.document)?.delete(keyOf(args, role));
    const forbidden = await findForbidden(pool, args, role).catch(() => undefined);
    if (!forbidden) return result;
    const isLeft = new Set(left?.hidden.map(({ node }) => node));
    const more = forbidden.hidden.filter(({ node }) => !isLeft.has(node));
    return nameForbidden(result, [...forbidden.others, ...more], role);
  }

  function hide(result: ExecutionResult, forbidden: Forbidden | undefined, role: string): ExecutionResult {
    if (!forbidden?.document) return result;
    const errors = [...hideFields(forbidden, result.data, role), ...(result.errors ?? [])];
    return errors.length > 0 ? { ...result, errors } : result;
  }

  async function execute(next: Next, args: Args): Promise<Result> {
    const role = args.contextValue.claims.databaseRole!;
    const forbidden = await lookFor(args, role);
    const { document, outputDataAsString } = args;
    const isHidden = forbidden?.document !== undefined;
    if (isHidden) Object.assign(args, { document: forbidden.document, outputDataAsString: false });
    try {
      const result = await next();
      const finish = async (one: ExecutionResult): Promise<ExecutionResult> =>
        hide(await explain(one, { ...args, document }, forbidden, role), forbidden, role);
      if (isAsyncIterable(result)) return mapEvents(result, finish);
      const finished = await finish(result);
      const asText = isHidden && outputDataAsString && finished.data;
      return asText ? { ...finished, data: JSON.stringify(finished.data) as never } : finished;
    } finally {
      Object.assign(args, { document, outputDataAsString });
    }
  }

  return {
    name: "VisiblePlugin",
    version: "1.0.0",
    grafast: {
      middleware: {
        execute(next, { args }) {
          const operation = getOperationAST(args.document, args.operationName);
          const isMutation = operation?.operation === OperationTypeNode.MUTATION;
          return isMutation ? (execute(next as Next, args as Args) as never) : next();
        },
        subscribe: (next, { args }) => execute(next as Next, args as Args) as never,
      },
    },
  };
}
