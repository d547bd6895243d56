// Adds retryQuarantined, which returns quarantined rows to the transform, in a run that can be watched and run in the
// background. The process provides the work by the Grafast context.
import "graphile-build-pg";
import { context, lambda, sideEffect, type FieldArgs, type Step } from "grafast";
import { parse } from "grafast/graphql";
import { extendSchema } from "graphile-utils";
import { DATASET_NAME, hasDatasetNames } from "./EnumsPlugin.ts";
import { givenOf, type Nullable } from "./support/inputs.ts";
import { payloadPlans, planPayload } from "./support/runs.ts";

export interface RetryQuarantinedRequest {
  ids?: string[];
  reason?: string;
  dataset?: string;
  everything?: boolean;
  dateFormat?: string;
  decimal?: string;
  timezone?: string;
  null?: string[];
  patch?: unknown;
  background: boolean;
}

interface Retried {
  id: string;
  /** Absent while the run goes on in the background. */
  rowsWritten?: number;
  rowsRejected?: number;
}

declare global {
  namespace Grafast {
    interface Context {
      /** Retries rows under the request's role, which needs the right to. */
      retryQuarantined(request: RetryQuarantinedRequest): Promise<Retried>;
    }
  }
}

type RetryInput = Nullable<RetryQuarantinedRequest & { clientMutationId: string }>;

const typeDefs = (dataset: string) =>
  parse(`
  extend type Mutation {
    """
    Requeues quarantined rows for the next transform. Operators only.
    """
    retryQuarantined(
      """
      The rows (by ids, by reason or dataset or both, or everything) and corrections.
      """
      input: RetryQuarantinedInput!
    ): RetryQuarantinedPayload
  }
  """
  Rows to retry: exactly one of ids, a filter (reason, dataset or both) and everything.
  """
  input RetryQuarantinedInput {
    """
    The rows with these ids.
    """
    ids: [BigInt!]
    """
    All rows rejected for this reason, such as invalid_timestamp.
    """
    reason: String
    """
    All rows of this dataset.
    """
    dataset: ${dataset}
    """
    All rows in quarantine.
    """
    everything: Boolean = false
    """
    Fields to correct first: an object of new values by the fields' names in the database; null removes a field.
    """
    patch: JSON
    """
    Format of dates that are not ISO 8601, such as DD/MM/YYYY. By default, this and the next three options are those
    of the ingest.
    """
    dateFormat: String
    """
    Decimal separator of numbers that were sent as text: a point or a comma. The other one may separate thousands.
    """
    decimal: String
    """
    Time zone of times without an offset, such as Europe/Berlin.
    """
    timezone: String
    """
    Texts that stand for null, such as NA.
    """
    null: [String!]
    """
    Return the queued run at once instead of waiting until it has ended.
    """
    background: Boolean = false
    """
    Any text; the payload repeats it.
    """
    clientMutationId: String
  }
  """
  Result of retryQuarantined.
  """
  type RetryQuarantinedPayload {
    """
    Run that retries the rows.
    """
    run: PipelineRun
    """
    Number of rows that were requeued for the transform; null for a run in the background.
    """
    rowsRetried: Int
    """
    Number of rows that were rejected again, with new reasons; null for a run in the background.
    """
    rowsRejected: Int
    """
    The text given as \`clientMutationId\`.
    """
    clientMutationId: String
  }
`);

function planRetry(_$root: Step, args: FieldArgs) {
  const $input = args.getRaw("input") as Step<RetryInput>;
  const $run = sideEffect([context().get("retryQuarantined"), $input], ([retryQuarantined, input]) => {
    const { clientMutationId: _, background = false, ...retry } = givenOf(input);
    return retryQuarantined({ ...retry, background });
  });
  return planPayload($run, $input);
}

type Payload = ReturnType<typeof planRetry>;

export const RetryQuarantinedPlugin: GraphileConfig.Plugin = extendSchema((build) => {
  return {
    typeDefs: typeDefs(hasDatasetNames(build) ? DATASET_NAME : "String"),
    objects: {
      Mutation: { plans: { retryQuarantined: planRetry } },
      RetryQuarantinedPayload: {
        scope: { isMutationPayload: true },
        plans: {
          ...payloadPlans(build),
          rowsRetried: ($payload: Payload) =>
            lambda($payload.get("run"), (run) => run.rowsWritten ?? null, true),
          rowsRejected: ($payload: Payload) =>
            lambda($payload.get("run"), (run) => run.rowsRejected ?? null, true),
        },
      },
    },
  };
}, "RetryQuarantinedPlugin");
