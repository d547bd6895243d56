// Formats events of runs for OpenLineage. strata.run_event decides on their content.
import { readFileSync } from "node:fs";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { root } from "../paths.ts";
import type { Message } from "./deliver.ts";
import { postJson, type Posted } from "./post.ts";

interface Field {
  name: string;
  type: string;
  description?: string;
}
interface SourceColumn {
  name: string;
  field: string;
}
/** What strata.run_event returns. */
interface RunFacts {
  runId: string;
  database: string;
  step: string;
  dataset: string | null;
  trigger: string;
  number: string;
  serverVersion: string;
  error: string | null;
  parent: { runId: string; step: string } | null;
  inputs: { name: string; fields: Field[]; rowsRead: number | null; rejected: Record<string, number> }[];
  outputs: {
    name: string;
    fields: Field[];
    rowsWritten: number;
    columns: Record<string, SourceColumn[]>;
    rows: SourceColumn[];
  }[];
  rejected: Record<string, Record<string, number>>;
}

export const isLineageOn = ({ OPENLINEAGE_URL, OPENLINEAGE_DISABLED }: Config): boolean =>
  OPENLINEAGE_URL !== undefined && !OPENLINEAGE_DISABLED;

export async function sendLineage(
  config: Config,
  pool: Pool,
  message: Message,
  signal?: AbortSignal,
): Promise<Posted | undefined> {
  if (!isLineageOn(config)) throw new Error("OPENLINEAGE_URL is not set for this worker, or it is disabled");
  const event = message.body ?? (await putTogether(config, pool, message));
  // The run was deleted, and the message with it.
  if (!event) return undefined;
  const url = new URL(config.OPENLINEAGE_ENDPOINT, config.OPENLINEAGE_URL!.replace(/\/*$/, "/")).href;
  const authorization = config.OPENLINEAGE_API_KEY && {
    authorization: `Bearer ${config.OPENLINEAGE_API_KEY}`,
  };
  return postJson(url, JSON.stringify(event), authorization || {}, signal);
}

/** Builds the event and stores it with the message, so that every attempt sends the same. */
async function putTogether(config: Config, pool: Pool, message: Message): Promise<unknown> {
  const { rows } = await pool.query<{ facts: RunFacts | null }>("select strata.run_event($1) as facts", [
    message.runId,
  ]);
  const facts = rows[0]?.facts;
  if (!facts) return undefined;
  const event = lineageEvent(facts, message, config);
  await pool.query("update strata.outbox set body = $2 where message_id = $1", [
    message.id,
    JSON.stringify(event),
  ]);
  return event;
}

const { version } = JSON.parse(readFileSync(new URL("package.json", root), "utf8")) as { version: string };
const PRODUCER = `urn:strata-graphql:${version}`;
const SPECIFICATION = "https://openlineage.io/spec";

const facet = (name: string, version: string, content: object) => ({
  _producer: PRODUCER,
  _schemaURL: `${SPECIFICATION}/facets/${version}/${name}.json#/$defs/${name}`,
  ...content,
});

function lineageEvent(
  facts: RunFacts,
  { event, createdAt }: Pick<Message, "event" | "createdAt">,
  config: Config,
) {
  const isOver = event !== "START";
  const namespace = databaseNamespace(config);
  const named = (name: string) => ({ namespace, name: `${facts.database}.${name}` });
  const job = (step: string, dataset: string | null = null) => ({
    namespace: config.OPENLINEAGE_NAMESPACE,
    name: [facts.database, step, dataset].filter(Boolean).join("."),
  });
  const transformed =
    (type: "DIRECT" | "INDIRECT") =>
    ({ name, field }: SourceColumn) => ({
      ...named(name),
      field,
      transformations: [{ type }],
    });
  return {
    eventType: event,
    eventTime: createdAt,
    producer: PRODUCER,
    schemaURL: `${SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent`,
    run: {
      runId: facts.runId,
      facets: {
        processing_engine: facet("ProcessingEngineRunFacet", "1-1-1", {
          name: "Strata on PostgreSQL",
          version: facts.serverVersion,
          openlineageAdapterVersion: version,
        }),
        ...(facts.parent && {
          parent: facet("ParentRunFacet", "1-0-1", {
            run: { runId: facts.parent.runId },
            job: job(facts.parent.step),
          }),
        }),
        ...(event === "FAIL" && {
          errorMessage: facet("ErrorMessageRunFacet", "1-0-1", {
            message: facts.error ?? "unknown",
            programmingLanguage: "SQL",
          }),
        }),
        ...(isOver && {
          strata_run: {
            _producer: PRODUCER,
            _schemaURL: `${SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunFacet`,
            number: facts.number,
            trigger: facts.trigger,
            rejected: facts.rejected,
          },
        }),
      },
    },
    job: {
      ...job(facts.step, facts.dataset),
      facets: {
        jobType: facet("JobTypeJobFacet", "2-0-3", {
          processingType: "BATCH",
          integration: "STRATA",
          jobType: facts.step.toUpperCase(),
        }),
      },
    },
    inputs: facts.inputs.map(({ name, fields, rowsRead, rejected }) => ({
      ...named(name),
      facets: { schema: facet("SchemaDatasetFacet", "1-1-1", { fields }) },
      ...(isOver &&
        rowsRead !== null && {
          inputFacets: {
            dataQualityMetrics: facet("DataQualityMetricsInputDatasetFacet", "1-0-2", {
              rowCount: rowsRead,
              columnMetrics: {},
            }),
            ...(Object.keys(rejected).length > 0 && {
              dataQualityAssertions: facet("DataQualityAssertionsDatasetFacet", "1-0-1", {
                assertions: Object.keys(rejected).map((assertion) => ({ assertion, success: false })),
              }),
            }),
          },
        }),
    })),
    outputs: facts.outputs.map(({ name, fields, rowsWritten, columns, rows }) => ({
      ...named(name),
      facets: {
        schema: facet("SchemaDatasetFacet", "1-1-1", { fields }),
        ...(Object.keys(columns).length + rows.length > 0 && {
          columnLineage: facet("ColumnLineageDatasetFacet", "1-2-0", {
            fields: Object.fromEntries(
              Object.entries(columns).map(([column, sources]) => [
                column,
                { inputFields: sources.map(transformed("DIRECT")) },
              ]),
            ),
            dataset: rows.map(transformed("INDIRECT")),
          }),
        }),
      },
      ...(isOver && {
        outputFacets: {
          outputStatistics: facet("OutputStatisticsOutputDatasetFacet", "1-0-2", { rowCount: rowsWritten }),
        },
      }),
    })),
  };
}

/** The namespace that the specification defines for a PostgreSQL server; the embedded engine has no address. */
function databaseNamespace({ DATABASE_URL }: Config): string {
  if (!DATABASE_URL) return "pglite://localhost";
  const { hostname, port } = new URL(DATABASE_URL);
  return `postgres://${hostname || "localhost"}:${port || 5432}`;
}
