/** @module-tag long */
// Files of every kind: encodings, delimiters, decimal and date conventions, byte order marks, ends of lines, quoting,
// time zones, empty and missing values. What is meant lands; what is not certain is rejected, never guessed.
import { Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ingest, type IngestOptions } from "../../src/ingest/ingest.ts";
import { checkReadOptions } from "../../src/ingest/options.ts";
import { parseTimezone } from "../../src/ingest/zone.ts";
import { runStep } from "../../src/pipeline/runs.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { KINDS, write, type Meant } from "./dialects.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`
    create table production.readings (
      id integer, name text, amount numeric, at timestamptz, local timestamp, day date, flag boolean,
      ratio double precision, details jsonb,
      constraint readings_pkey primary key (id));
    comment on table production.readings is 'Readings.';
    select strata.add_dataset('readings');`);
});
afterAll(() => database.drop());
beforeEach(() => database.pool.query("truncate staging.raw_readings, staging.quarantine"));

const send = (content: string | Buffer | Buffer[], options: Partial<IngestOptions> = {}) =>
  ingest(database.pool, "readings", Readable.from([content].flat(), { objectMode: false }), {
    trigger: "cli",
    ...options,
  });
const rows = async (text: string): Promise<Record<string, unknown>[]> =>
  (await database.pool.query(text)).rows as Record<string, unknown>[];
const rejected = () =>
  rows("select source_line::int as line, reasons, detail from staging.quarantine order by source_line");

const MEANT: Meant[] = [
  { id: 1, name: "Größe", amount: "1234567.89", at: "2024-07-01 10:30:00" },
  { id: 2, name: 'Café; "à la", carte\tplus | mehr', amount: "-0.5", at: "2024-01-31 00:00:01" },
  { id: 3, name: null, amount: null, at: null },
  { id: 4, name: "zwei\nZeilen", amount: "1000", at: "2011-10-06 23:59:59" },
  { id: 5, name: " spaces ", amount: "12.345", at: "2024-12-24 12:00:00" },
];

describe("files of every kind", () => {
  it.each(KINDS.map((kind) => [kind.title, kind] as const))("%s", async (_title, kind) => {
    const content = write(MEANT, kind);
    const options = {
      delimiter: kind.delimiter === "," ? undefined : kind.delimiter,
      encoding: kind.encoding,
      decimal: kind.decimal,
      dateFormat: kind.dateFormat,
      timezone: "Europe/Berlin",
      null: kind.absent === "" ? undefined : [kind.absent],
    };
    const singles = Array.from(content, (byte) => Buffer.of(byte));
    for (const sent of [content, gzipSync(content), singles]) {
      await database.pool.query("truncate staging.raw_readings, staging.quarantine");
      await send(sent, options);
      expect(await rejected()).toEqual([]);
      expect(
        await rows(
          `select id, name, amount::text, to_char(at at time zone 'Europe/Berlin', 'YYYY-MM-DD HH24:MI:SS') as at
           from staging.raw_readings order by id`,
        ),
      ).toEqual(MEANT);
    }
  });
});

describe("encodings", () => {
  it.each([
    ["latin-1", Buffer.from("id,name\n1,gr\xfcn\n2,5 \x80\n3,rot\n", "latin1"), ["grün", "rot"]],
    ["windows-1252", Buffer.from("id,name\n1,5 \x80\n2,\x81\n3,rot\n", "latin1"), ["5 €", "rot"]],
    ["utf-8", Buffer.from("id,name\n1,gr\xc3\xbcn\n2,gr\xfcn\n3,rot\n", "latin1"), ["grün", "rot"]],
    ["shift_jis", Buffer.from("id,name\n1,\x83\x5c\n2,\x83\n3,rot\n", "latin1"), ["ソ", "rot"]],
    ["utf-16le", Buffer.from("id,name\n1,\ud83d\ude00\n2,\ud83d\n3,rot\n", "utf16le"), ["😀", "rot"]],
    ["utf-16be", Buffer.from("id,name\n1,ü\n2,\ude00\n3,rot\n", "utf16le").swap16(), ["ü", "rot"]],
  ])("%s: bytes that it has not cost their line alone", async (encoding, content, names) => {
    for (const sent of [content, Array.from(content, (byte) => Buffer.of(byte))]) {
      await database.pool.query("truncate staging.raw_readings, staging.quarantine");
      await send(sent, { encoding });
      expect(
        (await rows("select name from staging.raw_readings order by id")).map(({ name }) => name),
      ).toEqual(names);
      expect(await rejected()).toEqual([
        { line: 3, reasons: ["invalid_encoding"], detail: expect.stringMatching(encoding.toUpperCase()) },
      ]);
    }
  });

  it("half a character at the end is a fault of the last line", async () => {
    const content = Buffer.concat([Buffer.from("id,name\n1,a\n2,b", "utf16le"), Buffer.of(0x63)]);
    await send(content, { encoding: "utf-16" });
    expect(await rejected()).toMatchObject([{ line: 3, reasons: ["invalid_encoding"] }]);
  });

  it("a mark of another encoding than the one said is an error, not a row", async () => {
    await expect(send(Buffer.from("\uFEFFid\n1\n", "utf16le"), { encoding: "latin-1" })).rejects.toThrow(
      "The input begins with the byte order mark of utf-16le, but its encoding is said to be latin-1",
    );
  });

  it("the largest line is the same in every encoding", async () => {
    const long = `id,name\n1,${"é".repeat(1_300_000)}\n2,b\n`;
    for (const [encoding, content] of [
      ["latin-1", Buffer.from(long, "latin1")],
      ["utf-16le", Buffer.from(long, "utf16le")],
    ] as const) {
      await database.pool.query("truncate staging.raw_readings, staging.quarantine");
      const pieces = Array.from({ length: Math.ceil(content.length / 65_536) }, (_, i) =>
        content.subarray(i * 65_536, (i + 1) * 65_536),
      );
      await send(pieces, { encoding });
      expect(await rejected()).toMatchObject([{ line: 2, reasons: ["too_long"] }]);
      expect(await rows("select id from staging.raw_readings")).toEqual([{ id: 2 }]);
    }
  });
});

