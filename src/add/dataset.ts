// The proposal for a new dataset, as `strata add` and POST /propose return it.
import { basename, join } from "node:path";
import type { Pool } from "pg";
import { badInput } from "../ingest/faults.ts";
import { checkReadOptions, givenOptions, type ReadOptions } from "../ingest/options.ts";
import type { Format } from "../ingest/read.ts";
import type { Room } from "./distinct.ts";
import { createQuote, examine } from "./examine.ts";
import { readParents } from "./parents.ts";
import type { Reading } from "./profile.ts";
import type { Proposal } from "./proposal.ts";
import { ingestCommandFor } from "./report.ts";
import { writeSql } from "./sql.ts";

interface Request {
  /** Path of the file, which is read more than once. */
  file: string;
  /** Name of the file at its source. */
  source: string;
  dataset: string;
  /** Folder of the dataset files (DATASETS_DIR). */
  folder: string;
  format?: Format | undefined;
  key?: string | undefined;
  /** How the file writes dates, numbers and absent values. */
  reading?: ReadOptions;
  room?: Room;
  onProgress?: Reading["onProgress"];
}

export interface NewDataset {
  rows: number;
  proposal: Proposal;
  /** Name of the SQL file to save in the folder. */
  fileName: string;
  sql: string;
  /** Command that ingests the rows. */
  ingest: string;
}

export const DATASET_NAME = /^[a-z_][a-z0-9_]{0,49}$/;
export const DATASET_NAME_RULE = "up to 50 of a-z, 0-9 and _, not beginning with a digit";

export async function proposeDataset(
  pool: Pool,
  { file, source, dataset, folder, format, key, reading = {}, room, onProgress }: Request,
): Promise<NewDataset> {
  const dialect = checkReadOptions(reading);
  const parents = await readParents(pool, folder);
  const known = parents.find(({ table }) => table === dataset);
  if (known)
    throw badInput(
      `production.${dataset} exists already${known.file ? ` (${join(folder, known.file)})` : ""}; ` +
        "change it there, with `alter table … add column if not exists`, or choose another name",
    );
  const quote = await createQuote(pool);
  const { rows, proposal } = await examine(pool, {
    file,
    dataset,
    parents,
    quote,
    format,
    key,
    dialect,
    room,
    ...(onProgress && { onProgress }),
  });
  const ingest = ingestCommandFor(source, proposal, givenOptions(reading));
  const sql = writeSql(proposal, { source: basename(source), rows, ingest, quote });
  return { rows, proposal, fileName: fileNameOf(proposal), sql, ingest };
}

/** Files are applied in the order of their names: one that refers to another has to come after it. */
function fileNameOf({ dataset, parents }: Proposal): string {
  const own = `${dataset}.sql`;
  const last = parents
    .flatMap(({ parent }) => parent.file ?? [])
    .sort()
    .at(-1);
  return last === undefined || last < own ? own : `${last.replace(/\.sql$/, "")}_${own}`;
}
