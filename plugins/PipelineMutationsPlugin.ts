// Adds the pipeline's steps as mutations: transformStaging, refreshAnalytics, runPipeline, cleanupOldData. The
// process provides the work by the Grafast context.
import "graphile-build-pg";
import { context, lambda, sideEffect, type FieldArgs, type Step } from "grafast";
import { parse } from "grafast/graphql";
import { extendSchema } from "graphile-utils";
import { givenOf } from "./support/inputs.ts";
import { payloadPlans, planPayload } from "./support/runs.ts";

export interface PipelineStepRequest {
  step: "transform" | "refresh" | "pipeline" | "cleanup";
  background: boolean;
  full?: boolean;
  daysToKeep?: number;
}

declare global {
  namespace Grafast {
    interface Context {
      /** Runs a step under the request's role, which needs the right to. */
      runPipelineStep(request: PipelineStepRequest): Promise<{ id: string; rowsDeleted: number }>;
    }
  }
}

interface StepInput {
  background?: boolean | null;
  full?: boolean | null;
  daysToKeep?: number | null;
  clientMutationId?: string | null;
}

interface MutationSpec {
  step: PipelineStepRequest["step"];
  description: string;
  inputFields?: string;
  payloadFields?: string;
}

const MUTATIONS: Record<string, MutationSpec> = {
  transformStaging: {
    step: "transform",
    description: "Moves new rows from staging to production; rows that break a rule go to quarantine.",
  },
  refreshAnalytics: {
    step: "refresh",
    description: "Updates the pre-computed analytics with the changes of production.",
    inputFields: `
      "Recompute everything, not only what changed since the last refresh."
      full: Boolean = false`,
  },
  runPipeline: {
    step: "pipeline",
    description: "Runs the transform and then the refresh.",
  },
  cleanupOldData: {
    step: "cleanup",
    description:
      "Deletes transformed raw rows older than the retention, and old runs and quarantined records.",
    inputFields: `
      "Retention of raw rows in days, from 0 to 36500; the server's RETENTION_DAYS by default."
      daysToKeep: Int`,
    payloadFields: `
      "Number of deleted raw rows, runs and quarantined records; 0 for a run in the background, which is only queued."
      rowsDeleted: Int`,
  },
};

export const PIPELINE_MUTATIONS = Object.keys(MUTATIONS);

const typeName = (field: string): string => field[0]!.toUpperCase() + field.slice(1);

const typeDefs = Object.entries(MUTATIONS).map(
  ([field, { description, inputFields = "", payloadFields = "" }]) => `
    extend type Mutation {
      "${description} Operators only."
      ${field}(
        "Options of the run."
        input: ${typeName(field)}Input
      ): ${typeName(field)}Payload
    }
    "Options of ${field}."
    input ${typeName(field)}Input {
      "Return the queued run at once instead of waiting until it has ended."
      background: Boolean = false
      ${inputFields}
      "Any text; the payload repeats it."
      clientMutationId: String
    }
    "Result of ${field}."
    type ${typeName(field)}Payload {
      "The run. Requests made while it is queued share it; if the step is already running, this run starts afterwards."
      run: PipelineRun
      ${payloadFields}
      "The text given as \`clientMutationId\`."
      clientMutationId: String
    }`,
);

function planStep(step: PipelineStepRequest["step"]) {
  return (_$root: Step, args: FieldArgs) => {
    const $input = args.getRaw("input") as Step<StepInput | undefined>;
    const $run = sideEffect([context().get("runPipelineStep"), $input], ([run, input]) => {
      const { background = false, full, daysToKeep } = givenOf(input ?? {});
      return run({ step, background, full, daysToKeep });
    });
    return planPayload($run, $input);
  };
}

type Payload = ReturnType<ReturnType<typeof planStep>>;

export const PipelineMutationsPlugin: GraphileConfig.Plugin = extendSchema((build) => {
  return {
    typeDefs: parse(typeDefs.join("\n")),
    objects: {
      Mutation: {
        plans: Object.fromEntries(
          Object.entries(MUTATIONS).map(([field, { step }]) => [field, planStep(step)]),
        ),
      },
      ...Object.fromEntries(
        Object.entries(MUTATIONS).map(([field, { payloadFields }]) => [
          `${typeName(field)}Payload`,
          {
            scope: { isMutationPayload: true },
            plans: {
              ...payloadPlans(build),
              ...(payloadFields && {
                rowsDeleted: ($payload: Payload) =>
                  lambda($payload.get("run"), (run) => run.rowsDeleted, true),
              }),
            },
          },
        ]),
      ),
    },
  };
}, "PipelineMutationsPlugin");
