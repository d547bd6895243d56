// Returns quarantined rows to staging, batch by batch, in a run. Rows that the transform rejected are typed already
// and return unchanged; all others, and every correction, are checked by the code of an ingest.
import type pg from "pg";
import { inTransaction } from "../database/transaction.ts";
import { withRetries } from "../pipeline/batch.ts";
import type { Work } from "../pipeline/runs.ts";
import { fieldNames, readDataset, type Dataset } from "./dataset.ts";
import { doubtsOf } from "./doubts.ts";
import { badOption, type Fault } from "./faults.ts";
import { encodePayload, judgeFields, type Cells } from "./format.ts";
import { isObject, parseJson } from "./json.ts";
import { isDataError } from "./land.ts";
import { parseMap, parseSets, type Sets } from "./mapping.ts";
import {
  checkValueOptions,
  givenOptions,
  valueOptionsOf,
  type MapOptions,
  type Rules,
  type ValueOptions,
} from "./options.ts";
import { isJson } from "./values.ts";

export interface Selection {
  ids?: string[];
  reason?: string;
  dataset?: string;
  everything?: boolean;
}

/** Value options given here override those of the ingest. */
export type RetryArguments = Selection & ValueOptions;

/** Rows of a batch, which are locked and in memory meanwhile. */
const BATCH_ROWS = 20_000;
const BATCH_BYTES = 8 * 1024 * 1024;

/** Requires exactly one way to select rows, so that a slip does not retry or discard too many. */
function checkSelection({ ids, reason, dataset, everything }: Selection): void {
  const ways = [ids !== undefined, (reason ?? dataset) !== undefined, everything === true];
  if (ways.filter(Boolean).length !== 1)
    throw badOption(
      "Say which rows: by ids, by reason or dataset (or both), or everything; give exactly one of these",
    );
}

function parsePatch(text: string): Record<string, unknown> {
  const patch = parseJson(text);
  if (isObject(patch)) return patch;
  throw badOption(`The patch must be an object of fields and values, not ${text.slice(0, 100)}`);
}

/** Checks the arguments independently of the quarantine. */
export function checkRetry(given: RetryArguments, patch?: string): void {
  checkSelection(given);
  if (patch !== undefined) parsePatch(patch);
  checkValueOptions(given);
}

/** $1 to $4: the selection. */
const SELECTED = `q.retried_at is null
  and ($1::bigint[] is null or q.quarantine_id = any ($1)) and ($2::text is null or q.reasons @> array[$2::text])
  and ($3::text is null or q.dataset = $3) and ($1 is not null or $2 is not null or $3 is not null or $4)`;

const selected = ({ ids, reason, dataset, everything }: Selection): unknown[] => [
  ids ?? null,
  reason ?? null,
  dataset ?? null,
  everything ?? false,
];

interface Entry {
  id: string;
  dataset: string;
  /** True if its payload has the column types. */
  typed: boolean;
  format: "csv" | "ndjson" | null;
  payload: string | null;
  reasons: string[];
  detail: string | null;
  readOptions: (ValueOptions & MapOptions) | null;
}

interface Correction {
  patch?: Record<string, unknown>;
  /** Value options of the retry. */
  values: ValueOptions;
}

export async function retry({ pool, runId, arguments: given, patch: text, afterBatch }: Work): Promise<void> {
  const selection = selected(given);
  const patch = text === undefined ? undefined : parsePatch(text);
  const values = givenOptions(valueOptionsOf(given)) ?? {};
  if (patch) await rejectUnknownFields(pool, selection, patch);
  const { rows } = await pool.query<{ total: number; last: string | null }>(
    `select count(*)::float8 as total, max(quarantine_id) as last from staging.quarantine q where ${SELECTED}`,
    selection,
  );
  const { total, last } = rows[0]!;
  let done = 0;
  // Read in order of ids up to the last one at the start: rows that are rejected meanwhile come after it.
  for (let after: string | null = "0"; after !== null && last !== null;) {
    const from: string = after;
    const batch = await withRetries(() =>
      inTransaction(pool, async (client) => {
        await client.query("select strata.enter_batch($1)", [runId]);
        const entries = await takeEntries(client, [...selection, from, last, patch !== undefined]);
        await retryEntries(client, runId, entries, { patch, values }, (done + entries.length) / total);
        return entries;
      }),
    );
    done += batch.length;
    after = batch.at(-1)?.id ?? null;
    await afterBatch();
  }
}

