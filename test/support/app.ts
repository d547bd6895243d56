// The HTTP server on a fresh database, asked without a network, as each role.
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from "fastify";
import type { Role } from "../../src/config.ts";
import { createApp, type AppOptions } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import { createDatabase, type TestDatabase } from "./database.ts";

export interface Answer {
  status: number;
  data: any;
  errors: { message: string; path?: unknown; extensions: Record<string, any> }[];
  headers: LightMyRequestResponse["headers"];
  /** The whole answer as it was sent. */
  text: string;
}

export interface TestApp {
  app: FastifyInstance;
  database: TestDatabase;
  /** Authorization headers by role. */
  as: Record<"reader" | "ingestor" | "operator" | "nobody", Record<string, string>>;
  ask(who: keyof TestApp["as"], query: string, variables?: unknown, headers?: object): Promise<Answer>;
  inject(options: InjectOptions): Promise<LightMyRequestResponse>;
  close(): Promise<void>;
}

export async function createTestApp(
  environment: Record<string, string> = {},
  options: Partial<AppOptions> = {},
  /** SQL of the user's own, applied before the server starts. */
  ownSql = "",
): Promise<TestApp> {
  const database = await createDatabase(environment);
  await database.pool.query(ownSql);
  const app = await createApp({ config: database.config, database, ...options });
  await app.ready();
  const headerFor = async (role: Role) => ({
    // Some tests run for hours when they are told to.
    authorization: `Bearer ${await createToken(database.config, { role, subject: `test-${role}`, ttl: "24h" })}`,
  });
  const as = {
    reader: await headerFor("strata_reader"),
    ingestor: await headerFor("strata_ingestor"),
    operator: await headerFor("strata_operator"),
    nobody: {},
  };
  return {
    app,
    database,
    as,
    inject: (request) => app.inject(request),
    async ask(who, query, variables, headers = {}) {
      const response = await app.inject({
        method: "POST",
        url: "/graphql",
        headers: { accept: "application/graphql-response+json", ...as[who], ...headers },
        payload: { query, variables },
      });
      const body: { data?: unknown; errors?: Answer["errors"] } = response.json();
      return {
        status: response.statusCode,
        data: body.data,
        errors: body.errors ?? [],
        headers: response.headers,
        text: response.body,
      };
    },
    close: async () => {
      await app.close();
      await database.drop();
    },
  };
}
