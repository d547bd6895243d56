// A chart over time: grouped by SQL at the resolution that fits the width, with zoom by mouse and keys, and as a
// table.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { compact, count, title } from "./format.ts";
import { openInGraphiql } from "./graphiql.ts";
import type { ViewProps } from "./pages/explore.tsx";
import { useQuery } from "./query.ts";
import { go, hrefWith, route } from "./router.ts";
import { type Step, type TimeAxis } from "./schema.ts";
import {
  measuresOf,
  stepFor,
  stepInWords,
  toPlot,
  toTime,
  toValue,
  type Measure,
  type Plot,
} from "./series.ts";
import { Announcer, Button, csvLine, Empty, Fault, save, Select, Skeleton } from "./ui.tsx";

const HEIGHT = 320;
const OVERVIEW_HEIGHT = 72;
/** Minimum pixels per point; denser charts are noise. */
const PIXELS_PER_POINT = 6;
const OVERVIEW_POINTS = 160;
const DASHES = [[], [8, 4], [2, 3], [12, 4, 2, 4], [5, 2], [1, 4], [16, 6]];
const COLORS = 7;

const color = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seriesColor = (index: number): string => color(`--series-${(index % COLORS) + 1}`);

const inUtc = (seconds: number): Date => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");

/** A counter that grows when the colour scheme changes: light, dark, forced. */
function useTheme(): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    const queries = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((query) =>
      matchMedia(query),
    );
    const change = () => setVersion((before) => before + 1);
    for (const query of queries) query.addEventListener("change", change);
    return () => queries.forEach((query) => query.removeEventListener("change", change));
  }, []);
  return version;
}

function useWidth(): [frame: { current: HTMLDivElement | null }, width: number] {
  const element = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(element.current!);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

const toData = ({ times, series }: Plot): uPlot.AlignedData => [
  times.map((time) => time / 1000),
  ...series.map(({ values }) => values),
];

const axisStyle = (): Partial<uPlot.Axis> => ({
  stroke: color("--text-2"),
  grid: { stroke: color("--line"), width: 1 },
  ticks: { stroke: color("--line"), width: 1, size: 4 },
  font: `12px ${color("--font")}`,
});

interface CanvasProps {
  plot: Plot;
  width: number;
  theme: number;
  cursor: number | undefined;
  onCursor: (index: number | undefined) => void;
  onZoom: (from: number, to: number) => void;
}

const Canvas = ({ plot, width, theme, cursor, onCursor, onZoom }: CanvasProps) => {
  const element = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(undefined);
  const handlers = useRef({ onCursor, onZoom });
  handlers.current = { onCursor, onZoom };
  const shape = `${width} ${theme} ${plot.series.map(({ label }) => label).join()}`;
  useLayoutEffect(() => {
    if (width === 0) return;
    const isAlone = plot.series.length === 1;
    const made = new uPlot(
      {
        width,
        height: HEIGHT,
        tzDate: inUtc,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { size: 7 } },
        scales: {
          x: { time: true },
          y: {
            range: (_, min, max) => (min >= 0 ? [0, max * 1.08 || 1] : [min * 1.08, Math.max(0, max * 1.08)]),
          },
        },
        axes: [
          { ...axisStyle(), space: 70 },
          {
            ...axisStyle(),
            size: 56,
            values: (_, ticks) =>
              ticks.map((tick) => (Math.abs(tick) >= 10_000 ? compact(tick) : count(tick))),
          },
        ],
        series: [
          {},
          ...plot.series.map(({ label }, index) => ({
            label,
            stroke: seriesColor(index),
            width: 2,
            dash: isAlone ? [] : DASHES[index % DASHES.length]!,
            ...(isAlone && { fill: color("--series-1-soft") }),
            points: { show: isAlone && plot.times.length < 60, size: 5, fill: seriesColor(index) },
          })),
        ],
        hooks: {
          setCursor: [(self) => handlers.current.onCursor(self.cursor.idx ?? undefined)],
          setSelect: [
            (self) => {
              if (self.select.width < 4) return;
              const from = self.posToVal(self.select.left, "x") * 1000;
              const to = self.posToVal(self.select.left + self.select.width, "x") * 1000;
              self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              handlers.current.onZoom(from, to);
            },
          ],
        },
      },
      toData(plot),
      element.current!,
    );
    chart.current = made;
    return () => {
      made.destroy();
      chart.current = undefined;
    };
  }, [shape]);
  useEffect(() => chart.current?.setData(toData(plot)), [plot]);
  useEffect(() => {
    const self = chart.current;
    if (!self || cursor === undefined || self.cursor.idx === cursor) return;
    const time = plot.times[cursor];
    if (time !== undefined) self.setCursor({ left: self.valToPos(time / 1000, "x"), top: 10 }, false);
  }, [cursor]);
  return <div ref={element} class="canvas" aria-hidden="true" />;
};

