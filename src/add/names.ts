// Names of the file to names of the database.
import { basename } from "node:path";

/** "Unit Price", "unitPrice" and "UNIT-PRICE" are all unit_price; PostgreSQL cuts names at 63 bytes. */
function toIdentifier(name: string): string {
  const plain = name
    .normalize("NFKD")
    .replace(/[\u0300-\u036f]/g, "")
    .replace(/%/g, " percent ")
    .replace(/([a-z\d])([A-Z])/g, "$1_$2")
    .replace(/([A-Z])([A-Z][a-z])/g, "$1_$2")
    .toLowerCase()
    .replace(/[^a-z\d]+/g, "_")
    .replace(/^_+|_+$/g, "")
    .slice(0, 50);
  return /^\d/.test(plain) ? `n${plain}` : plain;
}

export const datasetOf = (file: string): string =>
  toIdentifier(basename(file).replace(/(\.(csv|tsv|txt|ndjson|jsonl|json|xlsx|parquet))?(\.gz)?$/i, ""));

export function singular(name: string): string {
  if (/ies$/.test(name)) return name.replace(/ies$/, "y");
  if (/(ch|sh|x|ss|z|us)es$/.test(name)) return name.replace(/es$/, "");
  return /[^s]s$/.test(name) && !/(us|is)$/.test(name) ? name.slice(0, -1) : name;
}

/** unit_price: "Unit price". */
export const inWords = (name: string): string => {
  const words = name.replaceAll("_", " ").replace(/ id$/, "");
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/** Rank of a name as that of a key or a UNIQUE column: the higher, the likelier; 0 if the name suggests neither. */
export function keyRank(name: string, dataset: string): number {
  const one = singular(dataset);
  if (name === `${one}_id`) return 100;
  if (name === "id") return 90;
  if ([`${one}_code`, `${one}_no`, `${one}_number`, `${one}_key`, `${one}_uuid`].includes(name)) return 80;
  if (/^(sku|code|uuid|guid|isbn|ean|gtin|slug|key|iban)$/.test(name)) return 70;
  if (/_id$/.test(name)) return 60;
  if (/_(code|sku|no|number|nr|key|uuid|guid|ref|reference|slug)$|^(e_?mail|user_?name|login)$/.test(name))
    return 50;
  return 0;
}

/** Rank of a name as the second column of a composite key, which numbers the parts of a whole. */
export const partRank = (name: string): number =>
  /(^|_)(line|position|pos|item|part|seq|sequence|version|no|nr|number|index)(_|$)/.test(name)
    ? 2
    : /_id$|(^|_)(sku|code|date|day)$/.test(name)
      ? 1
      : 0;

/** Column names that are reserved in raw tables. */
const TAKEN = new Set([
  "ingested_at",
  "source_system",
  "ingest_seq",
  "ingest_xid",
  "ingest_run",
  "ingest_line",
  "ingest_operation",
  "source_seq",
  "raw_id",
]);

/** Gives each header a unique column name. */
export function nameColumns(headers: string[], dataset: string): Map<string, string> {
  const names = new Map<string, string>();
  const used = new Set<string>();
  for (const [i, header] of headers.entries()) {
    const plain = toIdentifier(header) || `column_${i + 1}`;
    const free = TAKEN.has(plain) ? `${singular(dataset)}_${plain}` : plain;
    let name = free;
    for (let n = 2; used.has(name); n++) name = `${free}_${n}`;
    used.add(name);
    names.set(header, name);
  }
  return names;
}
