/** @module-tag long */
// Reads that become one statement give the planner's answers, to the letter of each value.
import { isDeepStrictEqual } from "node:util";
import {
  getNamedType,
  getNullableType,
  isEnumType,
  isInputObjectType,
  isObjectType,
  parse,
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLList,
  type GraphQLObjectType,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from "grafast/graphql";
import { afterAll, beforeAll, expect, test } from "vitest";
import { compileRead } from "../../src/graphql/reads/compile.ts";
import { isAboutArguments } from "../../src/graphql/reads.ts";
import { createShapes } from "../../src/graphql/reads/shapes.ts";
import { createGraphql } from "../../src/graphql/graphql.ts";
import { isServer } from "../support/database.ts";
import { chance, type Chance } from "../support/random.ts";
import type { Answer } from "../support/app.ts";
import { createApi, type Api } from "./api.ts";

// A long run takes more of them on a server, where they are fast; both engines answer the same statements.
const IS_LONG = process.env.TEST_LONG === "1" && isServer;
const QUERIES = Number(process.env.READS_QUERIES ?? (IS_LONG ? 300 : 20));
const SEED = Number(process.env.READS_SEED ?? 1);

let api: Api;
let schema: GraphQLSchema;

beforeAll(async () => {
  api = await createApi();
  await api.database.pool.query(`
    insert into production.users (user_id, username, email, country, created_at, email_verified)
    select n, case n when 7 then E'O''Neil "\\\\" \\n\\tÄ€😀 %_' else 'user' || n end, 'p' || n || '@example.org',
      case when n % 4 > 0 then (array['UK', 'SE', 'Côte d''Ivoire'])[n % 4] end,
      timestamp '2024-12-01' + n * interval '1.000001 hour', n % 2 = 0
    from generate_series(1, 30) n;
    insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
    select n, 1 + n % 25, n + 0.5, (array['pending', 'completed', 'failed', 'refunded'])[1 + n % 4],
      timestamp '2024-12-31' + n * interval '1 hour' from generate_series(1, 120) n;
    insert into production.events (event_id, user_id, event_type, event_data, event_time)
    select n, nullif(n % 20, 0), 'view', '{"a": [1, null, "x"]}', timestamp '2025-01-01' + n * interval '1 hour'
    from generate_series(1, 60) n;
    insert into production.transactions (transaction_id, user_id, amount, transaction_date)
    select 120 + n, 1, 5, timestamp '2025-02-01' + n * interval '3 months' from generate_series(1, 6) n;
    select strata.refresh(false);
    -- Estimates of rows, which the API has, must not change between the two reads of a pair.
    do $$
    declare
      relation regclass;
    begin
      for relation in
        select c.oid from pg_class c
        where c.relkind in ('r', 'm') and c.relnamespace::regnamespace::text in ('staging', 'production', 'analytics', 'strata')
      loop
        execute format(case (select relkind from pg_class where oid = relation) when 'm' then 'alter materialized view' else 'alter table' end
          || ' %s set (autovacuum_enabled = false)', relation);
      end loop;
    end
    $$`);
  const { database } = api;
  const graphql = createGraphql({
    config: database.config,
    database,
  });
  schema = await graphql.instance.getSchema();
  await graphql.release();
});
afterAll(() => api.close());

const statementOf = (query: string, variables: Record<string, unknown> = {}) => {
  const document = parse(query);
  const operation = document.definitions[0] as OperationDefinitionNode;
  const read = compileRead(schema, document, operation, { defaultPageSize: 100, maxPageSize: 1000 });
  try {
    return read?.statementFor(variables);
  } catch (error) {
    // What a value is rejected for is the planner's to say, which is asked, too.
    if (isAboutArguments(error)) return undefined;
    throw error;
  }
};

const some = <T>(by: Chance, values: readonly T[], count: number): T[] => {
  const rest = [...values];
  return Array.from(
    { length: Math.min(count, rest.length) },
    () => rest.splice(by.below(rest.length), 1)[0]!,
  );
};

/** Of each type usual values, and those at its edges. */
const VALUES: Record<string, (by: Chance) => unknown> = {
  Int: (by) => by.pick([0, 1, 7, 24, 901, 2_000_000, 2_147_483_647, -2_147_483_648]),
  BigInt: (by) => by.pick(["0", "1", "30", "901", "9223372036854775807", "-9223372036854775808", "+7"]),
  BigFloat: (by) => by.pick(["0", "20.5", "99.99", "-0.00", "1e2", "99999999.99", "1e400", ".5"]),
  String: (by) =>
    by.pick(["UK", "SE", "Côte d'Ivoire", "user1", "", "%", "O'Neil", "pending", "view", "transactions", "odd", "€😀", "\u0000", "a".repeat(300)]),
  Boolean: (by) => by.is(0.5),
  Date: (by) => by.pick(["2024-12-31", "2025-01-02", "0001-01-01", "9999-12-31", "2024-02-29"]),
  Datetime: (by) =>
    by.pick(["2025-01-01T00:00:00Z", "2025-01-03T01:30:00+01:30", "2024-12-05T12:00:00.000012Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2024-12-31 24:00", "2025-01-01"]),
  Float: (by) => by.pick([0, -0, 180, -180, 90, -90, 1e-300, 13.4, 1e9]),
  JSON: (by) => by.pick([null, 0, 1.5, 9_007_199_254_740_991, 1e300, "x", "", true, [], {}, [1, null, "x"], { a: [1] }, { a: { b: [] } }]),
}; // prettier-ignore

/** A value as it is written in a document. */
function literal(value: unknown, isEnum = false): string {
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, isEnum)).join(", ")}]`;
  if (typeof value === "object" && value !== null)
    return `{ ${Object.entries(value)
      .map(([key, one]) => `${key}: ${literal(one)}`)
      .join(", ")} }`;
  return isEnum ? String(value) : JSON.stringify(value);
}

interface Made {
  variables: Map<string, { type: string; make: () => unknown }>;
}

/** A value as a literal, or as a variable. */
function valued(by: Chance, { variables }: Made, type: unknown, make: () => unknown): string {
  if (by.is(0.5)) return literal(make(), isEnumType(getNamedType(type as GraphQLArgument["type"])));
  const name = `v${variables.size}`;
  variables.set(name, {
    type: String(type),
    make: () => (by.is(0.02) && !/!$/.test(String(type)) ? null : make()),
  });
  return `$${name}`;
}

const itemOf = (type: GraphQLInputType): unknown =>
  (getNullableType(type) as GraphQLList<GraphQLInputType>).ofType;

/** The operation with its variables written out. */
function inlined(query: string, { variables }: Made, given: Record<string, unknown>): string {
  return query.replace(/\$(v\d+)\b/g, (_, name: string) =>
    literal(given[name], variables.get(name)!.type.includes("OrderBy")),
  );
}

function filterOn(by: Chance, made: Made, type: unknown, depth: number): string {
  if (!isInputObjectType(type)) return "";
  const fields = some(by, Object.values(type.getFields()), 1 + Number(by.is(0.3)));
  const parts = fields.map((field) => {
    const inner = getNamedType(field.type);
    const isList = /^\[/.test(String(field.type));
    if (isInputObjectType(inner)) {
      const one = depth > 0 ? filterOn(by, made, inner, depth - 1) : "";
      return one && `${field.name}: ${isList ? `[${one}]` : one}`;
    }
    const make = VALUES[inner.name];
    if (!make) return "";
    if (isList && by.is(0.3)) {
      // Also twice the same.
      const item = valued(by, made, itemOf(field.type), () => make(by) ?? 1);
      return `${field.name}: [${item}, ${literal(make(by) ?? 1)}, ${item}]`;
    }
    return `${field.name}: ${valued(by, made, field.type, () => (isList ? [make(by) ?? 1, make(by) ?? 1] : make(by)))}`;
  });
  const given = parts.filter(Boolean).join(", ");
  return given && `{ ${given} }`;
}

function argumentsOf(by: Chance, made: Made, field: GraphQLField<unknown, unknown>): string {
  const parts = field.args.map(({ name, type }) => {
    const named = getNamedType(type);
    if (field.extensions.strataSource?.kind === "row")
      return `${name}: ${valued(by, made, type, () => VALUES[named.name]!(by))}`;
    if (name === "last")
      return by.is(0.03) ? `last: ${valued(by, made, type, () => by.pick([0, 1, 3]))}` : "";
    if (name === "after" || name === "before")
      return by.is(0.02)
        ? `${name}: ${valued(by, made, type, () => by.pick([null, "", "forged", "W10="]))}`
        : "";
    if (name === "first") return `first: ${valued(by, made, type, () => by.pick([0, 1, 3, 10]))}`;
    if (name === "offset" && by.is(0.3)) return `offset: ${valued(by, made, type, () => by.pick([0, 2]))}`;
    if (name === "orderBy" && by.is(0.6) && isEnumType(named)) {
      // Others, by aggregates for example, are for the planner.
      const orders = named
        .getValues()
        .filter((value) => !/_BY_|SUM|COUNT|AVERAGE|MIN_|MAX_/.test(value.name));
      const pick = () => some(by, orders, 2).map((value) => value.name);
      if (by.is(0.5)) return `orderBy: ${valued(by, made, type, pick)}`;
      const one = valued(by, made, itemOf(type), () => pick()[0]);
      return `orderBy: [${one} ${by.is(0.3) ? one : pick().join(" ")}]`;
    }
    const filter = name === "filter" && by.is(0.6) ? filterOn(by, made, named, 2) : "";
    return filter && `filter: ${filter}`;
  });
  const given = parts.filter(Boolean).join(", ");
  return given && `(${given})`;
}

/** ReadTarget for seldom: its view analyses every metric's query anew, which takes longer than all else in a document. */
const SLOW = "lineage";
const OF_CONNECTIONS = new Set(["nodes", "totalCount", "edges", "cursor", "node", "pageInfo"]);

function selectionsOf(by: Chance, made: Made, type: GraphQLObjectType, depth: number): string {
  const fields = Object.values(type.getFields()).filter(({ extensions, name }) => {
    const source = extensions.strataSource;
    if (name === SLOW && !by.is(0.1)) return false;
    if (type.name !== "Query" && (OF_CONNECTIONS.has(name) || type.name === "PageInfo")) return true;
    return source && (source.kind === "column" || depth > 0);
  });
  const parts = some(by, fields, type.name === "Query" ? 2 : 5).map((field, i) => {
    const named = getNamedType(field.type);
    if (!isObjectType(named)) return field.name;
    const isConnection = named.name.endsWith("Connection");
    const inner = selectionsOf(
      by,
      made,
      named,
      field.name === "nodes" ? depth : depth - Number(isConnection || depth > 0),
    );
    return `a${i}: ${field.name}${argumentsOf(by, made, field)} ${inner}`;
  });
  // Which the planner alone answers.
  if (type.getFields().aggregates && by.is(0.04)) parts.push("aggregates { keys }");
  return `{ ${parts.join(" ") || "__typename"} }`;
}

const withoutId = ({ message, path, extensions }: Answer["errors"][number]) => ({
  message,
  path,
  code: extensions.code,
});

/** Rows that no client can write, but SQL can: some of each connection. */
const ODD = `
  insert into production.users (user_id, username, email, created_at, updated_at) values
    (901, 'odd', 'odd@example.org', 'infinity', '-infinity'), (902, 'odd€😀', 'odd2@example.org', '0044-03-15 BC', '12000-01-01');
  insert into production.transactions (transaction_id, user_id, amount, transaction_date) values
    (901, 1, 'NaN', '-infinity'), (902, 901, 99999999.99, '12000-02-03'), (903, 901, 0.01, '0001-02-03 BC');
  insert into production.events (event_id, user_id, event_type, event_data, event_time, position) values
    (901, 1, 'odd', 'null', '2025-01-01', 'SRID=4326;POINT EMPTY'), (902, 901, 'odd', '{"n": 1.50, "a": 1e400}', '0044-03-15 BC', null),
    (903, 1, 'odd', '123456789012345678901234567890', 'infinity', 'SRID=4326;POINT(-180 90)'), (904, 2, '', '[9007199254740993]', '-infinity', null);
  insert into production.dim_date (date_id, full_date, year, quarter, month, week, day_of_week) values
    (900001, '0044-03-15 BC', 1, 1, 1, 1, 1), (900002, '12000-01-01', 1, 1, 1, 1, 1), (900003, 'infinity', 1, 1, 1, 1, 1);
  insert into staging.quarantine (dataset, stage, reasons, payload) values
    ('users', 'transform', '{{a,b},{c,d}}', 'null'), ('events', 'transform', '[5:6]={a,b}', '1e400'), ('users', 'ingest', '{NULL}', '{}');
  select strata.refresh(false)`;
const NOT_ODD = `
  delete from production.users where user_id > 900; delete from production.transactions where transaction_id > 900;
  delete from production.events where event_id > 900; delete from production.dim_date where date_id > 900000;
  delete from staging.quarantine;
  select strata.refresh(false)`;

const told = ({ status, text, data, errors, headers }: Answer) => ({
  status,
  errors: errors.map(withoutId),
  // To the letter, for what JavaScript would round.
  data: errors.length > 0 ? data : text,
  type: headers["content-type"],
});
/** A value is refused in other words than a document. */
const inGeneral = (answer: Answer) => {
  const { status, data } = told(answer);
  return answer.errors.length > 0 ? { status: "refused", data: answer.data ?? null } : { status, data };
};

test.each([
  ["rows as usual", "select 1", "select 1"],
  ["rows that only SQL can write", ODD, NOT_ODD],
])(`${QUERIES} random reads of %s`, { timeout: 7_200_000 }, async (name, before, after) => {
  await api.database.pool.query(before);
  const counts = { compiled: 0, planned: 0, variables: 0, rows: 0, pairs: 0, refused: 0 };
  for (let i = 0; i < QUERIES; i++) {
    const by = chance(SEED * 1_000_003 + i);
    const made: Made = { variables: new Map() };
    const selections = selectionsOf(by, made, schema.getQueryType()!, 3);
    const declared = [...made.variables].map(([variable, { type }]) => `$${variable}: ${type}`).join(", ");
    const operation = `query Q${declared && `(${declared})`}`;
    const query = `${operation} ${selections}`;
    const values = () => Object.fromEntries([...made.variables].map(([one, { make }]) => [one, make()]));
    const isCompiled = statementOf(query, values()) !== undefined;
    counts[isCompiled ? "compiled" : "planned"]++;
    counts.variables += made.variables.size;
    // A directive that changes nothing is not compiled: the planner answers.
    const planned = `${operation} { ... @include(if: true) ${selections} }`;
    // From the second time on by what is known of its shape.
    for (const [round, variables] of [values(), values(), values()].entries()) {
      if (!isCompiled && round > 0) break;
      const expected = await api.ask("operator", planned, variables);
      if (isCompiled) {
        const answer = await api.ask("operator", query, variables);
        expect({ query, variables, ...told(answer) }).toEqual({ query, variables, ...told(expected) });
        counts.pairs++;
      }
      // And a variable is worth what it says.
      if (made.variables.size > 0 && round === 0) {
        const written = inlined(`query Q { ... @include(if: true) ${selections} }`, made, variables);
        const answer = await api.ask("operator", written);
        expect({ query, variables, ...inGeneral(answer) }).toEqual({
          query,
          variables,
          ...inGeneral(expected),
        });
        counts.pairs++;
      }
      counts.refused += expected.errors.length > 0 ? 1 : 0;
      counts.rows += expected.text.length > 100 ? 1 : 0;
    }
  }
  await api.database.pool.query(after);
  if (process.env.READS_QUERIES) console.log(name, counts);
  // Most of what is made is of the kind that this is about, and has something to show.
  expect(counts.compiled).toBeGreaterThan(QUERIES / 3);
  expect(counts.rows).toBeGreaterThan(QUERIES / 4);
  expect(counts.variables).toBeGreaterThan(QUERIES / 4);
  expect(counts.refused).toBeLessThan(QUERIES);
});

test.each([
  ["an empty filter", "{ users(filter: {}) { totalCount } }"],
  ["no filter at all", "{ users(filter: null) { totalCount } }"],
  ["an empty comparison", "{ users(filter: { userId: {} }) { totalCount } }"],
  ["a page too large", "{ users(first: 1001) { totalCount } }"],
  ["a negative page", "{ users(first: -1) { totalCount } }"],
  ["an offset before the first", "{ users(offset: -1) { nodes { userId } } }"],
  ["such an offset where no rows are read", "query ($n: Int = -1) { users(offset: $n) { totalCount } }"],
  ["a forged cursor where no rows are read", '{ users(after: "forged") { totalCount } }'],
])("%s is answered in the planner's words", async (_, query) => {
  const answers = [];
  for (const asked of [query, query.replace("{ users", "{ ... @include(if: true) { users") + " }"])
    answers.push(await api.ask("operator", asked));
  const [compiled, planned] = answers.map(({ status, data, errors }) => ({
    status,
    data,
    errors: errors.map(withoutId),
  }));
  expect(compiled).toEqual(planned);
});

test("a page of which nothing is asked that depends on its rows is one answer, whatever rows there are", async () => {
  const none = "filter: { userId: { equalTo: -1 } }";
  const pages = ["first: 5", "first: 5, offset: 2", "first: 0", `first: 5, ${none}`, `first: 0, ${none}`];
  const asked = ["hasPreviousPage", "hasNextPage", "hasNextPage hasPreviousPage startCursor endCursor"];
  for (const page of pages)
    for (const fields of asked) {
      const inner = `users(${page}) { pageInfo { ${fields} } }`;
      expect(statementOf(`{ ${inner} }`), inner).toBeDefined();
      const [compiled, planned, two] = [
        await api.ask("operator", `{ ${inner} }`),
        await api.ask("operator", `{ ... @include(if: true) { ${inner} } }`),
        await api.ask("operator", `{ ${inner} other: ${inner} }`),
      ];
      expect({ inner, ...pick(compiled) }).toEqual({ inner, ...pick(planned) });
      expect(two.data).toEqual({ ...planned.data, other: planned.data.users });
    }
});

test("pages by cursor", async () => {
  const pages: [name: string, orderBy: string, columns: string][] = [
    ["users", "[PRIMARY_KEY_DESC]", "userId"],
    ["users", "[USERNAME_ASC]", "userId username"],
    ["users", "[CREATED_AT_DESC]", "userId"],
    ["users", "[TRANSACTIONS_COUNT_DESC]", "userId"],
    ["transactions", "[AMOUNT_DESC, TRANSACTION_DATE_ASC]", "transactionId amount"],
    ["transactions", "[USER_ID_ASC, TRANSACTION_DATE_DESC]", "transactionId"],
    ["events", "[EVENT_TIME_ASC]", "eventId"],
    ["dailyUserMetrics", "[PRIMARY_KEY_ASC]", "date country"],
    ["dailyUserMetrics", "[COUNTRY_DESC, ACTIVE_USERS_ASC]", "date country"],
    ["dailyUserMetrics", "[DATE_ASC_NULLS_FIRST]", "date country"],
    ["dimDates", "[IS_WEEKEND_DESC, FULL_DATE_ASC]", "fullDate"],
  ];
  const orders = new Map(
    Object.values(schema.getQueryType()!.getFields()).map(({ name, args }) => {
      const type = getNamedType(args.find((one) => one.name === "orderBy")?.type);
      return [name, isEnumType(type) ? type.getValues().map((value) => value.name) : []];
    }),
  );
  let seen = 0;
  for (const [name, orderBy, columns] of pages) {
    const known = orderBy
      .slice(1, -1)
      .split(", ")
      .every((order) => orders.get(name)!.includes(order));
    if (!known) throw new Error(`${name} has not ${orderBy}, but ${orders.get(name)!.join(" ")}`);
    const size = name === "dimDates" ? 900 : 17;
    const inner = `${name}(first: ${size}, orderBy: ${orderBy}, after: $after) { edges { cursor node { ${columns} } } nodes { __typename }
      pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }`;
    let after: string | null = null;
    do {
      const variables: { after: string | null } = { after };
      expect(statementOf(`query ($after: Cursor) { ${inner} }`, variables), orderBy).toBeDefined();
      const [compiled, planned]: Answer[] = await Promise.all(
        [`{ ${inner} }`, `{ ... @include(if: true) { ${inner} } }`].map((body) =>
          api.ask("operator", `query ($after: Cursor) ${body}`, variables),
        ),
      );
      expect({ name, orderBy, after, ...pick(compiled!) }).toEqual({
        name,
        orderBy,
        after,
        ...pick(planned!),
      });
      const { pageInfo } = compiled!.data[name] as { pageInfo: Record<string, any> };
      after = pageInfo.hasNextPage ? pageInfo.endCursor : null;
      seen++;
    } while (after);
  }
  expect(seen).toBeGreaterThan(pages.length * 2);
});

const metrics: [string, string] = [
  "date country",
  'or: [{ date: { isNull: true } }, { date: { lessThan: "2025-01-02" } }]',
];
/** Of each connection columns that identify a row, and a filter that leaves few rows, but with all their NULLs. */
const walked: Record<string, [columns: string, filter?: string]> = {
  dailyUserMetrics: metrics,
  dailyUserMetricsLive: metrics,
  dimDates: ["dateId", 'fullDate: { greaterThan: "2024-12-28", lessThan: "2025-01-07" }'],
  events: ["eventId", 'eventId: { greaterThan: "15", lessThan: "25" }'],
  freshness: ["dataset"],
  pipelineIncidents: ["incidentId"],
  pipelineRuns: ["runId"],
  quarantinedRows: ["quarantineId"],
  quarterlyRevenues: ["year quarter"],
  transactions: ["transactionId", "transactionId: { lessThan: 10 }"],
  users: ["userId", "userId: { greaterThan: 15, lessThan: 28 }"],
  dailyRevenues: ["date transactions completed pending failed refunded"],
  dailyRevenuesLive: ["date transactions completed pending failed refunded"],
  datasets: ["dataset kind description rowsEstimated mode why"],
  runDatasets: [
    "runId dataset rowsRead rowsWritten rowsReplaced rowsReplacedFromOtherSource rowsRejected rowsDeleted",
  ],
};

test(
  "every order of every connection keeps all rows from page to page",
  { timeout: 300_000, tags: ["long"] },
  async () => {
    const { pool } = api.database;
    await pool.query(`
    insert into strata.runs (step, status, dataset, actor, parent_run_id, queued_at, started_at, finished_at,
      heartbeat_at, rows_read, progress)
    select 'ingest', 'succeeded', case when n % 2 = 0 then 'users' end, 'walk',
      case when n > 3 then 1 + n % 3 + (select coalesce(max(run_id), 0) from strata.runs) end,
      timestamptz '2025-01-01 UTC' + n * interval '1 hour',
      case when n <> 4 then timestamptz '2025-01-02 UTC' end, case when n % 3 <> 0 then timestamptz '2025-01-02 UTC' + n % 4 * interval '1 s' end,
      case when n % 4 = 0 then timestamptz '2025-01-02 UTC' end, n % 5, n / 10.0
    from generate_series(1, 9) n;
    insert into strata.run_datasets (run_id, dataset, rows_read, rows_written)
    select run_id, d, run_id % 3, run_id % 2 from strata.runs cross join unnest(array['users', 'events']) d where actor = 'walk';
    insert into staging.quarantine (dataset, stage, reasons)
    select (array['users', 'events'])[1 + n % 2], 'transform', '{fk_user}' from generate_series(1, 7) n;
    insert into strata.incidents (kind, subject, detail, run_id, opened_at, resolved_at)
    select (array['quarantine', 'freshness'])[1 + n % 2], 'subject ' || n, 'detail ' || n % 3, case when n > 2 then n end,
      timestamptz '2025-01-01 UTC' + n % 4 * interval '1 hour', case when n % 3 = 0 then timestamptz '2025-01-02 UTC' end
    from generate_series(1, 7) n;
    update production.dim_date set is_holiday = null where full_date = '2025-01-01';
    select strata.refresh(false);
    -- Taken for reads of many rows, these would be compiled for seconds.
    analyze`);

    const connections = Object.values(schema.getQueryType()!.getFields()).flatMap(({ name, args }) => {
      const orderBy = getNamedType(args.find((one) => one.name === "orderBy")?.type);
      // Lineage has no key to page by.
      return isEnumType(orderBy) && name !== "lineage"
        ? [{ name, orders: orderBy.getValues().map((value) => value.name) }]
        : [];
    });
    expect(connections.map(({ name }) => name).sort()).toEqual(Object.keys(walked).sort());

    const read = async (name: string, pages: Map<string, string>, isPlanned = false) => {
      const [columns, filter = ""] = walked[name]!;
      const rows = `nodes { ${columns} } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }`;
      const fields = [...pages].map(
        ([order, page]) => `${order}: ${name}(orderBy: [${order}] ${page} filter: { ${filter} }) { ${rows} }`,
      );
      const selections = `{ ${fields.join(" ")} }`.replaceAll("filter: {  }", "");
      const query = isPlanned ? `{ ... @include(if: true) ${selections} }` : selections;
      expect(statementOf(query) !== undefined, query).toBe(!isPlanned && !query.includes("last:"));
      return Object.entries<any>(await api.read(query));
    };

    /** The rows of each order, by pages of three. */
    const walk = async (name: string, orders: string[], isForward: boolean, isPlanned: boolean) => {
      const rows = new Map<string, unknown[]>(orders.map((order) => [order, []]));
      let pages = new Map(orders.map((order) => [order, isForward ? "first: 3" : "last: 3"]));
      // One that does not end by itself ends here.
      for (let i = 0; i < 10 && pages.size > 0; i++) {
        const answers = await read(name, pages, isPlanned);
        pages = new Map();
        for (const [order, { nodes, pageInfo }] of answers) {
          const before = rows.get(order)!;
          rows.set(order, isForward ? [...before, ...nodes] : [...nodes, ...before]);
          if (isForward && pageInfo.hasNextPage) pages.set(order, `first: 3 after: "${pageInfo.endCursor}"`);
          if (!isForward && pageInfo.hasPreviousPage)
            pages.set(order, `last: 3 before: "${pageInfo.startCursor}"`);
        }
      }
      return rows;
    };

    const wrong: string[] = [];
    for (const { name, orders } of connections) {
      for (let i = 0; i < orders.length; i += 25) {
        const some = orders.slice(i, i + 25);
        const whole = await read(name, new Map(some.map((order) => [order, "first: 100"])));
        for (const [isForward, isPlanned] of [
          [true, false],
          [true, true],
          [false, false],
        ] as const) {
          const rows = await walk(name, some, isForward, isPlanned);
          for (const [order, { nodes }] of whole) {
            expect(nodes.length, name).toBeGreaterThan(3);
            if (!isDeepStrictEqual(rows.get(order), nodes))
              wrong.push(
                `${name} ${order} ${isForward ? "forward" : "backward"} ${isPlanned ? "planned" : ""}`,
              );
          }
        }
      }
    }
    expect(wrong).toEqual([]);
    await pool.query(
      `delete from strata.runs where actor = 'walk'; delete from staging.quarantine;
     update production.dim_date set is_holiday = false where is_holiday is null`,
    );
  },
);

const pick = ({ status, data, errors }: Answer) => ({ status, data, errors: errors.map(withoutId) });

test("what PostgreSQL alone can write is answered as the planner does", async () => {
  const { pool } = api.database;
  await pool.query(`
    insert into production.users (user_id, username, email, created_at, updated_at)
      values (901, 'odd', 'odd@example.org', 'infinity', '-infinity');
    insert into production.events (event_id, event_type, event_data, event_time)
      values (901, 'odd', 'null', '2025-01-01'), (902, 'odd', '{"n": 1.50}', '0044-03-15 BC'), (903, 'odd', '{}', 'infinity');
    insert into production.dim_date (date_id, full_date, year, quarter, month, week, day_of_week)
      values (900001, '0044-03-15 BC', 1, 1, 1, 1, 1), (900002, '12000-01-01', 1, 1, 1, 1, 1), (900003, 'infinity', 1, 1, 1, 1, 1)`);
  const reads = [
    "user(userId: 901) { updatedAt }",
    "user(userId: 901) { createdAt }",
    ...[901, 902, 903].map((id) => `event(eventId: "${id}") { eventData }`),
    ...[901, 902, 903].map((id) => `event(eventId: "${id}") { eventTime eventDay }`),
    ...[900001, 900002, 900003].map((id) => `dimDate(dateId: ${id}) { fullDate }`),
    "dimDates(orderBy: FULL_DATE_ASC, first: 2) { edges { cursor } }",
  ];
  for (const read of reads) {
    const [compiled, planned] = [
      await api.ask("operator", `{ ${read} }`),
      await api.ask("operator", `{ ... @include(if: true) { ${read} } }`),
    ];
    expect({ read, ...pick(compiled) }).toEqual({ read, ...pick(planned) });
  }
  await pool.query(`
    delete from production.users where user_id = 901; delete from production.events where event_id > 900;
    delete from production.dim_date where date_id > 900000`);
});

test("a run's progress, which has less digits than other numbers, is read by its statement", async () => {
  const { text, values } = statementOf("{ pipelineRuns { nodes { progress } } }")!;
  await expect(api.database.pool.query(text, values)).resolves.toBeDefined();
});

test("statements are remembered up to a length in all, and made each time beyond it", () => {
  const operation = parse("query ($l: [String!]) { a }").definitions[0] as OperationDefinitionNode;
  let made = 1;
  const statementOf = createShapes(operation, ({ l }) => ({ text: made++ ? "select 1" : "", values: [l] }));
  const lists = Array.from({ length: 10 }, (_, i) => [`${i}`.repeat(15_000)]);
  for (const l of lists) statementOf({ l });
  made = 1;
  for (const l of lists) expect(statementOf({ l })!.values).toEqual([l]);
  expect(made - 1).toBeGreaterThan(lists.length / 2);
});

test("texts that mean something to a pattern are found as what they are, with the same operation", async () => {
  const query = `query ($text: String!) { users(filter: { username: { startsWith: $text } }) { nodes { username } } }`;
  const named = async (text: string) =>
    (await api.read(query, { text })).users.nodes.map((user: any) => user.username);
  // A pattern is made of the text: such a statement is not kept for other texts.
  expect(statementOf(query, { text: "O" })).toMatchObject({ values: ["O%"] });
  expect(await named("user29")).toEqual(["user29"]);
  expect(await named("%")).toEqual([]);
  expect(await named("user_9")).toEqual([]);
  expect(await named("O'Neil \"")).toHaveLength(1);
  expect(await named("O'Neil \"\\")).toHaveLength(1);
  expect(await named("user\\")).toEqual([]);
});
