import { sqlValueWithCodec, TYPES, type PgCodec } from "@dataplan/pg";
import { SafeError } from "grafast";
import { sql, type SQL } from "pg-sql2";

export interface Position {
  longitude: number;
  latitude: number;
}
type Ring = [number, number][];

const maxVertices = 1000;

function invalid(message: string): SafeError {
  return new SafeError(message, { code: "BAD_USER_INPUT" });
}

function checkPosition({ longitude, latitude }: Position): Position {
  if (!(Math.abs(longitude) <= 180))
    throw invalid(`longitude must be between -180 and 180, not ${longitude}.`);
  if (!(Math.abs(latitude) <= 90)) throw invalid(`latitude must be between -90 and 90, not ${latitude}.`);
  return { longitude, latitude };
}

/** Whether two segments cross, apart from their ends: each has its ends on both sides of the other's line. */
function findCrossing(ring: Ring): [number, number] | undefined {
  const xs = Float64Array.from(ring, ([x]) => x);
  const ys = Float64Array.from(ring, ([, y]) => y);
  const start = (i: number): number => Math.min(xs[i]!, xs[i + 1]!);
  const end = (i: number): number => Math.max(xs[i]!, xs[i + 1]!);
  const isAbove = (i: number, j: number): boolean =>
    Math.min(ys[i]!, ys[i + 1]!) > Math.max(ys[j]!, ys[j + 1]!);
  const isBetween = (i: number, j: number): boolean => {
    const dx = xs[i + 1]! - xs[i]!;
    const dy = ys[i + 1]! - ys[i]!;
    const one = dx * (ys[j]! - ys[i]!) - dy * (xs[j]! - xs[i]!);
    const other = dx * (ys[j + 1]! - ys[i]!) - dy * (xs[j + 1]! - xs[i]!);
    return (one > 0 && other < 0) || (one < 0 && other > 0);
  };
  // Sweep from west to east: compare each segment only with those that begin before it ends.
  const order = Array.from({ length: ring.length - 1 }, (_, i) => i).sort((i, j) => start(i) - start(j));
  for (const [place, i] of order.entries())
    for (let next = place + 1; next < order.length; next++) {
      const j = order[next]!;
      if (start(j) > end(i)) break;
      if (isAbove(i, j) || isAbove(j, i)) continue;
      if (isBetween(i, j) && isBetween(j, i)) return [Math.min(i, j) + 1, Math.max(i, j) + 1];
    }
  return undefined;
}

function checkRing(ring: Ring): void {
  if (ring.length < 4 || ring.length > maxVertices) {
    throw invalid(`A polygon's ring must have 4 to ${maxVertices} positions, not ${ring.length}.`);
  }
  for (const position of ring) {
    if (position.length !== 2) {
      throw invalid(`A position must be [longitude, latitude], not ${JSON.stringify(position)}.`);
    }
    checkPosition({ longitude: position[0], latitude: position[1] });
  }
  const [first, last] = [ring[0]!, ring.at(-1)!];
  if (first[0] !== last[0] || first[1] !== last[1]) {
    throw invalid("A polygon's ring must end where it starts.");
  }
  const crossing = findCrossing(ring);
  if (crossing)
    throw invalid(`A polygon's ring must not cross itself (segments ${crossing.join(" and ")} do).`);
}

const number = (value: number) => sqlValueWithCodec(value, TYPES.float);

export function pointSql(position: Position): SQL {
  const { longitude, latitude } = checkPosition(position);
  return sql`public.st_setsrid(public.st_makepoint(${number(longitude)}, ${number(latitude)}), 4326)`;
}

const toGeography = (geometry: SQL) => sql`${sql.parens(geometry)}::public.geography`;

/** Distance in metres on a sphere, as the index orders, so that shown, ordered and filtered values agree. */
export const distanceSql = (from: SQL, to: SQL) =>
  sql`(${toGeography(from)} operator(public.<->) ${toGeography(to)})`;

export function withinDistance(column: SQL, { of, metres }: { of: Position; metres: number }): SQL {
  if (!(metres >= 0)) throw invalid(`metres must not be negative, but is ${metres}.`);
  return sql`public.st_dwithin(${toGeography(column)}, ${toGeography(pointSql(of))}, ${number(metres)}, false)`;
}

interface Box {
  west: number;
  south: number;
  east: number;
  north: number;
}

export function withinBox(column: SQL, { west, south, east, north }: Box): SQL {
  checkPosition({ longitude: west, latitude: south });
  checkPosition({ longitude: east, latitude: north });
  if (south > north) throw invalid(`south (${south}) must not be greater than north (${north}).`);
  const inside = (from: number, to: number) =>
    sql`public.st_intersects(${column}, public.st_makeenvelope(${number(from)}, ${number(south)}, ${number(to)}, ${number(north)}, 4326))`;
  // The box may span the antimeridian.
  return west <= east ? inside(west, east) : sql`(${inside(west, 180)} or ${inside(-180, east)})`;
}

interface Polygon {
  type: string;
  coordinates: Ring[];
}

/** Cache of checked polygons, since a variable may be used many times in an operation. */
const checked = new WeakMap<Polygon, string>();

function toGeojson(polygon: Polygon): string {
  const known = checked.get(polygon);
  if (known !== undefined) return known;
  const { type, coordinates } = polygon;
  if (type !== "Polygon") throw invalid(`A GeoJSON "Polygon" is needed here, not ${JSON.stringify(type)}.`);
  if (coordinates.length === 0) throw invalid("A polygon must have at least one ring.");
  coordinates.forEach(checkRing);
  const geojson = JSON.stringify({ type, coordinates });
  checked.set(polygon, geojson);
  return geojson;
}

export function withinPolygon(column: SQL, polygon: Polygon): SQL {
  const geojson = sqlValueWithCodec(toGeojson(polygon), TYPES.text);
  return sql`public.st_intersects(${column}, public.st_setsrid(public.st_geomfromgeojson(${geojson}), 4326))`;
}

/** Empty points and non-finite coordinates become null. */
function toPosition(geojson: string): unknown {
  const isPosition = /\[-?\d[^\],]*,-?\d/.test(geojson);
  return isPosition ? JSON.parse(geojson) : null;
}

/** Codec of geometry(Point) columns: GeoJSON as output, longitude and latitude as input. */
export const geoPoint: PgCodec = {
  name: "geoPoint",
  sqlType: sql`public.geometry`,
  castFromPg: (column) => sql`public.st_asgeojson(${column})::text`,
  fromPg: toPosition,
  toPg: (value) => {
    const { longitude, latitude } = checkPosition(value);
    return `SRID=4326;POINT(${longitude} ${latitude})`;
  },
  attributes: undefined,
  executor: null,
};

/** Whether the modifier of a geometry column limits it to points. */
export const isPointType = (modifier: string | number | null | undefined): boolean =>
  (Number(modifier ?? -1) >> 2) % 64 === 1;

/** Codec of other geometries and of geographies: GeoJSON in both directions. */
export const geoJson: PgCodec = {
  ...geoPoint,
  name: "geoJson",
  toPg: (value) => JSON.stringify(value),
};
