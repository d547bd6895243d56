// Makes a proposal from the file's contents and from the tables that the database has.
import pg, { type Pool } from "pg";
import type { Dialect } from "../ingest/options.ts";
import type { Format } from "../ingest/read.ts";
import { proposeColumn } from "./column.ts";
import type { Room } from "./distinct.ts";
import { findKey } from "./key.ts";
import { nameColumns } from "./names.ts";
import { compare, findReferences, type Parent } from "./parents.ts";
import { profileFile, type Reading } from "./profile.ts";
import { propose } from "./propose.ts";
import type { Proposal, Quote } from "./proposal.ts";

export async function createQuote(pool: Pool): Promise<Quote> {
  const { rows } = await pool.query<{ word: string }>(
    "select word from pg_catalog.pg_get_keywords() where catcode in ('R', 'T')",
  );
  const reserved = new Set(rows.map(({ word }) => word));
  return (name) =>
    /^[a-z_][a-z0-9_]*$/.test(name) && !reserved.has(name) ? name : pg.escapeIdentifier(name);
}

export interface Request {
  file: string;
  dataset: string;
  parents: Parent[];
  quote: Quote;
  format: Format | undefined;
  /** Names of columns, separated by commas. */
  key: string | undefined;
  dialect?: Dialect | undefined;
  room?: Room | undefined;
  onProgress?: Reading["onProgress"];
}

export async function examine(pool: Pool, request: Request): Promise<{ rows: number; proposal: Proposal }> {
  const { file, dataset, parents, quote } = request;
  const referencesOf = (headers: string[]) => {
    const names = nameColumns(headers, dataset);
    const headerOf = (name: string): string => headers.find((header) => names.get(header) === name)!;
    return findReferences(parents, dataset, [...names.values()]).map((reference) => ({
      reference,
      headers: reference.columns.map(headerOf),
    }));
  };
  const reading: Reading = {
    file,
    format: request.format,
    referencesOf: (headers) => referencesOf(headers).map((found) => found.headers),
    dialect: request.dialect,
    room: request.room,
    ...(request.onProgress && { onProgress: request.onProgress }),
  };
  const profile = await profileFile(reading);
  const headers = profile.columns.map(({ header }) => header);
  const names = nameColumns(headers, dataset);
  const rows = profile.rows - profile.broken.count;
  const columns = profile.columns.map((column) => proposeColumn(column, names.get(column.header)!, rows));
  const key = await findKey(reading, columns, { dataset, rows, given: request.key });
  const references = [];
  for (const found of referencesOf(headers)) {
    const group = found.headers.join("\0");
    const sample = profile.samples.find((one) => one.headers.join("\0") === group);
    const content = await compare(pool, found.reference, [...(sample?.values.keys() ?? [])]);
    references.push({ reference: found.reference, content });
  }
  return { rows: profile.rows, proposal: propose(profile, { dataset, columns, key, references, quote }) };
}
