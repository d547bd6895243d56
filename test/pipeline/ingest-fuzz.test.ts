/** @module-tag long */
// Seeded garbage: whatever arrives, every good row lands once and every other record is in quarantine.
import { Readable } from "node:stream";
import { parse } from "csv-parse/sync";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ingest } from "../../src/ingest/ingest.ts";
import { readDataset } from "../../src/ingest/dataset.ts";
import { NO_RULES } from "../../src/ingest/options.ts";
import { judgeCsv } from "../../src/ingest/values.ts";
import { openText } from "../../src/ingest/encoding.ts";
import { readCsv, type SourceRecord } from "../../src/ingest/read.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

/** mulberry32: the same numbers for the same seed on every machine. */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
const SEEDS = [1, 2, 3];
const pick = <T>(next: () => number, values: readonly T[]): T => values[Math.floor(next() * values.length)]!;
const text = (next: () => number, alphabet: readonly string[], length: number): string =>
  Array.from({ length: Math.floor(next() * length) }, () => pick(next, alphabet)).join("");

async function readAll(content: Buffer, pieces: number, delimiter?: string): Promise<SourceRecord[]> {
  const blocks = (async function* () {
    const size = Math.max(1, Math.ceil(content.length / pieces));
    for (let at = 0; at < content.length; at += size)
      yield await Promise.resolve(content.subarray(at, at + size));
  })();
  const records: SourceRecord[] = [];
  for await (const some of readCsv(await openText(blocks), delimiter)) records.push(...some);
  return records;
}

