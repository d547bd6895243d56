// Receives changes of the data by one WebSocket, which reconnects and catches up; polls if no socket gets through.
import { computed, effect, signal, type Signal } from "@preact/signals";
import { CloseCode, createClient, type Client } from "graphql-ws";
import { answeredAt, isReachable, wantsToken } from "./api.ts";
import { claims, token } from "./session.ts";

export interface RunUpdate {
  runId: string;
  step: string;
  status: string;
  dataset?: string | null;
  parentRunId?: string | null;
  progress: number;
  rowsRead: string;
  rowsWritten: string;
  rowsReplaced: string;
  rowsReplacedFromOtherSource: string;
  rowsRejected: string;
  rowsDeleted: string;
  queuedAt: string;
  startedAt?: string | null;
  finishedAt?: string | null;
  heartbeatAt?: string | null;
  durationMs?: number | null;
}

type Link = "connecting" | "open" | "lost" | "ended";
const link = signal<Link>("connecting");
const failures = signal(0);

/** Latest state of announced runs; the oldest are dropped. */
export const updates = signal<ReadonlyMap<string, RunUpdate>>(new Map());
const MAX_UPDATES = 100;

/** Counters that grow when their subject may have changed; queries run again then. */
export const changes = { runs: signal(0), data: signal(0) };
export type Topic = keyof typeof changes;

const socketSeenAt = signal<number | undefined>(undefined);

export type Connection = "live" | "connecting" | "reconnecting" | "polling" | "offline" | "stopped";
/** Failed connections in a row after which the page polls by HTTP. */
const FAILURES_BEFORE_POLLING = 3;
export const connection = computed<Connection>(() => {
  if (wantsToken.value !== undefined) return "stopped";
  if (link.value === "open") return isReachable.value ? "live" : "reconnecting";
  if (!isReachable.value) return "offline";
  if (failures.value >= FAILURES_BEFORE_POLLING || link.value === "ended") return "polling";
  return link.value === "connecting" ? "connecting" : "reconnecting";
});

/** Time at which the shown state was certainly current. */
export const asOf = computed(() => Math.max(answeredAt.value ?? 0, socketSeenAt.value ?? 0) || undefined);

/**
 * Limits increments to one per interval, including the last one, so that a busy pipeline does not cause a query per
 * event.
 */
function throttled(topic: Signal<number>, intervalMs: number): () => void {
  let timer: number | undefined;
  let steppedAt = 0;
  return () => {
    if (timer !== undefined) return;
    timer = setTimeout(
      () => {
        timer = undefined;
        steppedAt = Date.now();
        topic.value++;
      },
      Math.max(0, steppedAt + intervalMs - Date.now()),
    );
  };
}
const bump = { runs: throttled(changes.runs, 1_000), data: throttled(changes.data, 2_000) };

export function askAgain(): void {
  bump.runs();
  bump.data();
}

const RUN = `runId step status dataset parentRunId progress rowsRead rowsWritten rowsReplaced rowsReplacedFromOtherSource
  rowsRejected rowsDeleted queuedAt startedAt finishedAt heartbeatAt durationMs`;
const RUNS = `subscription StudioRuns($since: Datetime) { pipelineRunUpdated(since: $since) { run { ${RUN} } } }`;
const REFRESHES = `subscription StudioRefreshes { analyticsRefreshed { version } }`;

function take(run: RunUpdate): void {
  const next = new Map(updates.value);
  next.delete(run.runId);
  next.set(run.runId, run);
  for (const id of next.keys()) {
    if (next.size <= MAX_UPDATES) break;
    next.delete(id);
  }
  updates.value = next;
  bump.runs();
  if (run.finishedAt) bump.data();
}

const latest = (run: RunUpdate): string =>
  [run.queuedAt, run.startedAt, run.finishedAt, run.heartbeatAt].reduce<string>(
    (last, at) => (at && at > last ? at : last),
    "",
  );

const PING_MS = 10_000;
const PONG_MS = 5_000;
const MAX_RETRY_MS = 10_000;
const FIRST_RETRY_MS = 500;

