/** @module-tag long */
// What an operator can see from outside: metrics, log lines and traces, without anything that is nobody's business.
import { once } from "node:events";
import { createServer } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPlace, type Place } from "../support/database.ts";
import { runStrata, startReadyServer, until, type Server } from "../support/process.ts";

const METRICS_TOKEN = "a token for metrics";
const TRACE_ID = "0af7651916cd43dd8448eb211c80319c";
const QUERY = "query Named($name: String!) { users(filter: {username: {equalTo: $name}}) { totalCount } }";

let place: Place;
let server: Server;
let token: string;
const spans: any[] = [];
const collector = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const body = JSON.parse(String(Buffer.concat(chunks)));
    for (const { resource, scopeSpans } of body.resourceSpans)
      for (const scope of scopeSpans) for (const span of scope.spans) spans.push({ resource, ...span });
    response.end("{}");
  });
});

beforeAll(async () => {
  collector.listen(0, "127.0.0.1");
  await once(collector, "listening");
  const { port } = collector.address() as { port: number };
  place = await createPlace({
    LOG_LEVEL: "info",
    METRICS_TOKEN,
    SLOW_OPERATION_MS: "1",
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    OTEL_SERVICE_NAME: "strata under test",
  });
  token = (
    await runStrata(["token", "--role", "operator", "--sub", "ann@example.com"], place.environment)
  ).stdout.trim();
  server = await startReadyServer(place.environment);
  await ask("zaphod@example.com");
  await ask("zaphod@example.com", "query Broken { nothing }");
});
afterAll(async () => {
  await server?.stop("SIGKILL");
  collector.close();
  await place?.remove();
});

const ask = (name: string, query = QUERY) =>
  fetch(`${server.url}/graphql?unused=secret-in-the-url`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${token}`,
      "x-request-id": "request-of-the-test",
      traceparent: `00-${TRACE_ID}-b7ad6b7169203331-01`,
    },
    body: JSON.stringify({ query, variables: { name } }),
  });

test("metrics are for whoever has the token, and count operations, SQL, pools, lag and jobs", async () => {
  const read = (authorization?: string) =>
    fetch(`${server.url}/metrics`, authorization ? { headers: { authorization } } : {});
  expect((await read()).status).toBe(401);
  expect((await read(`Bearer ${token}`)).status).toBe(401);
  const text = await (await read(`Bearer ${METRICS_TOKEN}`)).text();
  for (const line of [
    /^strata_operations_total\{type="query",name="Named",outcome="ok"\} 1$/m,
    /^strata_operation_duration_seconds_count\{type="query",name="Named"\} 1$/m,
    /^strata_operation_sql_statements_total\{type="query",name="Named"\} [1-9]/m,
    /^strata_operation_sql_seconds_total\{type="query",name="Named"\} 0\.\d+/m,
    /^strata_http_request_duration_seconds_count\{method="POST",route="\/graphql",status="200"\} [12]$/m,
    /^strata_pool_connections\{pool="operations",state="idle"\} \d+$/m,
    /^strata_database_up 1$/m,
    /^strata_dataset_lag_seconds\{dataset="daily_user_metrics"\} \d/m,
    /^strata_dataset_rows_behind\{dataset="users"\} \d+$/m,
    /^# TYPE strata_jobs gauge$/m,
    /^process_resident_memory_bytes \d+$/m,
    /^nodejs_eventloop_lag_seconds /m,
  ])
    expect(text).toMatch(line);
  expect(text).not.toMatch(/zaphod|ann@example|secret-in-the-url/);
});

test("each request has one line, a slow operation a warning, and neither tells values", async () => {
  await until(() => Promise.resolve(server.output.stdout.includes("Named")));
  const lines = server.output.stdout
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const [request, ...others] = lines.filter(
    ({ msg, operation }) => msg === "request" && operation === "Named",
  );
  expect(others).toEqual([]);
  expect(request).toMatchObject({
    level: "info",
    requestId: "request-of-the-test",
    method: "POST",
    path: "/graphql",
    status: 200,
    role: "strata_operator",
    type: "query",
    outcome: "ok",
    statements: expect.any(Number),
    sqlMs: expect.any(Number),
    ms: expect.any(Number),
  });
  expect(lines).toContainEqual(
    expect.objectContaining({
      level: "warn",
      msg: "slow operation",
      operation: "Named",
      sqlMs: expect.any(Number),
    }),
  );
  expect(server.output.stdout).not.toMatch(/zaphod|ann@example|secret-in-the-url/);
  // The start announces a token of its own on the embedded database; that of a request is in no line.
  expect(server.output.stdout).not.toContain(token);
});

test("a request becomes a span in its caller's trace", async () => {
  await until(() => Promise.resolve(spans.some(({ name }) => name === "query Named")));
  const span = spans.find(({ name }) => name === "query Named");
  expect(span).toMatchObject({ traceId: TRACE_ID, parentSpanId: "b7ad6b7169203331", kind: 2 });
  const attributes = Object.fromEntries(
    span.attributes.map(({ key, value }: any) => [key, Object.values(value as object)[0]]),
  );
  expect(attributes).toMatchObject({
    "graphql.operation.name": "Named",
    "http.response.status_code": 200,
    "strata.request_id": "request-of-the-test",
    "strata.outcome": "ok",
  });
  expect(JSON.stringify(span.resource)).toContain("strata under test");
  expect(JSON.stringify(spans)).not.toMatch(/zaphod|ann@example|secret-in-the-url/);
});
