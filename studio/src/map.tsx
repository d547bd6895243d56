// A map without tiles: the countries come from the package, points from the API, which counts them in cells if there
// are many.
import { geoGraticule10, geoNaturalEarth1, geoPath, type GeoProjection } from "d3-geo";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import worldUrl from "world-atlas/countries-110m.json";
import { request } from "./api.ts";
import { compact, count, plural } from "./format.ts";
import { openInGraphiql } from "./graphiql.ts";
import { changes } from "./live.ts";
import type { ViewProps } from "./pages/explore.tsx";
import { go, hrefWith, route } from "./router.ts";
import type { Entity } from "./schema.ts";
import { Announcer, Button, csvLine, Icon, Notice, save, Skeleton } from "./ui.tsx";

interface Box {
  west: number;
  south: number;
  east: number;
  north: number;
}
interface Cell extends Box {
  rows: number;
}
interface Point {
  longitude: number;
  latitude: number;
}

/** Maximum points to fetch; more are counted in cells. */
const MAX_POINTS = 3_000;
const PAGE = 1_000;
/** The API allows 30 aliases in a document. */
const BOXES_PER_REQUEST = 28;
const MAX_CELLS = 260;
const MAX_DEPTH = 4;
/** Cells of the first pass, across and down the part that is shown. */
const COLUMNS = 8;
const ROWS = 5;
const WORLD: Box = { west: -180, south: -85, east: 180, north: 85 };
/** Degrees by which boxes are shrunk, so that points on an edge are counted once. */
const EDGE = 1e-9;

let world: Promise<GeoJSON.FeatureCollection> | undefined;
const loadWorld = (): Promise<GeoJSON.FeatureCollection> =>
  (world ??= fetch(worldUrl)
    .then((response) => response.json() as Promise<Topology>)
    .then((topology) => feature(topology, topology.objects.countries as GeometryCollection)));

const split = ({ west, south, east, north }: Box, columns: number, rows: number): Box[] => {
  const width = (east - west) / columns;
  const height = (north - south) / rows;
  return Array.from({ length: columns * rows }, (_, index) => {
    const x = west + (index % columns) * width;
    const y = south + Math.floor(index / columns) * height;
    return { west: x, south: y, east: x + width, north: y + height };
  });
};

async function countBoxes(
  { detail, filter }: ViewProps,
  column: string,
  boxes: Box[],
  signal: AbortSignal,
): Promise<Cell[]> {
  const { entity } = detail;
  const parts: Box[][] = [];
  for (let from = 0; from < boxes.length; from += BOXES_PER_REQUEST)
    parts.push(boxes.slice(from, from + BOXES_PER_REQUEST));
  const counted = await Promise.all(
    parts.map(async (part) => {
      const names = part.map((_, index) => `f${index}`);
      const query = `query Cells(${names.map((name) => `$${name}: ${entity.filterType}`).join(", ")}) {
        ${names.map((name) => `${name}: ${entity.field}(first: 1, filter: $${name}) { totalCount }`).join("\n")}
      }`;
      const within = ({ west, south, east, north }: Box) => ({
        [column]: { withinBox: { west, south, east: east - (east < 180 ? EDGE : 0), north: north - EDGE } },
      });
      const variables = Object.fromEntries(
        part.map((box, index) => [
          `f${index}`,
          Object.keys(filter).length > 0 ? { and: [filter, within(box)] } : within(box),
        ]),
      );
      const answer = await request<Record<string, { totalCount: number }>>(query, variables, { signal });
      return part.map((box, index) => ({ ...box, rows: answer[`f${index}`]!.totalCount }));
    }),
  );
  return counted.flat();
}

/** Counts rows in cells; a cell with a large share is counted again in quarters. */
async function countCells(props: ViewProps, column: string, view: Box, signal: AbortSignal): Promise<Cell[]> {
  let cells = (await countBoxes(props, column, split(view, COLUMNS, ROWS), signal)).filter(
    ({ rows }) => rows > 0,
  );
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const total = cells.reduce((sum, { rows }) => sum + rows, 0);
    const room = Math.floor((MAX_CELLS - cells.length) / 3);
    const heavy = cells
      .filter(({ rows }) => rows > total / 120)
      .sort((one, other) => other.rows - one.rows)
      .slice(0, room);
    if (heavy.length === 0) break;
    const parts = await countBoxes(
      props,
      column,
      heavy.flatMap((cell) => split(cell, 2, 2)),
      signal,
    );
    const chosen = new Set(heavy);
    cells = [...cells.filter((cell) => !chosen.has(cell)), ...parts.filter(({ rows }) => rows > 0)];
  }
  return cells;
}

