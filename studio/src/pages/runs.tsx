import { count, duration, plural, title, utc } from "../format.ts";
import { PAGE_ARGUMENTS, PAGE_INFO, PAGE_VARIABLES, pageArguments, Pager, type PageInfo } from "../pager.tsx";
import {
  argumentsInWords,
  isActive,
  MUTATION_OF,
  runFields,
  start,
  STATUSES,
  STEPS,
  TRIGGERS,
  withUpdates,
  type Run,
} from "../pipeline.ts";
import { useAction, useQuery } from "../query.ts";
import { isOperator, rights } from "../rights.ts";
import { go, hrefOf, hrefWith, route } from "../router.ts";
import { RunList, runName } from "../run-list.tsx";
import { features, pick } from "../schema.ts";
import {
  Button,
  Empty,
  Fault,
  Icon,
  Notice,
  Progress,
  Select,
  Skeleton,
  Status,
  toast,
  When,
} from "../ui.tsx";

const PAGE_SIZE = 25;

const FILTERS: [name: string, label: string, values: string[]][] = [
  ["step", "Step", STEPS],
  ["status", "Status", STATUSES],
  ["trigger", "ReadTarget by", TRIGGERS],
];

const List = () => {
  const { query } = route.value;
  const hasParts = query.get("parts") === "all";
  const filter: Record<string, unknown> = hasParts ? {} : { parentRunExists: false };
  for (const name of ["step", "status", "trigger", "dataset"])
    if (query.get(name)) filter[name] = { equalTo: query.get(name) };
  const { data, error, isLoading } = useQuery<{
    pipelineRuns: { nodes: Run[]; totalCount: number; pageInfo: PageInfo };
    freshness: { nodes: { dataset: string }[] };
  }>(
    rights.value &&
      `query StudioRuns($filter: PipelineRunFilter, ${PAGE_VARIABLES}) {
        pipelineRuns(filter: $filter, orderBy: [RUN_ID_DESC], ${PAGE_ARGUMENTS}) {
          nodes { ${runFields()} } totalCount ${PAGE_INFO}
        }
        freshness { nodes { dataset } }
      }`,
    { filter, ...pageArguments(PAGE_SIZE) },
    ["runs"],
  );
  const set = (name: string, value: string) =>
    go(hrefWith({ [name]: value, after: undefined, before: undefined }), { replace: true });
  const datasets = data?.freshness?.nodes.map(({ dataset }) => dataset) ?? [];
  const total = data?.pipelineRuns?.totalCount ?? 0;
  const isFiltered = ["step", "status", "trigger", "dataset"].some((name) => query.get(name));
  return (
    <>
      <div class="page-head">
        <h1>Runs</h1>
      </div>
      <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
        {FILTERS.map(([name, label, values]) => (
          <Select
            key={name}
            label={label}
            value={query.get(name) ?? ""}
            options={[["", "any"], ...values]}
            onChange={(value) => set(name, value)}
          />
        ))}
        <Select
          label="Dataset"
          value={query.get("dataset") ?? ""}
          options={[["", "any"], ...new Set([...datasets, ...[query.get("dataset") ?? []].flat()])]}
          onChange={(value) => set("dataset", value)}
        />
        <label class="check">
          <input
            type="checkbox"
            checked={hasParts}
            onChange={(event) => set("parts", event.currentTarget.checked ? "all" : "")}
          />
          Parts of runs, too
        </label>
      </form>
      {error && <Fault error={error} subject="the runs" />}
      {!data && isLoading && <Skeleton lines={8} label="Loading the runs" />}
      {data &&
        (data.pipelineRuns.nodes.length > 0 ? (
          <section class="panel flush" aria-busy={isLoading}>
            <RunList runs={data.pipelineRuns.nodes} label="Runs" />
            <Pager info={data.pipelineRuns.pageInfo} summary={plural(total, "run")} />
          </section>
        ) : (
          <Empty icon="runs" title={isFiltered ? "No run is like that" : "Nothing has run yet"}>
            {isFiltered ? (
              <a href={hrefOf("runs")}>Show all runs</a>
            ) : (
              <>
                <a href="#/bring">Bring some data</a>, and its run appears here.
              </>
            )}
          </Empty>
        ))}
    </>
  );
};

