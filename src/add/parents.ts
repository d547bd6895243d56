// Finds tables that a new dataset may reference: those of the database, and those that files of DATASETS_DIR declare.
import pg, { type Pool } from "pg";
import { readDatasetFiles } from "../database/dataset-files.ts";
import { splitStatements } from "../database/sql-text.ts";
import { singular } from "./names.ts";

/** A table with a key, primary or unique. */
export interface Parent {
  table: string;
  columns: string[];
  types: string[];
  /** The file that declares it, if there is one. */
  file: string | undefined;
  /** True if the table is declared but not created yet, so that values cannot be compared with its rows. */
  pending: boolean;
}

export interface Reference {
  parent: Parent;
  /** Columns of the new dataset, in the order of the parent's key. */
  columns: string[];
}

export async function readParents(pool: Pool, folder: string): Promise<Parent[]> {
  const { rows } = await pool.query<Pick<Parent, "table" | "columns" | "types">>(
    `select c.relname::text as "table", key.columns, key.types
       from pg_catalog.pg_constraint con
       join pg_catalog.pg_class c on c.oid = con.conrelid
       cross join lateral (
         select array_agg(a.attname::text order by k.place) as columns,
                array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) order by k.place) as types
           from unnest(con.conkey) with ordinality as k (attnum, place)
           join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
       ) key
      where c.relnamespace = pg_catalog.to_regnamespace('production') and con.contype in ('p', 'u')
      order by con.contype, c.relname`,
  );
  const declared = readDeclarations(folder);
  const applied = rows.map((row) => ({
    ...row,
    file: declared.find(({ table }) => table === row.table)?.file,
    pending: false,
  }));
  return [...applied, ...declared.filter(({ table }) => !rows.some((row) => row.table === table))];
}

/** Tables of simple `create table` statements; others become known when they are applied. */
function readDeclarations(folder: string): Parent[] {
  return readDatasetFiles(folder).flatMap(({ name: file, text: sql }) =>
    statementsOf(sql).flatMap(({ text }) => {
      const [, table] =
        /^create\s+table\s+(?:if\s+not\s+exists\s+)?production\s*\.\s*"?(\w+)"?\s*\(/i.exec(text) ?? [];
      if (table === undefined) return [];
      const inline = /^\s*"?(\w+)"?\s+[^,()]*(?:\([^)]*\))?[^,()]*\bprimary\s+key\b/im.exec(text);
      const listed = /\bprimary\s+key\s*\(([^)]*)\)/i.exec(text);
      const columns = (listed?.[1] ?? inline?.[1] ?? "")
        .split(",")
        .map((name) => name.trim().replaceAll('"', ""));
      return [{ table, columns, types: columns.map((name) => typeIn(text, name)), file, pending: true }];
    }),
  );
}

function statementsOf(sql: string): { text: string }[] {
  try {
    return splitStatements(sql);
  } catch {
    // A file that cannot be parsed is ignored here; `strata migrate` reports its fault.
    return [];
  }
}

const typeIn = (text: string, column: string): string =>
  new RegExp(
    `[(,\\n]\\s*"?${column}"?\\s+([a-z][a-z ]*?(?:\\([\\d, ]+\\))?)\\s*(?:\\bnot null|\\bprimary|\\bconstraint|\\bgenerated|\\bdefault|,|\\n|$)`,
    "i",
  ).exec(text)?.[1] ?? "text";

/** Columns that are named like the key of a table: `product_id`, `product_sku`, `sku`, or all columns of its key. */
export function findReferences(parents: Parent[], dataset: string, names: string[]): Reference[] {
  const found: Reference[] = [];
  for (const parent of parents) {
    if (parent.table === dataset) continue;
    const one = singular(parent.table);
    const [key] = parent.columns as [string];
    if (parent.columns.length > 1) {
      if (parent.columns.every((column) => names.includes(column)))
        found.push({ parent, columns: parent.columns });
      continue;
    }
    for (const name of names) {
      const isSame = name === key && !/^(id|name|title|date|code|status)$/.test(key);
      const isNamed = [`${one}_id`, `${one}_${key}`, one].includes(name) || name.endsWith(`_${one}_id`);
      const isKnown = found.some(({ columns }) => columns.length === 1 && columns[0] === name);
      if ((isSame || isNamed) && !isKnown) found.push({ parent, columns: [name] });
    }
  }
  return found.sort((a, b) => names.indexOf(a.columns[0]!) - names.indexOf(b.columns[0]!));
}

export interface Content {
  looked: number;
  missing: number;
  examples: string[];
  /** True if the table has no rows to compare with. */
  isEmpty: boolean;
}

/** How many of the values are in the table; each is the values of one row, joined by NUL. */
export async function compare(pool: Pool, { parent }: Reference, values: string[]): Promise<Content> {
  if (parent.pending) return { looked: 0, missing: 0, examples: [], isEmpty: true };
  const parts = values.map((value) => value.split("\0"));
  const places = parent.columns.map((_, i) => i + 1);
  const { rows } = await pool.query<{ missing: number; examples: string[] | null; empty: boolean }>(
    `select count(*)::int as missing, (array_agg(concat_ws(', ', ${places.map((i) => `v${i}`).join(", ")})))[1:3] as examples,
            not exists (select from production.${pg.escapeIdentifier(parent.table)}) as empty
       from unnest(${places.map((i) => `$${i}::text[]`).join(", ")}) as given (${places.map((i) => `v${i}`).join(", ")})
      where not exists (
        select from production.${pg.escapeIdentifier(parent.table)} p
         where ${parent.columns.map((column, i) => `p.${pg.escapeIdentifier(column)}::text = ${textFor(parent.types[i]!, `v${i + 1}`)}`).join(" and ")})`,
    places.map((i) => parts.map((part) => part[i - 1])),
  );
  const { missing, examples, empty } = rows[0]!;
  return { looked: values.length, missing, examples: examples ?? [], isEmpty: empty };
}

const textFor = (type: string, value: string): string => (type === "uuid" ? `lower(${value})` : value);
