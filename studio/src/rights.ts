// The caller's rights on the pipeline. They are tried out, since a role can be the user's own.
import { effect, signal } from "@preact/signals";
import { mayRead } from "./api.ts";
import { claims, token } from "./session.ts";

export interface Rights {
  /** Sees what was rejected, which operators do. */
  quarantine: boolean;
  /** Columns of runs that only some roles read, as far as this one does. */
  runFields: string[];
}
export const rights = signal<Rights | undefined>(undefined);

export const isOperator = (): boolean => rights.value?.quarantine ?? claims.value?.role === "operator";
/** Readers may not push; whoever else may is for the server to say. */
export const mayPush = (): boolean =>
  isOperator() || (claims.value !== undefined && claims.value.role !== "reader");

/** Why a run failed, what it was asked for and by whom: rights are given by column. */
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
