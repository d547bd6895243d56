// A query that runs again when its subject changes; the previous response is shown until the next one arrives.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, request, type Variables } from "./api.ts";
import { changes, type Topic } from "./live.ts";
import { token } from "./session.ts";

export interface Answer<Data> {
  data: Data | undefined;
  error: ApiError | undefined;
  isLoading: boolean;
  /** True while the shown response belongs to another page or filter. */
  isStale: boolean;
  ask: () => void;
}

interface State<Data> {
  key: string;
  data?: Data;
  error?: ApiError;
}

/** Runs a query; `undefined` runs none. */
export function useQuery<Data = any>(
  query: string | undefined,
  variables: Variables = {},
  topics: Topic[] = [],
): Answer<Data> {
  const [state, setState] = useState<State<Data>>({ key: "" });
  const [isLoading, setLoading] = useState(query !== undefined);
  const [asked, setAsked] = useState(0);
  const key = JSON.stringify([query, variables, token.value]);
  const version = topics.map((topic) => changes[topic].value).join();
  const running = useRef<AbortController>(undefined);

  useEffect(() => {
    if (query === undefined) return setLoading(false);
    const controller = new AbortController();
    running.current?.abort();
    running.current = controller;
    setLoading(true);
    request<Data>(query, variables, { signal: controller.signal })
      .then(
        (data) => setState({ key, data }),
        (error: unknown) => {
          if (controller.signal.aborted) return;
          const known = error instanceof ApiError ? error : new ApiError("UNKNOWN", String(error));
          // Keep the last response while the server is unavailable.
          setState((before) => ({
            ...(known.code === "UNREACHABLE" && before.key === key ? before : { key }),
            error: known,
          }));
        },
      )
      .finally(() => {
        if (running.current === controller) setLoading(false);
      });
  }, [key, version, asked]);
  useEffect(() => () => running.current?.abort(), []);

  return {
    data: state.data,
    error: state.key === key ? state.error : undefined,
    isLoading,
    isStale: state.key !== key,
    ask: () => setAsked((count) => count + 1),
  };
}

export interface Action {
  isRunning: boolean;
  error: string | undefined;
  run: (work: () => Promise<unknown>) => void;
}

/** An action of a button, run once at a time, with its error. */
export function useAction(): Action {
  const [isRunning, setRunning] = useState(false);
  const [error, setError] = useState<string>();
  const run = (work: () => Promise<unknown>): void => {
    if (isRunning) return;
    setRunning(true);
    setError(undefined);
    work()
      .catch((fault: unknown) => setError((fault as Error).message))
      .finally(() => setRunning(false));
  };
  return { isRunning, error, run };
}
