// Operations as a role, through the server's own preset; and the SQL that they ran.
import { grafast } from "grafast";
import type pg from "pg";
import { createAuthenticator } from "../../src/server/auth.ts";
import { createGraphql } from "../../src/server/graphql.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

interface Statement {
  text: string;
  values: unknown[];
}

export interface Answer {
  // What a test expects of an answer, it says itself.
  data: any;
  errors: { message: string; extensions: Record<string, unknown> }[];
}

export interface Api {
  database: TestDatabase;
  request(role: "reader" | "ingestor" | "operator", source: string, variables?: object): Promise<Answer>;
  /** The data of an operation that must have no errors. */
  read(source: string, variables?: object): Promise<Answer["data"]>;
  /** The plans of the statements that `read` would run, without sequential scans. */
  plans(source: string, variables?: object): Promise<string>;
  close(): Promise<void>;
}

export async function createApi(environment?: Record<string, string>): Promise<Api> {
  const database = await createDatabase(environment);
  const { config, pool } = database;
  const { instance } = createGraphql({ config, database, authenticator: createAuthenticator(config) });
  const { schema, resolvedPreset } = await instance.getSchemaResult();
  const statements: Statement[] = [];
  pool.on("connect", (client) => record(client, statements));

  const request: Api["request"] = async (role, source, variableValues = {}) => {
    const claims = { role: `strata_${role}` as const, subject: "test" };
    const requestContext = { fastifyv5: { request: { claims } } } as unknown as Grafast.RequestContext;
    const result = await grafast({
      schema,
      resolvedPreset,
      requestContext,
      source,
      variableValues: variableValues as Record<string, unknown>,
    });
    if (!("data" in result || "errors" in result)) throw new Error("Not the answer to a query or mutation.");
    const errors = (result.errors ?? []).map((error) => resolvedPreset.grafserv!.maskError!(error));
    return { data: result.data, errors: JSON.parse(JSON.stringify(errors)) as Answer["errors"] };
  };

  const read: Api["read"] = async (source, variables) => {
    const { data, errors } = await request("operator", source, variables);
    if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join("\n"));
    return data;
  };

  return {
    database,
    request,
    read,
    async plans(source, variables) {
      statements.length = 0;
      await read(source, variables);
      const queries = statements.filter(({ text }) => /^\s*select\b(?!\s+set_config)/.test(text));
      const client = await pool.connect();
      try {
        await client.query("begin; set local enable_seqscan = off");
        const plans = [];
        for (const { text, values } of queries) plans.push(await client.query(`explain ${text}`, values));
        return plans.flatMap(({ rows }) => rows.map((row) => row["QUERY PLAN"] as string)).join("\n");
      } finally {
        await client.query("rollback");
        client.release();
      }
    },
    async close() {
      await instance.release();
      await database.drop();
    },
  };
}

function record(client: pg.PoolClient, statements: Statement[]): void {
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  const recording = (first: string | Statement, ...rest: unknown[]) => {
    if (typeof first === "string") statements.push({ text: first, values: [] });
    else statements.push({ text: first.text, values: first.values ?? [] });
    return query(first, ...rest);
  };
  client.query = recording as typeof client.query;
}
