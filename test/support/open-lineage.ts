// JSON Schema of the events that Strata sends, written after the specification of OpenLineage (2-0-2) and of the facets
// named below. It is stricter than the specification, which lets anybody add to anything: what Strata sends and does not
// name here is a fault.
import { Ajv2020, type AnySchema } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const text = { type: "string" };
const name = { type: "string", minLength: 1 };
const time = { type: "string", format: "date-time" };
const uri = { type: "string", format: "uri" };
const uuid = { type: "string", format: "uuid" };
const count = { type: "integer", minimum: 0 };

/** An object with these properties alone; those whose names end in "?" may be missing. */
function object(properties: Record<string, AnySchema>): AnySchema {
  const entries = Object.entries(properties);
  return {
    type: "object",
    additionalProperties: false,
    properties: Object.fromEntries(entries.map(([key, value]) => [key.replace("?", ""), value])),
    required: entries.map(([key]) => key).filter((key) => !key.endsWith("?")),
  };
}
const list = (items: AnySchema): AnySchema => ({ type: "array", items });
const map = (additionalProperties: AnySchema): AnySchema => ({ type: "object", additionalProperties });

/** A facet says who made it, and by which version of which schema. */
const facet = (schema: string, version: string, properties: Record<string, AnySchema>): AnySchema =>
  object({
    _producer: uri,
    _schemaURL: {
      const: `https://openlineage.io/spec/facets/${version}/${schema}.json#/$defs/${schema}`,
    },
    ...properties,
  });

const inputField = object({
  namespace: name,
  name,
  field: name,
  "transformations?": list(
    object({
      type: { enum: ["DIRECT", "INDIRECT"] },
      "subtype?": text,
      "description?": text,
      "masking?": { type: "boolean" },
    }),
  ),
});

const datasetFacets = object({
  "schema?": facet("SchemaDatasetFacet", "1-1-1", {
    fields: list(object({ name, "type?": text, "description?": text })),
  }),
  "columnLineage?": facet("ColumnLineageDatasetFacet", "1-2-0", {
    fields: map(object({ inputFields: list(inputField) })),
    "dataset?": list(inputField),
  }),
});

const job = { namespace: name, name };

const runEvent = object({
  eventType: { enum: ["START", "COMPLETE", "FAIL"] },
  eventTime: time,
  producer: uri,
  schemaURL: { const: "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent" },
  run: object({
    runId: uuid,
    facets: object({
      processing_engine: facet("ProcessingEngineRunFacet", "1-1-1", {
        version: name,
        "name?": text,
        "openlineageAdapterVersion?": text,
      }),
      "parent?": facet("ParentRunFacet", "1-0-1", { run: object({ runId: uuid }), job: object(job) }),
      "errorMessage?": facet("ErrorMessageRunFacet", "1-0-1", { message: text, programmingLanguage: text }),
      // One of our own: such names begin with that of their maker.
      "strata_run?": object({
        _producer: uri,
        _schemaURL: { const: "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet" },
        number: text,
        trigger: text,
        rejected: map(map(count)),
      }),
    }),
  }),
  job: object({
    ...job,
    facets: object({
      jobType: facet("JobTypeJobFacet", "2-0-3", {
        processingType: name,
        integration: name,
        "jobType?": text,
      }),
    }),
  }),
  inputs: list(
    object({
      namespace: name,
      name,
      facets: datasetFacets,
      "inputFacets?": object({
        "dataQualityMetrics?": facet("DataQualityMetricsInputDatasetFacet", "1-0-2", {
          "rowCount?": count,
          columnMetrics: map({ type: "object" }),
        }),
        "dataQualityAssertions?": facet("DataQualityAssertionsDatasetFacet", "1-0-1", {
          assertions: list(object({ assertion: name, success: { type: "boolean" }, "column?": text })),
        }),
      }),
    }),
  ),
  outputs: list(
    object({
      namespace: name,
      name,
      facets: datasetFacets,
      "outputFacets?": object({
        "outputStatistics?": facet("OutputStatisticsOutputDatasetFacet", "1-0-2", { "rowCount?": count }),
      }),
    }),
  ),
});

const ajv = new Ajv2020({ allErrors: true });
addFormats.default(ajv);
const validate = ajv.compile(runEvent);

/** What is wrong with an event. */
export function findEventFaults(event: unknown): string[] {
  if (validate(event) === true) return [];
  return validate.errors!.map(
    ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
  );
}
