// Finds the types that a single value can have. A value that is ambiguous between countries stays text.

export type Kind =
  | "integer"
  | "zeros"
  | "decimal"
  | "float"
  | "boolean"
  | "date"
  | "timestamp"
  | "timestamptz"
  | "uuid"
  | "json"
  | "ambiguous date"
  | "local number"
  | "text";

const NUMBER = /^[+-]?\d+$/;
const DECIMAL = /^[+-]?(?:\d+\.\d*|\.\d+)$/;
const FLOAT = /^[+-]?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,3}$/;
const DATE =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d{1,9})?)?(?: ?(Z|[+-]\d\d(?::?\d\d)?))?)?$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const BOOLEAN = /^(?:true|false|t|f|yes|no|y|n)$/i;
const LOCAL_DATE = /^\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d\d)(?:[ T]\d{1,2}:\d\d.*)?$/;
/** Numbers in local notation, which PostgreSQL does not parse: 1,234.50, 12,50, $5 or 30 %. */
const LOCAL_NUMBER = /^[-+(]?[$€£¥]?\s?\d{1,3}(?:[.,' ]\d{3})*(?:[.,]\d+)?\s?[%$€£¥)]?$/;

export function kindOf(value: string): Kind {
  const first = value.charCodeAt(0);
  const isDigit = first >= 48 && first <= 57;
  if (isDigit || first === 43 || first === 45 || first === 46) {
    if (NUMBER.test(value)) return /^[+-]?0\d/.test(value) ? "zeros" : "integer";
    if (DECIMAL.test(value)) return "decimal";
    if (FLOAT.test(value)) return "float";
  }
  if (isDigit) {
    const date = DATE.exec(value);
    if (date) return kindOfDate(date);
    if (LOCAL_DATE.test(value)) return "ambiguous date";
  }
  if (value.length === 36 && UUID.test(value)) return "uuid";
  if (BOOLEAN.test(value)) return "boolean";
  if ((first === 123 || first === 91) && isJson(value)) return "json";
  return value.length < 30 && LOCAL_NUMBER.test(value) ? "local number" : "text";
}

function kindOfDate([, year, month, day, hour, minute, second, zone]: RegExpExecArray): Kind {
  const days = new Date(Date.UTC(2000 + (Number(year) % 400), Number(month), 0)).getUTCDate();
  const isReal = +month! >= 1 && +month! <= 12 && +day! >= 1 && +day! <= days && year !== "0000";
  if (!isReal || Number(hour ?? 0) > 23 || Number(minute ?? 0) > 59 || Number(second ?? 0) > 59)
    return "text";
  return hour === undefined ? "date" : zone === undefined ? "timestamp" : "timestamptz";
}

function isJson(value: string): boolean {
  try {
    JSON.parse(value);
    return true;
  } catch {
    return false;
  }
}

/** A 53-bit hash of a text (cyrb53): among a million texts, two collide in one of 18,000 files. */
export function hashOf(text: string): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return 4294967296 * (2097151 & b) + (a >>> 0) || 1;
}
