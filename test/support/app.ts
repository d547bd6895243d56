// The HTTP server on a fresh database, asked without a network, as each role.
import { SignJWT } from "jose";
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
  /** With a token that has these claims, a role of the test's own among them. */
  askWith(claims: Record<string, unknown>, query: string, variables?: unknown): Promise<Answer>;
  /** Takes requests from the network, at the origin that it resolves with. */
  listen(): Promise<string>;
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
  const send = async (headers: object, query: string, variables: unknown): Promise<Answer> => {
    const response = await app.inject({
      method: "POST",
      url: "/graphql",
      headers: { accept: "application/graphql-response+json", ...headers },
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
  };
  let origin: Promise<string> | undefined;
  return {
    app,
    database,
    as,
    inject: (request) => app.inject(request),
    listen: () => (origin ??= app.listen({ port: 0, host: "127.0.0.1" })),
    ask: (who, query, variables, headers) => send({ ...as[who], ...headers }, query, variables),
    async askWith(claims, query, variables) {
      const token = await new SignJWT({ sub: "ann", ...claims })
        .setProtectedHeader({ alg: "HS256" })
        .setExpirationTime("1h")
        .sign(new TextEncoder().encode(database.config.JWT_SECRET));
      return send({ authorization: `Bearer ${token}` }, query, variables);
    },
    close: async () => {
      await app.close();
      await database.drop();
    },
  };
}
