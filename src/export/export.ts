// An export: one SELECT as a role, written as CSV, NDJSON or Parquet while it is read.
import type { GraphQLSchema } from "grafast/graphql";
import type pg from "pg";
import { sql, type SQL } from "pg-sql2";
import type { Settings } from "../database/adaptor.ts";
import { copyOut } from "../database/copy-out.ts";
import { toParquet } from "./parquet.ts";
import { selectionFor, type Column, type ExportRequest } from "./select.ts";

export const EXPORT_FORMATS = ["csv", "ndjson", "parquet"] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];
export const isExportFormat = (value: unknown): value is ExportFormat =>
  EXPORT_FORMATS.includes(value as ExportFormat);

interface ExportOptions {
  pool: pg.Pool;
  schema: GraphQLSchema;
  request: ExportRequest;
  format: ExportFormat;
  /** Settings of the transaction, `role` among them. */
  settings: Settings;
  signal?: AbortSignal | undefined;
}

export interface Export {
  /** The file's bytes; iteration throws if the export ends early. */
  bytes: AsyncGenerator<Uint8Array>;
  /** Rows that PostgreSQL has sent so far. */
  rows: () => number;
}

/** Settings that make the output independent of the database's own. */
const PLAIN: Settings = {
  timezone: "UTC",
  datestyle: "ISO, YMD",
  intervalstyle: "iso_8601",
  bytea_output: "hex",
  extra_float_digits: "1",
  // A compilation cannot be interrupted: that of a long statement outlasts its time-out.
  jit: "off",
};

const isGeometry = ({ type }: Column): boolean => type === "geometry" || type === "geography";
/** Digits behind the point that keep every coordinate as it is. */
const geoJson = (value: SQL): SQL => sql`public.st_asgeojson(${value}, 15)`;
const isNested = ({ category }: Column): boolean => category === "A" || category === "C";
const utc = ({ type }: Column, value: SQL): SQL =>
  type === "timestamp" ? sql`(${value} at time zone 'UTC')` : value;

const asText = (column: Column, value: SQL): SQL => {
  if (isGeometry(column)) return geoJson(value);
  if (isNested(column)) return sql`to_jsonb(${value})`;
  return utc(column, value);
};
const asCsv = (column: Column, value: SQL): SQL =>
  column.type === "bool" ? sql`${value}::text` : asText(column, value);
const asJson = (column: Column, value: SQL): SQL => {
  if (isGeometry(column)) return sql`${geoJson(value)}::jsonb`;
  // The type json preserves line breaks of its input, which would end the row; jsonb does not.
  if (column.type === "json") return sql`${value}::jsonb`;
  return isNested(column) ? sql`to_jsonb(${value})` : utc(column, value);
};

const csvName = (name: string): string => (/[",\n\r]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name);

/** JSON has no control characters: with these as quote and delimiter, COPY leaves each line as it is. */
const UNQUOTED = String.raw`(format csv, quote E'\x01', delimiter E'\x02')`;

/**
 * Resolves when PostgreSQL has computed the first rows, or found that there are none, so that most errors of a
 * request precede the response.
 */
export async function openExport({
  pool,
  schema,
  request,
  format,
  settings,
  signal,
}: ExportOptions): Promise<Export> {
  const { columns, select } = await selectionFor(pool, schema, request, settings.role!);
  const select_ =
    format === "ndjson"
      ? `select row_to_json("row") from (${select(asJson)}) as "row"`
      : select(format === "csv" ? asCsv : asText);
  const copying = await copyOut(pool, {
    settings: { ...PLAIN, ...settings },
    select: select_,
    format: format === "csv" ? "(format csv)" : format === "ndjson" ? UNQUOTED : "(format text)",
    signal,
  });
  const chunks = copying[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const first = await chunks.next();

  async function* rows(): AsyncGenerator<Buffer> {
    for (let next = first; !next.done; next = await chunks.next()) yield next.value;
  }
  async function* bytes(): AsyncGenerator<Uint8Array> {
    try {
      // The header is written here: COPY would send it before computing the first row.
      if (format === "csv") yield Buffer.from(`${columns.map(({ field }) => csvName(field)).join(",")}\n`);
      if (format === "parquet") yield* toParquet(columns, rows());
      else yield* rows();
    } finally {
      copying.destroy();
    }
  }
  return { bytes: bytes(), rows: () => copying.rows };
}
