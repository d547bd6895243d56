// GraphQL over WebSocket: the token comes in connection_init and the socket ends with it.
import type { FastifyRequest } from "fastify";
import type { SafeError } from "grafast";
import { GraphQLError } from "grafast/graphql";
import { makeGraphQLWSConfig, type GrafservBase } from "grafserv";
import { CloseCode, type Context } from "graphql-ws";
import { makeHandler } from "graphql-ws/use/@fastify/websocket";
import type { WebSocket } from "ws";
import type { Authenticator, Claims } from "../http/auth.ts";
import { presentError } from "./errors.ts";

/** Subscriptions that one socket may have open, and sockets that wait for connection_init are closed after it. */
const MAX_OPERATIONS = 50;
const INIT_TIMEOUT_MS = 10_000;
const TRY_AGAIN_LATER = 1013;
const MAX_TIMER_MS = 2 ** 31 - 1;

interface Extra {
  socket: WebSocket;
  request: FastifyRequest;
}

export function createSocketHandler(serv: GrafservBase, authenticator: Authenticator) {
  const grafserv = makeGraphQLWSConfig(serv);
  return makeHandler({
    ...(grafserv as object),
    // Omits internal messages from the reason of a close.
    isProd: true,
    connectionInitWaitTimeout: INIT_TIMEOUT_MS,

    async onConnect(context) {
      const { socket, request } = extraOf(context);
      try {
        const authorization = authorizationOf(context.connectionParams) ?? request.headers.authorization;
        request.claims = authenticator.requireRole(await authenticator.authenticate(authorization));
      } catch (error) {
        const { message, extensions } = error as SafeError<{ code: string; reason?: string }>;
        // Clients give up after 4401, connect again with another token after 4403, and with the same one after 1013.
        const code = extensions?.reason === "expired" ? CloseCode.Forbidden : CloseCode.Unauthorized;
        socket.close(extensions?.code === "UNAUTHENTICATED" ? code : TRY_AGAIN_LATER, message.slice(0, 120));
        return false;
      }
      closeAtExpiry(socket, request.claims);
      return true;
    },

    async onSubscribe(context, id, payload) {
      if (Object.keys(context.subscriptions).length > MAX_OPERATIONS)
        return [
          new GraphQLError(`At most ${MAX_OPERATIONS} operations may be open on a socket`, {
            extensions: { code: "RATE_LIMITED", limit: MAX_OPERATIONS },
          }),
        ];
      const args = await grafserv.onSubscribe!(context, id, payload);
      if (!args || Array.isArray(args)) return args;
      const { abort } = (args as Grafast.ExecutionArgs).contextValue;
      if (id in context.subscriptions) context.subscriptions[id] = ender(abort);
      else abort();
      return args;
    },

    onError: (context, _id, _payload, errors) =>
      errors.map((error) => presentError(error, extraOf(context).request)),
  });
}

/**
 * A result for graphql-ws to end while there is none yet: it does so when the client completes the operation or the
 * socket closes.
 */
function ender(abort: () => void): AsyncGenerator<never, undefined> {
  const end = () => {
    abort();
    return Promise.resolve({ value: undefined, done: true as const });
  };
  return {
    next: end,
    return: end,
    throw: end,
    [Symbol.asyncIterator]() {
      return this;
    },
    async [Symbol.asyncDispose]() {
      await end();
    },
  };
}

const extraOf = (context: Context<any, any>): Extra => context.extra as Extra;

/** Case-insensitive, like the header's name. */
function authorizationOf(parameters: Record<string, unknown> | undefined): string | undefined {
  const entry = Object.entries(parameters ?? {}).find(([name]) => name.toLowerCase() === "authorization");
  return typeof entry?.[1] === "string" ? entry[1] : undefined;
}

function closeAtExpiry(socket: WebSocket, { expiresAt }: Claims): void {
  if (expiresAt === undefined) return;
  const remaining = expiresAt * 1000 - Date.now();
  const timer = setTimeout(
    () => {
      if (remaining > MAX_TIMER_MS) closeAtExpiry(socket, { expiresAt } as Claims);
      else socket.close(CloseCode.Forbidden, "The token has expired");
    },
    Math.min(Math.max(remaining, 0), MAX_TIMER_MS),
  );
  timer.unref();
  socket.once("close", () => clearTimeout(timer));
}
