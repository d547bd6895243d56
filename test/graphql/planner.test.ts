/** @module-tag long */
// What the planner answers where no statement is compiled: the same as where one is.
import { afterAll, beforeAll, expect, test } from "vitest";
import { answerOnSocket } from "../support/socket.ts";
import { createApi, type Api } from "./api.ts";

let api: Api;

beforeAll(async () => {
  api = await createApi();
  await api.database.pool.query(`
    insert into production.users (user_id, username, email, country)
    select n, 'user' || n, 'user' || n || '@example.org', (array['DE', 'SE', null])[1 + n % 3] from generate_series(1, 9) n;
    insert into production.transactions (user_id, amount, transaction_date)
    select 1 + n % 7, n, timestamp '2025-01-01' + n * interval '5 hours' from generate_series(1, 30) n;
    select strata.refresh(false)`);
});
afterAll(() => api.close());

/** A directive that changes nothing is not compiled. */
const planned = (query: string): string => `${query.replace("{", "{ ... @include(if: true) {")} }`;

test.each(["dailyUserMetrics", "dailyUserMetricsLive"])(
  "an order of %s given as a variable is the order",
  async (connection) => {
    const type = `${connection.replace(/^d/, "D").replace("Metrics", "Metric")}OrderBy`;
    const rows = "edges { cursor node { date country activeUsers } } pageInfo { startCursor endCursor }";
    for (const page of ["first: 3", "last: 3"])
      for (const order of ["PRIMARY_KEY_DESC", "DATE_DESC", "COUNTRY_DESC_NULLS_LAST", "ACTIVE_USERS_ASC"]) {
        const written = await api.read(planned(`{ ${connection}(${page}, orderBy: ${order}) { ${rows} } }`));
        const given: [string, string, unknown][] = [
          [`[${type}!]`, "$order", [order]],
          [`[${type}!]`, "$order", order],
          [`${type}!`, "[$order]", order],
          [`${type}!`, `[${order}, $order]`, "NATURAL"],
        ];
        for (const [variable, orderBy, value] of given) {
          const query = `query ($order: ${variable}) { ${connection}(${page}, orderBy: ${orderBy}) { ${rows} } }`;
          expect(await api.read(planned(query), { order: value }), `${order} as ${variable}`).toEqual(
            written,
          );
        }
      }
  },
);

test("an item may occur twice in a list with a variable", async () => {
  const query = planned(
    `query ($order: UserOrderBy!, $id: Int!) { users(orderBy: [$order, $order], filter: { userId: { in: [1, 1, $id, $id] } }) { nodes { userId } } }`,
  );
  const { users } = await api.read(query, { order: "PRIMARY_KEY_DESC", id: 3 });
  expect(users.nodes).toEqual([{ userId: 3 }, { userId: 1 }]);
});

test.each([
  "users(first: 3)",
  "users(last: 3)",
  "users(orderBy: USERNAME_DESC)",
  "dailyUserMetrics(orderBy: DATE_DESC)",
  "user(userId: 1) { transactions(first: 2)",
])("the cursors of %s are known without its rows", async (connection) => {
  const end = connection.includes("{") ? "} }" : "}";
  for (const asked of ["startCursor endCursor", "startCursor", "endCursor"])
    for (const beside of ["", "totalCount", "aggregates { distinctCount { __typename } }"]) {
      const read = async (rows: string) => {
        const page = `{ ${connection} { ${beside} ${rows} pageInfo { ${asked} } ${end} }`;
        return JSON.stringify(await api.read(planned(page))).match(/"(start|end)Cursor":[^,}]*/g);
      };
      const cursors = await read("");
      expect(cursors).toEqual(await read("edges { cursor }"));
      expect(cursors!.join()).not.toContain("null");
    }
});

const document = `{"long": 123456789012345678901234567890, "exact": 1.50, "list": [9007199254740993, {"1": -0.0}],
  "huge": ${"9".repeat(400)}, "text": "\\"1e999\\" €😀"}`;

/** As `test` writes it, without the spaces between its parts. */
const dense = (json: string): string => json.replace(/("(?:[^"\\]|\\.)*")|\s+/g, "$1");