async function fetchPoints(
  { detail }: ViewProps,
  column: string,
  filter: object,
  signal: AbortSignal,
): Promise<Point[]> {
  const { entity } = detail;
  const document = pointsQuery(entity, column);
  const points: Point[] = [];
  for (let after: string | null = null; points.length < MAX_POINTS;) {
    const page: Record<
      string,
      { nodes: Record<string, Point | null>[]; pageInfo: { hasNextPage: boolean; endCursor: string } }
    > = await request(document, { filter, after }, { signal });
    const { nodes, pageInfo } = page[entity.field]!;
    for (const node of nodes) if (node[column]) points.push(node[column]);
    if (!pageInfo.hasNextPage) break;
    after = pageInfo.endCursor;
  }
  return points;
}

const pointsQuery = (entity: Entity, column: string): string =>
  `query Points($filter: ${entity.filterType}, $after: Cursor) {
  ${entity.field}(filter: $filter, first: ${PAGE}, after: $after) {
    totalCount
    nodes { ${column} { longitude latitude } }
    pageInfo { hasNextPage endCursor }
  }
}`;

const inView = (filter: object, column: string, view: Box): object => {
  const condition = { [column]: { withinBox: view } };
  return Object.keys(filter).length > 0 ? { and: [filter, condition] } : condition;
};

interface Shown {
  total: number;
  cells?: Cell[];
  points?: Point[];
}

/** Loads the rows in the shown part of the world. */
function useRows(props: ViewProps, column: string, view: Box) {
  const [shown, setShown] = useState<Shown>();
  const [error, setError] = useState<string>();
  const [isLoading, setLoading] = useState(true);
  const { filter } = props;
  const key = JSON.stringify([view, filter, column, changes.data.value]);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    setLoading(true);
    const timer = setTimeout(() => {
      (async () => {
        const all = inView(filter, column, view);
        const [cell] = await countBoxes(props, column, [view], signal);
        const total = cell!.rows;
        if (total <= MAX_POINTS) setShown({ total, points: await fetchPoints(props, column, all, signal) });
        else setShown({ total, cells: await countCells(props, column, view, signal) });
        setError(undefined);
      })()
        .catch((fault: unknown) => !signal.aborted && setError((fault as Error).message))
        .finally(() => !signal.aborted && setLoading(false));
    }, 150);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [key]);
  return { shown, error, isLoading };
}

const color = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const parseView = (text: string | null): Box => {
  const [west, south, east, north] = (text ?? "").split(",").map(Number);
  return [west, south, east, north].every((value) => value !== undefined && Number.isFinite(value)) &&
    west! < east! &&
    south! < north!
    ? { west: west!, south: south!, east: east!, north: north! }
    : WORLD;
};
const round = (value: number): string => value.toFixed(3);
const printView = ({ west, south, east, north }: Box): string =>
  [west, south, east, north].map(round).join(",");

/** Returns a box with the canvas's proportions inside the world. */
function clampView(center: Point, width: number): Box {
  const w = Math.min(360, Math.max(0.5, width));
  const h = Math.min(170, w * 0.472);
  const x = Math.min(Math.max(center.longitude, -180 + w / 2), 180 - w / 2);
  const y = Math.min(Math.max(center.latitude, -85 + h / 2), 85 - h / 2);
  return { west: x - w / 2, east: x + w / 2, south: y - h / 2, north: y + h / 2 };
}

function projectionOf(view: Box, width: number, height: number): GeoProjection {
  const { west, south, east, north } = view;
  const middle = (west + east) / 2;
  const edge: GeoJSON.MultiPoint = {
    type: "MultiPoint",
    coordinates: [
      [west, south],
      [west, north],
      [east, south],
      [east, north],
      [middle, south],
      [middle, north],
      [west, (south + north) / 2],
      [east, (south + north) / 2],
    ].map(([x, y]) => [Math.min(Math.max(x!, -179.999), 179.999), y!]),
  };
  return geoNaturalEarth1().fitExtent(
    [
      [4, 4],
      [width - 4, height - 4],
    ],
    edge,
  );
}

