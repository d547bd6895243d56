/** @module-tag long */
// Values of less common types are what the database holds, to the last digit.
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";

let server: TestApp;
beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create table production.kinds (
      kind_id integer primary key,
      days daterange, times tstzrange, numbers numrange, list daterange[],
      span interval, price money, bytes bytea,
      ranges int4multirange, position pg_lsn, positions pg_lsn[]
    );
    create index on production.kinds (price);
    grant select on production.kinds to strata_reader;
    grant insert, update, delete on production.kinds to strata_operator;
    insert into production.kinds values
      (1, '[2026-01-01,2026-02-01)', '[2026-01-01,)', '[1,2]', array[null, '(,2026-01-01)']::daterange[], '-01:59:58.5', 2.5, '\\xdeadbeef', '{[1,3),[5,7)}', '16/B374D848', '{0/1,NULL}'),
      (2, '(,)', '(,)', '(,)', '{}', '-00:00:00.5', 3, '', null, null, null),
      (3, null, null, null, null, null, null, null, null, null, null),
      (4, null, null, null, null, '1 day 00:00:01.000001', null, null, null, null, null),
      (5, null, null, null, null, '-1 year +3 days 04:00', null, null, null, null, null);
    select strata.reconcile();`,
  );
});
afterAll(() => server.close());

const read = async (query: string, who: "reader" | "operator" = "reader") => {
  const { data, errors } = await server.ask(who, query);
  expect(errors, query).toEqual([]);
  return data;
};

test("a range that is null is null, and not the range without bounds", async () => {
  const bounds = "{ start { value inclusive } end { value inclusive } }";
  const { kinds } = await read(
    `{ kinds(first: 3, orderBy: [KIND_ID_ASC]) { nodes { days ${bounds} times ${bounds} numbers ${bounds} list ${bounds} } } }`,
  );
  const unbounded = { start: null, end: null };
  expect(kinds.nodes).toEqual([
    {
      days: {
        start: { value: "2026-01-01", inclusive: true },
        end: { value: "2026-02-01", inclusive: false },
      },
      times: { start: { value: "2026-01-01T00:00:00.000000Z", inclusive: true }, end: null },
      numbers: { start: { value: "1", inclusive: true }, end: { value: "2", inclusive: true } },
      list: [null, { start: null, end: { value: "2026-01-01", inclusive: false } }],
    },
    { days: unbounded, times: unbounded, numbers: unbounded, list: [] },
    { days: null, times: null, numbers: null, list: null },
  ]);
});

test("intervals keep fractions of seconds, negative ones too", async () => {
  const { kinds } = await read(
    "{ kinds(orderBy: [KIND_ID_ASC]) { nodes { span { years months days hours minutes seconds } } } }",
  );
  const zero = { years: 0, months: 0, days: 0, hours: 0, minutes: 0, seconds: 0 };
  expect(kinds.nodes.map(({ span }: { span: unknown }) => span)).toEqual([
    { ...zero, hours: -1, minutes: -59, seconds: -58.5 },
    { ...zero, seconds: -0.5 },
    null,
    { ...zero, days: 1, seconds: 1.000001 },
    { ...zero, years: -1, days: 3, hours: 4 },
  ]);
});

test("money has a sum, and no mean, which PostgreSQL has not", async () => {
  const { kinds } = await read(
    "{ kinds { aggregates { sum { price } max { price } average { span { seconds } } } } }",
  );
  expect(kinds.aggregates).toEqual({
    sum: { price: 5.5 },
    max: { price: 3 },
    average: { span: { seconds: expect.any(Number) } },
  });
  for (const type of ["KindAverageAggregates", "KindHavingAverageInput", "KindHavingSumInput"]) {
    const { __type } = await read(`{ __type(name: "${type}") { fields { name } inputFields { name } } }`);
    expect((__type.fields ?? __type.inputFields).map(({ name }: { name: string }) => name)).not.toContain(
      "price",
    );
  }
});

test("bytes are base64, and what is not is refused", async () => {
  const create = (bytes: string) =>
    server.ask(
      "operator",
      "mutation ($bytes: Base64EncodedBinary) { upsertKind(input: { kind: { kindId: 9, bytes: $bytes } }) { kind { bytes } } }",
      { bytes },
    );
  for (const [given, expected] of [
    ["3q2+7w==", "3q2+7w=="],
    ["3q2-7w", "3q2+7w=="],
    ["3q2+\n7w==\n", "3q2+7w=="],
    ["", ""],
  ])
    expect(await create(given!)).toMatchObject({
      data: { upsertKind: { kind: { bytes: expected } } },
      errors: [],
    });
  for (const given of ["\\xdeadbeef", "not base64!!", "3q2+7", "3=2+"]) {
    const { errors } = await create(given);
    expect(errors[0]?.message, given).toContain('is not base64 such as \\"3q2+7w==\\"'.replaceAll("\\", ""));
  }
});

test("types that GraphQL knows nothing of are texts, as PostgreSQL writes them", async () => {
  const fields = "{ ranges position positions }";
  const { kinds } = await read(`{ kinds(first: 1, orderBy: [KIND_ID_ASC]) { nodes ${fields} } }`);
  expect(kinds.nodes).toEqual([
    { ranges: "{[1,3),[5,7)}", position: "16/B374D848", positions: ["0/1", null] },
  ]);
  const { upsertKind } = await read(
    `mutation { upsertKind(input: { kind: { kindId: 12, ranges: "{[7,8),[8,9)}", position: "0/F", positions: ["0/2"] } }) { kind ${fields} } }`,
    "operator",
  );
  expect(upsertKind.kind).toEqual({ ranges: "{[7,9)}", position: "0/F", positions: ["0/2"] });
  const { errors } = await server.ask(
    "operator",
    'mutation { createKind(input: { kind: { kindId: 13, ranges: "nonsense" } }) { clientMutationId } }',
  );
  expect(errors[0]!.extensions.code).toBe("BAD_USER_INPUT");
});

test("a number that JSON does not have is null, and its error is no fault of the server", async () => {
  await server.database.pool.query(`
    create table production.readings (reading_id integer primary key, value double precision);
    grant select on production.readings to strata_reader;
    insert into production.readings values (1, 'Infinity'), (2, 'NaN'), (3, 1.5);
    select strata.reconcile();`);
  const inner = "{ readings(orderBy: [READING_ID_ASC]) { nodes { value } } }";
  await expect
    .poll(async () => (await server.ask("reader", inner)).data?.readings?.nodes, { timeout: 30_000 })
    .toEqual([{ value: null }, { value: null }, { value: 1.5 }]);
  for (const query of [inner, `{ ... @include(if: true) ${inner} }`]) {
    const { errors } = await server.ask("reader", query);
    expect(errors.map(({ message, extensions }) => [message, extensions.code])).toEqual([
      [
        "The value is Infinity, for which JSON has no number; a view can show the column as text",
        "NOT_REPRESENTABLE",
      ],
      [
        "The value is NaN, for which JSON has no number; a view can show the column as text",
        "NOT_REPRESENTABLE",
      ],
    ]);
  }
});
