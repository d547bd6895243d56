// Batches of small reads. Reads of the same role and subject that arrive in the same turn of the event loop share one
// connection, one transaction's settings and one round trip; each remains a statement with a snapshot of its own. A
// statement that runs longer than MAX_MS is cancelled and repeated alone, so that it does not delay the others.
import pg from "pg";
import { createBoundedMap } from "../bounded-map.ts";
import { applyReadOnly, cancelled, isCancelled, type Reading, type Settings } from "./adaptor.ts";
import { charge, createBudget, ResponseTooLarge } from "./budget.ts";
import { cancel } from "./cancel.ts";
import { destroy } from "./connect.ts";
import type { Node, Nodes, Route } from "./nodes.ts";
import { AFTER } from "./positions.ts";
import { readTexts, type Part } from "./statement.ts";

export interface BatchesOptions {
  /** Must be made with `pipeline: true`. */
  pool: pg.Pool;
  /** False behind a pooler that gives each transaction another connection. */
  prepare: boolean;
  /** Bytes that PostgreSQL may send for one read. */
  maxBytes: number;
  /** The node that the pool connects to; only with replicas. */
  node?: Node;
  nodes?: Nodes | undefined;
}

export interface ReadRequest {
  caller: string;
  /** One object per role and subject: a batch is made of reads whose settings are identical. */
  settings: Settings;
  /** Returns one row of one value. */
  statement: Part;
  /** The operation's estimated cost, in rows. */
  cost: number;
  /** Undefined without replicas. */
  route?: Route | undefined;
}

export interface Batches {
  /** Whether the read may join a batch. */
  isSmall(this: void, request: ReadRequest): boolean;
  /** Rejects with TookLong if the read has to be repeated alone. */
  readShared(this: void, request: ReadRequest): Reading;
  readAlone(this: void, request: ReadRequest): Reading;
}

export class TookLong extends Error {}

interface Waiting {
  resolve: (answer: string) => void;
  reject: (error: Error) => void;
}

interface Entry extends ReadRequest, Waiting {
  isAbandoned: boolean;
}

/** Waiting reads with the same settings. */
interface Group {
  opening: Part;
  entries: Entry[];
}

/** Connections that run batches. More of them raise throughput until PostgreSQL's cores are busy. */
export const SHARED_CONNECTIONS = 4;
/** Estimated rows in one batch, which PostgreSQL reads in about two milliseconds. Larger batches delay their first read. */
const MAX_COST = 400;
/** Milliseconds that a statement may run in a batch. Raising it lets a slow statement delay its batch for longer. */
const MAX_MS = 50;
/** Executions of a slow statement that run alone before it is batched again; its variables may have been the reason. */
const TIMES_ALONE = 100;
/** Milliseconds during which all reads of a slow statement's caller run alone. */
const CALLER_ALONE_MS = 1_000;
/** Slow statements, and their callers, that are remembered. */
const MAX_SLOW = 1_000;

const keyOf = ({ name, text }: Part): string => name ?? text;

/** A statement_timeout of 0 means that there is none. */
const boundedSettings = (settings: Settings): Settings => ({
  ...settings,
  statement_timeout: String(Math.min(Number(settings.statement_timeout) || MAX_MS, MAX_MS)),
});

/** Whether the connection is gone or about to go; any other error belongs to one statement. */
const isLost = (error: Error): boolean =>
  !(error instanceof pg.DatabaseError) || /^(57P|25P03)/.test(error.code ?? "");

function release(client: pg.PoolClient, error: Error | undefined): void {
  charge(client, undefined);
  if (error && isLost(error)) destroy(client);
  else client.release();
}

