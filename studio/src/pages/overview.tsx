// Shows the data flow: sources, staging, production, metrics and views, with active runs.
import { useState } from "preact/hooks";
import { Flow, type Lane, type Result } from "../flow.tsx";
import { count, plural } from "../format.ts";
import {
  activeRuns,
  entityOf,
  isActive,
  runFields,
  start,
  type Run,
  type StepMutation,
} from "../pipeline.ts";
import { useAction, useQuery } from "../query.ts";
import { isOperator, rights } from "../rights.ts";
import { RunList, runName } from "../run-list.tsx";
import { features, pick } from "../schema.ts";
import { Button, Dialog, Empty, Fault, Notice, Progress, Skeleton, toast, When } from "../ui.tsx";

export interface Freshness {
  dataset: string;
  refreshedAt: string | null;
  rowsBehind: string;
  lagSeconds: number;
  runId: string | null;
}

interface Registered {
  dataset: string;
  kind?: string;
  description?: string;
  parents?: string[];
  rowsEstimated?: string | null;
}

interface LineageEdge {
  sourceRelation: string;
  targetRelation: string;
}

/** Maximum lists to count in one request, which may select 100 objects. */
const MAX_COUNTS = 90;
const LATEST_RUNS = 60;
const SHOWN_RUNS = 6;
/** Rows up to which a table is counted; larger ones are estimated, since counting reads all rows. */
const COUNTED_UP_TO = 200_000;

const pascal = (name: string): string =>
  `_${name}`.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** Omit the pipeline's own lists, which the picture already shows. */
const listOf = (node: string) => features.value?.byNode.get(node);

function useFlow() {
  const ready = rights.value !== undefined && features.value !== undefined;
  const datasetList = listOf("Dataset");
  const datasetFields = pick("dataset", "dataset kind description parents rowsEstimated");
  const lineageList = listOf("Lineage");
  const state = useQuery<{
    freshness: { nodes: Freshness[] } | null;
    pipelineRuns: { nodes: Run[] } | null;
    datasets?: { nodes: Registered[] } | null;
  }>(
    ready
      ? `query StudioOverview {
          freshness { nodes { dataset refreshedAt rowsBehind lagSeconds runId } }
          pipelineRuns(first: ${LATEST_RUNS}, orderBy: [RUN_ID_DESC]) { nodes { ${runFields()} } }
          ${datasetList && datasetFields.includes("dataset") ? `datasets: ${datasetList.field} { nodes { ${datasetFields} } }` : ""}
        }`
      : undefined,
    {},
    ["runs", "data"],
  );
  const lineage = useQuery<{ lineage: { nodes: LineageEdge[] } }>(
    ready && lineageList
      ? `query StudioLineage { lineage: ${lineageList.field}(first: 1000) { nodes { sourceRelation targetRelation } } }`
      : undefined,
  );
  const quarantine = useQuery<{
    quarantinedRows: { groupedAggregates: { keys: string[]; distinctCount: { quarantineId: string } }[] };
  }>(
    rights.value?.quarantine
      ? `query StudioRejected { quarantinedRows(first: 1) { groupedAggregates(groupBy: [DATASET]) { keys distinctCount { quarantineId } } } }`
      : undefined,
    {},
    ["data"],
  );
  return { state, lineage, quarantine };
}

/** Counts the rows of each list. */
function useCounts(fields: string[]): Record<string, number> {
  const { data } = useQuery<Record<string, { totalCount: number } | null>>(
    fields.length > 0
      ? `query StudioCounts { ${fields
          .slice(0, MAX_COUNTS)
          .map((field) => `${field}(first: 1) { totalCount }`)
          .join(" ")} }`
      : undefined,
    {},
    ["data"],
  );
  return Object.fromEntries(
    Object.entries(data ?? {}).flatMap(([field, list]) => (list ? [[field, list.totalCount]] : [])),
  );
}

const Buttons = () => {
  const action = useAction();
  const [isCleaning, setCleaning] = useState(false);
  const ask = (mutation: StepMutation, input = {}) =>
    action.run(async () => {
      const id = await start(mutation, input);
      toast(
        <>
          <a href={`#/runs/${id}`}>Run {id}</a> is queued.
        </>,
      );
    });
  return (
    <div class="buttons">
      <Button icon="play" kind="primary" isBusy={action.isRunning} onClick={() => ask("runPipeline")}>
        Run pipeline
      </Button>
      <Button icon="refresh" disabled={action.isRunning} onClick={() => ask("refreshAnalytics")}>
        Refresh
      </Button>
      <Button icon="clean" disabled={action.isRunning} onClick={() => setCleaning(true)}>
        Clean up …
      </Button>
      {action.error && <Notice kind="error">{action.error}</Notice>}
      {isCleaning && (
        <CleanUp
          onClose={() => setCleaning(false)}
          onDone={(daysToKeep) => (
            setCleaning(false),
            ask("cleanupOldData", daysToKeep === undefined ? {} : { daysToKeep })
          )}
        />
      )}
    </div>
  );
};