test("a JSON document is answered as it is, by whichever way", async () => {
  const { rows } = await api.database.pool.query<{ id: string; text: string }>(
    `insert into production.events (event_type, event_data, event_time)
     select 'document', value::jsonb, '2025-01-01' from unnest($1::text[]) value
     returning event_id as id, event_data::text as text`,
    [
      [
        document,
        "1e400",
        "9007199254740993",
        '"text"',
        "true",
        "null",
        "[]",
        "[".repeat(3000) + "]".repeat(3000),
      ],
    ],
  );
  const origin = await api.listen();
  for (const { id, text } of rows) {
    const query = `{ event(eventId: "${id}") { eventData } }`;
    const expected = `{"data":{"event":{"eventData":${text}}}}`;
    for (const asked of [query, planned(query)]) {
      const headers = { accept: "application/graphql-response+json", ...api.as.operator };
      const { body } = await api.inject({
        method: "POST",
        url: "/graphql",
        headers,
        payload: { query: asked },
      });
      expect(body).toBe(expected);
    }
    // There it becomes objects on its way, which JavaScript walks by recursion.
    if (text.startsWith("[[")) continue;
    expect(dense(await answerOnSocket(origin, api.as.operator, { query }))).toContain(
      dense(expected.slice(1, -1)),
    );
  }
});

test("rows that only SQL can write are answered, and pages by cursor lose none of them", async () => {
  const { pool } = api.database;
  await pool.query(`
    insert into production.events (event_id, event_type, event_data, event_time, position) values
      (1001, 'odd', 'null', '-infinity', 'SRID=4326;POINT EMPTY'), (1002, 'odd', '{}', '0044-03-15 BC', null),
      (1003, 'odd', '{}', '0001-12-31 BC', 'SRID=4326;POINT(1 2)'), (1004, 'odd', '{}', '9999-12-31 23:59:59.999999', null),
      (1005, 'odd', '{}', '12000-01-01', null), (1006, 'odd', '{}', 'infinity', null)`);
  const of = 'filter: { eventType: { equalTo: "odd" } }, orderBy: EVENT_TIME_ASC';
  const expected = [
    { eventTime: "-infinity", eventDay: "-infinity", eventData: null, position: null },
    { eventTime: "-000043-03-15T00:00:00.000000Z", eventDay: "-000043-03-15", eventData: {}, position: null },
    {
      eventTime: "0000-12-31T00:00:00.000000Z",
      eventDay: "0000-12-31",
      eventData: {},
      position: { type: "Point", coordinates: [1, 2], longitude: 1, latitude: 2 },
    },
    { eventTime: "9999-12-31T23:59:59.999999Z", eventDay: "9999-12-31", eventData: {}, position: null },
    { eventTime: "+012000-01-01T00:00:00.000000Z", eventDay: "+012000-01-01", eventData: {}, position: null },
    { eventTime: "infinity", eventDay: "infinity", eventData: {}, position: null },
  ];
  const fields = "eventTime eventDay eventData position { type coordinates longitude latitude }";
  const query = `query ($after: Cursor) { events(${of}, first: 2, after: $after) { nodes { ${fields} } pageInfo { hasNextPage endCursor } } }`;
  for (const asked of [query, planned(query)]) {
    const rows: unknown[] = [];
    for (let after: string | null = null, more = true; more;) {
      const { events } = await api.read(asked, { after });
      rows.push(...events.nodes);
      ({ hasNextPage: more, endCursor: after } = events.pageInfo);
    }
    expect(rows).toEqual(expected);
  }
  const { events } = await api.read(`{ events(${of}) {
    aggregates { min { eventTime } max { eventTime eventDay } }
    groupedAggregates(groupBy: EVENT_TIME_TRUNCATED_TO_YEAR) { keys } } }`);
  expect(events.aggregates).toEqual({
    min: { eventTime: "-infinity" },
    max: { eventTime: "infinity", eventDay: "infinity" },
  });
  expect(events.groupedAggregates.map(({ keys }: any) => keys[0])).not.toContain(null);
  const near = await api.read(
    `{ events(nearestTo: { longitude: 0, latitude: 0 }, filter: { eventType: { equalTo: "odd" } }) { totalCount nodes { eventId } } }`,
  );
  expect(near.events).toEqual({ totalCount: 1, nodes: [{ eventId: "1003" }] });
  await pool.query("delete from production.events where event_type = 'odd'");
});

test("a list of lists is answered alike", async () => {
  await api.database.pool.query(
    `insert into staging.quarantine (dataset, stage, reasons) values ('users', 'transform', '{{a,b},{c,d}}'), ('users', 'transform', '[5:6]={a,b}')`,
  );
  const query = "{ quarantinedRows { nodes { reasons } } }";
  const [compiled, other] = [await api.ask("operator", query), await api.ask("operator", planned(query))];
  expect(compiled.data).toEqual(other.data);
  expect(compiled.errors.map(({ message }) => message)).toEqual(other.errors.map(({ message }) => message));
});
