// Formats numbers, times and durations. Times of the data are shown in UTC, as stored.
const numbers = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
const compactNumbers = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const words = new Intl.RelativeTimeFormat("en-US", { numeric: "auto" });

/** Formats a decimal with all digits that the database returns. */
export function decimal(text: string): string {
  const digits = Math.min(/\.(\d+)$/.exec(text)?.[1]?.length ?? 0, 6);
  return new Intl.NumberFormat("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(text as unknown as number);
}
export const count = (value: string | number | null | undefined): string =>
  value == null ? "–" : numbers.format(typeof value === "string" ? (value as unknown as number) : value);
export const compact = (value: number): string => compactNumbers.format(value);
export const plural = (value: string | number, one: string, many = `${one}s`): string =>
  `${count(value)} ${Number(value) === 1 ? one : many}`;

/** Formats a time in the reader's time zone. */
export const clock = (at: number): string => new Date(at).toLocaleTimeString("en-GB");
/** Formats a time of the data in UTC: "2026-11-29 14:02:11". */
export const utc = (at: string | null | undefined): string =>
  at ? new Date(at).toISOString().slice(0, 19).replace("T", " ") : "–";

const UNITS: [unit: Intl.RelativeTimeFormatUnit, seconds: number][] = [
  ["year", 31_557_600],
  ["month", 2_629_800],
  ["week", 604_800],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];
export function ago(at: string | null | undefined, now: number): string {
  if (!at) return "never";
  const seconds = (Date.parse(at) - now) / 1000;
  const unit = UNITS.find(([, length]) => Math.abs(seconds) >= length);
  if (!unit) return seconds > -10 ? "just now" : words.format(Math.round(seconds), "second");
  return words.format(Math.trunc(seconds / unit[1]), unit[0]);
}

export function duration(ms: number | null | undefined): string {
  if (ms == null) return "–";
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
export const age = (seconds: number): string => duration(Math.round(seconds) * 1000);

/** Converts "daily_user_metrics" or "dailyUserMetrics" to words. */
export const title = (name: string): string => {
  const text = name
    .replaceAll(/([a-z0-9])([A-Z])/g, "$1 $2")
    .replaceAll("_", " ")
    .toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
};
/** Formats a value of any type as one line of text. */
export const textOf = (value: unknown): string =>
  value == null ? "" : typeof value === "string" ? value : JSON.stringify(value);
export const bytes = (size: number): string =>
  size < 1024
    ? `${size} B`
    : size < 1024 ** 2
      ? `${(size / 1024).toFixed(1)} kB`
      : size < 1024 ** 3
        ? `${(size / 1024 ** 2).toFixed(1)} MB`
        : `${(size / 1024 ** 3).toFixed(2)} GB`;
