// /healthz: the process answers. /readyz: everything it needs answers as well, so it can take requests.
import type { FastifyInstance } from "fastify";
import type { Pool } from "pg";
import { currentVersion, installedVersion } from "../database/migrate.ts";

export interface Check {
  ok: boolean;
  detail: string;
}

export interface HealthOptions {
  pool: Pool;
  /** Checks of parts other than the database, by name. */
  parts: Record<string, () => Check>;
  stopping?: AbortSignal | undefined;
}

/** Time in ms for which probes share one result. */
const SHARED_MS = 500;
export const RETRY_AFTER_S = 5;

const failing = (detail: string): Check => ({ ok: false, detail });
const fine = (detail: string): Check => ({ ok: true, detail });

export function addHealth(app: FastifyInstance, { pool, parts, stopping }: HealthOptions): void {
  async function checkDatabase(): Promise<Record<string, Check>> {
    try {
      const wanted = currentVersion();
      const found = await installedVersion(pool);
      const { rows } = await pool.query<{ writable: boolean; jobs: boolean }>(
        `select not pg_catalog.pg_is_in_recovery()
                  and pg_catalog.current_setting('default_transaction_read_only') = 'off' as writable,
                pg_catalog.to_regclass('graphile_worker.migrations') is not null as jobs`,
      );
      const { writable, jobs } = rows[0]!;
      return {
        database: writable ? fine("answers") : failing("read-only; the primary is elsewhere"),
        schema:
          found === wanted
            ? fine(`version ${found}`)
            : failing(`version ${found ?? "none"}, this server needs ${wanted}`),
        jobs: jobs ? fine("installed") : failing("the job queue is not installed"),
      };
    } catch {
      return { database: failing("does not answer") };
    }
  }

  let shared: { at: number; checks: Promise<Record<string, Check>> } | undefined;
  app.get("/healthz", () => ({ status: "ok" }));
  app.get("/readyz", async (_request, reply) => {
    if (!shared || Date.now() - shared.at > SHARED_MS) shared = { at: Date.now(), checks: checkDatabase() };
    const checks = {
      ...(await shared.checks),
      ...Object.fromEntries(Object.entries(parts).map(([name, check]) => [name, check()])),
      ...(stopping?.aborted && { process: failing("stopping") }),
    };
    const ready = Object.values(checks).every(({ ok }) => ok);
    if (!ready) reply.status(503).header("retry-after", String(RETRY_AFTER_S));
    return { status: ready ? "ready" : "not ready", checks };
  });
}
