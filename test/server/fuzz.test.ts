/** @module-tag long-server */
// Whatever arrives, the server answers in its own words: no crash, no 5xx but 503, nothing from inside.
// FUZZ_INPUTS=100000 FUZZ_SEED=7 vitest run test/server/fuzz.test.ts tries more, or others.
import type { InjectOptions } from "fastify";
import { buildClientSchema, getIntrospectionQuery, type GraphQLSchema } from "grafast/graphql";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";
import { anything, damaged, operationOn } from "../support/fuzz-graphql.ts";
import { chance, type Chance } from "../support/random.ts";

const INPUTS = Number(process.env.FUZZ_INPUTS ?? (isServer ? 10_000 : 3_000));
const SEED = Number(process.env.FUZZ_SEED ?? 1);

let server: TestApp;
let schema: GraphQLSchema;

beforeAll(async () => {
  server = await createTestApp({ RATE_LIMIT_COST: "0", STATEMENT_TIMEOUT_MS: "2000" });
  await server.database.pool.query(`
    insert into production.users (user_id, username, email, country)
    select n, 'user' || n, 'person' || n || '@private.example', 'DE' from generate_series(1, 50) n;
    insert into production.transactions (transaction_id, user_id, amount, transaction_date)
    select n, 1 + n % 50, n, timestamp '2024-01-01' + n * interval '1 hour' from generate_series(1, 200) n;
    insert into production.events (event_id, user_id, event_type, event_data, event_time)
    select n, 1 + n % 50, 'login', '{"a": 1}', timestamp '2024-01-01' + n * interval '1 hour' from generate_series(1, 200) n`);
  schema = buildClientSchema((await server.ask("operator", getIntrospectionQuery())).data);
});
afterAll(() => server.close());

/** Never of the caller's own words: names of our tables and files, stacks, SQL, and addresses of others. */
const INSIDE =
  /node_modules|\.[jt]s:\d+|\/(?:root|home|tmp|usr|var)\/|pg_catalog|information_schema|__\w+__\.|production\.|staging\.|"production"\.|syntax error at or near|DatabaseError/;
const OTHERS = /private\.example/;

type Who = keyof TestApp["as"];
interface Input {
  who: Who;
  request: InjectOptions;
}

const post = (who: Who, payload: unknown, headers: Record<string, string> = {}): Input => ({
  who,
  request: {
    method: "POST",
    url: "/graphql",
    headers: {
      "content-type": "application/json",
      accept: "application/graphql-response+json",
      ...server.as[who],
      ...headers,
    },
    payload: typeof payload === "string" ? payload : JSON.stringify(payload),
  },
});
const someone = (by: Chance): Who => by.pick(["reader", "reader", "ingestor", "operator"] as const);

/** Steps of the pipeline take their time, and are tested elsewhere. */
const SLOW = /^(runPipeline|transformStaging|refreshAnalytics|cleanupOldData|query)$/;

