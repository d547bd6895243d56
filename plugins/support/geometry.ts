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

/** Do the segments ab and cd cross, ends aside? */
function cross(a: Ring[0], b: Ring[0], c: Ring[0], d: Ring[0]): boolean {
  const side = (p: Ring[0], q: Ring[0], r: Ring[0]) =>
    Math.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]));
  return side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;
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
  for (let i = 0; i < ring.length - 1; i++) {
    for (let j = i + 2; j < ring.length - 1; j++) {
      if (cross(ring[i]!, ring[i + 1]!, ring[j]!, ring[j + 1]!)) {
        throw invalid(`A polygon's ring must not cross itself (segments ${i + 1} and ${j + 1} do).`);
      }
    }
  }
}

const number = (value: number) => sqlValueWithCodec(value, TYPES.float);

export function pointSql(position: Position): SQL {
  const { longitude, latitude } = checkPosition(position);
  return sql`public.st_setsrid(public.st_makepoint(${number(longitude)}, ${number(latitude)}), 4326)`;
}

const toGeography = (geometry: SQL) => sql`${sql.parens(geometry)}::public.geography`;

/** Metres on a sphere, which is how an index orders: what is shown, ordered and filtered is one number. */
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
  // A box may span the antimeridian.
  return west <= east ? inside(west, east) : sql`(${inside(west, 180)} or ${inside(-180, east)})`;
}

export function withinPolygon(
  column: SQL,
  { type, coordinates }: { type: string; coordinates: Ring[] },
): SQL {
  if (type !== "Polygon") throw invalid(`A GeoJSON "Polygon" is needed here, not ${JSON.stringify(type)}.`);
  if (coordinates.length === 0) throw invalid("A polygon must have at least one ring.");
  coordinates.forEach(checkRing);
  const geojson = sqlValueWithCodec(JSON.stringify({ type, coordinates }), TYPES.text);
  return sql`public.st_intersects(${column}, public.st_setsrid(public.st_geomfromgeojson(${geojson}), 4326))`;
}

/** A geometry(Point) column: GeoJSON on its way out, longitude and latitude on its way in. */
export const geoPoint: PgCodec = {
  name: "geoPoint",
  sqlType: sql`public.geometry`,
  castFromPg: (column) => sql`public.st_asgeojson(${column})::text`,
  fromPg: (value) => JSON.parse(value),
  toPg: (value) => {
    const { longitude, latitude } = checkPosition(value);
    return `SRID=4326;POINT(${longitude} ${latitude})`;
  },
  attributes: undefined,
  executor: null,
};

/** Does the modifier of a geometry column say that it holds points? */
export const isPointType = (modifier: string | number | null | undefined): boolean =>
  (Number(modifier ?? -1) >> 2) % 64 === 1;

/** Any other geometry, or a geography: GeoJSON both ways. */
export const geoJson: PgCodec = {
  ...geoPoint,
  name: "geoJson",
  toPg: (value) => JSON.stringify(value),
};