/**
 * Rejects corrections of fields that neither the dataset nor the rows have: they would make the rows invalid for
 * later retries.
 */
async function rejectUnknownFields(
  pool: pg.Pool,
  selection: unknown[],
  patch: Record<string, unknown>,
): Promise<void> {
  const { rows } = await pool.query<{ dataset: string; own: string[] | null }>(
    `select q.dataset, (select array_agg(k) from jsonb_object_keys(q.payload) k) as own
     from staging.quarantine q
     where ${SELECTED} and exists (
       select from unnest($5::text[]) k
       where not coalesce(q.payload ? k, false) and k not in (select f.field from strata.fields(q.dataset) f))
     order by q.quarantine_id limit 1`,
    [...selection, Object.keys(patch)],
  );
  if (!rows[0]) return;
  const { dataset, own } = rows[0];
  const known = fieldNames(await readDataset(pool, dataset));
  const others = (own ?? []).filter((name) => !known.includes(name));
  throw new Error(
    `The patch has fields that ${dataset} do not have; allowed: ${known.join(", ")}` +
      (others.length > 0 ? `, and of this row ${others.slice(0, 50).join(", ")}` : ""),
  );
}

/** The next entries in order, as many as fit a batch; $5 and $6 bound them, $7 says that there is a patch. */
async function takeEntries(client: pg.PoolClient, values: unknown[]): Promise<Entry[]> {
  const { rows } = await client.query<Entry>(
    `select id, dataset, typed, format, reasons, detail, payload, "readOptions" from (
       select q.*, row_number() over by_id as place, sum(octet_length(q.payload)) over by_id as bytes
       from (
         select q.quarantine_id as id, q.dataset, q.stage = 'transform' as typed, q.source_format as format, q.reasons, q.detail, q.read_options as "readOptions",
                case when q.stage = 'ingest' or $7 then q.payload::text end as payload
         from staging.quarantine q
         where ${SELECTED} and q.quarantine_id > $5 and q.quarantine_id <= $6
         order by q.quarantine_id limit ${BATCH_ROWS}
         for update skip locked
       ) q
       window by_id as (order by q.id)
     ) q where q.place = 1 or q.bytes is null or q.bytes <= ${BATCH_BYTES}
     order by id`,
    values,
  );
  return rows;
}

async function retryEntries(
  client: pg.PoolClient,
  runId: string,
  entries: Entry[],
  correction: Correction,
  progress: number,
): Promise<void> {
  for (const name of new Set(entries.map(({ dataset }) => dataset))) {
    const dataset = await readDataset(client, name);
    const own = entries.filter((entry) => entry.dataset === name);
    const ready = own.filter(({ typed }) => typed && !correction.patch).map(({ id }) => id);
    const judged = await judgeEntries(
      client,
      dataset,
      own.filter(({ typed }) => !typed || correction.patch),
      correction,
    );
    const good = judged.filter(({ faults }) => faults.length === 0);
    await keepTyped(client, good);
    const refused = await requeue(client, runId, name, [...ready, ...good.map(({ id }) => id)]);
    const bad = [...judged.filter(({ faults }) => faults.length > 0), ...refused];
    await keepRejected(client, runId, bad);
    await client.query("select strata.count_batch($1, $2, $3, $4, progress => $5, dataset => $6)", [
      runId,
      own.length,
      own.length - bad.length,
      bad.length,
      progress,
      name,
    ]);
  }
}

