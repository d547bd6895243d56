// Time series grouped by SQL: resolution, gaps, the largest groups and the rest.
import { type Detail, type Step, type TimeAxis } from "./schema.ts";

const DAY = 86_400_000;
const LENGTHS: Record<Step, number> = {
  HOUR: 3_600_000,
  DAY,
  WEEK: 7 * DAY,
  MONTH: 30.4 * DAY,
  QUARTER: 91.3 * DAY,
  YEAR: 365.25 * DAY,
};

/** Returns the finest resolution with at most maxPoints points. */
export function stepFor({ steps }: TimeAxis, from: number, to: number, maxPoints: number): Step {
  const available = steps.map(([step]) => step);
  return available.find((step) => (to - from) / LENGTHS[step] <= maxPoints) ?? available.at(-1)!;
}

/** Returns the starts of all steps of a range, including those without rows. */
function stepsBetween(step: Step, from: number, to: number): number[] {
  const date = new Date(from);
  if (step === "HOUR") date.setUTCMinutes(0, 0, 0);
  else date.setUTCHours(0, 0, 0, 0);
  if (step === "WEEK") date.setUTCDate(date.getUTCDate() - ((date.getUTCDay() + 6) % 7));
  if (step === "MONTH") date.setUTCDate(1);
  if (step === "QUARTER") date.setUTCMonth(Math.floor(date.getUTCMonth() / 3) * 3, 1);
  if (step === "YEAR") date.setUTCMonth(0, 1);
  const starts: number[] = [];
  const MAX = 5_000;
  while (date.getTime() < to && starts.length < MAX) {
    starts.push(date.getTime());
    if (step === "HOUR") date.setTime(date.getTime() + LENGTHS.HOUR);
    else if (step === "DAY") date.setUTCDate(date.getUTCDate() + 1);
    else if (step === "WEEK") date.setUTCDate(date.getUTCDate() + 7);
    else date.setUTCMonth(date.getUTCMonth() + { MONTH: 1, QUARTER: 3, YEAR: 12 }[step]);
  }
  return starts;
}

/** Converts a day or a time, in UTC, to milliseconds; a day is its midnight. */
export const toTime = (text: string): number =>
  Date.parse(/[Z+]|-\d\d:\d\d$/.test(text) || text.length <= 10 ? text : `${text}Z`);
export const toValue = (time: number, { isDay }: TimeAxis): string =>
  isDay ? new Date(time).toISOString().slice(0, 10) : new Date(time).toISOString();

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
export function stepInWords(time: number, step: Step): string {
  const date = new Date(time);
  const day = date.toISOString().slice(0, 10);
  if (step === "HOUR") return `${day} ${date.toISOString().slice(11, 16)}`;
  if (step === "WEEK") return `week of ${day}`;
  if (step === "MONTH") return `${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
  if (step === "QUARTER") return `Q${Math.floor(date.getUTCMonth() / 3) + 1} ${date.getUTCFullYear()}`;
  return step === "YEAR" ? String(date.getUTCFullYear()) : day;
}

export interface Measure {
  id: string;
  label: string;
  /** Selection of groupedAggregates. */
  selection: string;
  read: (group: Record<string, any>) => number | null;
  /** Whether the measure adds up over groups: then a missing group is zero, and small groups can be combined. */
  isAdditive: boolean;
}

const number = (value: unknown): number | null => (value == null ? null : Number(value));
const LABELS = { sum: "Total", average: "Mean", max: "Largest", min: "Smallest" } as const;

export function measuresOf({ entity, measures }: Detail, title: (name: string) => string): Measure[] {
  const found: Measure[] = [];
  const [key] = entity.key;
  if (entity.key.length === 1 && key && measures.distinctCount.includes(key))
    found.push({
      id: "rows",
      label: "Rows",
      selection: `distinctCount { ${key} }`,
      read: (group) => number(group.distinctCount?.[key]),
      isAdditive: true,
    });
  for (const kind of ["sum", "average", "max", "min"] as const)
    for (const name of measures[kind])
      found.push({
        id: `${kind}.${name}`,
        label: `${LABELS[kind]} ${title(name).toLowerCase()}`,
        selection: `${kind} { ${name} }`,
        read: (group) => number(group[kind]?.[name]),
        isAdditive: kind === "sum",
      });
  for (const name of measures.distinctCount)
    if (name !== key)
      found.push({
        id: `distinctCount.${name}`,
        label: `Different ${title(name).toLowerCase()}`,
        selection: `distinctCount { ${name} }`,
        read: (group) => number(group.distinctCount?.[name]),
        isAdditive: false,
      });
  return found;
}

interface Series {
  label: string;
  values: (number | null)[];
}
export interface Plot {
  step: Step;
  times: number[];
  series: Series[];
  /** Value of groups without a date. */
  undated: number | null;
}

const MAX_SERIES = 6;

export function toPlot(
  groups: { keys: (string | null)[] }[],
  measure: Measure,
  step: Step,
  from: number,
  to: number,
): Plot {
  const times = stepsBetween(step, from, to);
  const places = new Map(times.map((time, index) => [time, index]));
  const byLabel = new Map<string, (number | null)[]>();
  let undated: number | null = null;
  for (const group of groups) {
    const [key, split] = group.keys;
    const value = measure.read(group);
    if (key == null) {
      undated = measure.isAdditive ? (undated ?? 0) + (value ?? 0) : null;
      continue;
    }
    const place = places.get(toTime(key));
    if (place === undefined) continue;
    const label = group.keys.length > 1 ? (split ?? "empty") : measure.label;
    let values = byLabel.get(label);
    if (!values)
      byLabel.set(
        label,
        (values = new Array<number | null>(times.length).fill(measure.isAdditive ? 0 : null)),
      );
    values[place] = value;
  }
  const total = (values: (number | null)[]): number =>
    values.reduce<number>((sum, value) => sum + Math.abs(value ?? 0), 0);
  const sorted = [...byLabel].sort(([, one], [, other]) => total(other) - total(one));
  const series = sorted.slice(0, MAX_SERIES).map(([label, values]) => ({ label, values }));
  const rest = sorted.slice(MAX_SERIES);
  if (rest.length > 0 && measure.isAdditive)
    series.push({
      label: `${rest.length} others`,
      values: times.map((_, index) => rest.reduce((sum, [, values]) => sum + (values[index] ?? 0), 0)),
    });
  return { step, times, series, undated };
}