describe.each(SEEDS)("reading CSV, seed %i", (seed) => {
  it("agrees with csv-parse on everything that is CSV", async () => {
    const next = random(seed);
    for (let round = 0; round < 300; round++) {
      const width = 1 + Math.floor(next() * 4);
      const table = Array.from({ length: 1 + Math.floor(next() * 12) }, () =>
        Array.from({ length: width }, () =>
          text(next, ["a", "é", "😀", " ", ",", ";", "|", '"', "\n", "\r\n", "\t", "\\"], 8),
        ),
      );
      const end = pick(next, ["\n", "\r\n"]);
      const delimiter = pick(next, [",", ",", ";", "\t", "|", " "]);
      const encode = (value: string) =>
        /["\r\n]/.test(value) || value.includes(delimiter) || value === "" || next() < 0.2
          ? `"${value.replaceAll('"', '""')}"`
          : value;
      const content =
        table.map((row) => row.map(encode).join(delimiter)).join(end) + (next() < 0.5 ? end : "");
      const expected = parse(content, { delimiter, record_delimiter: ["\n", "\r\n"] });
      expect(expected).toEqual(table);
      for (const pieces of [1, 7, content.length])
        expect((await readAll(Buffer.from(content), pieces, delimiter)).map(({ fields }) => fields)).toEqual(
          table,
        );
    }
  });

  it("reads damaged records as a whole, and the others as they are", async () => {
    const next = random(seed);
    for (let round = 0; round < 300; round++) {
      const sent = Array.from({ length: 1 + Math.floor(next() * 12) }, (_, index) => {
        const fields = [text(next, ["a", ",", '"', "\n", "1,a"], 8), text(next, ["b", "\r\n", '"', ",1"], 8)];
        const line = fields.map((field) => `"${field.replaceAll('"', '""')}"`).join(",");
        const damage = index === 0 ? "" : pick(next, ["", "", ",more", ',"more"', ",\0", ',"\n\0"']);
        return { text: line + damage, fields: damage === "" ? fields : undefined };
      });
      const content = Buffer.from(sent.map((record) => record.text).join("\n"));
      for (const pieces of [1, content.length])
        expect((await readAll(content, pieces)).map((record) => [record.text, record.fields])).toEqual(
          sent.map((record) => [record.text, record.fields]),
        );
    }
  });

  it("reads every line of garbage as a record, the same however it is cut", async () => {
    const next = random(seed);
    for (let round = 0; round < 300; round++) {
      const content = Buffer.from(text(next, ["1", "a", ",", ",", '"', '""', "\n", "\r\n", "\0", "é"], 60));
      const whole = await readAll(content, 1);
      expect(await readAll(content, content.length || 1)).toEqual(whole);
      const seen = whole.reduce((sum, record) => sum + record.text.length, 0);
      const sent = content.toString().replaceAll(/\r?\n/g, "").length;
      expect(seen).toBeGreaterThanOrEqual(sent);
      for (const record of whole) expect(record.fields === undefined).toBe(record.broken !== undefined);
    }
  });
});

describe("landing", () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterAll(() => database.drop());

  const VALUES: Record<string, readonly string[]> = {
    integer: [
      "0",
      "-7",
      "2147483647",
      "-2147483648",
      " 12 ",
      "+5",
      "2147483648",
      "1.0",
      "0x1F",
      "1_000",
      "",
      "e",
      "１",
    ],
    bigint: ["9223372036854775807", "9223372036854775808", "-1", "12345678901234567890", "1e3", "", "٣"],
    numeric: [
      "1",
      "-0.5",
      ".5",
      "5.",
      "1e400",
      "NaN",
      "Infinity",
      "1,5",
      "--1",
      "12345678901234567890.123456789",
      "0x1p3",
    ],
    "double precision": ["1", "1e308", "1e309", "-1e-400", "NaN", "inf", "1.5.5", "48.2082", "٣"],
    "timestamp without time zone": [
      "2025-01-01",
      "2025-02-29",
      "2024-02-29 24:00:00",
      "2024-02-29T23:59:60Z",
      "2025-01-01T00:00:00.1234567891+01",
      "0000-01-01",
      "0001-01-01T00:00:00+05:30",
      "9999-12-31T23:59:59-14:00",
      "294277-01-01",
      "infinity",
      "now",
      "2025-1-1",
      "01/02/2025",
      "2025-13-01",
      "12:00",
      "20250101T101112",
      "2025-01-01T10:00:00+15:59",
      "2025-01-01T10:00:00+16:00",
      "2025-01-01 10:00:00 PST",
      "2025-01-01 10:00:00 Nowhere/City",
      "2025-01-01Z",
      "2025-01-01 +02",
    ],
    jsonb: [
      '{"a": 1}',
      "[]",
      '"x"',
      "{",
      '{"a": "\\u0000"}',
      '"\\ud800"',
      "1e999999",
      "nul",
      "01",
      '{"a": 1, "a": 2}',
    ],
    text: [
      "",
      "plain",
      "tab\there",
      "back\\slash",
      "\\N",
      "\\.",
      "new\nline",
      "cr\rhere",
      '"',
      "é😀",
      "x".repeat(50),
      "x".repeat(51),
      "y".repeat(50) + "  ",
    ],
  };

  it.each(SEEDS)("lets through at once only what the database takes, seed %i", async (seed) => {
    const next = random(seed);
    for (const [kind, values] of Object.entries(VALUES)) {
      // Text is only measured, and JSON comes from JSON.stringify.
      if (kind === "text" || kind === "jsonb") continue;
      const mutate = (value: string): string => {
        const at = Math.floor(next() * (value.length + 1));
        const inserted = text(next, [..."0123456789012345678+-:.eTZ /"], 3);
        return value.slice(0, at) + inserted + value.slice(at + Math.floor(next() * 3));
      };
      const tried = [...values, ...Array.from({ length: 3000 }, () => mutate(pick(next, values)))];
      const field = { name: "value", type: kind, isRequired: false, isKey: false };
      const certain = tried.flatMap((value) => {
        const judged = judgeCsv(field, value, NO_RULES);
        return "text" in judged ? (judged.text ?? []) : [];
      });
      expect(certain.length).toBeGreaterThan(30);
      const { rows } = await database.pool.query<{ value: string; reason: string | null }>(
        `select given as value, v.reason from unnest($1::text[]) given, strata.typed_values(array[$2], array[given]) v
         where v.reason is not null`,
        [certain, kind],
      );
      expect(rows).toEqual([]);
    }
  });

  it.each(SEEDS)(
    "loses nothing of random rows, seed %i",
    { timeout: 180_000, tags: ["long"] },
    async (seed) => {
      const next = random(seed);
      await database.pool.query("truncate staging.raw_events, staging.quarantine");
      const { fields } = await readDataset(database.pool, "events");
      const sent: { line: string; good: boolean }[] = [];
      for (let id = 1; id <= 3000; id++) {
        const good = next() < 0.5;
        const row = good
          ? {
              event_id: String(id),
              event_type: "good",
              event_data: `{"n": ${id}}`,
              event_time: "2025-06-01T00:00:00+02:00",
            }
          : Object.fromEntries(
              fields.map(({ name, type }) => [name, pick(next, VALUES[type] ?? VALUES.text!)]),
            );
        const cells = fields.map(({ name }) => row[name] ?? "");
        const line = cells
          .map((cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell))
          .join(",");
        const stray =
          good || next() < 0.9 ? line : line.slice(0, Math.floor(next() * line.length)).replaceAll("\n", "");
        // A stray quote may make one record of several broken lines, never of a good one.
        sent.push({ line: stray.replaceAll(/^$/g, ","), good });
      }
      const content = [fields.map(({ name }) => name).join(","), ...sent.map(({ line }) => line)].join("\n");
      const run = await ingest(database.pool, "events", Readable.from(content.match(/[^]{1,9999}/g)!), {
        trigger: "cli",
      });
      expect(run).toMatchObject({ status: "succeeded", error: null });
      expect(run.rowsRead).toBe(run.rowsWritten + run.rowsRejected);
      const { rows } = await database.pool.query<{
        landed: number;
        good: number;
        kinds: number;
        quarantined: number;
        right: boolean;
      }>(
        `select (select count(*)::int from staging.raw_events) as landed,
              (select count(*)::int from staging.raw_events where event_type = 'good') as good,
              (select count(distinct event_id)::int from staging.raw_events where event_type = 'good') as kinds,
              (select count(*)::int from staging.quarantine where raw_text is not null and source_line > 1) as quarantined,
              (select bool_and(event_time = '2025-05-31 22:00:00' and (event_data ->> 'n')::bigint = event_id)
               from staging.raw_events where event_type = 'good') as right`,
      );
      const good = sent.filter((row) => row.good).length;
      expect(rows[0]).toEqual({
        landed: run.rowsWritten,
        good,
        kinds: good,
        quarantined: run.rowsRejected,
        right: true,
      });
      expect(run.rowsRejected).toBeGreaterThan(500);
    },
  );
});