type Count =
  | "rowsRead"
  | "rowsWritten"
  | "rowsReplaced"
  | "rowsReplacedFromOtherSource"
  | "rowsRejected"
  | "rowsDeleted";

const COUNTS: [field: Count, label: string][] = [
  ["rowsRead", "Rows read"],
  ["rowsWritten", "Rows written"],
  ["rowsReplaced", "Rows replaced"],
  ["rowsReplacedFromOtherSource", "… from another source"],
  ["rowsRejected", "Rows rejected"],
  ["rowsDeleted", "Rows deleted"],
];

/** Counts that are highlighted unless they are zero. */
const ALARMING: Count[] = ["rowsReplacedFromOtherSource", "rowsRejected"];

interface RunDatasets {
  nodes: Record<string, string | number | null>[];
}

const Detail = ({ runId }: { runId: string }) => {
  const perDataset = pick(
    "runDataset",
    "dataset rowsRead rowsWritten rowsReplaced rowsReplacedFromOtherSource rowsRejected rowsDeleted",
  );
  const list = [...(features.value?.byNode.values() ?? [])].find(({ node }) => node === "RunDataset");
  const { data, error, isLoading } = useQuery<{
    pipelineRun: (Run & { childRuns: { nodes: Run[] }; parentRun: Run | null }) | null;
    datasets?: RunDatasets;
  }>(
    rights.value &&
      features.value &&
      `query StudioRun($runId: BigInt!) {
        pipelineRun(runId: $runId) {
          ${runFields()}
          parentRun { runId step dataset }
          childRuns(first: 100, orderBy: [RUN_ID_ASC]) { nodes { ${runFields()} } }
        }
        ${perDataset && list ? `datasets: ${list.field}(filter: { runId: { equalTo: $runId } }) { nodes { ${perDataset} } }` : ""}
      }`,
    { runId },
    ["runs"],
  );
  const rejected = useQuery<{ quarantinedRows: { totalCount: number } }>(
    rights.value?.quarantine
      ? `query StudioRejected($runId: BigInt!) { quarantinedRows(first: 1, filter: { runId: { equalTo: $runId } }) { totalCount } }`
      : undefined,
    { runId },
    ["data"],
  ).data?.quarantinedRows.totalCount;
  const again = useAction();
  const found = data?.pipelineRun && withUpdates([data.pipelineRun])[0];
  const run = found as (Run & { childRuns: { nodes: Run[] }; parentRun: Run | null }) | null | undefined;
  const mutation = run && MUTATION_OF[run.step];
  const runAgain = () =>
    again.run(async () => {
      const { full, daysToKeep } = run!.arguments ?? {};
      const id = await start(mutation!, {
        ...(mutation === "refreshAnalytics" && full === true && { full }),
        ...(mutation === "cleanupOldData" && typeof daysToKeep === "number" && { daysToKeep }),
      });
      toast(
        <>
          <a href={`#/runs/${id}`}>Run {id}</a> is queued.
        </>,
      );
      go(`#/runs/${id}`);
    });
  return (
    <>
      <div class="page-head">
        <div>
          <a class="back" href="#/runs">
            <Icon name="previous" />
            All runs
          </a>
          <h1>
            Run {runId}
            {run && <span class="after-title">{runName(run)}</span>}
          </h1>
        </div>
        {run && mutation && isOperator() && (
          <Button icon="play" kind="primary" isBusy={again.isRunning} onClick={runAgain}>
            Run again
          </Button>
        )}
      </div>
      {again.error && <Notice kind="error">{again.error}</Notice>}
      {error && <Fault error={error} subject="this run" />}
      {!data && isLoading && <Skeleton lines={6} label="Loading the run" />}
      {data && !run && <Empty icon="runs" title={`There is no run ${runId}`} />}
      {run && (
        <>
          <section class="panel" aria-label="State of the run">
            <div class="run-state">
              <Status value={run.status} />
              {isActive(run) && <Progress value={run.progress} label={`Progress of run ${runId}`} />}
              {isActive(run) && <strong>{Math.round(run.progress * 100)} %</strong>}
            </div>
            {run.error && (
              <div class="run-error" role="group" aria-label="Error">
                <pre>{run.error}</pre>
              </div>
            )}
            <dl class="figures">
              {COUNTS.map(([field, label]) => (
                <div key={field}>
                  <dt>{label}</dt>
                  <dd class={ALARMING.includes(field) && Number(run[field]) > 0 ? "bad" : ""}>
                    {count(run[field])}
                  </dd>
                </div>
              ))}
              <div>
                <dt>Took</dt>
                <dd>{isActive(run) ? "…" : duration(run.durationMs)}</dd>
              </div>
            </dl>
            <dl class="facts">
              <dt>ReadTarget by</dt>
              <dd>
                {run.actor ?? "–"} ({run.trigger})
              </dd>
              <dt>Queued</dt>
              <dd>
                {utc(run.queuedAt)} UTC, <When at={run.queuedAt} />
              </dd>
              <dt>Started</dt>
              <dd>{run.startedAt ? `${utc(run.startedAt)} UTC` : "not yet"}</dd>
              <dt>Finished</dt>
              <dd>{run.finishedAt ? `${utc(run.finishedAt)} UTC` : "not yet"}</dd>
              {argumentsInWords(run) && (
                <>
                  <dt>Arguments</dt>
                  <dd>{argumentsInWords(run)}</dd>
                </>
              )}
              {run.parentRun && (
                <>
                  <dt>Part of</dt>
                  <dd>
                    <a href={`#/runs/${run.parentRun.runId}`}>
                      run {run.parentRun.runId}, {title(run.parentRun.step)}
                    </a>
                  </dd>
                </>
              )}
            </dl>
            {!!rejected && (
              <p>
                <a href={hrefOf("quarantine", undefined, { run: runId })}>
                  {plural(rejected, "row")} of this run {rejected === 1 ? "is" : "are"} in quarantine
                </a>
              </p>
            )}
          </section>
          {run.childRuns.nodes.length > 0 && (
            <section class="panel flush" aria-labelledby="parts">
              <h2 id="parts">Parts</h2>
              <RunList runs={run.childRuns.nodes} label="Parts of the run" isShort />
            </section>
          )}
          {data?.datasets && data.datasets.nodes.length > 0 && (
            <section class="panel flush" aria-labelledby="by-dataset">
              <h2 id="by-dataset">What it read and wrote</h2>
              <div class="table-scroll" role="group" aria-label="By dataset" tabIndex={0}>
                <table>
                  <thead>
                    <tr>
                      {perDataset.split(" ").map((field) => (
                        <th key={field} scope="col" class={field === "dataset" ? "" : "number"}>
                          {title(field)}
                        </th>
                      ))}
                    </tr>
                  </thead>
                  <tbody>
                    {data.datasets.nodes.map((row, index) => (
                      <tr key={index}>
                        {perDataset.split(" ").map((field) =>
                          field === "dataset" ? (
                            <th key={field} scope="row">
                              {row[field]}
                            </th>
                          ) : (
                            <td key={field} class="number">
                              {count(row[field])}
                            </td>
                          ),
                        )}
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </section>
          )}
        </>
      )}
    </>
  );
};

export const Runs = () => {
  const { part } = route.value;
  return part ? <Detail key={part} runId={part} /> : <List />;
};
