// A date is what its text says, or it is rejected: nobody's order of day and month is guessed.
import { Readable } from "node:stream";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { parseDateFormat } from "../../src/ingest/dates.ts";
import { ingest } from "../../src/ingest/ingest.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());
beforeEach(() => database.pool.query("truncate staging.raw_users, staging.quarantine"));

/** What becomes of each text: the time in staging, or the reason. */
async function read(values: string[], dateFormat?: string): Promise<Record<string, string>> {
  const lines = values.map((value, id) => JSON.stringify({ user_id: id, created_at: value })).join("\n");
  await ingest(database.pool, "users", Readable.from([lines]), { trigger: "cli", dateFormat });
  const { rows } = await database.pool.query<{ id: number; outcome: string }>(
    `select user_id as id, created_at::text as outcome from staging.raw_users
     union all select source_line::int - 1, array_to_string(reasons, ',') from staging.quarantine`,
  );
  return Object.fromEntries(rows.map(({ id, outcome }) => [values[id]!, outcome]));
}
const all = (values: string[], outcome: string) =>
  Object.fromEntries(values.map((value) => [value, outcome]));

it("rejects dates of which more than one reading exists, the whole column alike", async () => {
  const ambiguous = [
    "06/10/2011",
    "25/09/2011",
    "09/25/2011",
    "6.10.2011",
    "06-10-2011",
    "06/10/11",
    "11-10-06",
    "06/10/2011 08:26",
    "6-10-2011 08:26:00+02",
    "Thu, 06/10/2011",
    "061011",
    "10-Jun-11",
    "Jun 10 11",
    "10 Jun 11 12:00",
    "6 10 2011",
  ];
  expect(await read(ambiguous)).toEqual(all(ambiguous, "ambiguous_date"));
  const { rows } = await database.pool.query("select detail from staging.quarantine where source_line = 1");
  expect(rows[0].detail).toBe(
    'created_at: "06/10/2011" may be more than one date; say how dates are written, by --date-format ' +
      "(such as DD/MM/YYYY or MM/DD/YYYY) or dateFormat, or send ISO 8601 (2011-10-06).",
  );
});

it("rejects words that are another date at each reading", async () => {
  const words = ["now", "today", "Tomorrow", "yesterday", "epoch", "yesterday 12:00", "today allballs"];
  expect(await read(words)).toEqual(all(words, "invalid_timestamp"));
});

it("takes every form with one reading", async () => {
  const october = [
    "2011-10-06",
    "2011/10/06",
    "2011.10.06",
    "2011-10-6",
    "20111006",
    "20111006T000000",
    "6 Oct 2011",
    "06-Oct-2011",
    "October 6, 2011",
    "Thu Oct 6 2011",
    "Thu Oct 06 00:00:00 2011",
    "Thu, 06 Oct 2011 02:00:00 +0200",
    "2011-10-06T00:00:00.000Z",
    "2011-279",
  ];
  expect(await read(october)).toEqual(all(october, "2011-10-06 00:00:00"));
});

it("rejects at once a text that is too long for a date", async () => {
  const long = `1${"a ".repeat(300_000)}`;
  expect(await read([long])).toEqual({ [long]: "invalid_timestamp" });
});

describe("a given format", () => {
  it.each([
    ["DD/MM/YYYY", "06/10/2011", "2011-10-06 00:00:00"],
    ["DD/MM/YYYY", "6/10/2011 8:26", "2011-10-06 08:26:00"],
    ["DD/MM/YYYY", "25/09/2011", "2011-09-25 00:00:00"],
    ["DD/MM/YYYY", "2011-10-06T12:00+02:00", "2011-10-06 10:00:00"],
    ["DD/MM/YYYY", "09/25/2011", "impossible_date"],
    ["DD/MM/YYYY", "31/02/2011", "impossible_date"],
    ["DD/MM/YYYY", "06.10.2011", "invalid_timestamp"],
    ["DD/MM/YYYY", "6 Oct 2011", "invalid_timestamp"],
    ["DD/MM/YYYY", "today", "invalid_timestamp"],
    ["MM/DD/YYYY HH24:MI", "06/10/2011 08:26", "2011-06-10 08:26:00"],
    ["MM/DD/YYYY HH24:MI", "06/10/2011", "invalid_timestamp"],
    ["MM/DD/YY HH12:MI AM", "6/10/99 12:05 am", "1999-06-10 00:05:00"],
    ["MM/DD/YY HH12:MI AM", "6/10/11 12:05 PM", "2011-06-10 12:05:00"],
    ["MM/DD/YY HH12:MI AM", "6/10/11 13:05 PM", "invalid_timestamp"],
    ["YYYY-MM-DD HH24:MI:SS", "2011-10-06 08:26:01.5", "2011-10-06 08:26:01.5"],
    ["YYYY-MM-DD", "2011-02-31", "impossible_date"],
    ["DD.MM.YYYY", "06x10x2011", "invalid_timestamp"],
  ])("%s reads %s as %s", async (format, value, outcome) => {
    expect(await read([value], format)).toEqual({ [value]: outcome });
  });

  it.each(["DD/MM", "dd/mm/yyyy", "DD/MM/YYYY DD", "DD/MM/YYYY[", "DD of MM YYYY", "", "MM/YYYY"])(
    "%j is none",
    (text) => {
      expect(() => parseDateFormat(text)).toThrow(/is not a date format; allowed: YYYY or YY, MM and DD/);
    },
  );
});
