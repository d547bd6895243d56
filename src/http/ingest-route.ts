// POST /ingest/{dataset}: ingests a body of any size, read only as fast as its rows land.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { finished } from "node:stream/promises";
import type { Pool } from "pg";
import { badOption } from "../ingest/faults.ts";
import { dryRun as tryLoad } from "../ingest/dry-run.ts";
import { receive, type IngestOptions, type Operation } from "../ingest/ingest.ts";
import {
  bodyOf,
  formatOf,
  parametersOf,
  READ_PARAMETERS,
  readParametersOf,
  REPEATABLE_READ_PARAMETERS,
  takeStreams,
  withBody,
} from "./body.ts";
import type { Nodes, Route } from "../database/nodes.ts";
import { addPosition } from "../graphql/position.ts";
import { RETRY_AFTER_S } from "./health.ts";

interface Query {
  source?: string;
  name?: string;
  map?: string | string[];
  set?: string | string[];
  maxRejected?: string;
  operation?: Operation;
  dryRun?: string;
  sha256?: string;
}
const PARAMETERS = [
  "source",
  "name",
  "map",
  "set",
  ...READ_PARAMETERS,
  "maxRejected",
  "operation",
  "dryRun",
  "sha256",
];
const REPEATABLE = ["map", "set", ...REPEATABLE_READ_PARAMETERS];
const OPERATIONS: unknown[] = ["delete", "replace"] satisfies Operation[];

/** Adds a position with which later queries see the run and its rows. */
async function addWritten(reply: FastifyReply, nodes: Nodes): Promise<void> {
  const route: Route = { floor: undefined, primaryOnly: true };
  await nodes.noteWritten(route).catch(() => undefined);
  addPosition(reply, route);
}

/** Reads and drops the rest of a body, since many clients read the response only after sending all of it. */
async function discard({ raw }: FastifyRequest, stopping?: AbortSignal): Promise<void> {
  raw.unpipe();
  raw.resume();
  await finished(raw, { writable: false, signal: stopping }).catch(() => undefined);
}

export function addIngest(
  app: FastifyInstance,
  { pool, nodes, stopping }: { pool: Pool; nodes?: Nodes | undefined; stopping?: AbortSignal },
  done: () => void,
): void {
  takeStreams(app);

  const ingest = async (request: FastifyRequest, reply: FastifyReply) => {
    const format = formatOf(request);
    const { dataset } = request.params as { dataset: string };
    const query = parametersOf(request, PARAMETERS, REPEATABLE) as Query;
    const { source, name, map, set, maxRejected, operation, dryRun = "false" } = query;
    const sha256 = query.sha256?.toLowerCase();
    if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256))
      throw badOption(`"${query.sha256!.slice(0, 100)}" is not a SHA-256; allowed: 64 hexadecimal digits`);
    if (!/^(true|false)$/.test(dryRun)) throw badOption(`dryRun is "${dryRun}"; allowed: true, false`);
    if (operation !== undefined && !OPERATIONS.includes(operation))
      throw badOption(
        `"${String(operation)}" is not an operation; allowed: ${OPERATIONS.join(", ")}, or none`,
      );
    const { databaseRole: role, subject } = request.claims;
    const load: IngestOptions = {
      format,
      sourceSystem: source,
      sourceName: name,
      map: [map ?? []].flat(),
      set: [set ?? []].flat(),
      ...readParametersOf(request),
      maxRejected,
      operation,
      sha256,
      trigger: "api",
      actor: subject,
      role,
      signal: stopping,
    };
    if (dryRun === "true") {
      const tried = await tryLoad(pool, dataset, bodyOf(request, sha256), load);
      return await reply.status(tried.error === null ? 200 : 422).send({ dryRun: tried });
    }
    const { run, failedBy } = await receive(pool, dataset, bodyOf(request, sha256), load);
    if (run.skipped) await discard(request, stopping);
    else if (nodes) await addWritten(reply, nodes);
    if (run.status === "succeeded") return { run };
    reply.header("connection", "close");
    if (failedBy === "rows") return await reply.status(422).send({ run });
    if (failedBy === "source" && !stopping?.aborted) return await reply.status(400).send({ run });
    request.log.error({ run }, "ingest failed");
    if (failedBy === "fault" && !stopping?.aborted)
      return await reply
        .status(500)
        .send({ run: { ...run, error: "The rows could not be taken, and would not be if sent again" } });
    const error = stopping?.aborted ? run.error : "The database could not take the rows; send them again";
    return await reply
      .status(503)
      .header("retry-after", String(RETRY_AFTER_S))
      .send({ run: { ...run, error } });
  };
  app.post("/ingest/:dataset", (request, reply) =>
    withBody(app, request, reply, () => ingest(request, reply)),
  );
  done();
}
