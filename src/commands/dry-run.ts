// What a dry run found, for a person.
import type { DryRun } from "../ingest/dry-run.ts";
import { describeReasons } from "../ingest/ingest.ts";

const rows = (count: number): string => `${count} ${count === 1 ? "row" : "rows"}`;
const because = (reasons: Record<string, number>): string =>
  Object.keys(reasons).length > 0 ? ` (${describeReasons(reasons)})` : "";
const place = (line?: number | null, key?: string | null): string =>
  [line && `line ${line}`, key && `key ${key}`].filter(Boolean).join(", ");
const cut = (text: string): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

export function describeDryRun(dataset: string, tried: DryRun): string {
  const lines = [
    `Dry run: nothing was changed. Of ${rows(tried.rowsRead)}:`,
    `  ${tried.rowsLanding} would land in ${dataset}`,
    ...tried.landing.map(({ line, row }) => `    ${place(line)}: ${cut(JSON.stringify(row))}`),
    `  ${tried.rowsRejected} would be rejected${because(tried.reasons)}`,
    ...tried.rejected.map(({ line, detail, text }) => `    ${place(line)}: ${cut(detail)} ${cut(text)}`),
  ];
  if (tried.transform) lines.push(...describeTransform(tried.transform, tried.rowsLanding));
  if (tried.sameAs !== null)
    lines.push(`With --once the load does nothing: run ${tried.sameAs} has ingested the same content.`);
  if (tried.error) lines.push(`The load would fail: ${tried.error}`);
  return lines.join("\n");
}

function describeTransform(transform: NonNullable<DryRun["transform"]>, landing: number): string[] {
  const { rowsReplaced, rowsReplacedFromOtherSource: foreign } = transform;
  const which = transform.rowsRead < landing ? `the first ${rows(transform.rowsRead)}` : "these";
  return [
    `Of ${which}, the transform`,
    `  would write ${transform.rowsWritten}`,
    `  would replace ${rowsReplaced}${foreign > 0 ? ` (${foreign} from another source)` : ""}`,
    ...transform.replaced.map(
      ({ line, key, source, before, after }) =>
        `    ${place(line, key)}${source === null ? "" : `, of the source ${source}`}: ` +
        `${cut(JSON.stringify(before))} becomes ${cut(JSON.stringify(after))}`,
    ),
    ...(transform.rowsDeleted === null
      ? ["  what it would delete is not known, since not all rows were tried"]
      : transform.rowsDeleted > 0
        ? [`  would delete ${transform.rowsDeleted}`]
        : []),
    ...transform.deleted.map(({ line, key }) => `    ${place(line, key)}`),
    `  would reject ${transform.rowsRejected}${because(transform.reasons)}`,
    ...transform.rejected.map(({ line, key, detail }) => `    ${place(line, key)}: ${cut(detail)}`),
    ...(transform.problem ? [`  The snapshot would delete nothing: ${transform.problem}`] : []),
    ...Object.entries(transform.waiting).map(
      ([dataset, count]) =>
        `  ${rows(count)} of ${dataset} wait for the transform, and were not there for this.`,
    ),
  ];
}
