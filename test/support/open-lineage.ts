// JSON Schema of the events that Strata sends, written after the specification of OpenLineage (2-0-2) and of the facets
// named below. It is stricter than the specification, which lets anybody add to anything: what Strata sends and does not
// name here is a fault.
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { Ajv2020, type AnySchema, type ValidateFunction } from "ajv/dist/2020.js";
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
const describe = ({ errors }: ValidateFunction): string[] =>
  errors!.map(({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`);

type Validators = (name: string) => ValidateFunction | undefined;

/**
 * By the specification's own files, beside the schema above: OPENLINEAGE_SPEC is the folder `spec` of a clone of
 * OpenLineage. They hold the last version of each facet, which may be younger than the one that Strata names.
 */
function readSpecification(folder: string): Validators {
  const read = (file: string) => readFileSync(join(folder, file), "utf8");
  const official = new Ajv2020({ allErrors: true, strict: false });
  addFormats.default(official);
  const core = JSON.parse(read("OpenLineage.json")) as { $id: string };
  official.addSchema(core);
  const ids = new Map([["RunEvent", core.$id]]);
  for (const file of readdirSync(join(folder, "facets")).filter((name) => name.endsWith(".json"))) {
    const text = read(join("facets", file));
    // Each refers to the core of its time, of which a clone has the last version only.
    for (const [$id] of text.matchAll(/https:\/\/openlineage\.io\/spec\/[\d-]+\/OpenLineage\.json/g))
      if (!official.getSchema($id)) official.addSchema({ ...core, $id });
    const facet = JSON.parse(text) as { $id: string };
    official.addSchema(facet);
    ids.set(basename(file, ".json"), facet.$id);
  }
  return (name) => (ids.has(name) ? official.getSchema(`${ids.get(name)}#/$defs/${name}`) : undefined);
}

const { OPENLINEAGE_SPEC } = process.env;
const specification = OPENLINEAGE_SPEC === undefined ? undefined : readSpecification(OPENLINEAGE_SPEC);

function findOfficialFaults(event: unknown, validators: Validators): string[] {
  const check = (name: string, value: unknown): string[] => {
    const validator = validators(name);
    if (!validator) return [`The specification has no ${name}`];
    return validator(value) === true ? [] : describe(validator).map((fault) => `${name}: ${fault}`);
  };
  const facets: [string, unknown][] = [];
  const collect = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    const { _schemaURL: url } = value as { _schemaURL?: string };
    const name = url && /\/facets\/.*#\/\$defs\/(\w+)$/.exec(url)?.[1];
    if (name) facets.push([name, value]);
    Object.values(value).forEach(collect);
  };
  collect(event);
  return [...check("RunEvent", event), ...facets.flatMap(([name, facet]) => check(name, facet))];
}

/** What is wrong with an event. */
export function findEventFaults(event: unknown): string[] {
  return [
    ...(validate(event) === true ? [] : describe(validate)),
    ...(specification ? findOfficialFaults(event, specification) : []),
  ];
}
