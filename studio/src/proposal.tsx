// For a file without a dataset: the server examines it and proposes the SQL of a new one, to save among the dataset
// files.
import { useRef, useState } from "preact/hooks";
import { bytes, count, plural } from "./format.ts";
import { useAction } from "./query.ts";
import { propose, type Preview, type Proposal } from "./upload.ts";
import { Button, Copy, Notice, Progress, save } from "./ui.tsx";

/** Derives a table's name from the file's. */
const datasetOf = (fileName: string): string =>
  fileName
    .replace(/\.(csv|txt|ndjson|jsonl|json)$/i, "")
    .replaceAll(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "_")
    .replaceAll(/^_+|_+$/g, "")
    .replace(/^(?=\d)/, "n")
    .slice(0, 50);

const Found = ({ proposal }: { proposal: Proposal }) => {
  const doubts = proposal.constraints.filter(({ active }) => !active);
  return (
    <>
      <p>
        {plural(proposal.rows, "row")}; the key is <strong>{proposal.key.join(", ")}</strong> (
        {proposal.keyWhy}).
      </p>
      {proposal.remarks.map((remark) => (
        <Notice key={remark} kind="warning">
          {remark}
        </Notice>
      ))}
      <div class="table-scroll" role="group" aria-label="Proposed columns" tabIndex={0}>
        <table class="mapping">
          <caption class="hidden">Proposed columns</caption>
          <thead>
            <tr>
              <th scope="col">Column</th>
              <th scope="col">Type</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {proposal.columns.map(({ header, name, type, notNull, why, misfits }) => (
              <tr key={name}>
                <th scope="row">
                  {name}
                  {header !== name && <div class="quiet">from “{header}”</div>}
                </th>
                <td>
                  <code>{notNull ? `${type} not null` : type}</code>
                </td>
                <td class="why">
                  {why.join("; ")}
                  {misfits.count > 0 && (
                    <div class="bad">
                      {plural(misfits.count, "value")} will be rejected, such as{" "}
                      {misfits.examples
                        .map(({ value, line }) => `“${value.slice(0, 40)}” in line ${count(line)}`)
                        .join(", ")}
                    </div>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {doubts.map(({ name, definition, doubt }) => (
        <p key={name} class="quiet">
          Left inactive: <code>{definition}</code>; {doubt}
        </p>
      ))}
    </>
  );
};

export const NewDataset = ({
  file,
  head,
  existing,
  onBring,
  onCancel,
}: {
  file: File;
  head: Preview;
  /** Names of the existing datasets. */
  existing: string[];
  onBring: (dataset: string) => void;
  onCancel: () => void;
}) => {
  const [name, setName] = useState(datasetOf(file.name));
  const [key, setKey] = useState("");
  const [sent, setSent] = useState<number>();
  const [proposal, setProposal] = useState<Proposal>();
  const action = useAction();
  const stop = useRef(new AbortController());
  const submit = (event: Event) => {
    event.preventDefault();
    setProposal(undefined);
    stop.current = new AbortController();
    action.run(async () => {
      try {
        setProposal(
          await propose({
            dataset: name,
            key,
            file,
            format: head.format,
            onProgress: setSent,
            signal: stop.current.signal,
          }),
        );
      } finally {
        setSent(undefined);
      }
    });
  };
  const isThere = proposal !== undefined && existing.includes(proposal.dataset);
  return (
    <>
      <form class="panel" aria-labelledby="new-dataset" onSubmit={submit}>
        <h2 id="new-dataset">
          A new dataset from {file.name} <span class="after-title">{bytes(file.size)}</span>
        </h2>
        <p class="quiet">
          The server reads all of the file and proposes a table, its key and its rules. Nothing is changed.
        </p>
        <div class="filters wide">
          <label class="field">
            <span>Name of the dataset</span>
            <input value={name} required onInput={(event) => setName(event.currentTarget.value)} />
          </label>
          <label class="field">
            <span>Key columns, if you know them</span>
            <input
              value={key}
              placeholder="found in the file"
              onInput={(event) => setKey(event.currentTarget.value)}
            />
          </label>
        </div>
        {action.error && <Notice kind="error">{action.error}</Notice>}
        {action.isRunning && (
          <div class="sending" role="status">
            <Progress value={file.size > 0 ? (sent ?? 0) / file.size : 1} label="Sent" />
            <span>
              {(sent ?? 0) < file.size
                ? `${bytes(sent ?? 0)} of ${bytes(file.size)} sent`
                : "All sent; the server looks at it"}
            </span>
          </div>
        )}
        <div class="buttons">
          <Button type="submit" kind={proposal ? "plain" : "primary"} isBusy={action.isRunning}>
            {proposal ? "Propose again" : "Propose a dataset"}
          </Button>
          <Button onClick={() => (action.isRunning ? stop.current.abort() : onCancel())}>
            {action.isRunning ? "Stop" : "Back"}
          </Button>
        </div>
      </form>
      {proposal && (
        <section class="panel" aria-labelledby="proposal">
          <h2 id="proposal">Proposal for {proposal.dataset}</h2>
          <Found proposal={proposal} />
          <h3>The SQL to save</h3>
          <pre class="sql code" role="group" aria-label="SQL of the proposal" tabIndex={0}>
            {proposal.sql}
          </pre>
          <div class="buttons">
            <Button
              kind={isThere ? "plain" : "primary"}
              icon="download"
              onClick={() => save(proposal.file, "text/plain", [proposal.sql])}
            >
              Save as datasets/{proposal.file}
            </Button>
            <Copy text={proposal.sql} label="Copy the SQL" />
          </div>
          <h3>What to do next</h3>
          <ol class="steps">
            <li>
              Put the file into the server's <code>datasets/</code> folder, and correct what you know better.
            </li>
            <li>
              Run <code>npx strata-graphql migrate</code>. A server on the embedded database applies the file
              by itself.
            </li>
            <li>Come back here to bring the rows; this page notices the dataset within half a minute.</li>
          </ol>
          <div role="status">
            {isThere ? (
              <Notice kind="ok">
                <p>{proposal.dataset} is there now.</p>
                <Button kind="primary" icon="bring" onClick={() => onBring(proposal.dataset)}>
                  Bring {file.name} into it
                </Button>
              </Notice>
            ) : (
              <p class="quiet">{proposal.dataset} is not there yet.</p>
            )}
          </div>
        </section>
      )}
    </>
  );
};
