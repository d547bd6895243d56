// Adds ingest<Dataset> for every dataset, which lands rows in staging. GraphQL does not type their values, since it
// would reject all rows because of one; a row with invalid values goes to quarantine. The process provides the work
// by the Grafast context.
import "graphile-build-pg";
import { context, lambda, sideEffect, type FieldArgs, type Step } from "grafast";
import { parse } from "grafast/graphql";
import { extendSchema } from "graphile-utils";
import type { DatasetField } from "./CataloguePlugin.ts";
import { distinctNames } from "./NamesPlugin.ts";
import { givenOf, text, type Nullable } from "./support/inputs.ts";
import { payloadPlans, planPayload } from "./support/runs.ts";

/** Options of a load, the same as those of POST /ingest. */
interface LoadOptions {
  sourceSystem?: string;
  operation?: "delete" | "replace";
  maxRejected?: string;
  dateFormat?: string;
  decimal?: string;
  timezone?: string;
  null?: string[];
  set?: string[];
}

export interface IngestRowsRequest extends LoadOptions {
  dataset: string;
  rows: Record<string, unknown>[];
  /** Whether to do nothing if the same rows were ingested before. */
  once: boolean;
  dryRun: boolean;
  background: boolean;
}

export interface IngestedRows {
  /** Absent after a dry run. */
  id?: string;
  /** Absent while the run goes on in the background. */
  rowsWritten?: number;
  rowsRejected?: number;
  /** Set if the run is an earlier one that has ingested the same rows. */
  skipped?: boolean;
  /** Report of a dry run. */
  dryRun?: object;
}

declare global {
  namespace Grafast {
    interface Context {
      /** Lands rows under the request's role, which needs the right to ingest. */
      ingestRows(request: IngestRowsRequest): Promise<IngestedRows>;
    }
  }
}

type IngestInput = Nullable<Omit<IngestRowsRequest, "dataset"> & { clientMutationId: string }>;

/** A dataset with the names of its mutation. */
interface Ingest {
  dataset: string;
  mutation: string;
  rowType: string;
  /** Column by name of the input's field. */
  columns: Map<string, DatasetField>;
}

function describe({ type, description, is_required: isRequired }: DatasetField): string {
  const words = description?.trim() || `A value of the type ${type}.`;
  return isRequired ? `${words} A row without it is rejected.` : words;
}

