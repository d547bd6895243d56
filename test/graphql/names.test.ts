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

test("a table whose name means something else to GraphQL or Strata is called after its schema, too", async () => {
  const other = await createTestApp(
    {},
    {},
    `
    create type production.status as enum ('new', 'used');
    create type public.status as enum ('open', 'shut');
    create domain production.part as text;
    create type production.address as (street text, city text);
    create table production.statuses (id integer primary key, value production.status, door public.status, doors public.status[]);
    create table production.parts (id integer primary key, value production.part);
    create table production.addresses (id integer primary key, value production.address);
    create table production.points (id integer primary key, value point);
    create table production.paths (id integer primary key, value text);
    create table production.intervals (id integer primary key, value interval);
    create table production.times (id integer primary key, value time);
    create table production.date_ranges (id integer primary key, value daterange);
    do $$
    begin
      execute (select string_agg(format('create table production.%I (id integer primary key)', name), '; ') from unnest(array[
        'floats', 'strings', 'ids', 'geo_points', 'big_ints', 'lineages', 'freshness', 'datasets', 'pipeline_runs', 'user_filters',
        'user_edges', 'user_connections', 'user_inputs', 'user_payloads', 'ingest_users_rows']) name);
      perform strata.add_dataset(relname) from pg_class
      where relnamespace = 'production'::regnamespace and relkind = 'r'
        and relname not in ('users', 'events', 'transactions', 'dim_date');
    end $$;
    insert into production.statuses values (1, 'used', 'open', '{open,shut}');
    select strata.reconcile();`,
  );
  try {
    const { data, errors } = await other.ask(
      "operator",
      `{
        __schema { queryType { fields { name } } types { kind name enumValues { name } } }
        statuses { nodes { rowId value door doors } }
        pipelineRuns { nodes { step } }
        datasets(filter: { kind: { equalTo: "dataset" }, dataset: { equalTo: "floats" } }) { nodes { dataset } }
      }`,
    );
    expect(errors).toEqual([]);
    const { __schema, statuses, datasets } = data;
    expect(statuses.nodes).toEqual([{ rowId: 1, value: "used", door: "open", doors: ["open", "shut"] }]);
    expect(datasets.nodes).toEqual([{ dataset: "floats" }]);
    const names = (of: { name: string }[]): string[] => of.map(({ name }) => name);
    expect(names(__schema.queryType.fields)).toEqual(
      expect.arrayContaining([
        ..."parts addresses userInputRecords userPayloads".split(" "),
        ..."productionPoints productionPaths productionIntervals productionTimes productionDateRanges productionFloats".split(
          " ",
        ),
        ..."productionStrings productionIds productionGeoPoints productionBigInts productionLineages".split(
          " ",
        ),
        ..."productionFreshnesses productionDatasets productionPipelineRuns productionUserFilters".split(" "),
        ..."productionUserEdges productionUserConnections productionIngestUsersRows".split(" "),
      ]),
    );
    const enums = __schema.types.filter(({ name }: { name: string }) =>
      /^(Production|Public)Status$/.test(name),
    );
    expect(
      enums.map(({ name, enumValues }: { name: string; enumValues: { name: string }[] }) => [
        name,
        ...names(enumValues),
      ]),
    ).toEqual([
      ["ProductionStatus", "new", "used"],
      ["PublicStatus", "open", "shut"],
    ]);
  } finally {
    await other.close();
  }
});

test("functions whose names columns, relations or mutations have are called otherwise, or the others are", async () => {
  const other = await createTestApp(
    {},
    {},
    `
    create function production.users_email(u production.users) returns text language sql stable as $$ select left(u.email, 1) || '…' $$;
    create function production.users_events(u production.users) returns integer language sql stable as 'select 7';
    create function production.create_user(name text) returns text language sql volatile as $$ select 'made ' || name $$;
    revoke insert on production.transactions from strata_operator;
    create function production.create_transaction() returns integer language sql volatile as 'select 6';
    create function production.run_pipeline() returns integer language sql volatile as 'select 8';
    create function production.added("a b" integer, a_b integer, "%" integer) returns integer language sql stable as 'select $1 + $2 * 10 + $3 * 100';
    grant execute on all functions in schema production to strata_reader;
    insert into production.users (user_id, username, email) values (100, 'ann', 'ann@example.com');
    select strata.reconcile();`,
  );
  try {
    const { data, errors } = await other.ask(
      "operator",
      `mutation {
        productionCreateUser(input: { name: "ben" }) { result }
        createTransaction(input: {}) { result }
        productionRunPipeline(input: {}) { result }
        createUser(input: { user: { username: "cid", email: "cid@example.com" } }) { user { username } }
      }`,
    );
    expect(errors).toEqual([]);
    expect(data).toEqual({
      productionCreateUser: { result: "made ben" },
      createTransaction: { result: 6 },
      productionRunPipeline: { result: 8 },
      createUser: { user: { username: "cid" } },
    });
    const read = await other.ask(
      "operator",
      "{ user(userId: 100) { email productionEmail events eventsByUserId { totalCount } } added(aB: 1, aB_2: 2, argument3: 3) }",
    );
    expect(read.errors).toEqual([]);
    expect(read.data).toEqual({
      user: { email: "ann@example.com", productionEmail: "a…", events: 7, eventsByUserId: { totalCount: 0 } },
      added: 321,
    });
  } finally {
    await other.close();
  }
});
