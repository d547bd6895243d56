// Shows rejected rows by reason, with details, and lets operators retry or discard them.
import { useEffect, useState } from "preact/hooks";
import { count, plural, textOf, title, utc } from "../format.ts";
import { askAgain } from "../live.ts";
import { PAGE_ARGUMENTS, PAGE_INFO, PAGE_VARIABLES, pageArguments, Pager, type PageInfo } from "../pager.tsx";
import { useAction, useQuery } from "../query.ts";
import { rights } from "../rights.ts";
import { go, hrefOf, hrefWith, route } from "../router.ts";
import { features } from "../schema.ts";
import { discard, retry, type Outcome, type Selection } from "../quarantine-actions.ts";
import { Button, Dialog, Empty, Fault, Icon, Notice, Progress, Select, Skeleton, When } from "../ui.tsx";

interface Row {
  quarantineId: string;
  dataset: string;
  stage: string;
  reasons: string[];
  detail: string | null;
  payload: Record<string, unknown> | null;
  rawText: string | null;
  sourceSystem: string | null;
  sourceName: string | null;
  sourceLine: string | null;
  rowKey: string | null;
  operation: string | null;
  attempts: number;
  quarantinedAt: string;
  lastAttemptAt: string;
  waiting: boolean;
  runId: string | null;
}
const ROW = `quarantineId dataset stage reasons detail payload rawText sourceSystem sourceName sourceLine
  rowKey operation attempts quarantinedAt lastAttemptAt waiting runId`;
const PAGE_SIZE = 25;

interface Group {
  dataset: string;
  reason: string;
  rows: number;
}

/** Parses PostgreSQL's text of an array: "{one,"two, too"}". */
const elements = (text: string): string[] =>
  [...text.slice(1, -1).matchAll(/"((?:[^"\\]|\\.)*)"|([^,]+)/g)].map(([, quoted, plain]) =>
    quoted === undefined ? plain! : quoted.replaceAll(/\\(.)/g, "$1"),
  );

function useGroups() {
  const { data, error, isLoading } = useQuery<{
    quarantinedRows: {
      totalCount: number;
      groupedAggregates: { keys: string[]; distinctCount: { quarantineId: string } }[];
    };
  }>(
    `query StudioReasons { quarantinedRows(first: 1) { totalCount groupedAggregates(groupBy: [DATASET, REASONS]) { keys distinctCount { quarantineId } } } }`,
    {},
    ["data"],
  );
  const groups = new Map<string, Group>();
  for (const { keys, distinctCount } of data?.quarantinedRows.groupedAggregates ?? [])
    for (const reason of elements(keys[1] ?? "{}")) {
      const key = `${keys[0]} ${reason}`;
      const group = groups.get(key) ?? { dataset: keys[0]!, reason, rows: 0 };
      // A row with several reasons counts for each.
      groups.set(key, { ...group, rows: group.rows + Number(distinctCount.quarantineId) });
    }
  const sorted = [...groups.values()].sort(
    (one, other) => one.dataset.localeCompare(other.dataset) || other.rows - one.rows,
  );
  return { groups: sorted, total: data?.quarantinedRows.totalCount, error, isLoading };
}

const Groups = ({ groups, dataset, reason }: { groups: Group[]; dataset: string; reason: string }) => {
  const most = Math.max(1, ...groups.map(({ rows }) => rows));
  const byDataset = Map.groupBy(groups, (group) => group.dataset);
  return (
    <section class="panel groups" aria-labelledby="reasons">
      <h2 id="reasons">Reasons</h2>
      {[...byDataset].map(([name, some]) => (
        <div key={name} class="group">
          <h3>
            <a
              href={hrefOf("quarantine", undefined, { dataset: name })}
              aria-current={dataset === name && !reason}
            >
              {title(name)}
            </a>
          </h3>
          <ul>
            {some.map(({ reason: code, rows }) => (
              <li key={code}>
                <a
                  href={hrefOf("quarantine", undefined, { dataset: name, reason: code })}
                  aria-current={dataset === name && reason === code}
                >
                  <span class="ellipsis">{code}</span>
                  <meter min={0} max={most} value={rows} aria-hidden="true" />
                  <span class="number">{count(rows)}</span>
                </a>
              </li>
            ))}
          </ul>
        </div>
      ))}
    </section>
  );
};

