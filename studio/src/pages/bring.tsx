// Ingests a file: choose its dataset, assign its columns, watch the progress.
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes, count, plural, title } from "../format.ts";
import { askAgain, updates } from "../live.ts";
import { entityOf, isActive, start } from "../pipeline.ts";
import { useAction, useQuery } from "../query.ts";
import { isOperator, mayPush, rights } from "../rights.ts";
import { hrefOf, route } from "../router.ts";
import { detailOf, features, operatorsOf, pick, typeName } from "../schema.ts";
import { NewDataset } from "../proposal.tsx";
import { preview, upload, type IngestRun, type Preview } from "../upload.ts";
import { Button, Copy, Empty, Icon, Notice, Progress, Select, Skeleton, toast } from "../ui.tsx";

interface Dataset {
  name: string;
  /** Names of fields in the API; undefined if unknown. */
  fields: string[] | undefined;
  takesMore: boolean;
}

const pascal = (name: string): string =>
  `_${name}`.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
const snake = (name: string): string => name.replaceAll(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
const plain = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, "");

/** Loads datasets with the fields of their mutations. */
function useDatasets(): { datasets: Dataset[]; isLoading: boolean } {
  const list = features.value?.byNode.get("Dataset");
  const fieldsOfList = list ? pick("dataset", "dataset kind") : "dataset";
  const { data, isLoading, ask } = useQuery<Record<string, { nodes: { dataset: string; kind?: string }[] }>>(
    features.value
      ? `query StudioDatasets { ${list?.field ?? "freshness"} { nodes { ${fieldsOfList} } } }`
      : undefined,
    {},
    ["data"],
  );
  // Load again with a new schema, which may have new datasets.
  useEffect(() => ask(), [features.value]);
  const all = (data?.[list?.field ?? "freshness"]?.nodes ?? [])
    // Only datasets accept rows; metrics, views and other tables do not.
    .filter(({ kind = "dataset" }) => kind === "dataset")
    .map(({ dataset }) => dataset);
  const names =
    list || features.value?.isClosed
      ? all
      : all.filter((name) => features.value?.mutations.has(`ingest${pascal(name)}`));
  const [known, setKnown] = useState<Record<string, Pick<Dataset, "fields" | "takesMore">>>({});
  useEffect(() => {
    let isCurrent = true;
    for (const name of names) {
      const input = features.value?.mutations
        .get(`ingest${pascal(name)}`)
        ?.args.find((argument) => argument.name === "input");
      if (!input) continue;
      (async () => {
        const rows = (await operatorsOf(typeName(input.type))).find((field) => field.name === "rows");
        const fields = rows ? (await operatorsOf(rows.type)).map((field) => field.name) : [];
        const entity = entityOf(name);
        const columns = entity ? (await detailOf(entity)).columns : [];
        // Columns without a field go into a JSON field, if there is one.
        const takesMore = columns.some(({ kind }) => kind === "json");
        if (isCurrent) setKnown((before) => ({ ...before, [name]: { fields, takesMore } }));
      })().catch(() => undefined);
    }
    return () => {
      isCurrent = false;
    };
    // The schema may not yet have the mutation of a listed dataset.
  }, [names.join(), features.value]);
  const datasets = names.map((name): Dataset => ({
    name,
    fields: undefined,
    takesMore: true,
    ...known[name],
  }));
  return { datasets, isLoading };
}

const AS_IT_IS = "=";
const LEFT_OUT = "";
/** Value for a new dataset, which no dataset can have as its name. */
const NEW = "+";

/** Guesses a column's field: the same name, ignoring case and separators. */
function guess(column: string, { fields, takesMore }: Dataset): string {
  const found = fields?.find((field) => plain(field) === plain(column));
  if (found) return snake(found) === column ? AS_IT_IS : snake(found);
  return fields && !takesMore ? LEFT_OUT : AS_IT_IS;
}
const matched = (columns: string[], { fields = [] }: Dataset): number =>
  columns.filter((column) => fields.some((field) => plain(field) === plain(column))).length;

