// The GraphQL schema follows the database: `strata migrate` announces a new catalogue, a schema is built from it beside
// the running one, and takes its place at once. What has begun on the old one, subscriptions included, ends on it.
import { setTimeout as sleep } from "node:timers/promises";
import { makeSchema } from "graphile-build";
import { validateSchema, type GraphQLSchema } from "grafast/graphql";
import type { FastifyBaseLogger } from "fastify";
import type pg from "pg";
import type { Notifications } from "../database/notifications.ts";
import { isUnavailable } from "../database/unavailable.ts";
import type { Check } from "../http/health.ts";

/** A migration announces each of its files; what comes within this time is built together. */
const SETTLE_MS = 250;
/** After a schema that could not be built: the database may have been away, or somebody mends the catalogue. */
const RETRY_MS = 5_000;

export interface SchemaWatchOptions {
  preset: GraphileConfig.Preset;
  pool: pg.Pool;
  notifications: Pick<Notifications, "subscribe">;
}

type SchemaResult = Awaited<ReturnType<typeof makeSchema>>;

/** Takes the place of what `postgraphile(preset)` returns. */
export interface SchemaWatch {
  /** The schema that serves requests at this moment; rejects if the first one could not be built. */
  getSchema(): Promise<GraphQLSchema>;
  getSchemaResult(): Promise<SchemaResult>;
  /** The same without waiting; undefined until there is a first one. */
  current(): GraphQLSchema | undefined;
  /** Gives each new schema to `exchange`, from now on. */
  follow(exchange: (schema: GraphQLSchema) => void, log: FastifyBaseLogger | undefined): void;
  /** Builds a new schema even though no new catalogue was announced, if it is followed. */
  rebuild(this: void): void;
  /** Says which catalogue the schema shows. */
  check(this: void): Check;
  isOutdated(this: void): boolean;
  release(): Promise<void>;
}

export function watchSchema({ preset, pool, notifications }: SchemaWatchOptions): SchemaWatch {
  /** The schema's catalogue, or an older one. */
  let version = "";
  let fault: string | undefined;
  let current: SchemaResult | undefined;
  let isReleased = false;
  let announcements: ReturnType<Notifications["subscribe"]> | undefined;
  let retry: NodeJS.Timeout | undefined;
  /** The build that runs; schemas are built one at a time. */
  let turn: Promise<void>;
  let isForced = false;
  let take: (() => void) | undefined;

  async function build(wanted: string): Promise<SchemaResult> {
    const made = await makeSchema(preset);
    const [error] = validateSchema(made.schema);
    if (error) throw error;
    version = wanted;
    return made;
  }

  async function start(): Promise<SchemaResult> {
    // If there is none, building the schema says better what is wrong.
    return (current = await build(await readVersion(pool).catch(() => "")));
  }

  async function update(exchange: (schema: GraphQLSchema) => void, log: FastifyBaseLogger | undefined) {
    if (isReleased) return;
    const wanted = await readVersion(pool);
    const startedAt = performance.now();
    if (wanted !== version || isForced) {
      const made = await build(wanted);
      isForced = false;
      if (isReleased) return;
      current = made;
      exchange(made.schema);
      const durationMs = Math.round(performance.now() - startedAt);
      log?.info({ catalogue: wanted, durationMs }, "the API shows the database's new catalogue");
    }
    fault = undefined;
  }

  const first = start();
  first.catch(() => undefined);
  const getSchemaResult = async () => current ?? first;
  return {
    getSchemaResult,
    getSchema: async () => (await getSchemaResult()).schema,
    current: () => current?.schema,
    rebuild() {
      if (!isForced) take?.();
      isForced = true;
    },
    isOutdated: () => fault !== undefined,
    // Instances that are not ready get no requests, and this one answers them as well as it did before.
    check: () => ({ ok: true, detail: fault ?? `catalogue ${version}` }),
    follow(exchange, log) {
      take = (): void => {
        clearTimeout(retry);
        turn = turn.then(() =>
          update(exchange, log).catch((error: unknown) => {
            if (isReleased) return;
            // Without the database, nothing can have changed that a request would see.
            if (!isUnavailable(error)) {
              fault = `catalogue ${version}; no schema can be built from the newer one: see the log`;
              log?.error({ error }, "no schema can be built from the new catalogue; the old one stays");
            }
            retry = setTimeout(() => take?.(), RETRY_MS).unref();
          }),
        );
      };
      const changes = (announcements = notifications.subscribe("strata:schema"));
      const listen = async (): Promise<void> => {
        // When the connection comes back, there is an announcement, too: some may have been missed.
        while (!(await changes.next()).done) {
          await sleep(SETTLE_MS, undefined, { ref: false });
          take?.();
        }
      };
      turn = first.then(
        () => undefined,
        () => undefined,
      );
      take();
      void listen();
    },
    async release() {
      isReleased = true;
      clearTimeout(retry);
      await announcements?.return(undefined);
      await Promise.allSettled([first, turn]);
    },
  };
}

async function readVersion(pool: pg.Pool): Promise<string> {
  const { rows } = await pool.query<{ version: string }>(
    "select catalogue_version::text as version from strata.refresh_state",
  );
  return rows[0]!.version;
}