describe("numbers", () => {
  const outcomes = async (decimal: string, column: string, values: string[]) => {
    const lines = values.map((value, id) => `${id}\t${value}`);
    await send(
      [`id\t${column}`, ...lines].map((line) => Buffer.from(`${line}\n`)),
      {
        delimiter: "tab",
        decimal,
      },
    );
    const found = await rows(
      `select id, ${column}::text as outcome from staging.raw_readings
       union all select source_line::int - 2, reasons[1] from staging.quarantine`,
    );
    return Object.fromEntries(found.map(({ id, outcome }) => [values[id as number]!, outcome]));
  };

  it("with a decimal comma", async () => {
    const certain = {
      "1,5": "1.5",
      "-1,50": "-1.50",
      "+7": "7",
      ",5": "0.5",
      "1.234": "1234",
      "1.234,5": "1234.5",
      "1.234.567,89": "1234567.89",
      "1 234 567,89": "1234567.89",
      "1\u00a0234,5": "1234.5",
      "1’234,5": "1234.5",
      "1,5e3": "1500",
      "12345678901234567890,123456789": "12345678901234567890.123456789",
      NaN: "NaN",
    };
    const doubtful = [
      "1.5",
      "12.34",
      "1.2345",
      "0.123",
      "1.234.56",
      "1 234.567",
      "1234.567",
      "1,234,567",
      "1.234,",
      "1,2,3",
      "12 %",
      "5 €",
      "€5",
      "(5)",
      "5-",
      "--5",
      "1..234",
      ".5",
      "0x10",
      "１",
      "e5",
      "-",
    ];
    expect(await outcomes(",", "amount", [...Object.keys(certain), ...doubtful])).toEqual({
      ...certain,
      ...Object.fromEntries(doubtful.map((value) => [value, "invalid_number"])),
    });
    expect((await rejected())[0]!.detail).toBe(
      'amount: "1.5" is not certainly a number with the decimal separator ",", such as 1.234,50 or 1234,5.',
    );
  });

  it("with a decimal point that was said", async () => {
    const certain = { "1.5": "1.5", "1,234": "1234", "1,234,567.89": "1234567.89", "1 234.5": "1234.5" };
    const doubtful = ["1,5", "1,23", "0,123", "1.234.567"];
    expect(await outcomes(".", "ratio", [...Object.keys(certain), ...doubtful])).toEqual({
      ...Object.fromEntries(
        Object.entries(certain).map(([value, number]) => [value, String(Number(number))]),
      ),
      ...Object.fromEntries(doubtful.map((value) => [value, "invalid_number"])),
    });
  });

  it("JSON has numbers of its own; its texts are as said", async () => {
    await send('{"id": 1, "amount": 1.5}\n{"id": 2, "amount": "1,5"}\n{"id": 3, "amount": "1.5"}\n', {
      decimal: ",",
    });
    expect(await rows("select id, amount::text from staging.raw_readings order by id")).toEqual([
      { id: 1, amount: "1.5" },
      { id: 2, amount: "1.5" },
    ]);
    expect(await rejected()).toMatchObject([{ line: 3, reasons: ["invalid_number"] }]);
  });
});

