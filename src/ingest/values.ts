// Checks a value against its column: certainly valid, certainly invalid, or a doubt that only PostgreSQL can settle.
import type { Field } from "./dataset.ts";
import { certainTimestamp, findDateFault } from "./dates.ts";
import type { NumberFormat } from "./decimals.ts";
import type { Fault } from "./faults.ts";
import { arrayLiteral, isNested, parseJson, textOf } from "./json.ts";
import { findNumberFault } from "./numbers.ts";
import { NO_RULES, type Rules } from "./options.ts";
import type { Zone } from "./zone.ts";

/** The text to copy, null for an absent value; a doubt is text that the database has to be asked about. */
export type Judged = { text: string | null } | { doubt: string } | { fault: Fault };

export const isJson = (type: string): boolean => type === "json" || type === "jsonb";

/** Properties of a type, derived from its name and cached, since each cell needs them. */
interface Traits {
  isTime: boolean;
  isNumber: boolean;
  /** Maximum characters of a text type; undefined for other types. */
  longest: number | undefined;
}

const traits = new WeakMap<Field, Traits>();

function traitsOf(field: Field): Traits {
  const { type } = field;
  let found = traits.get(field);
  if (!found) {
    const [, length] = /^character(?: varying)?\((\d+)\)$/.exec(type) ?? [];
    const isUnbounded = type === "text" || type === "character varying";
    found = {
      isTime: /^(?:timestamp|date)\b/.test(type) && !type.endsWith("]"),
      isNumber:
        /^(?:smallint|integer|bigint|real|double precision|numeric|money)\b/.test(type) &&
        !type.endsWith("]"),
      longest: isUnbounded ? Infinity : length === undefined ? undefined : Number(length),
    };
    traits.set(field, found);
  }
  return found;
}

const isGeometry = (type: string): boolean => /^(?:\w+\.)?(?:geometry|geography)\b/.test(type);

/** Checks a JSON value, as NDJSON has it. */
export function judgeValue(field: Field, value: unknown, rules = NO_RULES): Judged {
  if (value === null || value === undefined) return { text: null };
  if (isJson(field.type)) return judgeJson(field, JSON.stringify(value));
  // JSON numbers have a decimal point; the rules apply only to texts.
  if (!isNested(value)) return judgeText(field, textOf(value)!, rules, typeof value === "string");
  const item = field.type.endsWith("[]") ? field.type.slice(0, -2) : undefined;
  if (item !== undefined && Array.isArray(value)) {
    const literal = arrayLiteral(value, isJson(item));
    if (literal !== undefined) return judgeText(field, literal);
  }
  // PostGIS reads GeoJSON.
  if (isGeometry(field.type) && !Array.isArray(value)) return judgeText(field, JSON.stringify(value));
  const wanted = item === undefined ? "text" : "an array of single values";
  return fault("invalid_text", `${field.name} is an object or array; it has to be ${wanted}.`);
}

/** Checks a computed number, which has a decimal point. */
export const judgeNumber = (field: Field, text: string, rules: Rules): Judged =>
  isJson(field.type) ? judgeJson(field, text) : judgeText(field, text, rules, false);

/** Checks a CSV field, in which JSON and arrays are text. */
export function judgeCsv(field: Field, value: string, rules: Rules): Judged {
  if (isJson(field.type)) {
    try {
      return judgeValue(field, parseJson(value));
    } catch (error) {
      return fault("invalid_json", `${field.name} is not JSON: ${(error as Error).message}.`);
    }
  }
  if (field.type.endsWith("[]") && value.startsWith("["))
    try {
      return judgeValue(field, parseJson(value));
    } catch {
      // The text may be an array with bounds in PostgreSQL's notation: [0:1]={a,b}
    }
  return judgeText(field, value, rules);
}

function judgeJson(field: Field, json: string): Judged {
  const found = findNumberFault(json);
  if (found) return fault(found.reason, `${field.name}: ${found.problem}.`);
  return judgeText(field, json);
}

