/** @module-tag long */
// One's own tables, views, metrics and functions are in the API by their grants, without a line of TypeScript.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createApp } from "../../src/http/app.ts";
import { createTestApp, type TestApp } from "../support/app.ts";

const SHOP = `
  create table production.products (
    sku varchar(40) primary key,
    name varchar(200) not null unique,
    category text not null,
    price numeric(10, 2) not null,
    cost numeric generated always as (price / 2) stored,
    details jsonb,
    notes json,
    tags text[],
    area geometry(Polygon, 4326),
    supplier_price numeric,
    nobodys text,
    released date,
    withdrawn date,
    source_seq bigint
  );
  comment on table production.products is 'Something we sell; one row per product.';
  comment on column production.products.category is 'What kind of thing it is.';
  create index idx_products_category on production.products (category);
  create index idx_products_details on production.products using gin (details);
  create index idx_products_tags on production.products using gin (tags);
  grant select (sku, name, category, price, cost, details, notes, tags, area, released, withdrawn, source_seq)
    on production.products to strata_reader;
  grant select (supplier_price), insert, update (name, category, price, released), delete on production.products to strata_operator;

  create table production.order_lines (
    order_no integer,
    line_no integer,
    sku varchar(40) not null references production.products,
    quantity integer not null,
    ordered_at timestamp not null,
    ordered_day date generated always as (ordered_at::date) stored,
    primary key (order_no, line_no)
  );
  create index idx_order_lines_sku on production.order_lines (sku);
  create index idx_order_lines_quantity on production.order_lines (quantity);
  create index idx_order_lines_time on production.order_lines (ordered_at);
  grant select on production.order_lines to strata_reader;
  grant insert, update, delete on production.order_lines to strata_operator;

  create table production.hidden (hidden_id integer primary key);
  create table production.notes (note_id integer primary key, line_no integer, order_no integer,
    foreign key (order_no, line_no) references production.order_lines on delete cascade);
  create table production.marks (mark_id integer primary key, note_id integer references production.notes on delete cascade,
    sku varchar(40) references production.products on delete set null);
  grant select on production.marks to strata_reader;
  create table analytics.products (product_count integer primary key);
  create table production.query ("a b" integer primary key, "1st" date);
  create table production."odd name-1" ("source id" integer primary key);
  create table production.news (news_id integer primary key);
  select strata.add_dataset('news');
  grant select on analytics.products, production.query, production."odd name-1" to strata_reader;

  create view production.cheap_products as select sku, price, released from production.products where price < 10;
  create materialized view analytics.product_sales as
    select sku, sum(quantity) as sold from production.order_lines group by sku;
  create unique index idx_product_sales on analytics.product_sales (sku);
  grant select on production.cheap_products, analytics.product_sales to strata_reader;

  create function production.products_label(product production.products) returns text
    language sql stable as $$ select product.name || ' (' || product.sku || ')' $$;
  create function production.search_products(term text) returns setof production.products
    language sql stable security definer set search_path = pg_catalog as $$ select * from production.products where name ilike '%' || term || '%' $$;
  create function production.raise_prices(percent numeric) returns integer language sql volatile as $$
    with raised as (update production.products set price = price * (1 + percent / 100) returning 1)
    select count(*)::integer from raised $$;
  create function production.not_granted() returns integer language sql stable as 'select 1';
  create procedure production.a_procedure() language sql as 'select 1';
  revoke execute on all functions in schema production from public;
  grant execute on function production.products_label, production.search_products to strata_reader;
  grant execute on function production.raise_prices to strata_operator;
  grant execute on procedure production.a_procedure to strata_operator;

  insert into production.products (sku, name, category, price, details, tags, area, supplier_price, released) values
    ('A1', 'apple', 'fruit', 1, '{"organic": true}', '{red}', 'SRID=4326;POLYGON((0 0, 1 0, 1 1, 0 0))', 0.5, '2025-01-04'),
    ('B1', 'bean', 'vegetable', 20, '{}', '{green}', null, 7, '2025-01-06');
  insert into production.order_lines (order_no, line_no, sku, quantity, ordered_at) values
    (1, 1, 'A1', 3, '2025-01-04 10:00'), (1, 2, 'B1', 1, '2025-01-04 10:00'), (2, 1, 'A1', 4, '2025-01-06 23:59');
  refresh materialized view analytics.product_sales;
  select strata.add_metric('category_revenue', partition => 'date', query => $$
    select o.ordered_day as date, p.category, count(*) as sales, sum(o.quantity * p.price) as revenue
    from production.order_lines o join production.products p using (sku)
    group by 1, 2 $$);
  comment on table analytics.category_revenue is 'Revenue by day and category, as of the last refresh.';
  select strata.reconcile();
  select strata.refresh();`;

let server: TestApp;
const folder = mkdtempSync(join(tmpdir(), "strata-datasets-"));

