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
  /** Column for each field of the input type. */
  columns: Map<string, DatasetField>;
}

function describe({ type, description, is_required: isRequired }: DatasetField): string {
  const words = description?.trim() || `A value of the type ${type}.`;
  return isRequired ? `${words} A row without it is rejected.` : words;
}

/** Types that the mutations of all datasets share. */
const SHARED = `
  "What a load does instead of writing its rows."
  enum IngestOperation {
    "Delete the rows of production with these keys; other fields are ignored."
    delete
    "The rows are a full snapshot of their source: once they are transformed, the source's other rows are deleted, unless a row of the snapshot was rejected."
    replace
  }
  "What a load would do."
  type IngestDryRun {
    "How many rows were read."
    rowsRead: Int!
    "Number of rows that would land in staging."
    rowsLanding: Int!
    "Number of rows that the ingest would put into quarantine."
    rowsRejected: Int!
    "Number of rejected rows by reason."
    reasons: JSON!
    "First rows that would land."
    landing: [IngestDryRunExample!]!
    "First rejected rows of each reason."
    rejected: [IngestDryRunExample!]!
    "What the transform would do with the first 20,000 rows that would land; null if none would land or your role may not read the dataset."
    transform: IngestDryRunTransform
    "Run that has ingested the same rows, so that a load with \`once\` would do nothing; null if there is none."
    sameAs: BigInt
    "Why the load would fail."
    error: String
  }
  "What the transform would do with the rows of a load."
  type IngestDryRunTransform {
    "Number of rows that it would read."
    rowsRead: Int!
    "Number of rows that it would insert or change."
    rowsWritten: Int!
    "Number of rows that would replace a row with the same key and other values."
    rowsReplaced: Int!
    "Number of replaced rows that came from another source."
    rowsReplacedFromOtherSource: Int!
    "Number of rows that it would delete; null for a full snapshot of more than 20,000 rows."
    rowsDeleted: Int
    "Number of rows that it would reject."
    rowsRejected: Int!
    "Number of rejected rows by reason."
    reasons: JSON!
    "First rows that would be replaced."
    replaced: [IngestDryRunExample!]!
    "First rows that would be deleted."
    deleted: [IngestDryRunExample!]!
    "First rows that it would reject, for each reason."
    rejected: [IngestDryRunExample!]!
    "Why a full snapshot would delete nothing; null otherwise."
    problem: String
    "Number of rows that are not transformed yet, by parent dataset; rows that refer to them count as rejected here."
    waiting: JSON!
  }
  "A row that a load would land, reject, replace or delete; fields that do not apply are null."
  type IngestDryRunExample {
    "Position of the row in the input, from 1."
    line: Int
    "Key of the row."
    key: String
    "Fields of the row as text, as they would land."
    row: JSON
    "Source system of the row in production."
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
      ${text(`Lands rows of ${dataset} in staging, from where the next transform moves them to production. Ingestors and operators only.`)}
      ${mutation}(
        "The rows, their source and options."
        input: ${type}Input!
      ): ${type}Payload
    }
    "Rows for ${mutation}."
    input ${type}Input {
      "The rows. A row that is not valid goes to quarantine; the others land."
      rows: [${rowType}!]!
      "Source system of the rows; at most 50 characters."
      sourceSystem: String = "api"
      "\`delete\` deletes the rows with these keys; \`replace\` writes the rows and deletes the other rows of the source. Both require the right to delete rows of the dataset."
      operation: IngestOperation
      "Report what the load would do without changing anything."
      dryRun: Boolean = false
      "Do nothing if the same rows were already ingested with the same options."
      once: Boolean = false
      "Format of dates that are not ISO 8601, such as DD/MM/YYYY."
      dateFormat: String
      "Maximum number of rejected rows, or their share, such as 5%. If more are rejected, the run fails and none of its rows is transformed."
      maxRejected: String
      "Decimal separator of numbers that are sent as text: a point or a comma. The other one may separate thousands."
      decimal: String
      "Time zone of times without an offset, such as Europe/Berlin; UTC by default."
      timezone: String
      "Texts that stand for null, such as NA."
      null: [String!]
      "Fields to compute by SQL expressions, such as amount=round(amount, 2); fields have their names in the database."
      set: [String!]
      "Return the running run at once. The rows are stored only when the run has succeeded."
      background: Boolean = false
      "Any text; the payload repeats it."
      clientMutationId: String
    }
    ${text(`A row as its source has it. Values of a wrong type are accepted here, and the row is quarantined with the reason${demand}.`)}
    input ${rowType} {
      ${[...columns].map(([name, field]) => `${text(describe(field))}\n      ${name}: JSON`).join("\n      ")}
    }
    "Result of ${mutation}."
    type ${type}Payload {
      "Run that landed the rows; null after a dry run."
      run: PipelineRun
      "Number of rows that landed in staging; null for a run in the background and after a dry run."
      rowsIngested: Int
      "Number of rows that went to quarantine; null for a run in the background and after a dry run."
      rowsRejected: Int
      "Whether nothing was done because an earlier run ingested the same rows."
      skipped: Boolean!
      "What the load would do; null unless \`dryRun\` was given."
      dryRun: IngestDryRun
      "The text given as \`clientMutationId\`."
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