const CleanUp = ({
  onClose,
  onDone,
}: {
  onClose: () => void;
  onDone: (days: number | undefined) => void;
}) => {
  const [days, setDays] = useState("");
  return (
    <Dialog title="Clean up staging" onClose={onClose}>
      <form
        class="stack"
        onSubmit={(event) => (event.preventDefault(), onDone(days === "" ? undefined : Number(days)))}
      >
        <p>
          Deletes rows of staging that the transform has taken and that are older than this. Production keeps
          its rows.
        </p>
        <label class="field">
          <span>Days to keep</span>
          <input
            type="number"
            min={0}
            max={36500}
            value={days}
            placeholder="as the server is set"
            onInput={(event) => setDays(event.currentTarget.value)}
          />
        </label>
        <div class="buttons end">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" kind="danger" icon="clean">
            Clean up
          </Button>
        </div>
      </form>
    </Dialog>
  );
};

interface Incident {
  incidentId: string;
  detail: string;
  openedAt: string;
  runId: string | null;
}

/** Shows open incidents, which only operators may read. */
const Incidents = () => {
  const list = rights.value?.quarantine ? listOf("PipelineIncident") : undefined;
  const { data } = useQuery<{ incidents: { nodes: Incident[] } | null }>(
    list
      ? `query StudioIncidents {
          incidents: ${list.field}(first: 20, filter: { resolvedAt: { isNull: true } }, orderBy: [INCIDENT_ID_DESC]) {
            nodes { ${pick("incident", "incidentId detail openedAt runId")} }
          }
        }`
      : undefined,
    {},
    ["runs", "data"],
  );
  const open = data?.incidents?.nodes ?? [];
  if (open.length === 0) return null;
  return (
    <Notice kind="error">
      <ul aria-label="Open incidents">
        {open.map(({ incidentId, detail, openedAt, runId }) => (
          <li key={incidentId}>
            {runId == null ? detail : <a href={`#/runs/${runId}`}>{detail}</a>} <When at={openedAt} />
          </li>
        ))}
      </ul>
    </Notice>
  );
};

