// GraphQL over HTTP: POST with a JSON body, and GET for queries, whose parameters stand in the URL. It replaces
// grafserv's handler, which repeats work of Fastify (headers, a result object, a buffer), and runs the same: the
// middleware of persisted operations, parsing and validation (src/guard/guard.ts), then Grafast.
import type { FastifyReply, FastifyRequest } from "fastify";
import { execute, GraphQLSpecifiedErrorBehaviors, hookArgs, stringifyPayload } from "grafast";
import { getOperationAST, OperationTypeNode, type ExecutionResult } from "grafast/graphql";
import type { GrafservBase, ParsedGraphQLBody, ProcessGraphQLRequestBodyEvent } from "grafserv";
import type { Middleware } from "graphile-config";
import { finishErrors, apiError } from "./errors.ts";
import { isObject } from "../ingest/json.ts";
import { lightenMiddleware } from "./middleware.ts";

const badRequest = (message: string): Error => apiError("BAD_REQUEST", message);

function parseJson(text: unknown, what: string): unknown {
  try {
    return JSON.parse(text as string);
  } catch {
    throw badRequest(`${what} is not JSON`);
  }
}

type Fields = Record<string, unknown>;

function fieldsOf({ method, body, query }: FastifyRequest): Fields {
  if (method === "POST") {
    const fields = parseJson(body, "The body");
    if (!isObject(fields)) throw badRequest("The body must be a JSON object; batches are not accepted");
    return fields;
  }
  const fields = { ...(query as Fields) };
  for (const name of ["variables", "extensions"])
    if (fields[name] !== undefined) fields[name] = parseJson(fields[name], `The parameter \`${name}\``);
  return fields;
}

function checkFields({ query, operationName, variableValues, extensions, onError }: Fields): void {
  if (typeof query !== "string") throw badRequest("`query` must be a string");
  if (operationName !== undefined && typeof operationName !== "string")
    throw badRequest("`operationName` must be a string");
  for (const [name, value] of Object.entries({ variables: variableValues, extensions }))
    if (value !== undefined && !isObject(value)) throw badRequest(`\`${name}\` must be an object`);
  if (onError !== undefined && !GraphQLSpecifiedErrorBehaviors.includes(onError as never))
    throw badRequest(`\`onError\` must be one of ${GraphQLSpecifiedErrorBehaviors.join(", ")}`);
}

export function createHttpHandler(serv: GrafservBase) {
  // grafserv's published types leave its middleware out.
  const { middleware, grafastMiddleware } = serv as GrafservBase & {
    middleware: Middleware<GraphileConfig.GrafservMiddleware> | null;
  };
  lightenMiddleware(middleware);
  lightenMiddleware(grafastMiddleware);

  async function answer(request: FastifyRequest, reply: FastifyReply): Promise<ExecutionResult> {
    const requestContext = { fastifyv5: { request, reply } } as unknown as Grafast.RequestContext;
    const fields = fieldsOf(request);
    const { id, documentId, doc_id, query, operationName, variables, extensions, onError } = fields;
    const body = {
      id,
      documentId,
      doc_id,
      query,
      operationName: operationName ?? undefined,
      variableValues: variables ?? undefined,
      extensions: extensions ?? undefined,
      onError: onError ?? undefined,
    } as ParsedGraphQLBody;
    const { resolvedPreset } = serv;
    if (middleware?.middleware.processGraphQLRequestBody) {
      const event = { resolvedPreset, body, request: { requestContext } } as ProcessGraphQLRequestBodyEvent;
      await middleware.run("processGraphQLRequestBody", event, () => undefined);
    }
    checkFields(body as unknown as Fields);
    const { schema, parseAndValidate, contextValue } = await serv.getExecutionConfig(requestContext);
    const parsed = parseAndValidate(body.query as string);
    if (parsed.errors) return { errors: parsed.errors };
    const { document } = parsed;
    const name = body.operationName as string | undefined;
    const kind = request.method === "POST" ? undefined : getOperationAST(document, name)?.operation;
    if (kind !== undefined && kind !== OperationTypeNode.QUERY)
      throw apiError("METHOD_NOT_ALLOWED", `GET is for queries only; send this ${kind} by POST`, {
        allow: "POST",
      });
    const args = {
      schema,
      document,
      rootValue: null,
      contextValue,
      variableValues: body.variableValues as Fields | undefined,
      operationName: name,
      onError: body.onError,
      resolvedPreset,
      requestContext,
      middleware: grafastMiddleware,
    };
    await hookArgs(args as never);
    return (await execute(args as never)) as ExecutionResult;
  }

  return async (request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    const result = await answer(request, reply);
    void reply.type(`${request.headers.accept}; charset=utf-8`);
    return stringifyPayload((result.errors ? finishErrors(request, reply, result) : result) as never, true);
  };
}
