/** @module-tag long */
import { afterAll, beforeAll, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { createApi, type Api } from "./api.ts";

const berlin = { longitude: 13.4, latitude: 52.52 };
let api: Api;

beforeAll(async () => {
  api = await createApi();
  await api.database.pool.query(`
    insert into production.events (event_type, event_time, position)
    select name, '2025-01-01', public.st_setsrid(public.st_makepoint(longitude, latitude), 4326)
    from (values ('berlin', 13.4, 52.52), ('potsdam', 13.06, 52.39), ('hamburg', 9.99, 53.55),
                 ('sydney', 151.2, -33.9), ('fiji', 178.4, -18.1), ('samoa', -171.8, -13.8)) v (name, longitude, latitude);
    insert into production.events (event_type, event_time) values ('nowhere', '2025-01-01')`);
});
afterAll(() => api.close());

test("a position is a GeoJSON point with longitude and latitude", async () => {
  const data = await api.read(`{ events(filter: { eventType: { in: ["berlin", "nowhere"] } }) {
    nodes { position { type coordinates longitude latitude } } } }`);
  expect(data.events.nodes).toEqual([
    { position: { type: "Point", coordinates: [13.4, 52.52], ...berlin } },
    { position: null },
  ]);
});

async function found(filter: string, variables?: object): Promise<string[]> {
  const types = variables ? "($p: GeoPointInput!)" : "";
  const data = await api.read(
    `query ${types} { events(filter: { position: { ${filter} } }) { nodes { eventType } } }`,
    variables,
  );
  return data.events.nodes.map((node: { eventType: string }) => node.eventType);
}

test("filters by distance in metres, by box and by polygon", async () => {
  expect(await found("withinDistance: { of: $p, metres: 30000 }", { p: berlin })).toEqual([
    "berlin",
    "potsdam",
  ]);
  expect(await found("withinBox: { west: 9, south: 52, east: 14, north: 54 }")).toEqual([
    "berlin",
    "potsdam",
    "hamburg",
  ]);
  expect(await found("withinBox: { west: 170, south: -30, east: -170, north: 0 }")).toEqual([
    "fiji",
    "samoa",
  ]);
  expect(
    await found("withinPolygon: { coordinates: [[[13, 52], [13.2, 52], [13.2, 53], [13, 53], [13, 52]]] }"),
  ).toEqual(["potsdam"]);
  expect(await found("isNull: true")).toEqual(["nowhere"]);
});

test("orders what has a position by distance, and pages both ways through all of it", async () => {
  const page = `query ($from: GeoPointInput, $first: Int, $after: Cursor, $last: Int, $before: Cursor) {
    events(first: $first, after: $after, last: $last, before: $before, nearestTo: $from) {
      nodes { eventType } pageInfo { startCursor endCursor hasNextPage hasPreviousPage } totalCount
    } }`;
  const walk = async (from: object | null, isForward: boolean) => {
    const types: string[] = [];
    let place: object = isForward ? { first: 2 } : { last: 2 };
    // One that does not end by itself ends here.
    for (let i = 0; i < 9; i++) {
      const { nodes, pageInfo, totalCount } = (await api.read(page, { from, ...place })).events;
      expect(totalCount).toBe(from ? 6 : 7);
      const names = nodes.map((node: { eventType: string }) => node.eventType);
      if (isForward) types.push(...names);
      else types.unshift(...names);
      if (!(isForward ? pageInfo.hasNextPage : pageInfo.hasPreviousPage)) break;
      place = isForward ? { first: 2, after: pageInfo.endCursor } : { last: 2, before: pageInfo.startCursor };
    }
    return types;
  };
  const nearest = ["berlin", "potsdam", "hamburg", "samoa", "fiji", "sydney"];
  expect(await walk(berlin, true)).toEqual(nearest);
  expect(await walk(berlin, false)).toEqual(nearest);
  const all = ["berlin", "potsdam", "hamburg", "sydney", "fiji", "samoa", "nowhere"];
  expect(await walk(null, true)).toEqual(all);
  expect(await walk(null, false)).toEqual(all);
});

test("the distance that is told is the one that orders and filters", async () => {
  await api.database.pool.query(`
    insert into production.events (event_type, event_time, position)
    select 'ring', '2025-01-01', public.st_setsrid(public.st_makepoint(13.4 + cos(n) * (9 + n % 7 / 100.0), 52.52 + sin(n) * 5), 4326)
    from generate_series(1, 150) n`);
  const read = `query ($from: GeoPointInput!, $metres: Float!) {
    events(nearestTo: $from, first: 200, filter: { position: { withinDistance: { of: $from, metres: $metres } } }) {
      nodes { distance(from: $from) } } }`;
  const within = async (metres: number): Promise<number[]> =>
    (await api.read(read, { from: berlin, metres })).events.nodes.map((node: any) => node.distance);
  const distances = await within(2e7);
  expect(distances.length).toBeGreaterThan(150);
  expect(distances).toEqual([...distances].sort((a, b) => a - b));
  expect(distances[0]).toBe(0);
  expect(distances[1]).toBeCloseTo(27_200, -3);
  const middle = (distances[60]! + distances[61]!) / 2;
  expect(await within(middle)).toEqual(distances.slice(0, 61));
  await api.database.pool.query("delete from production.events where event_type = 'ring'");
});

test("an operator writes a position", async () => {
  const data = await api.read(
    `mutation ($p: GeoPointInput!) { createEvent(input: { event: { eventType: "new", position: $p } }) {
      event { eventId position { longitude latitude } distance(from: $p) } } }`,
    { p: berlin },
  );
  expect(data.createEvent.event).toMatchObject({ position: berlin, distance: 0 });
  await api.read(`mutation ($id: BigInt!) { deleteEvent(input: { eventId: $id }) { event { eventId } } }`, {
    id: data.createEvent.event.eventId,
  });
});

test.each([
  [
    "withinDistance: { of: { longitude: 200, latitude: 0 }, metres: 1 }",
    /longitude must be between -180 and 180, not 200/,
  ],
  [
    "withinDistance: { of: { longitude: 0, latitude: -91 }, metres: 1 }",
    /latitude must be between -90 and 90, not -91/,
  ],
  [
    "withinDistance: { of: { longitude: 0, latitude: 0 }, metres: -1 }",
    /metres must not be negative, but is -1/,
  ],
  ["withinBox: { west: 0, south: 1, east: 1, north: 0 }", /south \(1\) must not be greater than north \(0\)/],
  ["withinPolygon: { coordinates: [[[0, 0], [1, 1], [0, 0]]] }", /must have 4 to 1000 positions, not 3/],
  ["withinPolygon: { coordinates: [[[0, 0], [1, 0], [1, 1], [0, 1]]] }", /must end where it starts/],
  ["withinPolygon: { coordinates: [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]] }", /must not cross itself/],
  [
    "withinPolygon: { coordinates: [[[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]]] }",
    /must be \[longitude, latitude\]/,
  ],
  [`withinPolygon: { type: "Point", coordinates: [] }`, /"Polygon" is needed here, not "Point"/],
])("refuses %s", async (filter, message) => {
  const { errors } = await api.ask(
    "reader",
    `{ events(filter: { position: { ${filter} } }) { totalCount } }`,
  );
  expect(errors).toMatchObject([
    { message: expect.stringMatching(message), extensions: { code: "BAD_USER_INPUT" } },
  ]);
});

test.runIf(isServer)("indexes serve every filter and the order by distance", async () => {
  await api.database.pool.query(`
    insert into production.events (event_type, event_time, position)
    select 'grid', '2025-01-01', public.st_setsrid(public.st_makepoint(i % 360 - 180, i / 360 - 60), 4326)
    from generate_series(1, 40000) i`);
  await api.database.pool.query("analyze production.events");
  const plan = (args: string) => api.plans(`{ events(first: 5, ${args}) { nodes { eventId } } }`);
  const of = "{ longitude: 13.4, latitude: 52.52 }";

  expect(await plan(`filter: { position: { withinDistance: { of: ${of}, metres: 1000 } } }`)).toContain(
    "idx_events_position_geography",
  );
  expect(await plan(`nearestTo: ${of}`)).toMatch(/Index Scan using idx_events_position_geography/);
  const box = "withinBox: { west: 9, south: 52, east: 14, north: 54 }";
  expect(await plan(`filter: { position: { ${box} } }`)).toMatch(/idx_events_position\b/);
  const polygon = "withinPolygon: { coordinates: [[[13, 52], [14, 52], [14, 53], [13, 52]]] }";
  expect(await plan(`filter: { position: { ${polygon} } }`)).toMatch(/idx_events_position\b/);
});
