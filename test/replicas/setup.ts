// A primary with replicas that really stream from it, and Strata on them.
import type pg from "pg";
import type { Client } from "graphql-ws";
import { loadConfig } from "../../src/config.ts";
import { createPool, openDatabase } from "../../src/database/connect.ts";
import { applySchema } from "../../src/database/migrate.ts";
import { migrateWorker } from "../../src/worker/worker.ts";
import { createApp } from "../../src/http/app.ts";
import { createToken } from "../../src/http/token.ts";
import { canStartCluster, createCluster, type Cluster, type Replica } from "../support/cluster.ts";
import { connect } from "../support/socket.ts";

export const canReplicate = canStartCluster;
if (!canReplicate)
  console.warn("SKIPPED: tests of replicas need TEST_DATABASE_URL and PostgreSQL's programs on this machine");

export const JWT_SECRET = "a secret of the tests, long enough for HS256";

export interface Answer {
  status: number;
  data: any;
  errors: { message: string; extensions: Record<string, any> }[] | undefined;
  position: string | undefined;
  node: string | undefined;
  body: any;
}

export interface Setup {
  primary: Cluster;
  replicas: Replica[];
  /** On the primary. */
  pool: pg.Pool;
  /** On a replica, by its index. */
  onReplica(index: number, sql: string): Promise<any[]>;
  url: string;
  environment: Record<string, string>;
  token: string;
  ask(query: string, headers?: Record<string, string>, url?: string): Promise<Answer>;
  /** A second instance on the same databases. */
  startInstance(environment?: Record<string, string>): Promise<{ url: string; close(): Promise<void> }>;
  connect(at?: string): Client;
  /** Resolves when every replica has replayed what is written by now. */
  caughtUp(): Promise<void>;
  close(): Promise<void>;
}

export async function createSetup(
  count: number,
  environment: Record<string, string> = {},
  optionsOfReplicas?: string,
  /** SQL of the user's own, applied before the server starts. */
  ownSql = "",
): Promise<Setup> {
  const primary = await createCluster();
  const administrator = createPool({ connectionString: primary.url("postgres") }, { max: 1 });
  await administrator.query("create database shop");
  await administrator.end();
  const pool = createPool({ connectionString: primary.url("shop") }, { max: 4 });
  await applySchema(pool);
  await migrateWorker(pool);
  await pool.query(ownSql);
  const replicas: Replica[] = [];
  for (let i = 0; i < count; i++) replicas.push(await primary.createReplica(optionsOfReplicas));
  const pools = replicas.map((replica) => createPool({ connectionString: replica.url("shop") }, { max: 2 }));
  const settings = {
    DATABASE_URL: primary.url("shop"),
    READ_DATABASE_URLS: replicas.map((replica) => replica.url("shop")).join(","),
    JWT_SECRET,
    ANONYMOUS_ROLE: "",
    LOG_LEVEL: "silent",
    RATE_LIMIT_COST: "0",
    ...environment,
  };
  const instances: { close(): Promise<void> }[] = [];
  const clients: Client[] = [];

  const startInstance: Setup["startInstance"] = async (own) => {
    const config = loadConfig({ ...settings, ...own });
    const database = await openDatabase(config);
    const app = await createApp({ config, database });
    const origin = await app.listen({ port: 0, host: "127.0.0.1" });
    const close = async (): Promise<void> => {
      await app.close();
      await database.close();
    };
    instances.push({ close });
    return { url: origin, close };
  };
  const { url } = await startInstance();
  const token = await createToken(loadConfig(settings), { role: "strata_operator" });
  return {
    primary,
    replicas,
    pool,
    onReplica: async (index, sql) => (await pools[index]!.query(sql)).rows,
    url,
    environment: settings,
    token,
    startInstance,
    async ask(query, headers = {}, at = url) {
      const response = await fetch(`${at}/graphql`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/graphql-response+json",
          authorization: `Bearer ${token}`,
          ...headers,
        },
        body: JSON.stringify({ query }),
      });
      const body: any = await response.json();
      return {
        status: response.status,
        data: body.data,
        errors: body.errors,
        position: response.headers.get("strata-position") ?? undefined,
        node: response.headers.get("strata-node") ?? undefined,
        body,
      };
    },
    connect(at = url) {
      const client = connect(at, { authorization: `Bearer ${token}` });
      clients.push(client);
      return client;
    },
    async caughtUp() {
      const { rows } = await pool.query<{ lsn: string }>("select pg_current_wal_flush_lsn()::text as lsn");
      for (const one of pools)
        for (;;) {
          const { rows: found } = await one.query<{ isThere: boolean }>(
            `select pg_last_wal_replay_lsn() >= $1::pg_lsn as "isThere"`,
            [rows[0]!.lsn],
          );
          if (found[0]!.isThere) break;
        }
    },
    async close() {
      for (const client of clients) await client.dispose();
      for (const instance of instances) await instance.close().catch(() => undefined);
      await Promise.all([pool, ...pools].map((one) => one.end()));
      for (const cluster of [...replicas, primary]) cluster.remove();
    },
  };
}
