// Excel workbooks and Parquet files, as strata ingest and strata add take them.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import writeWorkbook from "write-excel-file/node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { strata } from "../support/cli.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), "strata-tables-"));
const path = (name: string): string => join(folder, name);
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await database.drop();
  rmSync(folder, { recursive: true });
});
const run = (...args: string[]) => strata(args, { ...database.environment, DATASETS_DIR: folder });
const landed = async (dataset: string) =>
  (await database.pool.query(`select * from staging.raw_${dataset} order by ingest_seq`)).rows;

const DAY = { type: Date, format: "yyyy-mm-dd" };
const TIME = { type: Date, format: "yyyy-mm-dd hh:mm:ss" };

test("rows of a sheet land with their numbers, days and times; lines are rows of the sheet", async () => {
  const text = (value: string) => ({ value });
  await writeWorkbook([
    { data: [[text("nothing of ours")]], sheet: "Notes" },
    {
      sheet: "Payments",
      data: [
        ["transaction_id", "user_id", "amount", "transaction_date", "status"].map(text),
        [
          { value: 1 },
          { value: 7 },
          { value: 19.99 },
          { value: new Date("2026-03-01T10:30:00Z"), ...TIME },
          text("completed"),
        ],
        [null, null, null, null, null],
        [{ value: 2 }, text("x"), { value: 0.1 }, { value: new Date("2026-03-02T00:00:00Z"), ...DAY }, null],
        [
          { value: 3 },
          { value: 8 },
          { value: 1e6 },
          { value: new Date("2026-03-02T00:00:00Z"), ...DAY },
          null,
        ],
      ],
    },
  ]).toFile(path("payments.xlsx"));
  const { code, stdout, stderr } = await run(
    "ingest",
    "transactions",
    path("payments.xlsx"),
    "--sheet",
    "Payments",
  );
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("rows read 3, written 2");
  const rows = await landed("transactions");
  expect(
    rows.map(({ transaction_id, user_id, amount, status }) => [transaction_id, user_id, amount, status]),
  ).toEqual([
    [1, 7, "19.99", "completed"],
    [3, 8, "1000000", null],
  ]);
  const { rows: times } = await database.pool.query(
    "select transaction_date::text as at from staging.raw_transactions order by transaction_id",
  );
  expect(times.map(({ at }) => at)).toEqual(["2026-03-01 10:30:00", "2026-03-02 00:00:00"]);
  const { rows: rejected } = await database.pool.query(
    "select source_name, source_line::int, reasons from staging.quarantine",
  );
  expect(rejected).toEqual([{ source_name: "payments.xlsx", source_line: 4, reasons: ["invalid_integer"] }]);
  // A number of a sheet, as well as its name.
  const again = await run(
    "ingest",
    "transactions",
    path("payments.xlsx"),
    "--sheet",
    "2",
    "--dry-run",
    "--json",
  );
  expect(JSON.parse(again.stdout).dryRun).toMatchObject({ rowsRead: 3 });
});

test("what a sheet lacks is said", async () => {
  const missing = await run("ingest", "transactions", path("payments.xlsx"), "--sheet", "May");
  expect([missing.code, missing.stderr]).toEqual([
    2,
    'strata: The workbook has no sheet "May"; it has: "Notes", "Payments"\n',
  ]);
  writeFileSync(path("broken.xlsx"), "no workbook");
  const broken = await run("ingest", "transactions", path("broken.xlsx"));
  expect(broken.code).toBe(1);
  expect(broken.stderr).toContain("The file cannot be read as an Excel workbook (.xlsx)");
  const sheetless = await run("ingest", "transactions", "-", "--sheet", "1");
  expect([sheetless.code, sheetless.stderr]).toEqual([
    2,
    "strata: --sheet is for Excel workbooks; a text file has one table\n",
  ]);
});

test("rows of a Parquet file land exactly: decimals, long integers, microseconds", async () => {
  const optional = { repetition_type: "OPTIONAL" } as const;
  const bytes = parquetWriteBuffer({
    schema: [
      { name: "root", num_children: 5 },
      { name: "event_id", type: "INT64", ...optional },
      { name: "user_id", type: "INT32", ...optional },
      { name: "event_type", type: "BYTE_ARRAY", converted_type: "UTF8", ...optional },
      {
        name: "event_time",
        type: "INT64",
        converted_type: "TIMESTAMP_MICROS",
        logical_type: { type: "TIMESTAMP", isAdjustedToUTC: true, unit: "MICROS" },
        ...optional,
      },
      // As a double, 57 hundredths are 0.5700000000000001.
      { name: "price", type: "INT64", converted_type: "DECIMAL", scale: 2, precision: 10, ...optional },
    ],
    columnData: [
      { name: "event_id", data: [9007199254740993n, 2n] },
      { name: "user_id", data: [1, null] },
      { name: "event_type", data: ["click", "view"] },
      { name: "event_time", data: [1772361000123456n, null] },
      { name: "price", data: [57n, 110n] },
    ],
  });
  writeFileSync(path("events.parquet"), Buffer.from(bytes));
  const { code, stderr, stdout } = await run("ingest", "events", path("events.parquet"));
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("rows read 2, written 2");
  const { rows } = await database.pool.query(
    "select event_id::text, user_id, event_type, event_time::text, event_data from staging.raw_events order by ingest_seq",
  );
  expect(rows).toEqual([
    {
      event_id: "9007199254740993",
      user_id: 1,
      event_type: "click",
      event_time: "2026-03-01 10:30:00.123456",
      event_data: { price: "0.57" },
    },
    { event_id: "2", user_id: null, event_type: "view", event_time: null, event_data: { price: "1.10" } },
  ]);
  writeFileSync(path("broken.parquet"), "PAR1");
  const broken = await run("ingest", "events", path("broken.parquet"));
  expect(broken.code).toBe(1);
  expect(broken.stderr).toContain("The file cannot be read as Parquet");
});

test("strata add proposes a dataset for a workbook", async () => {
  await writeWorkbook([
    ["Order No", "Ordered on", "Price"].map((value) => ({ value })),
    ...Array.from({ length: 30 }, (_, n) => [
      { value: n + 1 },
      { value: new Date(Date.UTC(2026, 0, n + 1)), ...DAY },
      { value: n + 0.25 },
    ]),
  ]).toFile(path("web orders.xlsx"));
  const { code, stdout, stderr } = await run("add", path("web orders.xlsx"));
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  expect(stdout).toContain("create table if not exists production.web_orders");
  expect(stdout).toMatch(/ordered_on (date|timestamp)/);
  expect(stdout).toMatch(/price numeric/);
});
