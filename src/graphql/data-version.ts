// Which state the pre-computed data is in, asked for so that no answer is older than its request.
import type { Pool } from "pg";

/**
 * data_version grows with every refresh, in the refresh's own transaction, also with a bare REFRESH; xmin changes
 * when the relations themselves or their grants do.
 */
const VERSION = {
  name: "data_version",
  text: `select state.data_version || ':' || (
      select string_agg(relation.xmin::text, '.' order by relation.oid) from pg_catalog.pg_class relation
      where relation.oid in ('analytics.daily_user_metrics'::regclass, 'analytics.quarterly_revenue'::regclass,
                             'production.dim_date'::regclass)
    ) as version
    from strata.refresh_state state`,
};

export type DataVersion = () => Promise<string>;

/** A question that has been sent may be too old for who comes now: all who come meanwhile share the next one. */
export function createDataVersion(pool: Pool): DataVersion {
  let running: Promise<unknown> | undefined;
  let next: Promise<string> | undefined;

  async function ask(): Promise<string> {
    await running?.catch(() => undefined);
    next = undefined;
    const answer = pool.query<{ version: string }>(VERSION);
    running = answer;
    return (await answer).rows[0]!.version;
  }
  return () => (next ??= ask());
}
