// Payloads of mutations that start a run.
import type { PgResource } from "@dataplan/pg";
import { lambda, object, type Step } from "grafast";

/** Plans a payload with the run and the client's mutation id. */
export const planPayload = <Run>(
  $run: Step<Run>,
  $input: Step<{ clientMutationId?: string | null } | undefined>,
) =>
  object({
    run: $run,
    clientMutationId: lambda($input, (input) => input?.clientMutationId ?? null, true),
  });

/** Plans of the fields that all these payloads have. */
export function payloadPlans({ input }: GraphileBuild.Build) {
  const runs = input.pgRegistry.pgResources.pipeline_runs as PgResource<any, any, any, any, any> | undefined;
  if (!runs) throw new Error("analytics.pipeline_runs is not in the schema");
  return {
    run: ($payload: ReturnType<typeof planPayload<{ id?: string }>>) =>
      runs.get({ run_id: lambda($payload.get("run"), (run) => run.id ?? null, true) }) as Step,
    clientMutationId: ($payload: ReturnType<typeof planPayload>) => $payload.get("clientMutationId"),
  };
}
