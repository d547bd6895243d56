// Reads the position that a client has seen from its request, and returns the new one: in headers, or over WebSocket
// in extensions.
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Route } from "../database/nodes.ts";
import { isPosition, later } from "../database/positions.ts";
import { apiError } from "./errors.ts";

export const POSITION_HEADER = "strata-position";
export const READ_HEADER = "strata-read";
export const NODE_HEADER = "strata-node";

declare module "fastify" {
  interface FastifyRequest {
    /** Set if there are replicas. */
    route?: Route;
  }
}

function toRoute(
  position: string | string[] | undefined,
  read: string | string[] | undefined,
  names: [position: string, read: string],
): Route {
  if (position !== undefined && !(typeof position === "string" && isPosition(position)))
    throw apiError(
      "BAD_REQUEST",
      `${names[0]} is "${String(position).slice(0, 100)}"; allowed is what an answer gave, as it was given`,
    );
  if (read !== undefined && read !== "primary")
    throw apiError("BAD_REQUEST", `${names[1]} is "${String(read).slice(0, 100)}"; allowed: primary`);
  return { floor: position, primaryOnly: read === "primary" };
}

/** Returns the request's route, one object that all parts of the response share. */
export function routeOf(request: FastifyRequest): Route {
  const { headers } = request;
  return (request.route ??= toRoute(headers[POSITION_HEADER], headers[READ_HEADER], [
    POSITION_HEADER,
    READ_HEADER,
  ]));
}

export function routeOfExtensions(extensions: unknown): Route {
  const { position, read } = ((extensions as { strata?: unknown } | undefined)?.strata ?? {}) as {
    position?: string;
    read?: string;
  };
  return toRoute(position, read, ["extensions.strata.position", "extensions.strata.read"]);
}

/** The position for the client to send with its next request. */
const positionOf = ({ floor, position }: Route): string | undefined => later(floor, position);

export function addPosition(reply: FastifyReply, route: Route): void {
  const position = positionOf(route);
  if (position !== undefined) reply.header(POSITION_HEADER, position);
  if (route.node) reply.header(NODE_HEADER, route.node.name);
}

export const withPosition = <T extends { extensions?: Record<string, unknown> }>(
  result: T,
  route: Route,
): T => ({
  ...result,
  extensions: { ...result.extensions, strata: { position: positionOf(route), node: route.node?.name } },
});
