// Uploads a file to a dataset: reads its first lines for a preview, and streams the file to POST /ingest.
import { authorization } from "./api.ts";
import { textOf } from "./format.ts";

export interface Preview {
  format: "csv" | "ndjson";
  columns: string[];
  rows: string[][];
}

const HEAD_BYTES = 65_536;
const SHOWN_ROWS = 5;

/** Parses CSV text, without an incomplete last record. */
function parseCsv(text: string, delimiter: string): string[][] {
  const records: string[][] = [];
  let record: string[] = [];
  let cell = "";
  let isQuoted = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index]!;
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (text[index + 1] === '"') cell += text[++index]!;
      else isQuoted = false;
    } else if (character === '"' && cell === "") isQuoted = true;
    else if (character === delimiter) {
      record.push(cell);
      cell = "";
    } else if (character === "\n") {
      record.push(cell.replace(/\r$/, ""));
      records.push(record);
      record = [];
      cell = "";
    } else cell += character;
  }
  return records;
}

export async function preview(file: File): Promise<Preview> {
  const head = await file.slice(0, HEAD_BYTES).text();
  const text = (file.size > HEAD_BYTES || head.endsWith("\n") ? head : `${head}\n`).replace(/^\uFEFF/, "");
  if (text.trim() === "") throw new Error(`${file.name} is empty`);
  if (text.includes("\0"))
    throw new Error(`${file.name} is no text; CSV and NDJSON (one object per line) are taken`);
  if (/^\s*\{/.test(text)) {
    const objects = text
      .slice(0, text.lastIndexOf("\n"))
      .split("\n")
      .flatMap((line): Record<string, unknown>[] => {
        try {
          const value = JSON.parse(line) as unknown;
          return typeof value === "object" && value !== null && !Array.isArray(value)
            ? [value as Record<string, unknown>]
            : [];
        } catch {
          return [];
        }
      });
    const columns = [...new Set(objects.flatMap((object) => Object.keys(object)))];
    const rows = objects
      .slice(0, SHOWN_ROWS)
      .map((object) => columns.map((column) => textOf(object[column])));
    return { format: "ndjson", columns, rows };
  }
  if (/^\s*\[/.test(text)) throw new Error("A JSON array is not taken; write one object per line (NDJSON)");
  const records = parseCsv(text, ",");
  const [columns = [], ...rows] = records;
  return { format: "csv", columns, rows: rows.slice(0, SHOWN_ROWS) };
}

export interface IngestRun {
  id: string;
  status: string;
  rowsRead: number;
  rowsWritten: number;
  rowsRejected: number;
  durationMs: number | null;
  error: string | null;
}

export interface Proposal {
  dataset: string;
  rows: number;
  key: string[];
  keyWhy: string;
  columns: {
    header: string;
    name: string;
    type: string;
    notNull: boolean;
    why: string[];
    misfits: { count: number; examples: { line: number; value: string }[] };
  }[];
  constraints: { name: string; definition: string; active: boolean; doubt: string | null }[];
  remarks: string[];
  /** Name of the file to save. */
  file: string;
  sql: string;
}

interface Sending {
  dataset: string;
  file: File;
  format: Preview["format"];
  onProgress: (sent: number) => void;
  signal: AbortSignal;
}

export async function upload({
  source,
  map,
  ...sending
}: Sending & { source: string; map: string[] }): Promise<IngestRun> {
  const query: [string, string][] = map.map((pair) => ["map", pair]);
  if (source) query.push(["source", source]);
  const { run } = await send<{ run?: IngestRun }>("ingest", query, sending, {
    broken: "The connection broke off; look at the runs for what has landed",
    stopped: "Stopped; what had landed until then stays",
  });
  return run!;
}

export async function propose({ key, ...sending }: Sending & { key: string }): Promise<Proposal> {
  const { proposal } = await send<{ proposal?: Proposal }>(
    "propose",
    key.trim() ? [["key", key.trim()]] : [],
    sending,
    { broken: "The connection broke off; nothing was changed", stopped: "Stopped; nothing was changed" },
  );
  return proposal!;
}

/** Uses XMLHttpRequest, since fetch does not report progress of uploads. */
function send<Body extends object>(
  what: "ingest" | "propose",
  parameters: [string, string][],
  { dataset, file, format, onProgress, signal }: Sending,
  words: { broken: string; stopped: string },
): Promise<Body> {
  const query = new URLSearchParams([["name", file.name.slice(0, 200)], ...parameters]);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/${what}/${encodeURIComponent(dataset)}?${query}`);
    request.setRequestHeader("content-type", format === "csv" ? "text/csv" : "application/x-ndjson");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded }) => onProgress(loaded);
    request.onload = () => {
      try {
        const body = JSON.parse(request.responseText) as Body & { errors?: { message: string }[] };
        // A failed run is a result as well, with the reason.
        if (!body.errors) resolve(body);
        else
          reject(new Error(body.errors[0]?.message ?? `The server answered with status ${request.status}`));
      } catch {
        reject(new Error(`The server answered with status ${request.status}`));
      }
    };
    // The server does not read a rejected body to its end, which the browser reports as a broken connection.
    request.onerror = () => reject(new Error(words.broken));
    request.onabort = () => reject(new Error(words.stopped));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