/** Connects with the current token and returns a function that disconnects. */
function connect(): () => void {
  let pongTimer: number | undefined;
  let socket: WebSocket | undefined;
  let isDisposed = false;
  let restart: number | undefined;
  let client: Client;
  // Updated at each event: graphql-ws sends it again when it reconnects, so that no event is missed.
  const since: { since?: string } = {};

  const start = (): void => {
    client = createClient({
      url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/graphql`,
      connectionParams: () => (token.value === undefined ? {} : { authorization: `Bearer ${token.value}` }),
      lazy: false,
      keepAlive: PING_MS,
      retryAttempts: Infinity,
      shouldRetry: () => true,
      retryWait: async (attempt) => {
        const pause = Math.min(FIRST_RETRY_MS * 2 ** attempt, MAX_RETRY_MS);
        await new Promise<void>((resolve) => {
          const done = () => {
            removeEventListener("online", done);
            clearTimeout(timer);
            resolve();
          };
          const timer = setTimeout(done, pause * (0.75 + Math.random() / 2));
          addEventListener("online", done);
        });
      },
      on: {
        opened: (opened) => (socket = opened as WebSocket),
        connected: () => {
          // Query again after a lost connection, since events may have been missed.
          if (link.value !== "connecting" || failures.value > 0) askAgain();
          link.value = "open";
          failures.value = 0;
          socketSeenAt.value = Date.now();
        },
        ping: (isReceived) => {
          if (isReceived) return;
          // Detect a vanished server, whose socket would stay open for minutes.
          pongTimer = setTimeout(() => socket?.close(4408, "No pong"), PONG_MS);
        },
        pong: (isReceived) => {
          if (!isReceived) return;
          clearTimeout(pongTimer);
          socketSeenAt.value = Date.now();
        },
        closed: (event) => {
          clearTimeout(pongTimer);
          if (isDisposed) return;
          failures.value++;
          link.value = "lost";
          const { code, reason } = event as { code: CloseCode; reason: string };
          if (code === CloseCode.Unauthorized) wantsToken.value = reason || "The server wants a token";
          // Do not retry with a rejected token; a new token starts a new client.
          if (code === CloseCode.Forbidden) {
            const { expiresAt } = claims.value ?? {};
            if (expiresAt !== undefined && expiresAt * 1000 <= Date.now()) {
              wantsToken.value = "The token has expired";
              void client.dispose();
            }
          }
        },
      },
      // Retry after closes that graphql-ws considers fatal, since a failing server may send them.
      onNonLazyError: () => again(),
    });
    listen<{ pipelineRunUpdated: { run: RunUpdate | null } | null }>(
      RUNS,
      since,
      ({ pipelineRunUpdated }) => {
        const run = pipelineRunUpdated?.run;
        if (!run) return;
        const at = latest(run);
        if (at > (since.since ?? "")) since.since = at;
        take(run);
      },
    );
    listen(REFRESHES, {}, () => bump.data());
  };

  const again = (): void => {
    if (isDisposed || restart !== undefined) return;
    link.value = "ended";
    restart = setTimeout(() => {
      restart = undefined;
      void client.dispose();
      start();
    }, MAX_RETRY_MS);
  };

  const listen = <Data extends object>(
    query: string,
    variables: object,
    next: (data: Data) => void,
  ): void => {
    client.subscribe<Data>(
      { query, variables: variables as Record<string, unknown> },
      {
        next: ({ data }) => {
          socketSeenAt.value = Date.now();
          if (data) next(data);
        },
        error: () => undefined,
        complete: () => undefined,
      },
    );
  };

  link.value = "connecting";
  failures.value = 0;
  start();
  return () => {
    isDisposed = true;
    clearTimeout(restart);
    clearTimeout(pongTimer);
    void client.dispose();
  };
}

const POLL_MS = 5_000;
/** Polling interval of live pages in ms, since writes without a run send no event. */
const LIVE_POLL_MS = 20_000;

export function startLive(): void {
  let end: (() => void) | undefined;
  effect(() => {
    void token.value;
    end?.();
    updates.value = new Map();
    wantsToken.value = undefined;
    end = connect();
    askAgain();
  });
  // Without a socket, poll at intervals, except in hidden tabs.
  setInterval(() => {
    if (connection.value !== "live" && connection.value !== "stopped" && !document.hidden) askAgain();
  }, POLL_MS);
  setInterval(() => {
    if (connection.value === "live" && !document.hidden) askAgain();
  }, LIVE_POLL_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && connection.value !== "stopped") askAgain();
  });
}