const KINDS: [weight: number, make: (by: Chance) => Input][] = [
  // Operations that fit the schema, with odd values.
  [20, (by) => {
    const who = someone(by);
    const root = by.is(0.2) ? schema.getMutationType()! : schema.getQueryType()!;
    return post(who, operationOn(by, schema, root, SLOW));
  }],
  // Documents that nearly fit.
  [25, (by) => {
    const { query, variables } = operationOn(by, schema, schema.getQueryType()!, SLOW);
    return post(someone(by), { query: damaged(by, query), variables });
  }],
  // Variables of any shape.
  [15, (by) => {
    const { query, variables } = operationOn(by, schema, schema.getQueryType()!, SLOW);
    const wrong = Object.fromEntries(Object.keys(variables).map((name) => [name, anything(by)]));
    return post(someone(by), { query, variables: by.is(0.8) ? wrong : anything(by) });
  }],
  // Bodies: members of any type, damaged JSON, other types and methods.
  [20, (by) => {
    const body = { query: "query A { __typename }", operationName: "A", variables: {}, extensions: {}, id: "x", onError: "NULL" };
    const entries = Object.entries(body).map(([name, value]) => [name, by.is(0.3) ? anything(by) : value]);
    return post(someone(by), by.is(0.7) ? Object.fromEntries(entries.slice(by.below(6))) : damaged(by, JSON.stringify(body)));
  }],
  [8, (by) => {
    const input = post(someone(by), damaged(by, '{"query":"{ __typename }"}'), {
      "content-type": by.pick(["application/json", "text/plain", "application/graphql", "application/json; charset=latin1", "a", "/", "application/x-www-form-urlencoded", "multipart/form-data"]),
      accept: by.pick(["*/*", "text/html", "application/json;q=0", "x", "application/graphql-response+json;charset=utf-16", ","]),
      "x-request-id": by.pick(["a", "x".repeat(10_000), "${jndi:x}", "a b", "12345678"]),
      "accept-encoding": by.pick(["br", "gzip, deflate", "*", "x"]),
    });
    const method = by.pick(["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"] as const);
    const url = by.pick(["/graphql", "/graphql?query={x", "/graphiql", "/schema.graphql", "/%00", "/..%2f..%2fetc/passwd", "/ruru-static/..%2f..%2fpackage.json", "/ruru-static/%ff", "/readyz", "/ingest/x", "/%"]);
    return { ...input, request: { ...input.request, method, url } };
  }],
  // Tokens.
  [9, (by) => {
    const [scheme, token] = server.as.reader.authorization!.split(" ") as [string, string];
    const [head, body, signature] = token.split(".") as [string, string, string];
    const forged = Buffer.from(JSON.stringify(anything(by)) ?? "").toString("base64url");
    const authorization = by.pick([
      `${scheme} ${damaged(by, token)}`,
      `${scheme} ${forged}.${body}.${signature}`,
      `${scheme} ${head}.${forged}.${signature}`,
      `${scheme} ${head}.${body}.`,
      `${damaged(by, scheme)} ${token}`,
      by.pick(["", "Bearer", "Basic YTpi", "Bearer  x", "bearer null"]),
    ]);
    return post("nobody", { query: "{ users { nodes { email } } }" }, { authorization: authorization.replace(/[^\x20-\x7e]/g, "?") });
  }],
  // Streams of rows.
  [3, (by) => {
    const who = someone(by);
    const csv = by.is(0.5);
    const row = () => (csv ? [by.below(99), anything(by, 5), "a@b.example"].join(",") : JSON.stringify(by.is(0.8) ? { user_id: by.below(99), username: anything(by), email: "a@b.example" } : anything(by)));
    const lines = by.times(8, row).join("\n");
    const text = csv ? `user_id,username,email\n${lines}` : lines;
    return {
      who,
      request: {
        method: "POST",
        url: by.pick(["/ingest/users", "/ingest/transactions", "/ingest/events", "/ingest/users?source=x&name=y", "/ingest/users?map=a", "/ingest/users?map=user_id=a&map=%00"]),
        headers: { ...server.as[who], "content-type": csv ? "text/csv" : "application/x-ndjson", ...(by.is(0.1) && { "content-encoding": "gzip" }) },
        payload: by.is(0.5) ? text : damaged(by, text),
      },
    };
  }],
]; // prettier-ignore
const TOTAL = KINDS.reduce((sum, [weight]) => sum + weight, 0);

function makeInput(seed: number): Input {
  const by = chance(seed);
  let left = by.below(TOTAL);
  const [, make] = KINDS.find(([weight]) => (left -= weight) < 0)!;
  return make(by);
}

async function fault({ who, request }: Input): Promise<string | undefined> {
  const response = await server.inject(request);
  const { statusCode, body, headers } = response;
  if (statusCode >= 500 && statusCode !== 503) return `status ${statusCode}`;
  const isAsset = /^\/(ruru-static\/|graphiql$|schema\.graphql$)/.test(request.url as string);
  const inside = !isAsset && INSIDE.exec(body);
  if (inside) return `tells ${inside[0]}`;
  if (who !== "operator" && OTHERS.test(body)) return "tells an e-mail address";
  if (!String(headers["content-type"]).includes("json") || body === "") return undefined;
  const { errors } = JSON.parse(body) as {
    errors?: { message: string; extensions?: { code?: string; requestId?: string } }[];
  };
  if (statusCode >= 400 && !errors && !/^\/(ingest|readyz)/.test(request.url as string)) return "no errors";
  for (const { extensions } of errors ?? []) {
    if (extensions?.code === "INTERNAL_SERVER_ERROR" || extensions?.code === undefined)
      return `code ${extensions?.code}`;
    if (extensions.requestId !== headers["x-request-id"]) return `request id ${extensions.requestId}`;
  }
  return undefined;
}

test(`survives ${INPUTS} inputs of seed ${SEED}`, { timeout: 30_000 + INPUTS * 60 }, async () => {
  // Libraries print what they make of cursors and ids.
  for (const method of ["error", "warn", "dir"] as const) vi.spyOn(console, method).mockReturnValue();
  const faults: string[] = [];
  const LANES = 4;
  await Promise.all(
    Array.from({ length: LANES }, async (_, lane) => {
      for (let i = lane; i < INPUTS && faults.length < 20; i += LANES) {
        const input = makeInput(SEED * 1_000_003 + i);
        const found = await fault(input).catch((error: unknown) => String(error));
        if (found) faults.push(`${found}: ${JSON.stringify(input.request).slice(0, 2_500)}`);
      }
    }),
  );
  expect(faults.join("\n\n")).toBe("");
  expect((await server.ask("reader", "{ users { totalCount } }")).data.users.totalCount).toBeGreaterThan(0);
});