beforeAll(async () => {
  writeFileSync(
    join(folder, "shop.json5"),
    `{ version: 1, config: { class: { "production.cheap_products": {
         description: "Products below ten.", // not for the comment
         tags: { primaryKey: "sku", foreignKey: "(sku) references production.products (sku)|@fieldName product" } } } } }`,
  );
  server = await createTestApp({ DATASETS_DIR: folder }, {}, SHOP);
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

async function ask(who: "reader" | "operator", query: string) {
  const response = await server.inject({
    method: "POST",
    url: "/graphql",
    headers: { accept: "application/graphql-response+json", ...server.as[who] },
    payload: { query },
  });
  return response.json<{ data: any; errors?: { message: string; extensions: { code: string } }[] }>();
}

async function read(query: string, who: "reader" | "operator" = "reader") {
  const { data, errors } = await ask(who, query);
  expect(errors).toBeUndefined();
  return data;
}

async function names(type: string): Promise<string[]> {
  const { __type } = await read(
    `{ __type(name: "${type}") { fields { name } inputFields { name } enumValues { name } } }`,
    "operator",
  );
  if (!__type) return [];
  return (__type.fields ?? __type.inputFields ?? __type.enumValues).map(({ name }: { name: string }) => name);
}

test("a table has relations, filters, aggregates and orders", async () => {
  const data = await read(`{
    product(sku: "A1") { name cost area tags releasedDimDate { dayName } orderLinesBySku { totalCount aggregates { sum { quantity } } } }
    orderLines(filter: { product: { category: { equalTo: "fruit" } } }, orderBy: [QUANTITY_DESC]) {
      nodes { orderNo quantity dimDate { isWeekend } product { name } } }
    tagged: products(filter: { tags: { contains: ["green"] } }) { nodes { sku } }
    organic: products(filter: { details: { contains: { organic: true } } }) { nodes { sku } }
    byDay: orderLines { groupedAggregates(groupBy: [ORDERED_AT_TRUNCATED_TO_DAY]) { keys sum { quantity } } }
    byWeekend: orderLines { groupedAggregates(groupBy: [DIM_DATE_IS_WEEKEND]) { keys sum { quantity } } } }`);
  expect(data).toMatchObject({
    product: {
      name: "apple",
      cost: expect.stringMatching(/^0\.50*$/),
      area: { type: "Polygon" },
      tags: ["red"],
      releasedDimDate: { dayName: "Saturday" },
      orderLinesBySku: { totalCount: 2, aggregates: { sum: { quantity: "7" } } },
    },
    orderLines: {
      nodes: [
        { orderNo: 2, quantity: 4, dimDate: { isWeekend: false }, product: { name: "apple" } },
        { orderNo: 1, quantity: 3, dimDate: { isWeekend: true }, product: { name: "apple" } },
      ],
    },
    tagged: { nodes: [{ sku: "B1" }] },
    organic: { nodes: [{ sku: "A1" }] },
  });
  const sums = (groups: { keys: string[]; sum: { quantity: string } }[]) =>
    Object.fromEntries(groups.map(({ keys, sum }) => [keys[0], sum.quantity]));
  expect(sums(data.byDay.groupedAggregates)).toEqual({
    "2025-01-04T00:00:00Z": "4",
    "2025-01-06T00:00:00Z": "4",
  });
  expect(sums(data.byWeekend.groupedAggregates)).toEqual({ true: "4", false: "4" });
});

test("a delete says what goes with the row, what stays, and what is in its way", async () => {
  const { __type } = await read(`{ __type(name: "Mutation") { fields { name description } } }`, "operator");
  const wordsOf = (name: string) =>
    __type.fields.find((field: { name: string }) => field.name === name).description;
  expect(wordsOf("deleteProduct")).toMatch(
    /key\. Its `marks` stay, without referring to it\. Rejected while `orderLines` refer to it\.$/,
  );
  expect(wordsOf("deleteOrderLine")).toMatch(
    /key\. Also deletes its `marks` and rows that the API does not show\.$/,
  );
});

test("scalars say where they are specified", async () => {
  const { __schema } = await read("{ __schema { types { kind name specifiedByURL } } }");
  const own = __schema.types.filter(
    ({ kind, name }: { kind: string; name: string }) =>
      kind === "SCALAR" && !/^(Int|Float|String|Boolean|ID)$/.test(name),
  );
  expect(own.map(({ name }: { name: string }) => name)).toContain("GeoJSON");
  for (const { name, specifiedByURL } of own) expect(specifiedByURL, name).toMatch(/^https:/);
});

test("columns, filters and inputs are what grants, indexes and types allow", async () => {
  const product = await names("Product");
  expect(product).toEqual(expect.arrayContaining(["supplierPrice", "withdrawnDimDate", "label"]));
  expect(
    product.filter((name) => /nobodys|sourceSeq|strataSource|dimDate$/i.test(name) && !/DimDate$/.test(name)),
  ).toEqual([]);
  expect((await ask("reader", "{ products(first: 1) { nodes { supplierPrice } } }")).errors).toMatchObject([
    { extensions: { code: "FORBIDDEN" } },
  ]);
  const filter = await names("ProductFilter");
  expect(filter).toEqual(expect.arrayContaining(["sku", "name", "category", "details", "tags"]));
  expect(filter.filter((name) => /^(price|notes|area|released|supplierPrice)$/.test(name))).toEqual([]);
  expect(
    (await names("ProductOrderBy")).filter((name) => /^(DETAILS|TAGS|NOTES|AREA|PRICE)/.test(name)),
  ).toEqual([]);
  // The operator may insert all columns, the computed ones aside, and update some.
  expect((await names("ProductInput")).sort()).toEqual(
    [
      "sku",
      "name",
      "category",
      "price",
      "details",
      "notes",
      "tags",
      "area",
      "supplierPrice",
      "nobodys",
      "released",
      "withdrawn",
    ].sort(),
  );
  expect((await names("ProductPatch")).sort()).toEqual(["category", "name", "price", "released"]);
  // Sums of keys say nothing.
  expect(await names("OrderLineSumAggregates")).toEqual(["quantity"]);
});

test("mutations are the operator's, and no reader's", async () => {
  const create = `mutation { createProduct(input: { product: { sku: "C1", name: "carrot", category: "vegetable", price: 3 } }) { product { sku cost } } }`;
  expect((await ask("reader", create)).errors).toMatchObject([{ extensions: { code: "FORBIDDEN" } }]);
  expect((await read(create, "operator")).createProduct.product).toMatchObject({ sku: "C1" });
  const raise = `mutation { raisePrices(input: { percent: 100 }) { result } }`;
  expect((await ask("reader", raise)).errors).toMatchObject([{ extensions: { code: "FORBIDDEN" } }]);
  expect((await read(raise, "operator")).raisePrices.result).toBe(3);
  await read(`mutation { raisePrices(input: { percent: -50 }) { result } }`, "operator");
  await read(`mutation { deleteProduct(input: { sku: "C1" }) { clientMutationId } }`, "operator");
});

test("functions are queries, computed columns and mutations, if they are granted", async () => {
  const data = await read(`{ searchProducts(term: "EA") { nodes { label } } }`);
  expect(data.searchProducts.nodes).toEqual([{ label: "bean (B1)" }]);
  const roots = [...(await names("Query")), ...(await names("Mutation"))];
  expect(roots.filter((name) => /notGranted|aProcedure|hidden/i.test(name))).toEqual([]);
  expect(
    (await ask("reader", `{ searchProducts(term: "", first: 100000) { nodes { sku } } }`)).errors,
  ).toMatchObject([{ extensions: { code: "PAGE_SIZE_EXCEEDED" } }]);
});

test("views and materialized views have keys by index and by tag file", async () => {
  const data = await read(`{
    productSale(sku: "A1") { id sold }
    cheapProduct(sku: "A1") { price product { name } dimDate { year } }
    __type(name: "CheapProduct") { description } }`);
  expect(data).toMatchObject({
    productSale: { id: expect.any(String), sold: "7" },
    cheapProduct: { price: "1.00", product: { name: "apple" }, dimDate: { year: 2025 } },
    __type: { description: "Products below ten." },
  });
});

test("a metric is there as of the last refresh and as of now", async () => {
  const page = `orderBy: [DATE_ASC, CATEGORY_ASC]) { nodes { date category sales revenue dimDate { isWeekend } }`;
  const data = await read(`{
    categoryRevenues(${page} aggregates { sum { revenue } } }
    categoryRevenuesLive(${page} } }`);
  const rows = [
    { date: "2025-01-04", category: "fruit", sales: "1", dimDate: { isWeekend: true } },
    { date: "2025-01-04", category: "vegetable", sales: "1", dimDate: { isWeekend: true } },
    { date: "2025-01-06", category: "fruit", sales: "1", dimDate: { isWeekend: false } },
  ];
  expect(data.categoryRevenues.nodes).toMatchObject(rows);
  expect(data.categoryRevenuesLive.nodes).toMatchObject(rows);
  const { nodes } = (await read(`{ categoryRevenues(first: 1) { nodes { id date category } } }`))
    .categoryRevenues;
  const found = await read(`{ node(id: "${nodes[0].id}") { ... on CategoryRevenue { date category } } }`);
  expect(found.node).toEqual({ date: nodes[0].date, category: nodes[0].category });
});

test("equal names and names that GraphQL cannot have are told apart", async () => {
  expect(await names("AnalyticsProduct")).toContain("productCount");
  expect(await names("ProductionQuery")).toEqual(expect.arrayContaining(["aB", "_1st", "dimDate"]));
  expect(await names("OddName1")).toContain("sourceId");
});

test("tag files that cannot be read are named", async () => {
  writeFileSync(join(folder, "broken.json5"), "{ version: 2 }");
  const attempt = createApp({
    config: server.database.config,
    database: server.database,
  });
  await expect(attempt).rejects.toThrow(/broken\.json5: expected \{ version: 1/);
  rmSync(join(folder, "broken.json5"));
});
