import { TYPES, type PgCodec } from "@dataplan/pg";
import { sql, type SQL } from "pg-sql2";
import { relist } from "./lists.ts";

/** SQL of a date or time as text that PostgreSQL can read back; `to_char` has no form for infinity and drops "BC". */
export const timeText = (time: SQL, format: string): SQL => {
  const text = sql`to_char(${time}, ${sql.literal(format)}::text)`;
  return sql`case when ${time} >= '0001-01-01' and ${time} < 'infinity' then ${text} when isfinite(${time}) then ${text} || ' BC' else (${time})::text end`;
};

/** SQL that tells whether `timeText` is ISO 8601: the year has four digits. */
export const hasPlainYear = (time: SQL): SQL => sql`(${time} >= '0001-01-01' and ${time} < '10000-01-01')`;

/** Converts `timeText` to ISO 8601: years beyond four digits have a sign and six digits, and 1 BC is 0000. */
export function isoTime(text: string): string {
  if (text[4] === "-" && !text.endsWith(" BC")) return text;
  const [, year, rest, isBc] = /^(\d+)(-\d\d-\d\d.*?)( BC)?$/.exec(text) ?? [];
  if (year === undefined) return text;
  const number = isBc ? 1 - Number(year) : Number(year);
  if (number === 0) return `0000${rest}`;
  return `${number < 0 ? "-" : "+"}${String(Math.abs(number)).padStart(6, "0")}${rest}`;
}

const formats = {
  date: "YYYY-MM-DD",
  timestamp: 'YYYY-MM-DD"T"HH24:MI:SS.US',
  timestamptz: 'YYYY-MM-DD"T"HH24:MI:SS.USTZH:TZM',
};
for (const [name, format] of Object.entries(formats) as [keyof typeof formats, string][]) {
  const codec = TYPES[name] as PgCodec;
  codec.castFromPg = (time) => timeText(time, format);
  codec.listCastFromPg = (times) => {
    const time = sql.identifier(Symbol("time"));
    const texts = sql`array(select ${timeText(time, format)} from unnest(${times}) ${time})::text`;
    return sql`(case when (${times}) is not distinct from null then null::text else ${texts} end)`;
  };
  relist(name);
}
