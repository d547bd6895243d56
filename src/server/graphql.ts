// PostGraphile on Fastify: the preset of graphile.config.ts plus what only this process knows.
import type {} from "grafserv/node";
import { grafserv } from "grafserv/fastify/v5";
import { postgraphile } from "postgraphile";
import { makePgService } from "postgraphile/adaptors/pg";
import type { FastifyInstance } from "fastify";
import { lexicographicSortSchema, printSchema } from "grafast/graphql";
import { createPreset } from "../../graphile.config.ts";
import type { PipelineStepRequest } from "../../plugins/PipelineMutationsPlugin.ts";
import type { Config } from "../config.ts";
import { createOperationPool, type Database } from "../database/connect.ts";
import { queueStep, runStep } from "../pipeline/runs.ts";
import type { Authenticator, Claims } from "./auth.ts";
import { createTransactionsPlugin } from "./transactions.ts";

export interface GraphqlOptions {
  config: Config;
  database: Database;
  authenticator: Authenticator;
  /** Of the process: they see every operation, before any other plugin. */
  plugins?: GraphileConfig.Plugin[];
}

/** Settings of the transaction that every statement of a request runs in. */
const settings = (config: Config, { role, subject }: Claims): Record<string, string> => ({
  role: role ?? "none",
  "strata.sub": subject ?? "",
  timezone: "UTC",
  statement_timeout: String(config.STATEMENT_TIMEOUT_MS),
});

function stepRunner({ config, database }: GraphqlOptions, { role, subject }: Claims) {
  return async ({ background, ...step }: PipelineStepRequest) => {
    const request = {
      ...step,
      daysToKeep: step.step === "cleanup" ? (step.daysToKeep ?? config.RETENTION_DAYS) : undefined,
      trigger: "api" as const,
      actor: subject,
      role,
    };
    return background ? queueStep(database.pool, request) : runStep(database.pool, request);
  };
}

export function createGraphql(options: GraphqlOptions) {
  const { config, database, authenticator } = options;
  const operations = createOperationPool(config, database);
  const preset: GraphileConfig.Preset = {
    extends: [
      createPreset({
        pgServices: [
          makePgService({ pool: database.pool, schemas: ["production", "analytics"], pubsub: true }),
        ],
        defaultPageSize: config.DEFAULT_PAGE_SIZE,
        maxPageSize: config.MAX_PAGE_SIZE,
      }),
    ],
    plugins: [createTransactionsPlugin(operations), ...(options.plugins ?? [])],
    grafserv: {
      graphqlPath: "/graphql",
      graphiqlPath: "/graphiql",
      graphiqlOnGraphQLGET: false,
      websockets: true,
    },
    grafast: {
      async context({ fastifyv5, ws }: Partial<Grafast.RequestContext>) {
        const claims = fastifyv5
          ? fastifyv5.request.claims
          : await authenticator.authenticate(authorizationOf(ws?.normalizedConnectionParams));
        return { pgSettings: settings(config, claims), claims, runPipelineStep: stepRunner(options, claims) };
      },
    },
  };
  const instance = postgraphile(preset);
  return {
    instance,
    pool: operations.pool,
    async printSdl(): Promise<string> {
      const { schema } = await instance.getSchemaResult();
      return `${printSchema(lexicographicSortSchema(schema))}\n`;
    },
    async release(): Promise<void> {
      await instance.release();
      await operations.pool.end();
    },
    async addTo(app: FastifyInstance): Promise<void> {
      await instance.createServ(grafserv).addTo(app);
    },
  };
}

function authorizationOf(parameters: Record<string, unknown> | undefined): string | undefined {
  const value = parameters?.authorization;
  return typeof value === "string" ? value : undefined;
}

declare global {
  namespace Grafast {
    interface Context {
      claims: Claims;
    }
  }
}
declare module "fastify" {
  interface FastifyRequest {
    claims: Claims;
  }
}