const Command = ({ name }: { name: string }) => {
  const text = `npx strata-graphql add ${/\s/.test(name) ? `"${name}"` : name}`;
  return (
    <div class="command">
      <code>{text}</code>
      <Copy text={text} />
    </div>
  );
};

const Result = ({ run, dataset, onAgain }: { run: IngestRun; dataset: string; onAgain: () => void }) => {
  const action = useAction();
  const isGood = run.status === "succeeded";
  const runPipeline = () =>
    action.run(async () => {
      const id = await start("runPipeline");
      toast(
        <>
          <a href={`#/runs/${id}`}>Run {id}</a> is queued.
        </>,
      );
    });
  return (
    <section class="panel" aria-labelledby="result">
      <h2 id="result">{isGood ? "It is in staging" : "It did not go in"}</h2>
      <dl class="figures">
        <div>
          <dt>Rows read</dt>
          <dd>{count(run.rowsRead)}</dd>
        </div>
        <div>
          <dt>Landed</dt>
          <dd>{count(run.rowsWritten)}</dd>
        </div>
        <div>
          <dt>Rejected</dt>
          <dd class={run.rowsRejected > 0 ? "bad" : ""}>{count(run.rowsRejected)}</dd>
        </div>
      </dl>
      {run.error && <Notice kind="error">{run.error}</Notice>}
      {run.rowsRejected > 0 && (
        <p>
          <a href={hrefOf("quarantine", undefined, { run: run.id })}>
            {plural(run.rowsRejected, "row")} in quarantine, with the reasons
          </a>
        </p>
      )}
      <p class="quiet">
        The next transform takes the rows to production. <a href={`#/runs/${run.id}`}>Run {run.id}</a>
      </p>
      {action.error && <Notice kind="error">{action.error}</Notice>}
      <div class="buttons">
        {isOperator() && isGood && (
          <Button kind="primary" icon="play" isBusy={action.isRunning} onClick={runPipeline}>
            Run pipeline now
          </Button>
        )}
        <Button icon="bring" onClick={onAgain}>
          Bring another file
        </Button>
        {entityOf(dataset) && (
          <a href={hrefOf("explore", entityOf(dataset)!.field)}>See {title(dataset).toLowerCase()}</a>
        )}
      </div>
    </section>
  );
};