interface JudgedEntry {
  id: string;
  faults: Fault[];
  /** New payload of the entry; undefined leaves it unchanged. */
  payload?: string | null;
}

async function judgeEntries(
  client: pg.PoolClient,
  dataset: Dataset,
  entries: Entry[],
  { patch, values }: Correction,
): Promise<JudgedEntry[]> {
  // Cache of rules by options: rows of one input share them, and creating a time zone is slow.
  const known = new Map<string, { rules: Rules; sets: Sets | undefined }>();
  const readingOf = ({ readOptions }: Entry) => {
    const key = JSON.stringify(readOptions);
    let reading = known.get(key);
    if (!reading) {
      const rules = checkValueOptions({ ...readOptions, ...values });
      const map = parseMap(readOptions?.map ?? [], dataset);
      known.set(key, (reading = { rules, sets: parseSets(readOptions?.set ?? [], dataset, map, rules) }));
    }
    return reading;
  };
  const judged = entries.map((entry) => {
    const merged = merge(dataset, entry, patch);
    if (!merged) {
      const detail = "The row cannot be read back; give its fields with the retry.";
      return { entry, faults: entry.reasons.map((reason) => ({ reason, detail })) };
    }
    // Check only the correction of a typed row.
    const row = entry.typed ? without(patch!, (value) => value === null) : merged;
    const { rules, sets } = readingOf(entry);
    const cells = judgeFields(dataset, row, entry.format ?? "ndjson", rules, entry.typed ? undefined : sets);
    // The row's key may be among the fields that are not corrected.
    if (entry.typed && dataset.fields.every(({ name, isRequired }) => !isRequired || merged[name] != null))
      cells.faults = cells.faults.filter(({ reason }) => reason !== "missing_key");
    return { entry, merged, cells, faults: [...cells.faults, ...findSpoilt(dataset, entry, merged, patch)] };
  });
  const doubtful = judged.filter(({ cells }) => cells);
  const found = await doubtsOf(
    client,
    dataset,
    doubtful.map(({ cells }) => cells!),
  );
  for (const [i, row] of doubtful.entries()) row.faults.push(...found[i]!);
  return judged.map(({ entry, merged, cells, faults }) => ({
    id: entry.id,
    faults,
    payload: !merged
      ? undefined
      : faults.length > 0
        ? encodePayload(merged)
        : JSON.stringify({ ...(entry.typed && merged), ...typedPayload(dataset, cells, entry.typed) }),
  }));
}

/** Merges a row with its corrections, in which null removes a field. Undefined if the row has no readable text. */
function merge(
  dataset: Dataset,
  { payload, format }: Entry,
  patch?: Record<string, unknown>,
): Record<string, unknown> | undefined {
  const own = payload === null ? {} : parseJson(payload);
  if (!isObject(own) || (payload === null && !patch)) return undefined;
  if (!patch) return own;
  const merged = { ...own, ...patch };
  // JSON values are text in a CSV row.
  if (format === "csv")
    for (const { name, type } of dataset.fields)
      if (isJson(type) && Object.hasOwn(patch, name)) merged[name] = JSON.stringify(patch[name]);
  return without(merged, (_value, name) => Object.hasOwn(patch, name) && patch[name] === null);
}

const without = (
  row: Record<string, unknown>,
  isOut: (value: unknown, name: string) => boolean,
): Record<string, unknown> =>
  Object.fromEntries(Object.entries(row).filter(([name, value]) => !isOut(value, name)));

/**
 * Finds fields with the replacement for characters that jsonb cannot store: they must not land as the source's
 * values.
 */
