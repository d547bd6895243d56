// The caller's rights on the pipeline, found out by trying, since the role may be a custom one.
import { effect, signal } from "@preact/signals";
import { mayRead } from "./api.ts";
import { claims, token } from "./session.ts";

export interface Rights {
  /** Whether the role may read the quarantine, as operators may. */
  quarantine: boolean;
  /** Restricted columns of runs that the role may read. */
  runFields: string[];
}
export const rights = signal<Rights | undefined>(undefined);

export const isOperator = (): boolean => rights.value?.quarantine ?? claims.value?.role === "operator";
/** Whether to offer ingest: readers may not; for others the server decides. */
export const mayPush = (): boolean =>
  isOperator() || (claims.value !== undefined && claims.value.role !== "reader");

/** Columns of runs with rights of their own: error, arguments and actor. */
const GUARDED = ["error", "arguments", "actor"];

const RETRY_MS = 5_000;

effect(() => {
  const forToken = token.value;
  rights.value = undefined;
  const ask = (): void => {
    Promise.all([
      mayRead("query StudioRights { quarantinedRows(first: 1) { nodes { quarantineId } } }"),
      ...GUARDED.map((field) =>
        mayRead(`query StudioRights { pipelineRuns(first: 1) { nodes { ${field} } } }`),
      ),
    ]).then(
      ([quarantine = false, ...may]) => {
        if (token.value === forToken)
          rights.value = { quarantine, runFields: GUARDED.filter((_, index) => may[index]) };
      },
      () => setTimeout(() => token.value === forToken && ask(), RETRY_MS),
    );
  };
  ask();
});