interface BrushProps {
  plot: Plot;
  width: number;
  theme: number;
  range: [from: number, to: number];
  onZoom: (from: number, to: number) => void;
}

/** The whole time range, with the shown part marked. */
const Brush = ({ plot, width, theme, range, onZoom }: BrushProps) => {
  const element = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(undefined);
  const handler = useRef(onZoom);
  handler.current = onZoom;
  const mark = ([from, to]: [number, number]): void => {
    const self = chart.current;
    if (!self) return;
    const left = Math.max(0, self.valToPos(from / 1000, "x"));
    const right = Math.min(self.bbox.width / devicePixelRatio, self.valToPos(to / 1000, "x"));
    self.setSelect(
      { left, width: Math.max(2, right - left), top: 0, height: self.bbox.height / devicePixelRatio },
      false,
    );
  };
  useLayoutEffect(() => {
    if (width === 0) return;
    const made = new uPlot(
      {
        width,
        height: OVERVIEW_HEIGHT,
        tzDate: inUtc,
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
        scales: { y: { range: (_, min, max) => [Math.min(0, min), max || 1] } },
        axes: [
          { ...axisStyle(), size: 24, space: 70, grid: { show: false } },
          { show: true, size: 56, values: () => [], grid: { show: false }, ticks: { show: false } },
        ],
        series: [{}, { stroke: color("--text-2"), width: 1, fill: color("--line"), points: { show: false } }],
        hooks: {
          setSelect: [
            (self) => {
              if (self.select.width < 4) return;
              handler.current(
                self.posToVal(self.select.left, "x") * 1000,
                self.posToVal(self.select.left + self.select.width, "x") * 1000,
              );
            },
          ],
        },
      },
      toData({ ...plot, series: plot.series.slice(0, 1) }),
      element.current!,
    );
    chart.current = made;
    mark(range);
    return () => {
      made.destroy();
      chart.current = undefined;
    };
  }, [width, theme, plot]);
  useEffect(() => mark(range), [range[0], range[1]]);
  return <div ref={element} class="canvas brush" aria-hidden="true" />;
};

const valueInWords = (value: number | null | undefined): string => (value == null ? "none" : count(value));

const pointInWords = (plot: Plot, index: number): string =>
  `${stepInWords(plot.times[index]!, plot.step)}: ${plot.series
    .map(({ label, values }) => `${label} ${valueInWords(values[index])}`)
    .join(", ")}`;

const Legend = ({ plot, cursor }: { plot: Plot; cursor: number | undefined }) => (
  <ul class="legend" aria-label="Legend">
    <li class="legend-time">
      {cursor === undefined || plot.times[cursor] === undefined
        ? " "
        : stepInWords(plot.times[cursor], plot.step)}
    </li>
    {plot.series.map(({ label, values }, index) => (
      <li key={label}>
        <svg viewBox="0 0 24 6" aria-hidden="true" focusable="false">
          <line
            x1="0"
            x2="24"
            y1="3"
            y2="3"
            class={`series-${(index % COLORS) + 1}`}
            stroke-dasharray={plot.series.length === 1 ? undefined : DASHES[index % DASHES.length]!.join(" ")}
          />
        </svg>
        {label}
        {cursor !== undefined && <strong>{valueInWords(values[cursor])}</strong>}
      </li>
    ))}
  </ul>
);