function findSpoilt(
  dataset: Dataset,
  { format, reasons }: Entry,
  row: Record<string, unknown>,
  patch: Record<string, unknown> = {},
): Fault[] {
  if (format !== "ndjson") return [];
  const spoilt = (reason: string, isJsonField: boolean): string[] =>
    !reasons.includes(reason)
      ? []
      : Object.keys(row).filter((name) => {
          const field = dataset.fields[dataset.places.get(name) ?? -1];
          const isOwn = (field === undefined || isJson(field.type)) === isJsonField;
          const isGiven = Object.hasOwn(patch, name);
          return isOwn && !isGiven && `${name}${JSON.stringify(row[name])}`.includes("\uFFFD");
        });
  const words =
    "has U+FFFD, which may stand for a NUL character or half of a surrogate pair; give it with the retry.";
  return [
    ...spoilt("invalid_encoding", false).map((name) => ({
      reason: "invalid_encoding",
      detail: `${name} ${words}`,
    })),
    ...spoilt("invalid_json", true).map((name) => ({ reason: "invalid_json", detail: `${name} ${words}` })),
  ];
}

/** A payload that strata.requeue puts into the raw table. */
function typedPayload(dataset: Dataset, { cells }: Cells, onlyGiven: boolean): Record<string, unknown> {
  return Object.fromEntries(
    dataset.fields.flatMap(({ name, type }, place) => {
      const cell = cells[place]!;
      if (cell === null) return onlyGiven ? [] : [[name, null]];
      return [[name, isJson(type) ? parseJson(cell) : cell]];
    }),
  );
}

async function keepTyped(client: pg.PoolClient, entries: JudgedEntry[]): Promise<void> {
  if (entries.length === 0) return;
  await client.query(
    `update staging.quarantine q set payload = e.payload, source_format = null, read_options = null
     from unnest($1::bigint[], $2::jsonb[]) e (id, payload) where q.quarantine_id = e.id`,
    [entries.map(({ id }) => id), entries.map(({ payload }) => payload)],
  );
}

async function keepRejected(client: pg.PoolClient, runId: string, entries: JudgedEntry[]): Promise<void> {
  if (entries.length === 0) return;
  await client.query(
    `update staging.quarantine q
     set stage = 'ingest', reasons = e.reasons, detail = e.detail, waiting = false, run_id = $1, retried_by = $1,
         payload = case when e.is_changed then e.payload else q.payload end,
         attempts = q.attempts + 1, last_attempt_at = clock_timestamp()
     from (
       select e.id, string_to_array(e.reasons, ',') as reasons, e.detail, e.is_changed, e.payload
       from unnest($2::bigint[], $3::text[], $4::text[], $5::boolean[], $6::jsonb[]) e (id, reasons, detail, is_changed, payload)
     ) e where q.quarantine_id = e.id`,
    [
      runId,
      entries.map(({ id }) => id),
      entries.map(({ faults }) => [...new Set(faults.map(({ reason }) => reason))].join(",")),
      entries.map(({ faults }) => [...new Set(faults.map(({ detail }) => detail))].join(" ")),
      entries.map(({ payload }) => payload !== undefined),
      entries.map(({ payload }) => payload ?? null),
    ],
  );
}

/** Returns rows to the transform. Rows that the raw table rejects in spite of all checks are found by halving. */
async function requeue(
  client: pg.PoolClient,
  runId: string,
  dataset: string,
  ids: string[],
): Promise<JudgedEntry[]> {
  if (ids.length === 0) return [];
  await client.query("savepoint requeue");
  try {
    await client.query("select strata.requeue($1, $2, $3)", [dataset, ids, runId]);
    await client.query("release savepoint requeue");
    return [];
  } catch (error) {
    if (!isDataError(error)) throw error;
    await client.query("rollback to savepoint requeue");
    if (ids.length === 1)
      return [
        {
          id: ids[0]!,
          faults: [{ reason: "invalid_value", detail: `The database rejected the row: ${error.message}.` }],
        },
      ];
    const half = ids.length >> 1;
    return [
      ...(await requeue(client, runId, dataset, ids.slice(0, half))),
      ...(await requeue(client, runId, dataset, ids.slice(half))),
    ];
  }
}
