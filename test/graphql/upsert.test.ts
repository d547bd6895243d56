/** @module-tag long */
// An upsert for every table that operators insert into and update, by each key that they can give.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

const TABLES = `
  create table production.order_lines (
    order_id integer,
    line_no integer,
    placed_at timestamptz not null,
    sku varchar(40) unique,
    price numeric(10, 2),
    tags text[],
    details jsonb,
    spot geometry(Point, 4326),
    primary key (order_id, line_no)
  );
  -- Read back by a time with microseconds; its sku is not the operator's to change.
  create table production.readings (
    read_at timestamptz primary key,
    sku text,
    value numeric
  );
  -- Neither has a key to upsert by: of the first nothing is left to change, of the others no constraint is of use.
  create table production.links (a integer, b integer, primary key (a, b));
  create table production.deferred (code text unique deferrable, value integer);
  create table production.tagged (code text, value integer);
  comment on table production.tagged is '@unique code';
  create table production.parted (code integer primary key, value integer) partition by list (code);
  create table production.numbered (number serial primary key, value integer);
  create table production.inserted (code text primary key, value integer);
  create view production.viewed as select code, value from production.inserted;
  comment on view production.viewed is '@primaryKey code';
  -- A function of one's own has the name already.
  create table production.gadgets (code text primary key, value integer);
  create function production.upsert_gadget(code text) returns integer language sql volatile as 'select 1';
  select strata.add_metric('line_prices', $$ select sku, sum(price) as price from production.order_lines group by sku $$);
  grant insert, update on analytics.line_prices to strata_operator;

  grant select on all tables in schema production to strata_reader;
  grant insert, update on production.order_lines, production.links, production.deferred, production.tagged,
    production.parted, production.numbered, production.viewed, production.gadgets to strata_operator;
  grant insert, update (value) on production.readings to strata_operator;
  grant insert on production.inserted to strata_operator;
  grant execute on function production.upsert_gadget to strata_operator;
  select strata.reconcile();`;

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp({}, {}, TABLES);
});
afterAll(() => server.close());

const upsertLine = `mutation ($input: UpsertOrderLineInput!) { upsertOrderLine(input: $input) {
  created orderLine { orderId lineNo placedAt sku price tags details spot { longitude latitude } } query { orderLines { totalCount } } } }`;

async function upsert(input: object, mutation = upsertLine) {
  const { data, errors } = await server.ask("operator", mutation, { input });
  expect(errors).toEqual([]);
  return Object.values(data)[0] as Record<string, any>;
}

test("by a key of several columns, or by another", async () => {
  const orderLine = {
    orderId: 1,
    lineNo: 2,
    placedAt: "2025-01-04T10:00:00.123456Z",
    sku: "A1",
    tags: ["red", "b,c"],
    details: { organic: true },
    spot: { longitude: 1, latitude: 2 },
  };
  const by = "ORDER_ID_AND_LINE_NO";
  const created = await upsert({ by, orderLine });
  expect(created).toMatchObject({
    created: true,
    orderLine: { ...orderLine, price: null },
  });
  const { placedAt } = orderLine;
  expect(await upsert({ by, orderLine: { orderId: 1, lineNo: 2, placedAt, price: "2.50" } })).toEqual({
    created: false,
    orderLine: { ...created.orderLine, price: "2.50" },
    query: { orderLines: { totalCount: 1 } },
  });
  expect(await upsert({ by, orderLine: { orderId: 1, lineNo: 3, placedAt } })).toMatchObject({
    created: true,
    query: { orderLines: { totalCount: 2 } },
  });
  // The default is what is unique besides the primary key.
  expect(await upsert({ orderLine: { orderId: 1, lineNo: 4, placedAt, sku: "A1" } })).toMatchObject({
    created: false,
    orderLine: { lineNo: 4, price: "2.50" },
    query: { orderLines: { totalCount: 2 } },
  });
});

test("a row is read back by its key to the microsecond", async () => {
  const mutation = `mutation ($input: UpsertReadingInput!) {
    upsertReading(input: $input) { created reading { readAt sku value } } }`;
  const reading = { readAt: "2025-01-04T10:00:00.123456Z", sku: null, value: "1" };
  const { sku, ...given } = reading;
  expect(await upsert({ reading: given }, mutation)).toEqual({ created: true, reading: { ...given, sku } });
  const changed = { ...given, sku: "A1" };
  const { errors } = await server.ask("operator", mutation, { input: { reading: changed } });
  expect(errors).toMatchObject([{ extensions: { code: "FORBIDDEN" } }]);
});

test("a key that is not given whole recognises no row", async () => {
  const placedAt = "2025-01-04T10:00:00Z";
  const ask = (input: object) => server.ask("operator", upsertLine, { input });
  expect((await ask({ orderLine: { orderId: 9, lineNo: 9, placedAt, sku: null } })).errors).toMatchObject([
    { message: "An upsert by SKU needs sku; not given: sku.", extensions: { code: "BAD_USER_INPUT" } },
  ]);
});

test("what has no key to upsert by has no upsert", async () => {
  const { data } = await server.ask(
    "operator",
    `{ mutation: __type(name: "Mutation") { fields { name } }
       line: __type(name: "OrderLineUniqueKey") { enumValues { name description } }
       gadget: __type(name: "UpsertGadgetInput") { inputFields { name } } }`,
  );
  const names = data.mutation.fields.map(({ name }: { name: string }) => name);
  expect(names).toEqual(
    expect.arrayContaining(["createLink", "createDeferred", "createTagged", "createParted"]),
  );
  expect(names.filter((name: string) => name.startsWith("upsert")).sort()).toEqual(
    ["upsertGadget", "upsertOrderLine", "upsertReading", "upsertUser"].sort(),
  );
  expect(data.line.enumValues).toEqual([
    { name: "ORDER_ID_AND_LINE_NO", description: "The order id and line no." },
    { name: "SKU", description: "The sku." },
  ]);
  expect(data.gadget.inputFields).toContainEqual({ name: "code" });
});

test("a database without any such table has its API all the same", async () => {
  const bare = await createTestApp({}, {}, "drop table production.users cascade");
  try {
    const { data } = await bare.ask("operator", `{ __type(name: "Mutation") { fields { name } } }`);
    const names = data.__type.fields.map(({ name }: { name: string }) => name);
    expect(names).toContain("createEvent");
    expect(names.filter((name: string) => name.startsWith("upsert"))).toEqual([]);
  } finally {
    await bare.close();
  }
});