describe("time zones", () => {
  const outcomes = async (column: "at" | "local" | "day", values: string[], timezone = "Europe/Berlin") => {
    await send(["id,when", ...values.map((value, id) => `${id},"${value}"`)].join("\n"), {
      timezone,
      map: [`when=${column}`],
    });
    const found = await rows(
      `select id, (${column === "at" ? "at at time zone 'UTC'" : column})::text as outcome from staging.raw_readings
       union all select source_line::int - 2, reasons[1] from staging.quarantine`,
    );
    return Object.fromEntries(found.map(({ id, outcome }) => [values[id as number]!, outcome]));
  };
  const TIMES = {
    "2024-07-01 12:00": "2024-07-01 10:00:00",
    "2024-01-01T12:00:00.25": "2024-01-01 11:00:00.25",
    "2024-07-01 12:00+05:30": "2024-07-01 06:30:00",
    "2024-07-01T12:00:00Z": "2024-07-01 12:00:00",
    // Clocks were set forward at 2, back at 3.
    "2024-03-31 01:59:59": "2024-03-31 00:59:59",
    "2024-03-31 02:00": "impossible_date",
    "2024-03-31 02:59:59": "impossible_date",
    "2024-03-31 03:00": "2024-03-31 01:00:00",
    "2024-10-27 01:59:59": "2024-10-26 23:59:59",
    "2024-10-27 02:00": "ambiguous_date",
    "2024-10-27 02:59:59": "ambiguous_date",
    "2024-10-27 02:30+02": "2024-10-27 00:30:00",
    "2024-10-27 03:00": "2024-10-27 02:00:00",
    "2024-02-30 12:00": "impossible_date",
    "2024-07-01 24:00": "impossible_date",
    "01/02/2024": "ambiguous_date",
    "1 Jul 2024 12:00": "invalid_timestamp",
    yesterday: "invalid_timestamp",
  };

  it("a time without an offset is one of the zone; one that its clocks skipped or showed twice is rejected", async () => {
    const values = [...Object.keys(TIMES), "2024-07-01"];
    expect(await outcomes("at", values)).toEqual({ ...TIMES, "2024-07-01": "2024-06-30 22:00:00" });
    const details = (await rejected()).map(({ detail }) => detail).join(" ");
    expect(details).toContain(
      'at: "2024-10-27 02:00" came twice in Europe/Berlin, when its clocks were set back; send it with its offset from UTC.',
    );
    expect(details).toContain(
      'at: "2024-03-31 02:00" did not come in Europe/Berlin, whose clocks were set forward.',
    );
  });

  it("a column without a zone has it in UTC, as it has times with an offset; a day stays one", async () => {
    const values = [...Object.keys(TIMES), "2024-07-01"];
    expect(await outcomes("local", values)).toEqual({ ...TIMES, "2024-07-01": "2024-07-01 00:00:00" });
  });

  it("a date has no zone", async () => {
    expect(await outcomes("day", ["2024-07-01", "2024-03-31"])).toEqual({
      "2024-07-01": "2024-07-01",
      "2024-03-31": "2024-03-31",
    });
  });

  it("knows a day that a country left out", async () => {
    expect(
      await outcomes("at", ["2011-12-29 12:00", "2011-12-30 12:00", "2011-12-31 12:00"], "Pacific/Apia"),
    ).toEqual({
      "2011-12-29 12:00": "2011-12-29 22:00:00",
      "2011-12-30 12:00": "impossible_date",
      "2011-12-31 12:00": "2011-12-30 22:00:00",
    });
  });

  it.each([
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
  ])("agrees with PostgreSQL about every half hour of four years in %s", async (name) => {
    const zone = parseTimezone(name);
    const hours = Array.from({ length: 4 * 366 * 48 }, (_, i) =>
      new Date(Date.UTC(2018, 0, 1) + i * 1_800_000).toISOString().slice(0, 16).replace("T", " "),
    );
    const read = hours.map((hour) => zone.toUtc(hour));
    const certain = read.flatMap((found, i) => ("utc" in found ? [[hours[i]!, found.utc]] : []));
    expect(certain.length).toBeGreaterThan(hours.length - 4 * 10);
    expect(certain.length).toBeLessThan(name === "Asia/Kathmandu" ? Infinity : hours.length);
    const { rows: wrong } = await database.pool.query(
      `select * from unnest($1::text[], $2::text[]) t (wall, utc)
         where wall::timestamp at time zone $3 <> (utc || '+00')::timestamptz
            or (utc || '+00')::timestamptz at time zone $3 <> wall::timestamp limit 5`,
      [certain.map(([wall]) => wall), certain.map(([, utc]) => utc), name],
    );
    expect(wrong).toEqual([]);
  });
});