const Mapping = ({
  file,
  head,
  datasets,
  start,
  onNew,
  onDone,
  onCancel,
}: {
  /** The preselected dataset; by default the best match. */
  start: string | undefined;
  onNew: () => void;
  file: File;
  head: Preview;
  datasets: Dataset[];
  onDone: (run: IngestRun, dataset: string) => void;
  onCancel: () => void;
}) => {
  const best = datasets.toSorted(
    (one, other) => matched(head.columns, other) - matched(head.columns, one),
  )[0];
  const [chosen, setName] = useState(
    [start, route.value.part].find((name) => datasets.some((dataset) => dataset.name === name)),
  );
  // The best match is known once the fields are loaded.
  const name = chosen ?? best?.name;
  const [given, setGiven] = useState<Record<string, string>>({});
  const [source, setSource] = useState("");
  const [sent, setSent] = useState<number>();
  const action = useAction();
  const stop = useRef(new AbortController());
  const dataset = datasets.find((other) => other.name === name);
  const fieldOf = (column: string): string => given[column] ?? (dataset ? guess(column, dataset) : AS_IT_IS);
  const fits = dataset?.fields ? matched(head.columns, dataset) : undefined;
  const used = head.columns
    .map((column) => (fieldOf(column) === AS_IT_IS ? column : fieldOf(column)))
    .filter(Boolean);
  const twice = used.find((field, index) => used.indexOf(field) !== index);
  const ingesting = [...updates.value.values()].findLast(
    (run) => isActive(run) && run.step === "ingest" && run.dataset === name,
  );
  const submit = (event: Event) => {
    event.preventDefault();
    stop.current = new AbortController();
    action.run(async () => {
      try {
        const run = await upload({
          dataset: name!,
          file,
          format: head.format,
          source,
          map: head.columns
            .filter((column) => fieldOf(column) !== AS_IT_IS)
            .map((column) => `${column}=${fieldOf(column)}`),
          onProgress: setSent,
          signal: stop.current.signal,
        });
        askAgain();
        onDone(run, name!);
      } finally {
        setSent(undefined);
      }
    });
  };
  if (!name || !dataset) return null;
  return (
    <form class="stack" onSubmit={submit}>
      <section class="panel" aria-labelledby="file">
        <h2 id="file">
          {file.name}{" "}
          <span class="after-title">
            {bytes(file.size)}, {head.format.toUpperCase()}
          </span>
        </h2>
        <div class="filters wide">
          <Select
            label="Dataset"
            value={name}
            options={[
              ...datasets.map((other): [string, string] => [
                other.name,
                `${title(other.name)}${other.fields ? ` (${matched(head.columns, other)} of ${head.columns.length} columns)` : ""}`,
              ]),
              ...(isOperator() ? [[NEW, "A new dataset …"] as [string, string]] : []),
            ]}
            onChange={(value) => (value === NEW ? onNew() : (setName(value), setGiven({})))}
          />
          <label class="field">
            <span>Source system</span>
            <input
              value={source}
              maxLength={50}
              placeholder="api"
              onInput={(event) => setSource(event.currentTarget.value)}
            />
          </label>
        </div>
        {fits !== undefined && fits * 2 < head.columns.length && (
          <Notice kind="warning">
            <p>
              {fits === 0 ? "No column" : "Few columns"} of this file{" "}
              {fits === 0 ? "is a field" : "are fields"} of {title(name).toLowerCase()}.{" "}
              {isOperator()
                ? "It may want a dataset of its own."
                : "For a dataset of its own, let the command line propose one and save its SQL:"}
            </p>
            {isOperator() ? (
              <Button icon="plus" onClick={onNew}>
                Propose a new dataset
              </Button>
            ) : (
              <Command name={file.name} />
            )}
          </Notice>
        )}
        <div class="table-scroll" role="group" aria-label="Columns of the file" tabIndex={0}>
          <table class="mapping">
            <caption class="hidden">Columns of the file and the fields that they become</caption>
            <thead>
              <tr>
                <th scope="col">Column</th>
                <th scope="col">Becomes</th>
                <th scope="col">First values</th>
              </tr>
            </thead>
            <tbody>
              {head.columns.map((column, index) => (
                <tr key={column} class={fieldOf(column) === LEFT_OUT ? "left-out" : ""}>
                  <th scope="row">{column || <em>(without a name)</em>}</th>
                  <td>
                    <Select
                      label={`Field for ${column}`}
                      isHidden
                      value={fieldOf(column)}
                      options={[
                        [
                          AS_IT_IS,
                          dataset.fields?.some((field) => snake(field) === column)
                            ? column
                            : `${column} (as it is)`,
                        ],
                        [LEFT_OUT, "– left out –"],
                        ...(dataset.fields ?? [])
                          .filter((field) => snake(field) !== column)
                          .map((field): [string, string] => [snake(field), snake(field)]),
                      ]}
                      onChange={(value) => setGiven({ ...given, [column]: value })}
                    />
                  </td>
                  <td>
                    <span class="ellipsis quiet code">
                      {head.rows
                        .map((row) => row[index])
                        .filter((value) => value !== undefined && value !== "")
                        .slice(0, 3)
                        .join("  ·  ")}
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        {twice !== undefined && (
          <Notice kind="error">Two columns become “{twice}”; leave one of them out</Notice>
        )}
        {action.error && <Notice kind="error">{action.error}</Notice>}
        {action.isRunning && (
          <div class="sending" role="status">
            <Progress value={file.size > 0 ? (sent ?? 0) / file.size : 1} label="Sent" />
            <span>
              {bytes(sent ?? 0)} of {bytes(file.size)} sent
              {ingesting &&
                `, ${count(ingesting.rowsRead)} rows read, ${count(ingesting.rowsRejected)} rejected`}
            </span>
          </div>
        )}
        <div class="buttons">
          <Button
            type="submit"
            kind="primary"
            icon="bring"
            isBusy={action.isRunning}
            disabled={twice !== undefined}
          >
            Bring it into {title(name).toLowerCase()}
          </Button>
          <Button onClick={() => (action.isRunning ? stop.current.abort() : onCancel())}>
            {action.isRunning ? "Stop" : "Another file"}
          </Button>
        </div>
      </section>
    </form>
  );
};

export const Bring = () => {
  const { datasets, isLoading } = useDatasets();
  const [file, setFile] = useState<{ file: File; head: Preview }>();
  const [isNew, setNew] = useState(false);
  const [begin, setBegin] = useState<string>();
  const [result, setResult] = useState<{ run: IngestRun; dataset: string }>();
  const [isOver, setOver] = useState(false);
  const action = useAction();
  const input = useRef<HTMLInputElement>(null);
  const take = (given: File | undefined | null) => {
    if (!given) return;
    setResult(undefined);
    setNew(false);
    setBegin(undefined);
    action.run(async () => setFile({ file: given, head: await preview(given) }));
  };
  const isReader = rights.value !== undefined && !mayPush();
  return (
    <>
      <div class="page-head">
        <h1>Bring data</h1>
      </div>
      {isReader && (
        <Notice kind="info">
          Readers and anonymous callers may not push rows.{" "}
          <a href="#/who">Use an ingestor's or operator's token</a>.
        </Notice>
      )}
      {result && (
        <Result
          run={result.run}
          dataset={result.dataset}
          onAgain={() => (setResult(undefined), setFile(undefined))}
        />
      )}
      {!result && file && isNew && (
        <NewDataset
          key={`${file.file.name} ${file.file.lastModified}`}
          file={file.file}
          head={file.head}
          existing={datasets.map(({ name }) => name)}
          onBring={(dataset) => (setBegin(dataset), setNew(false))}
          onCancel={() => (datasets.length > 0 ? setNew(false) : setFile(undefined))}
        />
      )}
      {!result && file && !isNew && datasets.length > 0 && (
        <Mapping
          start={begin}
          onNew={() => setNew(true)}
          key={`${file.file.name} ${file.file.lastModified}`}
          file={file.file}
          head={file.head}
          datasets={datasets}
          onDone={(run, dataset) => setResult({ run, dataset })}
          onCancel={() => setFile(undefined)}
        />
      )}
      {!result &&
        file &&
        !isNew &&
        datasets.length === 0 &&
        (isLoading ? (
          <Skeleton lines={4} />
        ) : (
          <Empty icon="source" title="There is no dataset that you may push to">
            {isOperator() && (
              <Button icon="plus" onClick={() => setNew(true)}>
                Propose a new dataset
              </Button>
            )}
          </Empty>
        ))}
      {!result && !file && (
        <div
          class={`drop ${isOver ? "over" : ""}`}
          onDragOver={(event) => (event.preventDefault(), setOver(true))}
          onDragLeave={() => setOver(false)}
          onDrop={(event) => {
            event.preventDefault();
            setOver(false);
            take(event.dataTransfer?.files[0]);
          }}
        >
          <Icon name="bring" />
          <p class="empty-title">Drop a CSV or NDJSON file here</p>
          <p class="quiet">
            A header line or one object per line; of any size: it is streamed, bad rows go to quarantine.
          </p>
          <label class="button primary file">
            <input
              ref={input}
              type="file"
              accept=".csv,.ndjson,.jsonl,.txt,text/csv,application/x-ndjson"
              onChange={(event) => take(event.currentTarget.files?.[0])}
            />
            <span>Choose a file</span>
          </label>
        </div>
      )}
      {action.error && <Notice kind="error">{action.error}</Notice>}
      {!file && (
        <section class="panel" aria-labelledby="new-dataset">
          <h2 id="new-dataset">A dataset of its own</h2>
          <p>
            {isOperator()
              ? "A file that fits no dataset gets a proposal for one here: the table, its key and its rules, as SQL to save in "
              : "An operator gets a proposal for a file that fits no dataset here: the table, its key and its rules, as SQL to save in "}
            <code>datasets/</code>. The command line makes the same one:
          </p>
          <Command name="products.csv" />
        </section>
      )}
    </>
  );
};