export const Overview = () => {
  const { state, lineage, quarantine } = useFlow();
  const runs = state.data?.pipelineRuns?.nodes ?? [];
  const freshness = state.data?.freshness?.nodes ?? [];
  const registered = state.data?.datasets?.nodes;
  const kinds = new Map(registered?.map(({ dataset, kind }) => [dataset, kind]));
  const isDataset = (name: string): boolean =>
    registered
      ? (kinds.get(name) ?? "") === "dataset"
      : (features.value?.mutations.has(`ingest${pascal(name)}`) ?? false) ||
        runs.some(({ dataset }) => dataset === name);
  const known = registered?.map(({ dataset }) => dataset) ?? freshness.map(({ dataset }) => dataset);
  const names = known.filter(isDataset);
  const tables = known.filter((name) => kinds.get(name) === "table");
  // Live views of metrics have no box of their own; Explore has a switch for them.
  const made = known.filter(
    (name) =>
      !names.includes(name) &&
      !tables.includes(name) &&
      !(name.endsWith("_live") && known.includes(name.slice(0, -5))),
  );
  const isShown = new Set([...names, ...tables, ...made]);
  const edges = lineage.data?.lineage.nodes ?? [];
  const sourcesOf = (name: string): string[] => {
    const parents = registered?.find(({ dataset }) => dataset === name)?.parents ?? [];
    const read = edges
      .filter(({ targetRelation }) => targetRelation === name || targetRelation === `${name}_live`)
      .map(({ sourceRelation }) => sourceRelation);
    return [...new Set([...parents, ...read])].filter((source) => source !== name && isShown.has(source));
  };

  const estimates = new Map(
    registered?.flatMap(({ dataset, rowsEstimated }) =>
      rowsEstimated != null && Number(rowsEstimated) >= COUNTED_UP_TO
        ? [[dataset, Number(rowsEstimated)]]
        : [],
    ),
  );
  const counted = [...isShown]
    .filter((name) => !estimates.has(name))
    .map((name) => entityOf(name)?.field)
    .filter((field) => field !== undefined);
  const counts = useCounts([...new Set(counted)]);
  const rowsOf = (name: string): number | undefined => {
    const field = entityOf(name)?.field;
    return estimates.get(name) ?? (field === undefined ? undefined : counts[field]);
  };
  const quarantined = new Map(
    quarantine.data?.quarantinedRows.groupedAggregates.map(({ keys, distinctCount }) => [
      keys[0]!,
      Number(distinctCount.quarantineId),
    ]),
  );
  const active = activeRuns(runs);
  const isAt = (step: string, dataset?: string): boolean =>
    active.some(
      (run) =>
        run.status === "running" &&
        run.step === step &&
        (run.dataset == null || dataset === undefined || run.dataset === dataset),
    );
  const boxOf = (name: string) => ({
    name,
    entity: entityOf(name),
    rows: rowsOf(name),
    isEstimate: estimates.has(name),
    freshness: freshness.find(({ dataset }) => dataset === name),
  });

  const lanes: Lane[] = names.map((name) => {
    const box = boxOf(name);
    return {
      ...box,
      waiting: Number(box.freshness?.rowsBehind ?? 0),
      quarantined: rights.value?.quarantine ? (quarantined.get(name) ?? 0) : undefined,
      ingests: runs.filter(({ step, dataset }) => step === "ingest" && dataset === name),
      isIngesting: isAt("ingest", name),
      isTransforming: isAt("transform") || isAt("retry", name),
    };
  });
  const results: Result[] = made.map((name) => {
    const box = boxOf(name);
    return { ...box, sources: sourcesOf(name), isRefreshing: box.freshness !== undefined && isAt("refresh") };
  });
  const waiting = lanes.reduce((total, lane) => total + lane.waiting, 0);
  const inProduction = lanes.reduce((total, lane) => total + (lane.rows ?? 0), 0);
  const rejected = [...quarantined.values()].reduce((total, rows) => total + rows, 0);
  const last = runs.find((run) => run.parentRunId == null && !isActive(run));
  const top = runs.filter(({ parentRunId }) => parentRunId == null).slice(0, SHOWN_RUNS);
  const running = active.filter(
    (run) => run.parentRunId == null || !active.some(({ runId }) => runId === run.parentRunId),
  );

  return (
    <>
      <div class="page-head">
        <h1>Overview</h1>
        {isOperator() && <Buttons />}
      </div>
      <Incidents />
      {state.error && <Fault error={state.error} subject="the pipeline" />}
      {!state.data && state.isLoading && <Skeleton lines={8} label="Loading the overview" />}
      {state.data && (
        <>
          <dl class="tiles" aria-label="In short">
            <div>
              <dt>In production</dt>
              <dd>{count(inProduction)}</dd>
              <dd class="sub">{plural(names.length, "dataset")}</dd>
            </div>
            <div class={waiting > 0 ? "attention" : ""}>
              <dt>Waiting in staging</dt>
              <dd>{count(waiting)}</dd>
              <dd class="sub">{waiting > 0 ? "for the next transform" : "everything was taken"}</dd>
            </div>
            {rights.value?.quarantine && (
              <div class={rejected > 0 ? "attention" : ""}>
                <dt>In quarantine</dt>
                <dd>{count(rejected)}</dd>
                <dd class="sub">
                  {rejected > 0 ? <a href="#/quarantine">work them off</a> : "nothing to work off"}
                </dd>
              </div>
            )}
            <div class={last?.status === "failed" ? "bad" : ""}>
              <dt>Last run</dt>
              <dd>{last ? <a href={`#/runs/${last.runId}`}>{runName(last)}</a> : "none yet"}</dd>
              <dd class="sub">
                {last && (
                  <>
                    {last.status} <When at={last.finishedAt} />
                  </>
                )}
              </dd>
            </div>
          </dl>
          {running.length > 0 && (
            <section class="panel running-now" aria-label="At work now">
              {running.map((run) => (
                <div key={run.runId}>
                  <a href={`#/runs/${run.runId}`}>
                    {runName(run)} {run.runId}
                  </a>
                  <Progress
                    value={run.status === "queued" ? 0 : run.progress}
                    label={`Progress of run ${run.runId}`}
                  />
                  <span>{run.status === "queued" ? "queued" : `${Math.round(run.progress * 100)} %`}</span>
                </div>
              ))}
            </section>
          )}
          {isShown.size === 0 ? (
            <Empty icon="source" title="No dataset yet">
              Put one into <code>datasets/</code>, or propose one from a file:{" "}
              <code>npx strata-graphql add products.csv</code>
            </Empty>
          ) : (
            <Flow lanes={lanes} tables={tables.map(boxOf)} results={results} />
          )}
          <section class="panel flush" aria-labelledby="last-runs">
            <div class="panel-head">
              <h2 id="last-runs">Last runs</h2>
              <a href="#/runs">All runs</a>
            </div>
            {top.length > 0 ? (
              <RunList runs={top} label="Last runs" isShort />
            ) : (
              <Empty icon="runs" title="Nothing has run yet" />
            )}
          </section>
        </>
      )}
    </>
  );
};
