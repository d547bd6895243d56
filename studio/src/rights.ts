// What the caller may do with the pipeline, found out by asking: roles can be anybody's own.
import { effect, signal } from "@preact/signals";
import { mayRead } from "./api.ts";
import { claims, token } from "./session.ts";

export interface Rights {
  /** Sees what was rejected, which operators do. */
  quarantine: boolean;
  /** Sees why runs failed. */
  errors: boolean;
}
export const rights = signal<Rights | undefined>(undefined);

export const isOperator = (): boolean => rights.value?.quarantine ?? claims.value?.role === "operator";
/** Readers may not push; whoever else may is for the server to say. */
export const mayPush = (): boolean =>
  isOperator() || (claims.value !== undefined && claims.value.role !== "reader");

const RETRY_MS = 5_000;

effect(() => {
  const forToken = token.value;
  rights.value = undefined;
  const ask = (): void => {
    Promise.all([
      mayRead("query StudioRights { quarantinedRows(first: 1) { nodes { quarantineId } } }"),
      mayRead("query StudioRights { pipelineRuns(first: 1) { nodes { error } } }"),
    ]).then(
      ([quarantine, errors]) => {
        if (token.value === forToken) rights.value = { quarantine, errors };
      },
      () => setTimeout(() => token.value === forToken && ask(), RETRY_MS),
    );
  };
  ask();
});
