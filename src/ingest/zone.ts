// Converts times without an offset by the zone that the caller gives. Local times that a clock change skips or
// repeats are rejected as ambiguous.
import { badOption } from "./faults.ts";

export interface Zone {
  name: string;
  /** Converts an ISO 8601 time without an offset to UTC, or returns what is wrong with it. */
  toUtc: (local: string) => { utc: string } | { wrong: "skipped" | "twice" | "range" };
}

const DAY_MS = 86_400_000;
/** Cached offsets of days, since one lookup takes longer than everything else about a value. More take more memory. */
const MAX_DAYS = 10_000;
const LOCAL = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?::(\d\d)(\.\d+)?)?)?$/;

export function parseTimezone(name: string): Zone {
  const offsetAt = createOffsets(name);
  // Offset of each day; undefined if clocks changed around it.
  const days = new Map<string, number | undefined>();
  const offsetOf = (day: string): number | undefined => {
    if (days.has(day)) return days.get(day);
    const start = Date.parse(`${day}T00:00Z`);
    const before = offsetAt(start - DAY_MS);
    const same = before === offsetAt(start + DAY_MS / 2) && before === offsetAt(start + 2 * DAY_MS);
    if (days.size >= MAX_DAYS) days.clear();
    days.set(day, same ? before : undefined);
    return days.get(day);
  };
  return {
    name,
    toUtc(local) {
      const [, day, minutes = "00:00", seconds = "00", fraction = ""] = LOCAL.exec(local)!;
      const wall = Date.parse(`${day}T${minutes}:${seconds}Z`);
      let offset = offsetOf(day!);
      if (offset === undefined) {
        const around = [offsetAt(wall - DAY_MS), offsetAt(wall), offsetAt(wall + DAY_MS)];
        const fitting = [...new Set(around)].filter((one) => offsetAt(wall - one) === one);
        if (fitting.length !== 1) return { wrong: fitting.length === 0 ? "skipped" : "twice" };
        offset = fitting[0]!;
      }
      const utc = new Date(wall - offset).toISOString();
      if (!/^\d{4}-/.test(utc) || utc.startsWith("0000")) return { wrong: "range" };
      return { utc: utc.slice(0, 19).replace("T", " ") + fraction };
    },
  };
}

/** Returns the zone's offset from UTC at a time, both in ms. */
function createOffsets(name: string): (time: number) => number {
  let format: Intl.DateTimeFormat;
  try {
    // Offsets such as +02:00 are rejected: they have no daylight saving time.
    if (!/^[A-Za-z][\w+/-]*$/.test(name)) throw new RangeError();
    format = new Intl.DateTimeFormat("en-US", { timeZone: name, timeZoneName: "longOffset" });
  } catch {
    throw badOption(
      `"${name.slice(0, 100)}" is not a time zone; allowed: names of the IANA database, such as "Europe/Berlin" or "UTC"`,
    );
  }
  return (time) => {
    const words = format.formatToParts(time).find(({ type }) => type === "timeZoneName")!.value;
    const [, sign, hours, minutes, seconds = "0"] = /^GMT([+-])(\d\d):(\d\d)(?::(\d\d))?$/.exec(words) ?? [];
    if (sign === undefined) return 0;
    const ms = ((Number(hours) * 60 + Number(minutes)) * 60 + Number(seconds)) * 1000;
    return sign === "-" ? -ms : ms;
  };
}
