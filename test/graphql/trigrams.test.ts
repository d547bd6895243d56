/** @module-tag long */
// Texts by what is within them and by any case: where a trigram index serves it, and refused by name elsewhere.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create extension if not exists pg_trgm;
    create table production.books (book_id integer primary key, title text not null, author text not null, note text);
    create index on production.books using gin (title gin_trgm_ops);
    create index on production.books (author);
    create table production.loans (loan_id integer primary key, book_id integer references production.books);
    create index on production.loans (book_id);
    grant select on production.books, production.loans to strata_reader;
    create view analytics.titles as select title from production.books;
    grant select on analytics.titles to strata_reader;
    insert into production.books values (1, 'The Trial', 'Kafka', ''), (2, 'trial and error', 'N.', ''), (3, '100% Wool', 'Anon', ''), (4, '100 sheep', 'Anon', '');
    insert into production.loans values (1, 1), (2, 3);
    select strata.reconcile();`,
  );
});
afterAll(() => server.close());

/** A field of the server's own is planned. */
const PATHS = ["", "query { __typename }"];
const CASES: [filter: string, ids: number[]][] = [
  ['contains: "rial"', [1, 2]],
  ['contains: "Trial"', [1]],
  ['containsInsensitive: "TRIAL"', [1, 2]],
  ['containsInsensitive: "0% w"', [3]],
  ['startsWithInsensitive: "TRI"', [2]],
  ['equalToInsensitive: "the trial"', [1]],
  ['equalToInsensitive: "the_trial"', []],
];

test.each(PATHS.flatMap((path) => CASES.map(([filter, ids]) => [filter, path, ids] as const)))(
  "%s %s",
  async (filter, path, ids) => {
    const { data, errors } = await server.ask(
      "reader",
      `{ books(filter: { title: { ${filter} } }) { nodes { bookId } } loans(filter: { book: { title: { ${filter} } } }) { totalCount }
         titles(filter: { title: { ${filter} } }) { totalCount } ${path} }`,
    );
    expect(errors).toEqual([]);
    expect(data.books.nodes.map(({ bookId }: { bookId: number }) => bookId)).toEqual(ids);
    expect(data.loans.totalCount).toBe([1, 3].filter((id) => ids.includes(id)).length);
    expect(data.titles.totalCount).toBe(ids.length);
  },
);

test.each(["contains", "containsInsensitive", "startsWithInsensitive", "equalToInsensitive"])(
  "%s of a column without the index is refused, with what would serve it",
  async (operator) => {
    const ask = () =>
      server.ask("reader", `{ books(filter: { author: { ${operator}: "kafka" } }) { totalCount } }`);
    const { errors } = await ask();
    expect(errors).toMatchObject([
      {
        message: expect.stringMatching(
          /^`\w+` of `author` is served by no index; .* GIN index of trigrams \(gin_trgm_ops\) on the column$/,
        ),
        path: ["books", "totalCount"],
        extensions: { code: "BAD_USER_INPUT" },
      },
    ]);
  },
);

test("a text that has no trigram is refused", async () => {
  const { errors } = await server.ask(
    "reader",
    `{ books(filter: { title: { contains: "ab" } }) { totalCount } }`,
  );
  expect(errors).toMatchObject([{ message: "`contains` of `title` needs at least 3 characters" }]);
});

test("the index is used, and gives no order", async () => {
  await server.database.pool.query(
    "insert into production.books select n, md5(n::text), 'x', '' from generate_series(10, 5000) n; analyze production.books",
  );
  for (const operator of ["like", "ilike"]) {
    const plans = (await server.database.pool.query(
      `begin; set local enable_seqscan = off;
       explain select count(*) from production.books where title ${operator} '%abcde%'; commit`,
    )) as unknown as { rows: unknown[] }[];
    expect(JSON.stringify(plans[2]!.rows)).toContain("books_title_idx");
  }
  const { data } = await server.ask("operator", `{ __type(name: "BookOrderBy") { enumValues { name } } }`);
  const names = data.__type.enumValues.map(({ name }: { name: string }) => name);
  expect(names).toContain("AUTHOR_ASC");
  expect(names).not.toContain("TITLE_ASC");
});