const Numbers = ({ plot }: { plot: Plot }) => (
  <div class="table-scroll tall" role="group" aria-label="The numbers of the chart" tabIndex={0}>
    <table>
      <caption class="hidden">The numbers of the chart, by {plot.step.toLowerCase()}</caption>
      <thead>
        <tr>
          <th scope="col">{title(plot.step)} (UTC)</th>
          {plot.series.map(({ label }) => (
            <th key={label} scope="col" class="number">
              {label}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {plot.times.map((time, index) => (
          <tr key={time}>
            <th scope="row">{stepInWords(time, plot.step)}</th>
            {plot.series.map(({ label, values }) => (
              <td key={label} class="number">
                {valueInWords(values[index])}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);

type Groups = Record<string, { groupedAggregates: { keys: (string | null)[] }[] | null } | null>;

const groupsQuery = (
  { detail }: ViewProps,
  axis: TimeAxis,
  step: Step,
  measure: Measure,
  split: string,
): string => {
  const { entity } = detail;
  const group = axis.steps.find(([name]) => name === step)?.[1];
  const filter = entity.filterType;
  return `query Chart${filter ? `($filter: ${filter})` : ""} {
  ${entity.field}(first: 1${filter ? ", filter: $filter" : ""}) {
    groupedAggregates(groupBy: [${[group, split].filter(Boolean).join(", ")}]) { keys ${measure.selection} }
  }
}`;
};

export const Chart = (props: ViewProps) => {
  const { detail, columns, filter } = props;
  const { entity } = detail;
  const { query } = route.value;
  const [element, width] = useWidth();
  const theme = useTheme();
  const [cursor, setCursor] = useState<number>();
  const [said, say] = useState("");
  const axes = detail.axes.filter(({ column }) => columns.some(({ name }) => name === column));
  // Zooming needs a time column that can be filtered.
  const axis =
    axes.find(({ column }) => column === query.get("axis")) ??
    axes.find(({ column }) => detail.filters.has(column)) ??
    axes[0]!;
  const readable = new Set(columns.map(({ name }) => name));
  const measures = measuresOf(detail, title).filter(
    ({ id }) => id === "rows" || readable.has(id.split(".")[1]!),
  );
  const measure = measures.find(({ id }) => id === query.get("measure")) ?? measures[0];
  const split = detail.splits.find(({ value }) => value === query.get("split"))?.value ?? "";
  const isZoomable = detail.filters.has(axis.column) && entity.filterType !== undefined;

  const withFilter = (extra?: object): Record<string, unknown> => ({
    filter: extra ? (Object.keys(filter).length > 0 ? { and: [filter, extra] } : extra) : filter,
  });
  const extent = useQuery<
    Record<
      string,
      { aggregates: { min: Record<string, string | null>; max: Record<string, string | null> } } | null
    >
  >(
    detail.extents.has(axis.column)
      ? `query Extent($filter: ${entity.filterType}) { ${entity.field}(first: 1, filter: $filter) { aggregates { min { ${axis.column} } max { ${axis.column} } } } }`
      : undefined,
    withFilter(),
    ["data"],
  );
  const { min, max } = extent.data?.[entity.field]?.aggregates ?? {};
  const first = min?.[axis.column] ? toTime(min[axis.column]!) : undefined;
  const last = max?.[axis.column] ? toTime(max[axis.column]!) + (axis.isDay ? 86_400_000 : 1) : undefined;
  const hasRange = first !== undefined && last !== undefined;
  const asked = (name: string): number => Date.parse(query.get(name) ?? "");
  const from = isZoomable && hasRange && asked("from") > first ? Math.min(asked("from"), last) : (first ?? 0);
  const to = isZoomable && hasRange && asked("to") < last ? Math.max(asked("to"), from) : (last ?? 0);
  const isZoomed = hasRange && (from > first || to < last);
  const fitting = stepFor(axis, from, to, Math.max(24, (width || 800) / PIXELS_PER_POINT));
  // If split by many values, this resolution may lead to more groups than the API returns at once.
  const view = [split, from, to].join(" ");
  const [coarser, setCoarser] = useState<{ view: string; step: Step }>();
  const automatic = coarser?.view === view ? coarser.step : fitting;
  const step = axis.steps.find(([name]) => name === query.get("step"))?.[0] ?? automatic;
  const overviewStep = stepFor(axis, first ?? 0, last ?? 0, OVERVIEW_POINTS);

  const range = { [axis.column]: { greaterThanOrEqualTo: toValue(from, axis), lessThan: toValue(to, axis) } };
  const documentOfChart = measure && groupsQuery(props, axis, step, measure, split);
  const variables = withFilter(isZoomed ? range : undefined);
  const groups = useQuery<Groups>(hasRange && width > 0 ? documentOfChart : undefined, variables, ["data"]);
  const all = useQuery<Groups>(
    hasRange && measure && isZoomable ? groupsQuery(props, axis, overviewStep, measure, "") : undefined,
    withFilter(),
    ["data"],
  );
  useEffect(() => {
    const next = axis.steps[axis.steps.findIndex(([name]) => name === step) + 1]?.[0];
    if (groups.error?.code === "PAGE_SIZE_EXCEEDED" && step === automatic && next)
      setCoarser({ view, step: next });
  }, [groups.error]);
  const found = groups.data?.[entity.field]?.groupedAggregates;
  // If zoomed in, the first and last step are partial; they are shown at their start.
  const plot = useMemoized(
    () => (found && measure && hasRange ? toPlot(found, measure, step, from, to) : undefined),
    [found, measure?.id, step],
  );
  const everything = all.data?.[entity.field]?.groupedAggregates;
  const overview = useMemoized(
    () =>
      everything && measure && hasRange ? toPlot(everything, measure, overviewStep, first, last) : undefined,
    [everything, measure?.id, overviewStep],
  );

  const set = (changes: Record<string, string | undefined>) => go(hrefWith(changes), { replace: true });
  const zoom = (start: number, end: number): void => {
    if (!hasRange || !isZoomable) return;
    const least = axis.isDay ? 2 * 86_400_000 : 2 * 3_600_000;
    const middle = (start + end) / 2;
    const half = Math.max(end - start, least) / 2;
    const a = Math.max(first, middle - half);
    const b = Math.min(last, middle + half);
    const isAll = a <= first && b >= last;
    set({
      from: isAll ? undefined : toValue(a, { ...axis, isDay: false }),
      to: isAll ? undefined : toValue(b, { ...axis, isDay: false }),
    });
    say(
      isAll ? "All of the time" : `From ${toValue(a, axis).slice(0, 16)} to ${toValue(b, axis).slice(0, 16)}`,
    );
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const final = plot.times.length - 1;
    const at = cursor ?? final;
    const move: Record<string, number> = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      PageUp: at - 10,
      PageDown: at + 10,
      Home: 0,
      End: final,
    };
    const length = to - from;
    const center = plot.times[at] ?? (from + to) / 2;
    if (event.key in move) setCursor(Math.min(Math.max(move[event.key]!, 0), final));
    else if (event.key === "+" || event.key === "=") zoom(center - length / 4, center + length / 4);
    else if (event.key === "-") zoom(center - length, center + length);
    else if (event.key === "0" || event.key === "Escape") zoom(first!, last!);
    else return;
    event.preventDefault();
  };
  const isTable = query.get("numbers") === "shown";
  const download = () =>
    plot &&
    save(`${entity.field}-${step.toLowerCase()}.csv`, "text/csv", [
      csvLine([step.toLowerCase(), ...plot.series.map(({ label }) => label)]),
      ...plot.times.map((time, index) =>
        csvLine([toValue(time, axis), ...plot.series.map(({ values }) => values[index])]),
      ),
    ]);
  const error = groups.error ?? extent.error;
  const label = `${measure?.label ?? ""} by ${step.toLowerCase()} of ${title(axis.column).toLowerCase()}`;
  return (
    <section class="panel chart" aria-label="Chart">
      <form class="filters" onSubmit={(event) => event.preventDefault()} aria-label="Chart settings">
        <Select
          label="Show"
          value={measure?.id ?? ""}
          options={measures.map(({ id, label: text }) => [id, text])}
          onChange={(value) => set({ measure: value })}
        />
        <Select
          label="Split by"
          value={split}
          options={[
            ["", "nothing"],
            ...detail.splits.map(({ value, label: text }): [string, string] => [value, text]),
          ]}
          onChange={(value) => set({ split: value || undefined })}
        />
        {axes.length > 1 && (
          <Select
            label="Over"
            value={axis.column}
            options={axes.map(({ column }) => [column, title(column)])}
            onChange={(value) => set({ axis: value, from: undefined, to: undefined })}
          />
        )}
        <Select
          label="Resolution"
          value={query.get("step") ?? ""}
          options={[
            ["", `automatic (${automatic.toLowerCase()})`],
            ...axis.steps.map(([name]): [string, string] => [name, name.toLowerCase()]),
          ]}
          onChange={(value) => set({ step: value || undefined })}
        />
      </form>
      {error && <Fault error={error} subject="this chart" />}
      <div ref={element} class="chart-frame" aria-busy={groups.isLoading}>
        {extent.data && !hasRange && <Empty icon="chart" title="No row has a date here" />}
        {!plot && !error && (!extent.data || hasRange) && <Skeleton lines={6} label="Loading the chart" />}
        {plot && (
          <>
            <div
              class="chart-canvas"
              role="slider"
              tabIndex={0}
              aria-label={label}
              aria-valuemin={0}
              aria-valuemax={Math.max(0, plot.times.length - 1)}
              aria-valuenow={cursor ?? Math.max(0, plot.times.length - 1)}
              aria-valuetext={
                cursor === undefined || !plot.times[cursor]
                  ? `${plot.times.length} points`
                  : pointInWords(plot, cursor)
              }
              aria-describedby="chart-keys"
              onKeyDown={onKeyDown}
            >
              <Canvas
                plot={plot}
                width={width}
                theme={theme}
                cursor={cursor}
                onCursor={setCursor}
                onZoom={zoom}
              />
            </div>
            {overview && overview.times.length > 2 && isZoomable && (
              <Brush plot={overview} width={width} theme={theme} range={[from, to]} onZoom={zoom} />
            )}
            <Legend plot={plot} cursor={cursor} />
          </>
        )}
      </div>
      <p id="chart-keys" class="hint">
        {title(axis.column)} by {step.toLowerCase()}, UTC.{" "}
        {isZoomable ? "Drag to zoom, or use the keys: ← → move, + − zoom, 0 shows all." : "Keys: ← → move."}
        {plot?.undated != null && ` ${count(plot.undated)} (${measure!.label.toLowerCase()}) without a date.`}
      </p>
      <div class="buttons">
        {isZoomed && (
          <Button icon="close" onClick={() => zoom(first, last)}>
            Show all of the time
          </Button>
        )}
        <Button
          icon="table"
          aria-expanded={isTable}
          onClick={() => set({ numbers: isTable ? undefined : "shown" })}
        >
          {isTable ? "Hide the table" : "Show as table"}
        </Button>
        <Button icon="download" disabled={!plot} onClick={download}>
          CSV
        </Button>
        {documentOfChart && (
          <Button
            icon="external"
            onClick={() => openInGraphiql(`Chart of ${entity.field}`, documentOfChart, variables)}
          >
            Open in GraphiQL
          </Button>
        )}
      </div>
      {isTable && plot && <Numbers plot={plot} />}
      <Announcer text={said} />
    </section>
  );
};

/** Like useMemo, but recomputes if a dependency is undefined. */
function useMemoized<Value>(make: () => Value, dependencies: unknown[]): Value {
  const kept = useRef<{ dependencies: unknown[]; value: Value }>(undefined);
  if (!kept.current || dependencies.some((value, index) => value !== kept.current!.dependencies[index]))
    kept.current = { dependencies, value: make() };
  return kept.current.value;
}