const Reasons = ({ row }: { row: Row }) => (
  <span class="reasons">
    {row.reasons.map((reason) => (
      <code key={reason} class="reason">
        {reason}
      </code>
    ))}
    {row.waiting && <span class="badge">waits</span>}
  </span>
);

/** Shows the result of a retry: how many rows were accepted, how many were rejected again, and why. */
const OutcomeNotice = ({ outcome }: { outcome: Outcome }) => (
  <Notice kind={outcome.cameBack > 0 || outcome.error ? "warning" : "ok"}>
    <p>
      {outcome.verb === "discarded" ? (
        <>{plural(outcome.wentOn, "row")} discarded.</>
      ) : (
        <>
          <strong>{plural(outcome.wentOn, "row")} went on</strong>, {count(outcome.cameBack)} came back
          {outcome.reasons.length > 0 && ", because "}
          {outcome.reasons.map(({ reason, rows }, index) => (
            <span key={reason}>
              {index > 0 && ", "}
              <code>{reason}</code> ({count(rows)})
            </span>
          ))}
          .
        </>
      )}
      {outcome.runId && (
        <>
          {" "}
          <a href={`#/runs/${outcome.runId}`}>Run {outcome.runId}</a>
        </>
      )}
    </p>
    {outcome.error && <p>{outcome.error}</p>}
  </Notice>
);

type Intent = { verb: "retry" | "discard"; selection: Selection; rows: number };

/** Asks for confirmation, with the number of rows, before it acts. */
const Confirm = ({
  intent,
  onClose,
  onDone,
}: {
  intent: Intent;
  onClose: () => void;
  onDone: (outcome: Outcome) => void;
}) => {
  const [progress, setProgress] = useState<number>();
  const action = useAction();
  const { verb, selection, rows } = intent;
  const [dateFormat, setDateFormat] = useState("");
  const what = plural(rows, "row");
  const run = () =>
    action.run(async () => {
      const chosen = verb === "retry" && dateFormat !== "" ? { ...selection, dateFormat } : selection;
      onDone(await (verb === "retry" ? retry : discard)(chosen, rows, setProgress));
      askAgain();
    });
  return (
    <Dialog title={verb === "retry" ? `Retry ${what}?` : `Discard ${what}?`} onClose={onClose}>
      <div class="stack">
        <p>
          {verb === "retry"
            ? "They go back to the pipeline. Those that still break a rule come back here with their reasons."
            : "They are deleted for good. Nothing keeps a copy of them."}
        </p>
        {selection.kind === "filter" && (
          <dl class="facts">
            <dt>Dataset</dt>
            <dd>{selection.dataset || "any"}</dd>
            <dt>Reason</dt>
            <dd>{selection.reason ? <code>{selection.reason}</code> : "any"}</dd>
            {selection.run && (
              <>
                <dt>Of run</dt>
                <dd>{selection.run}</dd>
              </>
            )}
          </dl>
        )}
        {verb === "retry" && features.value?.retryInput.has("dateFormat") && (
          <label class="field">
            <span>Their dates are written as (if not 2026-01-31)</span>
            <input
              value={dateFormat}
              placeholder="DD/MM/YYYY"
              onInput={(event) => setDateFormat(event.currentTarget.value.trim())}
            />
          </label>
        )}
        {action.isRunning && <Progress value={progress ?? 0} label="Progress" />}
        {action.error && <Notice kind="error">{action.error}</Notice>}
        <div class="buttons end">
          <Button onClick={onClose} disabled={action.isRunning}>
            Cancel
          </Button>
          <Button kind={verb === "retry" ? "primary" : "danger"} isBusy={action.isRunning} onClick={run}>
            {verb === "retry" ? `Retry ${what}` : `Discard ${what}`}
          </Button>
        </div>
      </div>
    </Dialog>
  );
};

