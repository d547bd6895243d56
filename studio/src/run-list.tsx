import { count, duration, title } from "./format.ts";
import { argumentsInWords, isActive, withUpdates, type Run } from "./pipeline.ts";
import { Progress, Status, When } from "./ui.tsx";

export const runName = ({ step, dataset }: { step: string; dataset?: string | null }): string =>
  `${title(step)}${dataset ? ` ${dataset}` : ""}`;

const source = (run: Run): string => {
  const { sourceName, sourceSystem } = run.arguments ?? {};
  return [sourceName, sourceSystem].filter((value) => typeof value === "string").join(" · ");
};

export const RunList = ({
  runs,
  label,
  isShort = false,
}: {
  runs: Run[];
  label: string;
  isShort?: boolean;
}) => (
  <div class="table-scroll" role="group" aria-label={label} tabIndex={0}>
    <table class="runs">
      <caption class="hidden">{label}</caption>
      <thead>
        <tr>
          <th scope="col">Run</th>
          <th scope="col">Status</th>
          <th scope="col">Started</th>
          <th scope="col" class="number">
            Took
          </th>
          <th scope="col" class="number">
            Read
          </th>
          <th scope="col" class="number">
            Written
          </th>
          <th scope="col" class="number">
            Rejected
          </th>
          {!isShort && (
            <th scope="col" class="number">
              Deleted
            </th>
          )}
          {!isShort && <th scope="col">ReadTarget by</th>}
        </tr>
      </thead>
      <tbody>
        {withUpdates(runs).map((run) => (
          <tr key={run.runId} class={run.status}>
            <th scope="row">
              <a href={`#/runs/${run.runId}`}>
                <span class="run-id">{run.runId}</span> {runName(run)}
              </a>
              {!isShort && <small>{source(run) || argumentsInWords(run)}</small>}
            </th>
            <td>
              {run.status === "running" ? (
                <span class="running-cell">
                  <Status value={run.status} />
                  <Progress value={run.progress} label={`Progress of run ${run.runId}`} />
                </span>
              ) : (
                <Status value={run.status} />
              )}
            </td>
            <td>
              <When at={run.startedAt ?? run.queuedAt} />
            </td>
            <td class="number">{isActive(run) ? "…" : duration(run.durationMs)}</td>
            <td class="number">{count(run.rowsRead)}</td>
            <td class="number">{count(run.rowsWritten)}</td>
            <td class={`number ${Number(run.rowsRejected) > 0 ? "bad" : ""}`}>{count(run.rowsRejected)}</td>
            {!isShort && <td class="number">{count(run.rowsDeleted)}</td>}
            {!isShort && (
              <td>
                {run.actor ?? "–"} <small>{run.trigger}</small>
              </td>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);
