// POST /propose/{dataset}: takes a file and returns the SQL of a new dataset. Nothing is changed.
import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Pool } from "pg";
import { DATASET_NAME, DATASET_NAME_RULE, proposeDataset } from "../add/dataset.ts";
import { facts } from "../add/facts.ts";
import { apiError } from "../graphql/errors.ts";
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

/** Files examined at once. Each more takes a core for its time, and space on disk. */
const MAX_AT_ONCE = 2;
/** Slots of 8 bytes for finding repeated values, 64 MB. More would sample less of large files. */
const ROOM_SLOTS = 2 ** 23;
const PARAMETERS = ["name", "key", ...READ_PARAMETERS];

interface ProposeOptions {
  pool: Pool;
  /** Folder of the dataset files (DATASETS_DIR). */
  folder: string;
  /** Maximum bytes of a body, which is on disk while it is examined. */
  maxBytes?: number | undefined;
  stopping?: AbortSignal | undefined;
}

export function addPropose(
  app: FastifyInstance,
  { pool, folder, maxBytes = 1024 ** 3, stopping }: ProposeOptions,
  done: () => void,
): void {
  takeStreams(app);
  let running = 0;

  const propose = async (request: FastifyRequest) => {
    if (request.claims.role !== "strata_operator")
      throw apiError("FORBIDDEN", "Only operators may propose a dataset");
    const { dataset } = request.params as { dataset: string };
    if (!DATASET_NAME.test(dataset))
      throw apiError(
        "BAD_REQUEST",
        `A dataset cannot be named "${dataset.slice(0, 100)}"; allowed: ${DATASET_NAME_RULE}`,
      );
    const format = formatOf(request);
    const { name = `${dataset}.${format}`, key } = parametersOf(
      request,
      PARAMETERS,
      REPEATABLE_READ_PARAMETERS,
    ) as { name?: string; key?: string };
    if (running >= MAX_AT_ONCE)
      throw apiError(
        "SERVICE_UNAVAILABLE",
        `The server looks at ${MAX_AT_ONCE} other files; send this one again`,
      );
    running++;
    let place: string | undefined;
    try {
      // The body is saved to disk, since finding keys may need a second pass.
      place = await mkdtemp(join(tmpdir(), "strata-propose-"));
      const file = join(place, "body");
      await pipeline(bodyOf(request), limitedTo(maxBytes), createWriteStream(file, { mode: 0o600 }), {
        ...(stopping && { signal: stopping }),
      });
      const found = await proposeDataset(pool, {
        file,
        source: name,
        dataset,
        folder,
        format,
        key,
        reading: readParametersOf(request),
        room: { slots: ROOM_SLOTS },
        onProgress: () => {
          if (request.raw.socket.destroyed || stopping?.aborted)
            throw apiError("SERVICE_UNAVAILABLE", "The file was not read to its end; send it again");
        },
      });
      return { proposal: { ...facts(found), file: found.fileName } };
    } finally {
      running--;
      if (place !== undefined) await rm(place, { recursive: true, force: true });
    }
  };

  app.post("/propose/:dataset", (request, reply) => withBody(app, request, reply, () => propose(request)));
  done();
}

function limitedTo(maxBytes: number): Transform {
  let bytes = 0;
  return new Transform({
    transform(block: Buffer, _encoding, next) {
      bytes += block.length;
      if (bytes <= maxBytes) next(null, block);
      else
        next(
          apiError(
            "PAYLOAD_TOO_LARGE",
            `The file has more than ${maxBytes} bytes; send a part of it, or propose with: npx strata-graphql add`,
          ),
        );
    },
  });
}