const List = () => {
  const { query } = route.value;
  const dataset = query.get("dataset") ?? "";
  const reason = query.get("reason") ?? "";
  const run = query.get("run") ?? "";
  const filter = {
    ...(dataset && { dataset: { equalTo: dataset } }),
    ...(reason && { reasons: { contains: [reason] } }),
    ...(run && { runId: { equalTo: run } }),
  };
  const { groups, total, error: groupsError, isLoading: areGroupsLoading } = useGroups();
  const { data, error, isLoading } = useQuery<{
    quarantinedRows: { nodes: Row[]; totalCount: number; pageInfo: PageInfo };
  }>(
    `query StudioQuarantine($filter: QuarantinedRowFilter, ${PAGE_VARIABLES}) {
      quarantinedRows(filter: $filter, orderBy: [QUARANTINE_ID_DESC], ${PAGE_ARGUMENTS}) {
        nodes { ${ROW} } totalCount ${PAGE_INFO}
      }
    }`,
    { filter, ...pageArguments(PAGE_SIZE) },
    ["data"],
  );
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [intent, setIntent] = useState<Intent>();
  const [outcome, setOutcome] = useState<Outcome>();
  const rows = data?.quarantinedRows.nodes ?? [];
  const matching = data?.quarantinedRows.totalCount ?? 0;
  const here = rows.filter(({ quarantineId }) => chosen.has(quarantineId));
  useEffect(() => setChosen(new Set()), [dataset, reason, run]);
  const toggle = (ids: string[], isOn: boolean) => {
    const next = new Set(chosen);
    for (const id of ids)
      if (isOn) next.add(id);
      else next.delete(id);
    setChosen(next);
  };
  const everything: Selection = { kind: "filter", dataset, reason, run };
  const isFiltered = dataset !== "" || reason !== "" || run !== "";
  const datasets = [...new Set(groups.map((group) => group.dataset))];
  const reasons = [
    ...new Set(groups.filter((group) => !dataset || group.dataset === dataset).map((group) => group.reason)),
  ];
  const fault = error ?? groupsError;
  return (
    <>
      <div class="page-head">
        <h1>
          Quarantine
          {total !== undefined && <span class="after-title">{plural(total, "row")}</span>}
        </h1>
      </div>
      {outcome && <OutcomeNotice outcome={outcome} />}
      {fault && <Fault error={fault} subject="the quarantine" />}
      {!data && !fault && (isLoading || areGroupsLoading) && (
        <Skeleton lines={8} label="Loading the quarantine" />
      )}
      {total === 0 && (
        <Empty icon="ok" title="The quarantine is empty">
          Every row that arrived is in production, or on its way.
        </Empty>
      )}
      {!!total && (
        <div class="with-side">
          <Groups groups={groups} dataset={dataset} reason={reason} />
          <div>
            <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
              <Select
                label="Dataset"
                value={dataset}
                options={[["", "any"], ...datasets]}
                onChange={(value) => go(hrefOf("quarantine", undefined, { dataset: value, run }))}
              />
              <Select
                label="Reason"
                value={reason}
                options={[["", "any"], ...reasons]}
                onChange={(value) => go(hrefWith({ reason: value, after: undefined, before: undefined }))}
              />
              {run && (
                <a class="chip" href={hrefWith({ run: undefined, after: undefined, before: undefined })}>
                  of run {run}
                  <Icon name="close" />
                  <span class="hidden">remove this filter</span>
                </a>
              )}
            </form>
            <div class="actions" role="group" aria-label="Actions">
              <span role="status">
                {here.length > 0
                  ? `${here.length} chosen`
                  : `${plural(matching, "row")} ${isFiltered ? "match" : "in all"}`}
              </span>
              {(["retry", "discard"] as const).map((verb) => (
                <Button
                  key={verb}
                  icon={verb === "retry" ? "refresh" : "clean"}
                  kind={verb === "retry" ? "primary" : "plain"}
                  disabled={matching === 0}
                  onClick={() =>
                    setIntent(
                      here.length > 0
                        ? {
                            verb,
                            selection: { kind: "ids", ids: here.map(({ quarantineId }) => quarantineId) },
                            rows: here.length,
                          }
                        : { verb, selection: everything, rows: matching },
                    )
                  }
                >
                  {verb === "retry" ? "Retry" : "Discard"}{" "}
                  {here.length > 0 ? `${here.length} chosen` : `all ${count(matching)}`} …
                </Button>
              ))}
            </div>
            {rows.length === 0 && !isLoading ? (
              <Empty title="No row is like that">
                <a href={hrefOf("quarantine")}>Show all</a>
              </Empty>
            ) : (
              <section class="panel flush" aria-busy={isLoading}>
                <div class="table-scroll" role="group" aria-label="Quarantined rows" tabIndex={0}>
                  <table class="quarantined">
                    <caption class="hidden">Quarantined rows</caption>
                    <thead>
                      <tr>
                        <th scope="col" class="tick">
                          <input
                            type="checkbox"
                            aria-label="Choose all rows of this page"
                            checked={rows.length > 0 && here.length === rows.length}
                            onChange={(event) =>
                              toggle(
                                rows.map(({ quarantineId }) => quarantineId),
                                event.currentTarget.checked,
                              )
                            }
                          />
                        </th>
                        <th scope="col">Row</th>
                        <th scope="col">Reasons</th>
                        <th scope="col">Source</th>
                        <th scope="col">Tried</th>
                      </tr>
                    </thead>
                    <tbody>
                      {rows.map((row) => (
                        <tr key={row.quarantineId}>
                          <td class="tick">
                            <input
                              type="checkbox"
                              aria-label={`Choose row ${row.quarantineId}`}
                              checked={chosen.has(row.quarantineId)}
                              onChange={(event) => toggle([row.quarantineId], event.currentTarget.checked)}
                            />
                          </td>
                          <th scope="row">
                            <a href={hrefOf("quarantine", row.quarantineId)}>
                              <span class="run-id">{row.quarantineId}</span> {title(row.dataset)}
                            </a>
                            <small class="ellipsis code">{row.rawText ?? JSON.stringify(row.payload)}</small>
                          </th>
                          <td>
                            <Reasons row={row} />
                            <small class="clamp">{row.detail}</small>
                          </td>
                          <td>
                            <span class="ellipsis">{row.sourceName ?? row.sourceSystem ?? "–"}</span>
                            {row.sourceLine && <small>line {count(row.sourceLine)}</small>}
                            {row.rowKey !== null && (
                              <small class="ellipsis">
                                {row.operation === "delete" && "delete "}key {row.rowKey}
                              </small>
                            )}
                          </td>
                          <td>
                            <When at={row.lastAttemptAt} />
                            {row.attempts > 1 && <small>{row.attempts} times</small>}
                          </td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
                <Pager info={data?.quarantinedRows.pageInfo} summary={plural(matching, "row")} />
              </section>
            )}
          </div>
        </div>
      )}
      {intent && (
        <Confirm
          intent={intent}
          onClose={() => setIntent(undefined)}
          onDone={(result) => {
            setIntent(undefined);
            setOutcome(result);
            setChosen(new Set());
          }}
        />
      )}
    </>
  );
};

const Detail = ({ id }: { id: string }) => {
  const { data, error, isLoading } = useQuery<{ quarantinedRow: Row | null }>(
    `query StudioQuarantined($id: BigInt!) { quarantinedRow(quarantineId: $id) { ${ROW} } }`,
    { id },
    ["data"],
  );
  const [patch, setPatch] = useState<Record<string, string | null>>({});
  const [outcome, setOutcome] = useState<Outcome>();
  const [isDiscarding, setDiscarding] = useState(false);
  const action = useAction();
  const row = data?.quarantinedRow;
  const selection: Selection = { kind: "ids", ids: [id] };
  const fields = Object.entries(row?.payload ?? {});
  const changed = Object.keys(patch).length;
  const mend = (name: string, given: string, before: unknown) => {
    const next = { ...patch };
    // An emptied field has no value; an unchanged one is no correction.
    if (given === textOf(before)) delete next[name];
    else next[name] = given === "" ? null : given;
    setPatch(next);
  };
  const submit = (event: Event) => {
    event.preventDefault();
    action.run(async () => {
      setOutcome(await retry({ ...selection, patch: changed > 0 ? patch : undefined }, 1, () => undefined));
      setPatch({});
      askAgain();
    });
  };
  return (
    <>
      <div class="page-head">
        <div>
          <a class="back" href={hrefOf("quarantine", undefined, row ? { dataset: row.dataset } : {})}>
            <Icon name="previous" />
            Quarantine
          </a>
          <h1>
            Row {id}
            {row && <span class="after-title">{title(row.dataset)}</span>}
          </h1>
        </div>
      </div>
      {outcome && <OutcomeNotice outcome={outcome} />}
      {error && <Fault error={error} subject="the quarantine" />}
      {!data && isLoading && <Skeleton lines={6} label="Loading the row" />}
      {data && !row && (
        <Empty icon="ok" title={`Row ${id} is not in quarantine any more`}>
          <a href="#/quarantine">Back to the others</a>
        </Empty>
      )}
      {row && (
        <div class="columns">
          <section class="panel" aria-labelledby="why">
            <h2 id="why">Why</h2>
            <Reasons row={row} />
            <p>{row.detail}</p>
            {row.waiting && (
              <Notice kind="info">It waits for another row and is tried again by each run.</Notice>
            )}
            <dl class="facts">
              <dt>Failed at</dt>
              <dd>
                {row.stage === "ingest" ? "ingest: it could not be typed" : `${row.stage}: it broke a rule`}
              </dd>
              <dt>Source</dt>
              <dd>
                {[row.sourceName, row.sourceSystem].filter(Boolean).join(" · ") || "–"}
                {row.sourceLine && `, line ${count(row.sourceLine)}`}
              </dd>
              {row.rowKey !== null && (
                <>
                  <dt>Key</dt>
                  <dd>{row.rowKey}</dd>
                </>
              )}
              {row.operation === "delete" && (
                <>
                  <dt>ReadTarget for</dt>
                  <dd>to delete the row</dd>
                </>
              )}
              <dt>Rejected</dt>
              <dd>
                {utc(row.quarantinedAt)} UTC{row.runId && ", "}
                {row.runId && <a href={`#/runs/${row.runId}`}>run {row.runId}</a>}
              </dd>
              <dt>Tried</dt>
              <dd>
                {plural(row.attempts, "time")}, last <When at={row.lastAttemptAt} />
              </dd>
            </dl>
            {row.rawText !== null && (
              <>
                <h3>As it came</h3>
                <pre class="raw" tabIndex={0}>
                  {row.rawText}
                </pre>
              </>
            )}
          </section>
          <section class="panel" aria-labelledby="mend">
            <h2 id="mend">Mend</h2>
            {fields.length === 0 && (
              <p class="quiet">It could not be read into fields; mend it at its source.</p>
            )}
            <form class="stack" onSubmit={submit}>
              <div class="mend">
                {fields.map(([name, value]) => (
                  <label
                    key={name}
                    class={`field ${Object.hasOwn(patch, name) ? "changed" : ""} ${(row.detail ?? "").includes(`${name}:`) ? "faulty" : ""}`}
                  >
                    <span>
                      {name}
                      {Object.hasOwn(patch, name) && <em> changed</em>}
                    </span>
                    <input
                      class="code"
                      value={Object.hasOwn(patch, name) ? (patch[name] ?? "") : textOf(value)}
                      placeholder="empty"
                      onInput={(event) => mend(name, event.currentTarget.value, value)}
                    />
                  </label>
                ))}
              </div>
              {action.error && <Notice kind="error">{action.error}</Notice>}
              <div class="buttons">
                <Button type="submit" kind="primary" icon="refresh" isBusy={action.isRunning}>
                  {changed > 0 ? `Retry with ${plural(changed, "change")}` : "Retry as it is"}
                </Button>
                <Button icon="clean" onClick={() => setDiscarding(true)}>
                  Discard …
                </Button>
              </div>
            </form>
          </section>
        </div>
      )}
      {isDiscarding && (
        <Confirm
          intent={{ verb: "discard", selection, rows: 1 }}
          onClose={() => setDiscarding(false)}
          onDone={(result) => (setDiscarding(false), setOutcome(result))}
        />
      )}
    </>
  );
};

export const Quarantine = () => {
  const { part } = route.value;
  if (rights.value?.quarantine === false)
    return (
      <>
        <div class="page-head">
          <h1>Quarantine</h1>
        </div>
        <Empty icon="lock" title="Your role may not read the quarantine">
          It holds rejected rows as they came, which operators see.{" "}
          <a href="#/who">Use an operator's token</a>.
        </Empty>
      </>
    );
  return part ? <Detail key={part} id={part} /> : <List />;
};