export function createBatches({ pool, prepare, maxBytes, node, nodes }: BatchesOptions): Batches {
  const groups = new WeakMap<Settings, Group>();
  /** Groups that have entries; the one that has waited longest comes first. */
  const due: Group[] = [];
  let running = 0;
  let isTurnDue = false;
  /** Executions for which each slow statement still runs alone. */
  const slowStatements = createBoundedMap<string, number>(MAX_SLOW);
  /** Time until which the reads of each slow caller run alone. */
  const slowCallers = createBoundedMap<string, number>(MAX_SLOW);

  const named = (part: Part): Part => (prepare ? part : { ...part, name: undefined });
  const openingOf = (settings: Settings): Part => named(applyReadOnly(settings, nodes !== undefined));
  /** A statement that returns the position up to which the reads before it may have seen data. */
  const closing = nodes ? [named(AFTER)] : [];

  function isSmall({ caller, statement, cost }: ReadRequest): boolean {
    if (cost > MAX_COST) return false;
    const until = slowCallers.get(caller);
    if (until !== undefined) {
      if (until > performance.now()) return false;
      slowCallers.delete(caller);
    }
    const key = keyOf(statement);
    const times = slowStatements.get(key);
    if (times === undefined) return true;
    if (times > 1) slowStatements.set(key, times - 1);
    else slowStatements.delete(key);
    return false;
  }

  function groupOf(settings: Settings): Group {
    let group = groups.get(settings);
    if (!group) {
      group = { opening: openingOf(boundedSettings(settings)), entries: [] };
      groups.set(settings, group);
    }
    return group;
  }

  function readShared(request: ReadRequest): Reading {
    const group = groupOf(request.settings);
    let entry!: Entry;
    const answer = new Promise<string>((resolve, reject) => {
      entry = { ...request, resolve, reject, isAbandoned: false };
    });
    queue(group, [...group.entries, entry]);
    return {
      answer,
      cancel() {
        entry.isAbandoned = true;
        entry.reject(cancelled());
      },
    };
  }

  function queue(group: Group, entries: Entry[]): void {
    if (group.entries.length === 0 && entries.length > 0) due.push(group);
    group.entries = entries;
    awaitTurn();
  }

  function awaitTurn(): void {
    if (isTurnDue || due.length === 0 || running >= SHARED_CONNECTIONS) return;
    isTurnDue = true;
    // The callback runs after all requests that arrived meanwhile were parsed.
    setImmediate(takeTurn);
  }

  function takeTurn(): void {
    isTurnDue = false;
    while (running < SHARED_CONNECTIONS && due.length > 0) {
      const group = due.shift()!;
      const entries = take(group);
      if (group.entries.length > 0) due.push(group);
      if (entries.length > 0) send(group, entries);
    }
  }

  function take(group: Group): Entry[] {
    const entries = group.entries.filter(({ isAbandoned }) => !isAbandoned);
    let cost = 0;
    const end = entries.findIndex((entry) => (cost += entry.cost) > MAX_COST);
    group.entries = end < 0 ? [] : entries.splice(Math.max(end, 1));
    return entries;
  }

  function send(group: Group, entries: Entry[]): void {
    running++;
    pool.connect((fault, client) => {
      if (!client) return finish(fault, group, entries, 0);
      charge(client, createBudget(maxBytes));
      const parts = [group.opening, ...entries.map(({ statement }) => named(statement)), ...closing];
      readTexts(client, parts, (error, texts) => {
        release(client, error);
        const [before, ...answers] = texts;
        const after = answers[entries.length];
        for (const [i, text] of answers.slice(0, entries.length).entries())
          settlePositioned({ ...entries[i]!, text }, before, after);
        finish(error, group, entries, Math.min(texts.length, entries.length + 1));
      });
    });
  }

  /** Of the entries without an answer, the first failed, and PostgreSQL skipped the rest. */
  function finish(error: Error | undefined, group: Group, entries: Entry[], completed: number): void {
    running--;
    const [failed, ...skipped] = entries.slice(Math.max(completed - 1, 0));
    if (error && failed) {
      const isOwn = error instanceof ResponseTooLarge;
      if (completed === 0 || (isLost(error) && !isOwn))
        for (const { reject } of [failed, ...skipped]) reject(error);
      else if (isCancelled(error)) takeOut(failed, group, skipped);
      else {
        failed.reject(error);
        queue(group, [...skipped, ...group.entries]);
      }
    }
    awaitTurn();
  }

  /** Sends the slow entry back to run alone, with all entries of its statement or its caller. */
  function takeOut(slow: Entry, group: Group, skipped: Entry[]): void {
    const key = keyOf(slow.statement);
    slowStatements.set(key, TIMES_ALONE);
    slowCallers.set(slow.caller, performance.now() + CALLER_ALONE_MS);
    const others: Entry[] = [];
    for (const entry of [slow, ...skipped, ...group.entries]) {
      if (entry.caller === slow.caller || keyOf(entry.statement) === key) entry.reject(new TookLong());
      else others.push(entry);
    }
    queue(group, others);
  }

  /** A batch that ended early has no position, which is asked for separately. */
  function settlePositioned(
    { route, resolve, reject, text }: Waiting & Pick<ReadRequest, "route"> & { text: string | undefined },
    before: string | undefined,
    after: string | undefined,
  ): void {
    if (!nodes || !node || !route) return settle({ resolve, reject }, text);
    const finish = (position: string): void => {
      try {
        nodes.accept(node, before, route);
        nodes.note(node, position, route);
        settle({ resolve, reject }, text);
      } catch (error) {
        reject(error as Error);
      }
    };
    if (after !== undefined) finish(after);
    else nodes.positionOf(node).then(finish, reject);
  }

  function readAlone({ settings, statement, route }: ReadRequest): Reading {
    const parts = [openingOf(settings), named(statement), ...closing];
    let running: pg.PoolClient | undefined;
    let cancelReading!: () => void;
    const answer = new Promise<string>((resolve, reject) => {
      let isAbandoned = false;
      pool.connect((fault, client) => {
        if (fault) return reject(fault);
        if (isAbandoned) return client!.release();
        running = client!;
        charge(running, createBudget(maxBytes));
        readTexts(client!, parts, (error, [before, text, after]) => {
          if (running) release(running, error);
          running = undefined;
          if (error) reject(error);
          else settlePositioned({ resolve, reject, route, text }, before, after);
        });
      });
      cancelReading = () => {
        isAbandoned = true;
        reject(cancelled());
        const client = running;
        running = undefined;
        if (client) void cancel(client).then(() => destroy(client));
      };
    });
    return { answer, cancel: cancelReading };
  }

  return { isSmall, readShared, readAlone };
}

function settle({ resolve, reject }: Waiting, text: string | undefined): void {
  if (text !== undefined) resolve(text);
  else reject(new Error("A read gave no text"));
}
