// Reads a dataset's description from the database: its fields, and the column for extra fields.
import pg from "pg";
import { unknownDataset } from "./faults.ts";

export interface Field {
  name: string;
  /** As format_type() writes it: "integer", "character varying(100)", "text[]". */
  type: string;
  /** True if a row without it is rejected. */
  isRequired: boolean;
  /** Part of the key of production. */
  isKey: boolean;
}

export interface Dataset {
  name: string;
  /** Fields in the order of COPY, the key first. */
  fields: Field[];
  /** Place of each field by its name. */
  places: Map<string, number>;
  /** Field that stores unknown fields as JSON; without one, a row with unknown fields is rejected. */
  extras?: Field;
  /** The raw table, quoted. */
  table: string;
}

const names = (fields: Field[]): string[] => fields.map(({ name }) => name);
export const fieldNames = ({ fields }: Dataset): string[] => names(fields);

function createDataset(name: string, fields: Field[], extras?: string | null): Dataset {
  return {
    name,
    fields,
    places: new Map(fields.map((field, place) => [field.name, place])),
    extras: fields.find((field) => field.name === extras),
    table: `staging.${pg.escapeIdentifier(`raw_${name}`)}`,
  };
}

export async function readDataset(client: pg.Pool | pg.PoolClient, name: string): Promise<Dataset> {
  const { rows } = await client.query<{ fields: Field[] | null; extras: string | null }>(
    `select d.extras_column as extras,
            (select json_agg(json_build_object('name', f.field, 'type', f.type, 'isRequired', f.is_required, 'isKey', f.is_key) order by f.place)
             from strata.fields(d.dataset) f) as fields
     from strata.datasets d where d.dataset = $1`,
    [name],
  );
  if (rows[0]?.fields) return createDataset(name, rows[0].fields, rows[0].extras);
  if (rows[0])
    throw unknownDataset(
      `The dataset "${name}" has lost its table in production or staging; npx strata-graphql doctor says what to do`,
    );
  const { rows: known } = await client.query<{ names: string | null }>(
    "select string_agg(dataset, ', ' order by place, dataset) as names from strata.datasets",
  );
  throw unknownDataset(
    `There is no dataset "${name.slice(0, 100)}"; there are: ${known[0]!.names ?? "none"}`,
  );
}
