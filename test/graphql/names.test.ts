/** @module-tag long */
// Tables whose names and columns are anything that PostgreSQL takes have an API all the same.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create table production.categories (id integer primary key, title text, products integer);
    create table production.products (
      id integer primary key,
      row_id text,
      category_id integer constraint fk_category references production.categories (id),
      category text,
      category_by_category_id text,
      dim_date text,
      made_on date
    );
    create index on production.products (category_id);
    create table production."Odd Columns" (
      "%" integer primary key, "$" text, "a b" text, a_b text, "a-b" text, "ID" text, "i d" text, "__typename" text, "größe" text
    );
    select strata.add_dataset(d) from unnest(array['categories', 'products', 'Odd Columns']) d;
    insert into production.categories values (1, 'Toys', 7);
    insert into production.products values (5, 'fifth', 1, 'toys', 'x', 'y', '2026-01-31');
    select strata.reconcile();`,
  );
});
afterAll(() => server.close());

const ask = async (query: string, who: "reader" | "operator" = "reader") => {
  const { data, errors } = await server.ask(who, query);
  expect(errors, query).toEqual([]);
  return data;
};
const fieldsOf = async (type: string): Promise<string[]> => {
  const { __type } = await ask(`{ __type(name: "${type}") { fields { name } inputFields { name } } }`);
  return (__type.fields ?? __type.inputFields).map(({ name }: { name: string }) => name);
};

test("a relation whose name a column has is called after the columns that refer, too", async () => {
  const { products, categories } = await ask(`{
    products { nodes { rowId rowId_2 categoryId category categoryByCategoryId dimDate categoryByCategoryIdRow { title } madeOnDimDate { year } } }
    categories { nodes { rowId products productsByCategoryId { totalCount nodes { rowId } } } }
  }`);
  expect(products.nodes).toEqual([
    {
      rowId: 5,
      rowId_2: "fifth",
      categoryId: 1,
      category: "toys",
      categoryByCategoryId: "x",
      dimDate: "y",
      categoryByCategoryIdRow: { title: "Toys" },
      madeOnDimDate: { year: 2026 },
    },
  ]);
  expect(categories.nodes).toEqual([
    { rowId: 1, products: 7, productsByCategoryId: { totalCount: 1, nodes: [{ rowId: 5 }] } },
  ]);
});

test("columns have different names, and each has one", async () => {
  const names = ["column1", "column2", "aB", "aB_2", "aB_3", "rowId", "iD", "_typename", "grosse"];
  expect(await fieldsOf("OddColumnInput")).toEqual(expect.arrayContaining(names));
  expect(await fieldsOf("IngestOddColumnsRow")).toHaveLength(names.length);
  await ask(
    `mutation { createOddColumn(input: { oddColumn: { column1: 3, column2: "dollar", aB: "first", aB_2: "second", aB_3: "third", rowId: "id", iD: "i d", _typename: "t", grosse: "g" } }) { clientMutationId } }`,
    "operator",
  );
  const { rows } = await server.database.pool.query('select * from production."Odd Columns"');
  expect(rows).toMatchObject([
    {
      "%": 3,
      $: "dollar",
      "a b": "first",
      a_b: "second",
      "a-b": "third",
      ID: "id",
      "i d": "i d",
      __typename: "t",
      größe: "g",
    },
  ]);
  const { oddColumns } = await ask(
    "{ oddColumns(filter: { column1: { equalTo: 3 } }) { nodes { column1 aB_2 } } }",
  );
  expect(oddColumns.nodes).toEqual([{ column1: 3, aB_2: "second" }]);
});