describe("absent values", () => {
  it("texts that mean absent are none", async () => {
    await send("id,name,amount,flag\n1,NA,NA,\\N\n2,na,-,t\n3,NAN,NA,\n", { null: ["NA", "\\N", "-"] });
    expect(await rows("select id, name, amount, flag from staging.raw_readings order by id")).toEqual([
      { id: 1, name: null, amount: null, flag: null },
      { id: 2, name: "na", amount: null, flag: true },
      { id: 3, name: "NAN", amount: null, flag: null },
    ]);
  });

  it("a key that is absent is missing", async () => {
    await send("id,name\nNA,x\n1,y\n", { null: ["NA"] });
    expect(await rejected()).toMatchObject([{ line: 2, reasons: ["missing_key"] }]);
  });
});

it("a retry reads a row as the ingest did, and what it is told besides", async () => {
  const content = Buffer.from(
    "id;amount;at;name\nx;1.234,5;27.10.2024 02:30;gr\xfcn\ny;12.34;1.7.2024 12:00;-\n",
    "latin1",
  );
  await send(content, {
    delimiter: ";",
    encoding: "latin-1",
    decimal: ",",
    dateFormat: "DD.MM.YYYY",
    timezone: "Europe/Berlin",
    null: ["-"],
  }).catch(() => undefined);
  const ids = async () =>
    (await rows("select quarantine_id as id from staging.quarantine order by source_line")).map(({ id }) =>
      String(id),
    );
  const [first, second] = await ids();
  const retry = (id: string, patch: object, values = {}) =>
    runStep(database.pool, {
      step: "retry",
      retry: { ids: [id], ...values },
      patch: JSON.stringify(patch),
      trigger: "cli",
    });
  // Still in the file's own terms: 27.10. half past two came twice.
  await retry(first!, { id: 1 });
  expect(await rejected()).toMatchObject([{ reasons: ["ambiguous_date"] }, {}]);
  expect(await retry(first!, { at: "27.10.2024 04:30" })).toMatchObject({ rowsWritten: 1 });
  await retry(second!, { id: 2 });
  expect((await rejected()).find(({ line }) => line === 3)).toMatchObject({ reasons: ["invalid_number"] });
  expect(await retry(second!, {}, { decimal: ".", timezone: "UTC" })).toMatchObject({ rowsWritten: 1 });
  expect(
    await rows(
      "select id, amount::text, (at at time zone 'UTC')::text as at, name from staging.raw_readings order by id",
    ),
  ).toEqual([
    { id: 1, amount: "1234.5", at: "2024-10-27 03:30:00", name: "grün" },
    { id: 2, amount: "12.34", at: "2024-07-01 12:00:00", name: null },
  ]);
});

it.each([
  [{ delimiter: "" }, /"" cannot separate fields; allowed: one character/],
  [{ delimiter: ";;" }, /";;" cannot separate fields/],
  [{ delimiter: '"' }, /cannot separate fields/],
  [{ delimiter: "\n" }, /cannot separate fields/],
  [{ delimiter: "x" }, /cannot separate fields/],
  [{ delimiter: "1" }, /cannot separate fields/],
  [{ delimiter: "😀" }, /cannot separate fields/],
  [{ encoding: "klingon" }, /"klingon" is not an encoding that is read; allowed: "utf-8"/],
  [{ encoding: "constructor" }, /is not an encoding/],
  [{ decimal: ";" }, /";" is not a decimal separator; allowed: "\." and ","/],
  [
    { timezone: "Europe\/Atlantis" },
    /"Europe\/Atlantis" is not a time zone; allowed: names of the IANA database/,
  ],
  [{ timezone: "+02:00" }, /is not a time zone/],
  [{ timezone: "" }, /is not a time zone/],
  [{ null: ["x".repeat(101)] }, /has 101 characters; allowed: 100/],
  [{ null: Array.from({ length: 101 }, String) }, /101 texts that mean "absent" are given; allowed: 100/],
])("%j is refused", (options, message) => {
  expect(() => checkReadOptions(options)).toThrow(message);
});

it("says what to do about a header that another character separates, and about lines that end otherwise", async () => {
  await expect(send("id;name\n1;a\n")).rejects.toThrow(/Unknown column "id;name".*--delimiter/s);
  await expect(send('{"id": 1}\n', { delimiter: ";", format: "ndjson" })).rejects.toThrow(
    /A delimiter applies to CSV only/,
  );
  await expect(send("id,name\r1,a\r2,b\r")).rejects.toThrow(/end with CR alone/);
});
