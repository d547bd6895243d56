import type { PgResource } from "@dataplan/pg";
import { access, type Step } from "grafast";
import type {} from "postgraphile";
import { extendSchema, gql } from "postgraphile/utils";
import { query, subscribe, type Announcements, type Source } from "./support/subscriptions.ts";

const typeDefs = gql`
  extend type Subscription {
    """
    Announces each run of the pipeline that is queued, starts, progresses or ends.
    """
    pipelineRunUpdated(
      """
      Replays runs changed since this time (at most the last 1000), so that a reconnecting client misses nothing;
      pipelineRuns has the older ones.
      """
      since: Datetime
    ): PipelineRunUpdatedPayload
    """
    Announces each refresh of the pre-computed analytics.
    """
    analyticsRefreshed(
      """
      Version that the client knows; a newer one is announced at once.
      """
      since: BigInt
    ): AnalyticsRefreshedPayload
  }
  """
  A run of the pipeline that changed.
  """
  type PipelineRunUpdatedPayload {
    """
    Run as it is now.
    """
    run: PipelineRun
  }
  """
  A refresh of the pre-computed analytics.
  """
  type AnalyticsRefreshedPayload {
    """
    Version of the data, which grows with every refresh.
    """
    version: BigInt!
    """
    Run of the refresh; null if it was done in SQL.
    """
    run: PipelineRun
  }
`;

interface Since {
  since?: string | null;
}

interface ChangedRun {
  runId: string;
  at: string;
}

const changedAt = "greatest(queued_at, started_at, finished_at, heartbeat_at)";
const selectRuns = `select run_id::text as "runId", ${changedAt}::text as at from analytics.pipeline_runs`;
const lastChanged = `${selectRuns} where ${changedAt} >= $1::timestamptz - $2::interval order by ${changedAt} desc, run_id desc limit 1000`;
/** Allowance for changes that commit later than the time that they bear. */
const margin = "1 minute";

const changedSince = async (source: Source, since: string, before: string): Promise<ChangedRun[]> =>
  (await query<ChangedRun>(source, lastChanged, [since, before])).toReversed();

async function* runUpdates(
  source: Source,
  announcements: Announcements,
  { since }: Since,
): AsyncGenerator<{ runId: string }> {
  const [start] = await query<{ at: string }>(
    source,
    "select max(clock_timestamp())::text as at from analytics.pipeline_runs",
    [],
  );
  let seen = start?.at ?? new Date().toISOString();
  if (since != null) yield* await changedSince(source, since, "0");
  for await (const announcement of announcements) {
    const runs =
      announcement === ""
        ? await changedSince(source, seen, margin)
        : await query<ChangedRun>(source, `${selectRuns} where run_id = $1`, [
            (JSON.parse(announcement) as { runId: number }).runId,
          ]);
    for (const run of runs) {
      seen = run.at;
      yield run;
    }
  }
}

interface Refresh {
  version: string;
  runId: string | null;
}

const selectRefresh = `select data_version::text as version, run_id::text as "runId" from analytics.refresh_state`;

async function* refreshes(
  source: Source,
  announcements: Announcements,
  { since }: Since,
): AsyncGenerator<Refresh> {
  const current = async () => (await query<Refresh>(source, selectRefresh, []))[0]!;
  const first = await current();
  let seen = BigInt(since ?? first.version);
  if (BigInt(first.version) > seen) {
    seen = BigInt(first.version);
    yield first;
  }
  // Ignore the announcement's content: the current state is at least as new.
  while (!(await announcements.next()).done) {
    const refresh = await current();
    if (BigInt(refresh.version) <= seen) continue;
    seen = BigInt(refresh.version);
    yield refresh;
  }
}

/** Adds subscriptions to the pipeline's events. */
export const SubscriptionsPlugin = extendSchema((build) => {
  const runs = build.pgResources.pipeline_runs as PgResource;
  const run = ($event: Step) => runs.get({ run_id: access($event, "runId") });
  return {
    typeDefs,
    objects: {
      Subscription: {
        plans: {
          pipelineRunUpdated: {
            subscribePlan: subscribe("strata:run", runUpdates),
            plan: ($event: Step) => $event,
          },
          analyticsRefreshed: {
            subscribePlan: subscribe("strata:refresh", refreshes),
            plan: ($event: Step) => $event,
          },
        },
      },
      // The scope adds `query`, to read again what has changed.
      PipelineRunUpdatedPayload: { scope: { isMutationPayload: true }, plans: { run } },
      AnalyticsRefreshedPayload: {
        scope: { isMutationPayload: true },
        plans: { run, version: ($event: Step) => access($event, "version") },
      },
    },
  };
}, "SubscriptionsPlugin");