function draw(
  canvas: HTMLCanvasElement,
  countries: GeoJSON.FeatureCollection | undefined,
  view: Box,
  shown: Shown | undefined,
): void {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  const projection = projectionOf(view, width, height);
  const path = geoPath(projection, context);
  context.fillStyle = color("--sea");
  context.beginPath();
  path({ type: "Sphere" });
  context.fill();
  context.strokeStyle = color("--graticule");
  context.lineWidth = 0.5;
  context.beginPath();
  path(geoGraticule10());
  context.stroke();
  if (countries) {
    context.fillStyle = color("--land");
    context.strokeStyle = color("--coast");
    context.lineWidth = 0.6;
    context.beginPath();
    path(countries);
    context.fill();
    context.stroke();
  }
  const circles = (shown?.cells ?? [])
    .toSorted((one, other) => other.rows - one.rows)
    .flatMap((cell) => {
      const at = projection([(cell.west + cell.east) / 2, (cell.south + cell.north) / 2]);
      return at ? [{ rows: cell.rows, x: at[0], y: at[1], radius: 0 }] : [];
    });
  const most = Math.max(1, ...circles.map(({ rows }) => rows));
  // The circle's area is proportional to the number.
  for (const circle of circles) circle.radius = 3 + 17 * Math.sqrt(circle.rows / most);
  for (const { x, y, radius } of circles) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = color("--dot");
    context.globalAlpha = 0.62;
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = color("--dot-line");
    context.lineWidth = 1;
    context.stroke();
  }
  context.fillStyle = color("--dot-text");
  context.font = `600 10.5px ${color("--font")}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const { rows, x, y, radius } of circles) {
    // Omit numbers that another circle would cover.
    const isFree = circles.every(
      (other) => (other.x === x && other.y === y) || Math.hypot(other.x - x, other.y - y) > other.radius + 9,
    );
    if (radius > 11 && isFree) context.fillText(rows >= 10_000 ? compact(rows) : String(rows), x, y);
  }
  context.fillStyle = color("--dot");
  context.strokeStyle = color("--dot-line");
  context.lineWidth = 0.8;
  const points = shown?.points ?? [];
  const radius = points.length > 500 ? 2.5 : 4;
  context.globalAlpha = 0.7;
  for (const { longitude, latitude } of points) {
    const at = projection([longitude, latitude]);
    if (!at) continue;
    context.beginPath();
    context.arc(at[0], at[1], radius, 0, 2 * Math.PI);
    context.fill();
    if (points.length <= 500) context.stroke();
  }
  context.globalAlpha = 1;
}

const degrees = (value: number, positive: string, negative: string): string =>
  `${Math.abs(value).toFixed(Math.abs(value) % 1 === 0 ? 0 : 2)}° ${value < 0 ? negative : positive}`;
const boxInWords = ({ west, south, east, north }: Box): string =>
  `${degrees(south, "N", "S")} to ${degrees(north, "N", "S")}, ${degrees(west, "E", "W")} to ${degrees(east, "E", "W")}`;

export const WorldMap = (props: ViewProps) => {
  const column = props.columns.find(
    ({ kind, filterType }) => kind === "position" && filterType !== undefined,
  )!.name;
  const { entity } = props.detail;
  const text = route.value.query.get("box");
  const view = useMemo(() => parseView(text), [text]);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [countries, setCountries] = useState<GeoJSON.FeatureCollection>();
  const [size, setSize] = useState(0);
  const [theme, setTheme] = useState(0);
  const { shown, error, isLoading } = useRows(props, column, view);
  const [said, say] = useState("");

  useEffect(() => {
    // If the base map fails to load, show the points without it.
    loadWorld().then(setCountries, () => undefined);
    const queries = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((query) =>
      matchMedia(query),
    );
    const change = () => setTheme((before) => before + 1);
    for (const query of queries) query.addEventListener("change", change);
    return () => queries.forEach((query) => query.removeEventListener("change", change));
  }, []);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setSize(Math.round(entry!.contentRect.width)));
    observer.observe(canvas.current!);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (size > 0) draw(canvas.current!, countries, view, shown);
  }, [countries, view, shown, size, theme]);

  const width = view.east - view.west;
  const center: Point = { longitude: (view.west + view.east) / 2, latitude: (view.south + view.north) / 2 };
  const show = (next: Box): void => {
    const isAll = next.east - next.west >= 359;
    go(hrefWith({ box: isAll ? undefined : printView(next) }), { replace: true });
    say(isAll ? "The whole world" : boxInWords(next));
  };
  const zoom = (factor: number, around = center): void => show(clampView(around, width * factor));
  const move = (x: number, y: number): void =>
    show(
      clampView(
        { longitude: center.longitude + x * width, latitude: center.latitude + y * width * 0.472 },
        width,
      ),
    );
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys: Record<string, () => void> = {
      ArrowLeft: () => move(-0.2, 0),
      ArrowRight: () => move(0.2, 0),
      ArrowUp: () => move(0, 0.2),
      ArrowDown: () => move(0, -0.2),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
      "0": () => show(WORLD),
      Escape: () => show(WORLD),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]!();
  };
  const drag = useRef<{ x: number; y: number; moved: boolean }>(undefined);
  const at = (event: PointerEvent | MouseEvent): Point | undefined => {
    const frame = canvas.current!.getBoundingClientRect();
    const place = projectionOf(view, frame.width, frame.height).invert?.([
      event.clientX - frame.left,
      event.clientY - frame.top,
    ]);
    return place ? { longitude: place[0], latitude: place[1] } : undefined;
  };
  const onPointerUp = (event: PointerEvent): void => {
    const from = drag.current;
    drag.current = undefined;
    if (!from) return;
    const frame = canvas.current!.getBoundingClientRect();
    const x = (event.clientX - from.x) / frame.width;
    const y = (event.clientY - from.y) / frame.height;
    if (Math.hypot(x, y) > 0.01) move(-x, y);
  };
  const cells = (shown?.cells ?? []).toSorted((one, other) => other.rows - one.rows);
  const isTable = route.value.query.get("numbers") === "shown";
  const download = () =>
    save(
      `${entity.field}-map.csv`,
      "text/csv",
      shown?.cells
        ? [
            csvLine(["west", "south", "east", "north", "rows"]),
            ...cells.map(({ west, south, east, north, rows }) => csvLine([west, south, east, north, rows])),
          ]
        : [
            csvLine(["longitude", "latitude"]),
            ...(shown?.points ?? []).map(({ longitude, latitude }) => csvLine([longitude, latitude])),
          ],
    );
  const summary = shown
    ? `${plural(shown.total, "row")} here${shown.cells ? `, counted in ${cells.length} cells` : ""}`
    : "";
  return (
    <section class="panel map" aria-label="Map">
      {error && <Notice kind="error">{error}</Notice>}
      <div class="map-frame" aria-busy={isLoading}>
        <div
          class="map-keys"
          // The role lets keys move the map in screen readers.
          role="application"
          tabIndex={0}
          aria-label={`Map of ${boxInWords(view)}. ${summary}`}
          aria-describedby="map-keys"
          onKeyDown={onKeyDown}
          onPointerDown={(event) => {
            drag.current = { x: event.clientX, y: event.clientY, moved: false };
            event.currentTarget.setPointerCapture(event.pointerId);
          }}
          onPointerUp={onPointerUp}
          onDblClick={(event) => zoom(0.5, at(event))}
        >
          <canvas ref={canvas} aria-hidden="true" />
        </div>
        <div class="map-buttons">
          <button type="button" class="icon-button" aria-label="Zoom in" onClick={() => zoom(0.5)}>
            <Icon name="plus" />
          </button>
          <button type="button" class="icon-button" aria-label="Zoom out" onClick={() => zoom(2)}>
            <Icon name="minus" />
          </button>
          <button
            type="button"
            class="icon-button"
            aria-label="Show the whole world"
            onClick={() => show(WORLD)}
          >
            <Icon name="world" />
          </button>
        </div>
        {!shown && isLoading && <Skeleton lines={1} label="Counting" />}
      </div>
      <p class="map-summary" role="status">
        {summary}
      </p>
      <p id="map-keys" class="hint">
        Drag or use the arrow keys to move, + − or a double click to zoom, 0 for the whole world.
      </p>
      <div class="buttons">
        <Button
          icon="table"
          aria-expanded={isTable}
          onClick={() => go(hrefWith({ numbers: isTable ? undefined : "shown" }), { replace: true })}
        >
          {isTable ? "Hide the table" : "Show as table"}
        </Button>
        <Button icon="download" disabled={!shown} onClick={download}>
          CSV
        </Button>
        <Button
          icon="external"
          onClick={() =>
            openInGraphiql(`Map of ${entity.field}`, pointsQuery(entity, column), {
              filter: inView(props.filter, column, view),
            })
          }
        >
          Open in GraphiQL
        </Button>
      </div>
      {isTable && shown && (
        <div class="table-scroll tall" role="group" aria-label="What the map shows" tabIndex={0}>
          <table>
            <caption class="hidden">What the map shows</caption>
            <thead>
              <tr>
                <th scope="col">Where</th>
                <th scope="col" class="number">
                  Rows
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.cells
                ? cells.map((cell) => (
                    <tr key={printView(cell)}>
                      <th scope="row">
                        <button
                          type="button"
                          class="link"
                          onClick={() =>
                            show(
                              clampView(
                                {
                                  longitude: (cell.west + cell.east) / 2,
                                  latitude: (cell.south + cell.north) / 2,
                                },
                                (cell.east - cell.west) * 2,
                              ),
                            )
                          }
                        >
                          {boxInWords(cell)}
                        </button>
                      </th>
                      <td class="number">{count(cell.rows)}</td>
                    </tr>
                  ))
                : (shown.points ?? []).slice(0, 500).map(({ longitude, latitude }, index) => (
                    <tr key={index}>
                      <th scope="row">
                        {degrees(latitude, "N", "S")}, {degrees(longitude, "E", "W")}
                      </th>
                      <td class="number">1</td>
                    </tr>
                  ))}
            </tbody>
          </table>
        </div>
      )}
      <Announcer text={said} />
    </section>
  );
};