function judgeText(field: Field, text: string, rules = NO_RULES, isText = true): Judged {
  const { name, type } = field;
  let value = text;
  let utc: string | undefined;
  const { isTime, isNumber, longest } = traitsOf(field);
  if (isTime) {
    const { dates, zone } = rules;
    const read = dates?.read(text);
    value = read ?? text;
    utc = certainTimestamp(value);
    // A date parsed by a format may still not exist in the calendar; PostgreSQL decides.
    if (read === undefined && utc === undefined) {
      const found = findDateFault(name, text, dates);
      if (found) return { fault: found };
    }
    if (zone && type.startsWith("timestamp")) {
      const found = inZone(type, value, zone);
      if ("problem" in found) return fault(found.reason, `${name}: ${shown(text)} ${found.problem}.`);
      value = found.value;
      utc = certainTimestamp(value);
    }
  } else if (rules.numbers && isText && isNumber) {
    const read = rules.numbers.read(text);
    if (read === undefined) return notANumber(field, text, rules.numbers);
    value = read;
  }
  const certain = isTime ? certainTime(value, type, utc) : certainText(value, type, longest);
  if (certain !== undefined) return { text: certain };
  if (value.includes("\0") || !value.isWellFormed())
    return fault("invalid_encoding", `${name} holds a NUL character or half of a surrogate pair.`);
  return { doubt: value };
}

const shown = (text: string): string => `"${text.slice(0, 100)}${text.length > 100 ? "…" : ""}"`;

function notANumber({ name, type }: Field, text: string, { decimal }: NumberFormat): Judged {
  const reason = /int/.test(type) ? "invalid_integer" : "invalid_number";
  const form = decimal === "," ? "1.234,50 or 1234,5" : "1,234.50 or 1234.5";
  return fault(
    reason,
    `${name}: ${shown(text)} is not certainly a number with the decimal separator "${decimal}", such as ${form}.`,
  );
}

const ISO_SHAPE = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?$/;

/** Applies the zone to a time without an offset; one with an offset is unchanged. */
function inZone(
  type: string,
  value: string,
  zone: Zone,
): { value: string } | { reason: string; problem: string } {
  const certain = certainTimestamp(value);
  if (certain === undefined)
    return {
      // The day does not exist in the calendar, or the hour on the clock.
      reason: ISO_SHAPE.test(value) ? "impossible_date" : "invalid_timestamp",
      problem: `is no time that the time zone ${zone.name} can be applied to: neither ISO 8601 nor of a given date format`,
    };
  // The value has an offset, which the conversion has applied.
  if (certain !== value) return { value };
  // A date alone needs no zone, unless the column stores its first instant.
  if (value.length === 10 && type !== "timestamp with time zone") return { value };
  const found = zone.toUtc(value);
  if ("utc" in found) return { value: `${found.utc}+00` };
  return found.wrong === "twice"
    ? {
        reason: "ambiguous_date",
        problem: `came twice in ${zone.name}, when its clocks were set back; send it with its offset from UTC`,
      }
    : {
        reason: "impossible_date",
        problem:
          found.wrong === "skipped"
            ? `did not come in ${zone.name}, whose clocks were set forward`
            : `is outside the years 1 to 9999 in UTC`,
      };
}

const fault = (reason: string, detail: string): Judged => ({ fault: { reason, detail } });

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Like certainText, for a value known to be the given time in UTC. */
function certainTime(value: string, type: string, utc: string | undefined): string | undefined {
  if (utc === undefined) return undefined;
  switch (type) {
    case "date":
      return value.length === 10 ? utc : undefined;
    case "timestamp without time zone":
      return utc;
    case "timestamp with time zone":
      return utc.length === 10 ? `${utc} 00:00+00` : `${utc}+00`;
  }
  return undefined;
}

/** Returns the text to copy for a value that PostgreSQL certainly accepts; undefined if only PostgreSQL can tell. */
function certainText(value: string, type: string, longest: number | undefined): string | undefined {
  switch (type) {
    case "smallint":
      return /^-?\d{1,5}$/.test(value) && Math.abs(Number(value)) < 2 ** 15 ? value : undefined;
    case "integer":
      return /^-?\d{1,10}$/.test(value) && Math.abs(Number(value)) < 2 ** 31 ? value : undefined;
    case "bigint":
      if (/^-?\d{1,18}$/.test(value)) return value;
      return /^-?\d{19}$/.test(value) && BigInt.asIntN(64, BigInt(value)) === BigInt(value)
        ? value
        : undefined;
    case "real":
      return /^-?\d{1,20}(?:\.\d{1,20})?$/.test(value) ? value : undefined;
    case "numeric":
    case "double precision":
      return /^-?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?$/.test(value) ? value : undefined;
    case "boolean":
      return /^(?:t|f|true|false|0|1)$/.test(value) ? value : undefined;
    case "uuid":
      return UUID.test(value) ? value : undefined;
    case "json":
    case "jsonb":
      // Escapes left by JSON.stringify are control characters and lone surrogates, some of which jsonb rejects.
      return value.includes("\\u") || value.length > 100_000 ? undefined : value;
  }
  if (longest === undefined) return undefined;
  return value.length <= longest && !value.includes("\0") && value.isWellFormed() ? value : undefined;
}
