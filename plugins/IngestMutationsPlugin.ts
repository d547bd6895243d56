// ingestUsers, ingestTransactions, ingestEvents: rows into staging. Their values are not typed by GraphQL, which
// would refuse all rows because of one; a row whose values do not fit goes to quarantine instead.
// The work itself is the process's: it comes in by the Grafast context.
import "graphile-build-pg";
import { context, lambda, object, sideEffect, type FieldArgs, type Step } from "grafast";
import { parse } from "grafast/graphql";
import { extendSchema } from "graphile-utils";
import type { PgResource } from "@dataplan/pg";

export interface IngestRowsRequest {
  dataset: "users" | "transactions" | "events";
  rows: Record<string, unknown>[];
  sourceSystem?: string | null;
  background: boolean;
}

interface IngestedRows {
  id: string;
  /** Absent while the run goes on in the background. */
  rowsWritten?: number;
  rowsRejected?: number;
}

declare global {
  namespace Grafast {
    interface Context {
      /** Lands rows on behalf of the request's role; refused by the database if that role may not. */
      ingestRows(request: IngestRowsRequest): Promise<IngestedRows>;
    }
  }
}

interface IngestInput {
  rows: Record<string, unknown>[];
  sourceSystem?: string | null;
  background?: boolean | null;
  clientMutationId?: string | null;
}

/** Fields by dataset: their name in the database and what they should hold. */
const ROWS: Record<IngestRowsRequest["dataset"], Record<string, string>> = {
  users: {
    user_id: "Key of the user: a whole number.",
    username: "Name, up to 100 characters.",
    email: "E-mail address, up to 255 characters.",
    created_at: "When the user was created: an ISO 8601 time; without an offset it is UTC.",
    country: "Country, up to 100 characters.",
  },
  transactions: {
    transaction_id: "Key of the transaction: a whole number.",
    user_id: "User who made it: a whole number.",
    amount: "Amount: a number, or a string to keep every digit.",
    status: "State: pending, completed, failed or refunded.",
    transaction_date: "When it took place: an ISO 8601 time; without an offset it is UTC.",
  },
  events: {
    event_id: "Key of the event: a whole number, as a string beyond 2^53.",
    user_id: "User who caused it, if anybody did: a whole number.",
    event_type: "Kind of event, up to 50 characters.",
    event_data: "Everything else about it: any JSON.",
    event_time: "When it took place: an ISO 8601 time; without an offset it is UTC.",
    latitude: "Latitude in degrees, -90 to 90.",
    longitude: "Longitude in degrees, -180 to 180.",
  },
};
const DATASETS = Object.keys(ROWS) as IngestRowsRequest["dataset"][];

const capitalized = (name: string): string => name[0]!.toUpperCase() + name.slice(1);
const fieldName = (column: string): string =>
  column.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
const mutationName = (dataset: string): string => `ingest${capitalized(dataset)}`;
const rowTypeName = (dataset: string): string => `Ingest${capitalized(dataset.slice(0, -1))}Input`;

const typeDefs = DATASETS.map((dataset) => {
  const name = mutationName(dataset);
  const type = capitalized(name);
  const [key] = Object.keys(ROWS[dataset]);
  return `
    extend type Mutation {
      "Lands rows of ${dataset} in staging, where the next transform takes them. Ingestors and operators only."
      ${name}(
        "The rows and where they come from."
        input: ${type}Input!
      ): ${type}Payload
    }
    "Rows for ${name}."
    input ${type}Input {
      "The rows. One that does not fit goes to quarantine; the others land."
      rows: [${rowTypeName(dataset)}!]!
      "Where the rows come from, up to 50 characters."
      sourceSystem: String = "api"
      "Return at once with the running run. The rows are safe only when it has finished."
      background: Boolean = false
      "Any string; it comes back unchanged in the payload."
      clientMutationId: String
    }
    "A row as the source has it. Values of the wrong type are accepted here and quarantined with the reason; only ${fieldName(key!)} has to be there."
    input ${rowTypeName(dataset)} {
      ${Object.entries(ROWS[dataset])
        .map(([column, description]) => `"${description}"\n      ${fieldName(column)}: JSON`)
        .join("\n      ")}
    }
    "Result of ${name}."
    type ${type}Payload {
      "The run that landed the rows."
      run: PipelineRun
      "How many rows landed in staging; empty for a run in the background."
      rowsIngested: Int
      "How many rows went to quarantine; empty for a run in the background."
      rowsRejected: Int
      "The string given in the input."
      clientMutationId: String
    }`;
});

function planIngest(dataset: IngestRowsRequest["dataset"]) {
  const columns = Object.keys(ROWS[dataset]);
  const asColumns = (row: Record<string, unknown>): Record<string, unknown> =>
    Object.fromEntries(columns.map((column) => [column, row[fieldName(column)]]));
  return (_$root: Step, args: FieldArgs) => {
    const $input = args.getRaw("input") as Step<IngestInput>;
    const $run = sideEffect([context().get("ingestRows"), $input], ([ingestRows, input]) =>
      ingestRows({
        dataset,
        rows: input.rows.map(asColumns),
        sourceSystem: input.sourceSystem,
        background: input.background ?? false,
      }),
    );
    return object({
      run: $run,
      clientMutationId: lambda($input, (input) => input.clientMutationId ?? null, true),
    });
  };
}

type Payload = ReturnType<ReturnType<typeof planIngest>>;

export const IngestMutationsPlugin: GraphileConfig.Plugin = extendSchema((build) => {
  const runs = build.input.pgRegistry.pgResources.pipeline_runs as
    PgResource<any, any, any, any, any> | undefined;
  if (!runs) throw new Error("analytics.pipeline_runs is not in the schema");
  const payloadPlans = {
    run: ($payload: Payload) =>
      runs.get({ run_id: lambda($payload.get("run"), (run) => run.id, true) }) as Step,
    rowsIngested: ($payload: Payload) => lambda($payload.get("run"), (run) => run.rowsWritten ?? null, true),
    rowsRejected: ($payload: Payload) => lambda($payload.get("run"), (run) => run.rowsRejected ?? null, true),
    clientMutationId: ($payload: Payload) => $payload.get("clientMutationId"),
  };
  return {
    typeDefs: parse(typeDefs.join("\n")),
    objects: {
      Mutation: {
        plans: Object.fromEntries(DATASETS.map((dataset) => [mutationName(dataset), planIngest(dataset)])),
      },
      ...Object.fromEntries(
        DATASETS.map((dataset) => [
          `${capitalized(mutationName(dataset))}Payload`,
          { scope: { isMutationPayload: true }, plans: payloadPlans },
        ]),
      ),
    },
  };
}, "IngestMutationsPlugin");
