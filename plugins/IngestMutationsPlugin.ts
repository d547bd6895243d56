// ingest<Dataset> for every dataset: rows into staging. Their values are not typed by GraphQL, which
// would refuse all rows because of one; a row whose values do not fit goes to quarantine instead.
// The work itself is the process's: it comes in by the Grafast context.
import "graphile-build-pg";
import { context, lambda, object, sideEffect, type FieldArgs, type Step } from "grafast";
import { parse } from "grafast/graphql";
import { extendSchema } from "graphile-utils";
import type { PgResource } from "@dataplan/pg";
import type { DatasetField } from "./CataloguePlugin.ts";

export interface IngestRowsRequest {
  dataset: string;
  rows: Record<string, unknown>[];
  sourceSystem?: string | null;
  dateFormat?: string | null;
  maxRejected?: string | null;
  decimal?: string | null;
  timezone?: string | null;
  null?: string[] | null;
  set?: string[] | null;
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
  dateFormat?: string | null;
  maxRejected?: string | null;
  decimal?: string | null;
  timezone?: string | null;
  null?: string[] | null;
  set?: string[] | null;
  background?: boolean | null;
  clientMutationId?: string | null;
}

/** A dataset with the names that its mutation takes. */
interface Ingest {
  dataset: string;
  mutation: string;
  rowType: string;
  /** Column by name of the input's field. */
  columns: Map<string, DatasetField>;
}

const text = (value: string): string => JSON.stringify(value.replace(/\s+/g, " ").trim());

function describe({ type, description, is_required: isRequired }: DatasetField): string {
  const words = description?.trim() || `A value of the type ${type}.`;
  return isRequired ? `${words} A row without it is rejected.` : words;
}

function typeDefsOf({ dataset, mutation, rowType, columns }: Ingest): string {
  const type = mutation[0]!.toUpperCase() + mutation.slice(1);
  const required = [...columns].flatMap(([name, { is_required: isRequired }]) => (isRequired ? name : []));
  const demand = required.length > 0 ? `; only ${required.join(" and ")} must be there` : "";
  return `
    extend type Mutation {
      ${text(`Lands rows of ${dataset} in staging, where the next transform takes them. Ingestors and operators only.`)}
      ${mutation}(
        "The rows and where they come from."
        input: ${type}Input!
      ): ${type}Payload
    }
    "Rows for ${mutation}."
    input ${type}Input {
      "The rows. One that does not fit goes to quarantine; the others land."
      rows: [${rowType}!]!
      "Where the rows come from, up to 50 characters."
      sourceSystem: String = "api"
      "How dates that are not ISO 8601 are written, such as DD/MM/YYYY."
      dateFormat: String
      "How many rows may be rejected, as a number or a share such as 5%. If there are more, the run fails and none of its rows goes on."
      maxRejected: String
      "Decimal separator of numbers that are sent as text: a point or a comma. The other may part thousands."
      decimal: String
      "Time zone of times without an offset, such as Europe/Berlin; UTC if there is none."
      timezone: String
      "Texts that mean no value, such as NA."
      null: [String!]
      "Fields to make by expressions in SQL, such as amount=round(amount, 2); fields by their names in the database."
      set: [String!]
      "Return at once with the running run. The rows are safe only when it has finished."
      background: Boolean = false
      "Any string; it comes back unchanged in the payload."
      clientMutationId: String
    }
    ${text(`A row as the source has it. Values of the wrong type are accepted here and quarantined with the reason${demand}.`)}
    input ${rowType} {
      ${[...columns].map(([name, field]) => `${text(describe(field))}\n      ${name}: JSON`).join("\n      ")}
    }
    "Result of ${mutation}."
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
}

function planIngest({ dataset, columns }: Ingest) {
  const asColumns = (row: Record<string, unknown>): Record<string, unknown> =>
    Object.fromEntries(Array.from(columns, ([name, { field }]) => [field, row[name]]));
  return (_$root: Step, args: FieldArgs) => {
    const $input = args.getRaw("input") as Step<IngestInput>;
    const $run = sideEffect([context().get("ingestRows"), $input], ([ingestRows, input]) =>
      ingestRows({
        dataset,
        rows: input.rows.map(asColumns),
        sourceSystem: input.sourceSystem,
        dateFormat: input.dateFormat,
        maxRejected: input.maxRejected,
        decimal: input.decimal,
        timezone: input.timezone,
        null: input.null,
        set: input.set,
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
  const { inflection } = build;
  const { strataDatasets, pgRegistry } = build.input;
  const runs = pgRegistry.pgResources.pipeline_runs as PgResource<any, any, any, any, any> | undefined;
  if (!runs) throw new Error("analytics.pipeline_runs is not in the schema");
  const ingests = strataDatasets
    .filter(({ fields }) => fields.length > 0)
    .map(({ dataset, fields }): Ingest => {
      const name = inflection.coerceToGraphQLName(dataset);
      return {
        dataset,
        mutation: inflection.camelCase(`ingest-${name}`),
        // Not "…Input": where singular and plural are the same word, that is the mutation's own input.
        rowType: inflection.upperCamelCase(`ingest-${name}-row`),
        columns: new Map(
          fields.map((field) => [inflection.camelCase(inflection.coerceToGraphQLName(field.field)), field]),
        ),
      };
    });
  const payloadPlans = {
    run: ($payload: Payload) =>
      runs.get({ run_id: lambda($payload.get("run"), (run) => run.id, true) }) as Step,
    rowsIngested: ($payload: Payload) => lambda($payload.get("run"), (run) => run.rowsWritten ?? null, true),
    rowsRejected: ($payload: Payload) => lambda($payload.get("run"), (run) => run.rowsRejected ?? null, true),
    clientMutationId: ($payload: Payload) => $payload.get("clientMutationId"),
  };
  return {
    typeDefs: ingests.map((ingest) => parse(typeDefsOf(ingest))),
    objects: {
      Mutation: { plans: Object.fromEntries(ingests.map((ingest) => [ingest.mutation, planIngest(ingest)])) },
      ...Object.fromEntries(
        ingests.map(({ mutation }) => [
          `${inflection.upperCamelCase(mutation)}Payload`,
          { scope: { isMutationPayload: true }, plans: payloadPlans },
        ]),
      ),
    },
  };
}, "IngestMutationsPlugin");
