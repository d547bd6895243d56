// Boxes in columns and the lines between them. The lines are decoration: the boxes' texts have the same content.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { age, compact, count, plural, title } from "./format.ts";
import type { Freshness } from "./pages/overview.tsx";
import type { Run } from "./pipeline.ts";
import { hrefOf } from "./router.ts";
import type { Entity } from "./schema.ts";
import { Icon, When } from "./ui.tsx";

export interface Box {
  name: string;
  entity: Entity | undefined;
  rows: number | undefined;
  isEstimate: boolean;
  freshness: Freshness | undefined;
}
export interface Lane extends Box {
  waiting: number;
  /** Undefined if the role may not read them. */
  quarantined: number | undefined;
  ingests: Run[];
  isIngesting: boolean;
  isTransforming: boolean;
}
export interface Result extends Box {
  /** Relations that it is computed from; empty if unknown. */
  sources: string[];
  isRefreshing: boolean;
}

const Name = ({ box: { name, entity } }: { box: Box }) =>
  entity ? <a href={hrefOf("explore", entity.field)}>{title(name)}</a> : <span>{title(name)}</span>;

const Rows = ({ box: { rows, isEstimate } }: { box: Box }) =>
  rows === undefined ? null : (
    <span class="box-rows" title={isEstimate ? "estimated" : undefined}>
      <strong>
        {isEstimate && "≈ "}
        {rows >= 100_000 ? compact(rows) : count(rows)}
      </strong>{" "}
      {rows === 1 ? "row" : "rows"}
    </span>
  );

/** Time up to which it is complete, with the run; or since when rows are missing. */
const Fresh = ({ freshness, what }: { freshness: Freshness | undefined; what: string }) => {
  if (!freshness) return null;
  const behind = Number(freshness.rowsBehind);
  const by = freshness.runId && (
    <>
      {" "}
      by <a href={`#/runs/${freshness.runId}`}>run {freshness.runId}</a>
    </>
  );
  return behind === 0 ? (
    <p class="fresh ok">
      <Icon name="ok" />
      <span>
        Complete{freshness.refreshedAt && ", "}
        {freshness.refreshedAt && <When at={freshness.refreshedAt} />}
        {by}
      </span>
    </p>
  ) : (
    <p class="fresh late">
      <Icon name="clock" />
      <span>
        {plural(behind, "row")} {what}
        {freshness.lagSeconds >= 1 && `, the oldest for ${age(freshness.lagSeconds)}`}
      </span>
    </p>
  );
};

const MAX_SOURCES = 3;
const Sources = ({ lane }: { lane: Lane }) => {
  const seen = new Map<string, Run>();
  for (const run of lane.ingests) {
    const { sourceName, sourceSystem } = run.arguments ?? {};
    const name = [sourceName, sourceSystem].find((value) => typeof value === "string" && value !== "") as
      string | undefined;
    const key = name ?? run.trigger;
    if (!seen.has(key)) seen.set(key, run);
  }
  const all = [...seen];
  return (
    <div class={`box source ${lane.isIngesting ? "working" : ""}`} data-box={`source:${lane.name}`}>
      {all.length === 0 ? (
        <p class="quiet">
          No source lately. <a href={hrefOf("bring", lane.name)}>Bring data</a>
        </p>
      ) : (
        <ul>
          {all.slice(0, MAX_SOURCES).map(([name, run]) => (
            <li key={name}>
              <a href={`#/runs/${run.runId}`} class="ellipsis" title={name}>
                {name}
              </a>
              <small>
                {plural(run.rowsRead, "row")}, <When at={run.finishedAt ?? run.startedAt} />
              </small>
            </li>
          ))}
          {all.length > MAX_SOURCES && (
            <li>
              <a href={hrefOf("runs", undefined, { step: "ingest", dataset: lane.name })}>
                {all.length - MAX_SOURCES} more
              </a>
            </li>
          )}
        </ul>
      )}
    </div>
  );
};

const Quarantined = ({ lane }: { lane: Lane }) =>
  lane.quarantined === undefined || lane.quarantined === 0 ? null : (
    <a class="rejected" href={hrefOf("quarantine", undefined, { dataset: lane.name })}>
      <Icon name="quarantine" />
      {count(lane.quarantined)} in quarantine
    </a>
  );

interface Line {
  key: string;
  path: string;
  isWorking: boolean;
}

