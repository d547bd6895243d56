/** @module-tag long */
// Columns that a CHECK limits to a few names are enums, wherever they are shown; in the database they stay text.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create type production.way as enum ('by road', 'by-road', 'true', '2nd hand', 'By_Sea', 'über Land', '%', '*', '', '✈', '⛴', '½', '_-_');
    create table production.parcels (
      parcel_id integer primary key,
      size varchar(10) not null check (size in ('S', 'M', 'L')),
      state text default 'new' constraint known_state check (state in ('new', 'on its way', 'lost')),
      color text check (color = any (array['red', 'green'])),
      kind text check (kind in ('a', 'true')),
      user_id integer references production.users,
      way production.way,
      ways production.way[]
    );
    comment on column production.parcels.size is E'@enumerated\\nHow large it is.';
    comment on column production.parcels.state is '@enumerated';
    comment on column production.parcels.color is '@enumerated';
    comment on column production.parcels.kind is '@enumerated';
    create index on production.parcels (size);
    create index on production.parcels (state);
    create index on production.parcels (color);
    create index on production.parcels (way);
    grant select on production.parcels to strata_reader;
    grant insert, update, delete on production.parcels to strata_operator;
    create view analytics.sizes as select size, count(*) as parcels from production.parcels group by size;
    create view analytics.sizes_again as select s.size as shown, s.parcels from analytics.sizes s;
    grant select on analytics.sizes, analytics.sizes_again to strata_reader;
    select strata.add_metric('kept_parcels', $$ select size, count(*) as parcels from production.parcels group by size $$);
    insert into production.users (user_id, username, email) values (1, 'ada', 'ada@example.org');
    insert into production.parcels values (1, 'S', 'new', 'red', 'a', 1), (2, 'L', 'on its way', null, 'true', 1), (3, 'S', 'lost', 'green', null, null);
    insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
    values (1, 1, 5, 'failed', '2025-01-01'), (2, 1, 5, 'completed', '2025-01-02'), (3, 1, 5, 'failed', '2025-01-03');
    select strata.reconcile();
    select strata.refresh();`,
  );
});
afterAll(() => server.close());

const read = async (query: string, variables?: unknown, who: "reader" | "operator" = "reader") => {
  const { data, errors } = await server.ask(who, query, variables);
  expect(errors, query).toEqual([]);
  return data;
};
const typeOf = async (type: string, field: string): Promise<string> => {
  const { __type } = await read(
    `{ __type(name: "${type}") { fields { name type { name ofType { name } } } inputFields { name type { name ofType { name } } } } }`,
  );
  const found = (__type.fields ?? __type.inputFields).find(({ name }: { name: string }) => name === field);
  return found.type.name ?? `${found.type.ofType.name}!`;
};
const valuesOf = async (type: string): Promise<string[] | undefined> =>
  (await read(`{ __type(name: "${type}") { enumValues { name } } }`)).__type?.enumValues.map(
    ({ name }: { name: string }) => name,
  );

test("a list of names is an enum, in tables, views, metrics and inputs; any other text stays a String", async () => {
  expect(await valuesOf("ParcelSize")).toEqual(["S", "M", "L"]);
  for (const [type, field, expected] of [
    ["Parcel", "size", "ParcelSize!"],
    ["ParcelInput", "size", "ParcelSize!"],
    ["ParcelPatch", "size", "ParcelSize"],
    ["ParcelFilter", "size", "ParcelSizeFilter"],
    ["Size", "size", "ParcelSize!"],
    ["SizesAgain", "shown", "ParcelSize!"],
    ["KeptParcel", "size", "ParcelSize!"],
    ["Parcel", "color", "ParcelColor"],
    ["Parcel", "state", "String"],
    ["Parcel", "kind", "String"],
    ["PipelineRun", "status", "PipelineRunStatus!"],
    ["PipelineRun", "step", "PipelineRunStep!"],
    ["PipelineRun", "trigger", "PipelineRunTrigger!"],
    ["PipelineRun", "dataset", "DatasetName"],
    ["RetryQuarantinedInput", "dataset", "DatasetName"],
    ["DiscardQuarantinedInput", "dataset", "DatasetName"],
    ["Transaction", "status", "String"],
  ] as const)
    expect(await typeOf(type, field), `${type}.${field}`).toBe(expected);
  expect(await valuesOf("DatasetName")).toEqual(["events", "transactions", "users"]);
});

/** A field of the server's own is planned. */
test.each(["", "query { __typename }"])(
  "filters, orders, cursors and groups work with it %s",
  async (extra) => {
    const page = `query ($status: String, $after: Cursor) {
    transactions(first: 1, filter: { status: { equalTo: $status } }, after: $after) {
      totalCount nodes { transactionId status } pageInfo { endCursor hasNextPage } } ${extra} }`;
    const first = (await read(page, { status: "failed" })).transactions;
    expect(first).toMatchObject({ totalCount: 2, nodes: [{ transactionId: 1, status: "failed" }] });
    const second = (await read(page, { status: "failed", after: first.pageInfo.endCursor })).transactions;
    expect(second).toMatchObject({ nodes: [{ transactionId: 3 }], pageInfo: { hasNextPage: false } });
    const data = await read(`{
    parcels(first: 2, orderBy: [SIZE_ASC], filter: { color: { in: [red, green] } }) { nodes { parcelId size color } pageInfo { endCursor } }
    all: parcels(orderBy: [SIZE_ASC, PARCEL_ID_DESC], filter: { or: [{ size: { notEqualTo: S } }, { color: { isNull: false } }] }) { edges { cursor node { parcelId size color } } }
    sizes(orderBy: [SIZE_DESC]) { nodes { size parcels } }
    keptParcels(filter: { size: { equalTo: L } }) { nodes { size parcels } } ${extra} }`);
    expect(data.parcels.nodes).toEqual([
      { parcelId: 1, size: "S", color: "red" },
      { parcelId: 3, size: "S", color: "green" },
    ]);
    expect(data.all.edges.map(({ node }: { node: { size: string } }) => node.size)).toEqual(["L", "S", "S"]);
    expect(data.sizes.nodes).toEqual([
      { size: "S", parcels: "2" },
      { size: "L", parcels: "1" },
    ]);
    expect(data.keptParcels.nodes).toEqual([{ size: "L", parcels: "1" }]);
    const after = `{ parcels(first: 5, orderBy: [SIZE_ASC], after: "${data.parcels.pageInfo.endCursor}") { nodes { parcelId } } ${extra} }`;
    expect((await read(after)).parcels.nodes).toEqual([]);
    const groups = await read(
      `{ parcels { groupedAggregates(groupBy: [SIZE]) { keys distinctCount { parcelId } } } ${extra} }`,
    );
    expect(groups.parcels.groupedAggregates.map(({ keys }: { keys: string[] }) => keys[0]).sort()).toEqual([
      "L",
      "S",
    ]);
  },
);

test("a value that is none is refused by its name", async () => {
  const { errors } = await server.ask(
    "reader",
    "{ parcels(filter: { color: { equalTo: blue } }) { totalCount } }",
  );
  expect(errors[0]).toMatchObject({
    message: expect.stringContaining('Value "blue" does not exist in "ParcelColor" enum'),
    extensions: { code: "GRAPHQL_VALIDATION_FAILED" },
  });
  const create =
    "mutation ($parcel: ParcelInput!) { createParcel(input: { parcel: $parcel }) { parcel { size } } }";
  expect(
    (await read(create, { parcel: { parcelId: 9, size: "M" } }, "operator")).createParcel.parcel.size,
  ).toBe("M");
  const refused = await server.ask("operator", create, { parcel: { parcelId: 10, size: "XL" } });
  expect(refused.errors[0]!.message).toContain('Value "XL" does not exist in "ParcelSize" enum');
});

test("runs are filtered by their enums", async () => {
  const ask =
    "{ pipelineRuns(filter: { step: { in: [refresh, transform] }, status: { equalTo: succeeded } }, orderBy: [STEP_ASC]) { nodes { step status trigger dataset } } }";
  expect(await read(ask)).toEqual({ pipelineRuns: { nodes: [] } });
  const { transformStaging } = await read(
    "mutation { transformStaging { run { step status trigger } } }",
    {},
    "operator",
  );
  expect(transformStaging.run).toEqual({ step: "transform", status: "succeeded", trigger: "api" });
  expect((await read(ask)).pipelineRuns.nodes).toEqual([
    { step: "transform", status: "succeeded", trigger: "api", dataset: null },
  ]);
});

test("a type of PostgreSQL keeps names that GraphQL has, and gets others for values that are none", async () => {
  const names = ["by_road", "by_road_2", "_true", "_2nd_hand", "By_Sea", "uber_Land"];
  const symbols = ["PERCENT", "ASTERISK", "_EMPTY_", "SYMBOL", "SYMBOL_2", "_1_2", "_"];
  expect(await valuesOf("Way")).toEqual([...names, ...symbols]);
  for (const [i, way] of [...names, ...symbols].entries()) {
    const parcelId = 100 + i;
    const create = `mutation { createParcel(input: { parcel: { parcelId: ${parcelId}, size: S, way: ${way}, ways: [${way}] } }) { parcel { way ways } } }`;
    expect(await read(create, {}, "operator")).toEqual({ createParcel: { parcel: { way, ways: [way] } } });
    const found = await read(
      "query ($way: Way!) { parcels(filter: { way: { equalTo: $way } }) { nodes { parcelId way ways } } }",
      { way },
    );
    expect(found).toEqual({ parcels: { nodes: [{ parcelId, way, ways: [way] }] } });
  }
  const { rows } = await server.database.pool.query(
    "select distinct way::text from production.parcels where way is not null",
  );
  expect(rows).toHaveLength(13);
});