/** Types that the mutations of all datasets share. */
const SHARED = `
  "What a load does with its rows, if it does not write them."
  enum IngestOperation {
    "The rows name rows of production to delete, by their key; other fields are not used."
    delete
    "The rows are all that their source has: when the transform has taken them, its other rows are deleted, if none of these was rejected."
    replace
  }
  "What a load would do."
  type IngestDryRun {
    "How many rows were read."
    rowsRead: Int!
    "How many rows would land in staging."
    rowsLanding: Int!
    "How many rows would go to quarantine at once."
    rowsRejected: Int!
    "How many rows each reason rejects."
    reasons: JSON!
    "The first rows that would land."
    landing: [IngestDryRunExample!]!
    "The first rows of each reason."
    rejected: [IngestDryRunExample!]!
    "What the transform would do with the first 20,000 rows that would land; null for a role that may not read the dataset, and if none would land."
    transform: IngestDryRunTransform
    "The run that has ingested the same rows: with once, the load would do nothing."
    sameAs: BigInt
    "Why the load would fail."
    error: String
  }
  "What the transform would do with the rows of a load."
  type IngestDryRunTransform {
    "How many rows it would take."
    rowsRead: Int!
    "How many rows it would insert or update."
    rowsWritten: Int!
    "How many rows would take the place of others with other values."
    rowsReplaced: Int!
    "Of these, how many rows of another source would be replaced."
    rowsReplacedFromOtherSource: Int!
    "How many rows it would delete; null for a full snapshot that is longer than what is tried."
    rowsDeleted: Int
    "How many rows it would reject."
    rowsRejected: Int!
    "How many rows each reason rejects."
    reasons: JSON!
    "The first rows that would be replaced."
    replaced: [IngestDryRunExample!]!
    "The first rows that would be deleted."
    deleted: [IngestDryRunExample!]!
    "The first rows that it would reject, of each reason."
    rejected: [IngestDryRunExample!]!
    "Why a full snapshot would delete nothing."
    problem: String
    "Rows of parents that wait for the transform, by dataset: rows that need them count as rejected."
    waiting: JSON!
  }
  "A row that a load would land, reject, replace or delete; what does not apply is null."
  type IngestDryRunExample {
    "Place of the row among those given, from 1."
    line: Int
    "Key of the row."
    key: String
    "The row as it would land: its fields as text."
    row: JSON
    "Source of the row in production."
    source: String
    "Fields of the row in production that would change."
    before: JSON
    "The same fields after the change."
    after: JSON
    "Why it would be rejected."
    reasons: [String!]
    "The reasons in words."
    detail: String
    "The row as it was given."
    text: String
  }`;

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
      "Delete the rows that these name, or also those of the source that are not among these. Both take the right to delete rows of the dataset."
      operation: IngestOperation
      "Say what the load would do, and change nothing."
      dryRun: Boolean = false
      "Do nothing if the same rows were ingested before with the same options."
      once: Boolean = false
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
      "The run that landed the rows; empty after a dry run."
      run: PipelineRun
      "How many rows landed in staging; empty for a run in the background and after a dry run."
      rowsIngested: Int
      "How many rows went to quarantine; empty for a run in the background and after a dry run."
      rowsRejected: Int
      "Whether nothing was done because the run has ingested the same rows before."
      skipped: Boolean!
      "What the load would do, if that was asked for."
      dryRun: IngestDryRun
      "The string given in the input."
      clientMutationId: String
    }`;
}

function planIngest({ dataset, columns }: Ingest) {
  const asColumns = (row: Record<string, unknown>): Record<string, unknown> =>
    Object.fromEntries(Array.from(columns, ([name, { field }]) => [field, row[name]]));
  return (_$root: Step, args: FieldArgs) => {
    const $input = args.getRaw("input") as Step<IngestInput>;
    const $run = sideEffect([context().get("ingestRows"), $input], ([ingestRows, input]) => {
      const { rows, once = false, dryRun = false, background = false, ...given } = givenOf(input);
      const { clientMutationId: _, ...options } = given;
      return ingestRows({ dataset, rows: rows!.map(asColumns), once, dryRun, background, ...options });
    });
    return planPayload($run, $input);
  };
}

type Payload = ReturnType<ReturnType<typeof planIngest>>;

export const IngestMutationsPlugin: GraphileConfig.Plugin = extendSchema((build) => {
  const { inflection } = build;
  const ingests = build.input.strataDatasets
    .filter(({ fields }) => fields.length > 0)
    .map(({ dataset, fields }): Ingest => {
      const name = inflection.coerceToGraphQLName(dataset);
      const names = distinctNames(
        fields.map(({ field }) => field),
        (field) => inflection.camelCase(inflection.coerceToGraphQLName(field)),
      );
      return {
        dataset,
        mutation: inflection.camelCase(`ingest-${name}`),
        // "…Input" would be the mutation's input type if singular and plural are the same word.
        rowType: inflection.upperCamelCase(`ingest-${name}-row`),
        columns: new Map(fields.map((field) => [names.get(field.field)!, field])),
      };
    });
  const plans = {
    ...payloadPlans(build),
    // The rows of an earlier run were not ingested by this mutation.
    rowsIngested: ($payload: Payload) =>
      lambda($payload.get("run"), (run) => (run.skipped ? 0 : (run.rowsWritten ?? null)), true),
    rowsRejected: ($payload: Payload) =>
      lambda($payload.get("run"), (run) => (run.skipped ? 0 : (run.rowsRejected ?? null)), true),
    skipped: ($payload: Payload) => lambda($payload.get("run"), (run) => run.skipped ?? false, true),
    dryRun: ($payload: Payload) => lambda($payload.get("run"), (run) => run.dryRun ?? null, true),
  };
  return {
    typeDefs: [SHARED, ...ingests.map(typeDefsOf)].map((text) => parse(text)),
    objects: {
      Mutation: { plans: Object.fromEntries(ingests.map((ingest) => [ingest.mutation, planIngest(ingest)])) },
      ...Object.fromEntries(
        ingests.map(({ mutation }) => [
          `${inflection.upperCamelCase(mutation)}Payload`,
          { scope: { isMutationPayload: true }, plans },
        ]),
      ),
    },
  };
}, "IngestMutationsPlugin");