export const Flow = ({ lanes, tables, results }: { lanes: Lane[]; tables: Box[]; results: Result[] }) => {
  const element = useRef<HTMLDivElement>(null);
  const [lines, setLines] = useState<Line[]>([]);
  const pairs: [from: string, to: string, isWorking: boolean][] = [];
  for (const { name, isIngesting, isTransforming } of lanes)
    pairs.push(
      [`source:${name}`, `staging:${name}`, isIngesting],
      [`staging:${name}`, `production:${name}`, isTransforming],
    );
  const isResult = new Set(results.map(({ name }) => name));
  for (const { name, sources, freshness, isRefreshing } of results) {
    // A metric without known sources is drawn as computed from all datasets.
    const all = sources.length > 0 || !freshness ? sources : lanes.map((lane) => lane.name);
    for (const source of all)
      pairs.push([
        `${isResult.has(source) ? "result" : "production"}:${source}`,
        `result:${name}`,
        isRefreshing,
      ]);
  }
  const wanted = JSON.stringify(pairs);

  useLayoutEffect(() => {
    const root = element.current!;
    const draw = (): void => {
      const frame = root.getBoundingClientRect();
      const boxes = new Map(
        [...root.querySelectorAll<HTMLElement>("[data-box]")].map((box) => [
          box.dataset.box!,
          box.getBoundingClientRect(),
        ]),
      );
      const next: Line[] = [];
      for (const [from, to, isWorking] of pairs) {
        const one = boxes.get(from);
        const other = boxes.get(to);
        if (!one || !other || one.width === 0) continue;
        // On small screens boxes are below each other; metrics of metrics always are.
        const isBelow = other.left < one.right;
        if (isBelow && from.startsWith("result:")) {
          const x = Math.max(one.right, other.right) - frame.left;
          const y1 = one.top + one.height / 2 - frame.top;
          const y2 = other.top + other.height / 2 - frame.top;
          next.push({
            key: `${from} ${to}`,
            isWorking,
            path: `M${x} ${y1}C${x + 16} ${y1} ${x + 16} ${y2} ${x} ${y2}`,
          });
          continue;
        }
        const x1 = (isBelow ? one.left + 18 : one.right) - frame.left;
        const y1 = (isBelow ? one.bottom : one.top + one.height / 2) - frame.top;
        const x2 = (isBelow ? other.left + 18 : other.left) - frame.left;
        const y2 = (isBelow ? other.top : other.top + other.height / 2) - frame.top;
        const bend = Math.max(14, (x2 - x1) / 2);
        next.push({
          key: `${from} ${to}`,
          isWorking,
          path: isBelow
            ? `M${x1} ${y1}V${y2}`
            : `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`,
        });
      }
      setLines((before) => (JSON.stringify(before) === JSON.stringify(next) ? before : next));
    };
    draw();
    const observer = new ResizeObserver(draw);
    observer.observe(root);
    for (const box of root.querySelectorAll("[data-box]")) observer.observe(box);
    return () => observer.disconnect();
  }, [wanted]);

  return (
    <section class="flow" aria-label="Flow of the data" ref={element}>
      <svg class="lines" aria-hidden="true" focusable="false">
        {lines.map(({ key, path, isWorking }) => (
          <path key={key} d={path} class={isWorking ? "working" : ""} />
        ))}
      </svg>
      <div class="flow-head" aria-hidden="true">
        <span>Sources</span>
        <span>Staging</span>
        <span>Production</span>
      </div>
      <ul class="lanes" aria-label="Datasets">
        {lanes.map((lane) => (
          <li key={lane.name} class="lane" aria-label={title(lane.name)}>
            <Sources lane={lane} />
            <div
              class={`box staging ${lane.isTransforming ? "working" : ""}`}
              data-box={`staging:${lane.name}`}
            >
              {lane.waiting > 0 ? (
                <p>
                  <strong>{count(lane.waiting)}</strong> {lane.waiting === 1 ? "row waits" : "rows wait"}
                </p>
              ) : (
                <p class="quiet">Nothing waits</p>
              )}
              <Quarantined lane={lane} />
            </div>
            <div
              class={`box production ${lane.isTransforming ? "working" : ""}`}
              data-box={`production:${lane.name}`}
            >
              <h2>
                <Name box={lane} />
                <Rows box={lane} />
              </h2>
              <Fresh freshness={lane.freshness} what="wait in staging" />
            </div>
          </li>
        ))}
        {tables.map((table) => (
          <li key={table.name} class="lane" aria-label={title(table.name)}>
            <div class="box production plain" data-box={`production:${table.name}`}>
              <h2>
                <Name box={table} />
                <Rows box={table} />
              </h2>
              <p class="quiet">A table of its own</p>
            </div>
          </li>
        ))}
      </ul>
      <div class="results">
        <div class="flow-head" aria-hidden="true">
          <span>Metrics and views</span>
        </div>
        {results.length === 0 ? (
          <p class="quiet">No metric yet</p>
        ) : (
          <ul aria-label="Metrics and views">
            {results.map((result) => (
              <li
                key={result.name}
                class={`box result ${result.isRefreshing ? "working" : ""}`}
                data-box={`result:${result.name}`}
              >
                <h2>
                  <Name box={result} />
                  <Rows box={result} />
                </h2>
                {result.freshness ? (
                  <Fresh freshness={result.freshness} what="not in it yet" />
                ) : (
                  <p class="fresh quiet">A view: as fresh as what it reads, or as its last refresh</p>
                )}
              </li>
            ))}
          </ul>
        )}
      </div>
    </section>
  );
};
