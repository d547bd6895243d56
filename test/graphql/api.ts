// Operations as a role, answered by the server; and the plans of the statements that they run.
import pg from "pg";
import { createTestApp, type Answer, type TestApp } from "../support/app.ts";
import { isServer } from "../support/database.ts";

interface Statement {
  text: string;
  values: unknown[];
}

export interface Api extends TestApp {
  /** The data of an operation that must have no errors. */
  read(source: string, variables?: object): Promise<Answer["data"]>;
  /** The plans of the statements that `read` runs, without sequential scans. */
  plans(source: string, variables?: object): Promise<string>;
}

export async function createApi(environment: Record<string, string> = {}): Promise<Api> {
  // These tests are of answers, not of what they may cost.
  const server = await createTestApp({
    RATE_LIMIT_COST: "100000000",
    MAX_QUERY_COST: "1000000",
    ...environment,
  });

  const read: Api["read"] = async (source, variables) => {
    const { data, errors } = await server.ask("operator", source, variables);
    if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join("\n"));
    return data;
  };

  return {
    ...server,
    read,
    async plans(source, variables) {
      if (!isServer) throw new Error("Plans are asked of PostgreSQL alone.");
      const statements = await recorded(() => read(source, variables));
      const queries = statements.filter(({ text }) =>
        /^\s*select\b(?!\s+(pg_catalog\.)?set_config)/.test(text),
      );
      const client = await server.database.pool.connect();
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
  };
}

/** What is sent to the database meanwhile, by whichever connection. */
async function recorded(work: () => Promise<unknown>): Promise<Statement[]> {
  const statements: Statement[] = [];
  const prototype = pg.Client.prototype as { query: unknown };
  const query = prototype.query as (...args: unknown[]) => unknown;
  // An operation's statement comes with those that surround it.
  prototype.query = function (first: string | (Statement & { parts?: Statement[] }), ...rest: unknown[]) {
    statements.push(
      ...(typeof first === "string" ? [{ text: first, values: [] }] : (first.parts ?? [first])),
    );
    return query.call(this, first, ...rest);
  };
  try {
    await work();
  } finally {
    prototype.query = query;
  }
  return statements;
}
