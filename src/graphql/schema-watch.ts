// Makes the GraphQL schema follow the database: `strata migrate` announces a new catalogue, a schema is built from it
// in the background, and replaces the running one at once. Operations and subscriptions that began on the old one end
// on it.
import { setTimeout as sleep } from "node:timers/promises";
import { makeSchema } from "graphile-build";
import { validateSchema, type GraphQLSchema } from "grafast/graphql";
import type { FastifyBaseLogger } from "fastify";
import type pg from "pg";
import type { Notifications } from "../database/notifications.ts";
import { isUnavailable } from "../database/unavailable.ts";
import type { Check } from "../http/health.ts";

/**
 * Time in ms to wait after an announcement, so that the files of one migration lead to one build. A higher value
 * delays new schemas.
 */
const SETTLE_MS = 250;
/**
 * Time in ms before a failed build is repeated: the database may have been unavailable, or the catalogue may be
 * repaired.
 */
const RETRY_MS = 5_000;

export interface SchemaWatchOptions {
  preset: GraphileConfig.Preset;
  pool: pg.Pool;
  notifications: Pick<Notifications, "subscribe">;
}

type SchemaResult = Awaited<ReturnType<typeof makeSchema>>;

/** Replaces the result of `postgraphile(preset)`. */
export interface SchemaWatch {
  /** The current schema; rejects if the first one could not be built. */
  getSchema(): Promise<GraphQLSchema>;
  getSchemaResult(): Promise<SchemaResult>;
  /** The current schema without waiting; undefined until there is one. */
  current(): GraphQLSchema | undefined;
  /** Calls `exchange` with each new schema from now on. */
  follow(exchange: (schema: GraphQLSchema) => void, log: FastifyBaseLogger | undefined): void;
  /** Builds a new schema without an announcement, if `follow` was called. */
  rebuild(this: void): void;
  /** Reports the catalogue that the schema was built from. */
  check(this: void): Check;
  isOutdated(this: void): boolean;
  release(): Promise<void>;
}

export function watchSchema({ preset, pool, notifications }: SchemaWatchOptions): SchemaWatch {
  /** Version of the catalogue that the schema was built from, or of an older one. */
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
    // If the version cannot be read, building the schema fails with a better message.
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
    // Always ok, since an instance that is not ready gets no requests, and this one still answers with its current
    // schema.
    check: () => ({ ok: true, detail: fault ?? `catalogue ${version}` }),
    follow(exchange, log) {
      take = (): void => {
        clearTimeout(retry);
        turn = turn.then(() =>
          update(exchange, log).catch((error: unknown) => {
            if (isReleased) return;
            // While the database is unavailable, keep the schema: no request can see a change.
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
        // A reconnection counts as an announcement, since some may have been missed.
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
