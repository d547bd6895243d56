// Small reads of the same role and subject that come at the same moment share a connection, the settings of their
// transaction and a round trip. Each stays a statement of its own, with a snapshot of its own. One that takes long is
// taken out, so that the others are not kept waiting, and is read alone.
import pg from "pg";
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
  /** Where there are replicas: the one that the pool is of. */
  node?: Node;
  nodes?: Nodes | undefined;
}

export interface ReadRequest {
  caller: string;
  /** The same object for the same role and subject. */
  settings: Settings;
  /** Returns one row of one value. */
  statement: Part;
  /** Of the operation, in rows. */
  cost: number;
  /** Where there are replicas. */
  route?: Route | undefined;
}

export interface Batches {
  /** May it be read with others? */
  isSmall(this: void, request: ReadRequest): boolean;
  /** Rejects with TookLong if it is to be read alone after all. */
  readShared(this: void, request: ReadRequest): Reading;
  readAlone(this: void, request: ReadRequest): Reading;
}

export class TookLong extends Error {}

interface Waiting {
  resolve: (answer: string) => void;
  reject: (error: Error) => void;
}

interface Entry extends ReadRequest, Waiting {
  isForgotten: boolean;
}

/** What waits with the same settings. */
interface Group {
  opening: Part;
  entries: Entry[];
}

/** Connections that small reads of everybody take together. */
export const SHARED_CONNECTIONS = 4;
/** About what PostgreSQL reads in two milliseconds: a larger batch would keep its first answers waiting. */
const MAX_COST = 400;
/** Of one statement in a batch. */
const MAX_MS = 50;
/** After one that took longer. It may have been the machine, or its variables. */
const TIMES_ALONE = 100;
/** Its caller may have more of the kind. */
const CALLER_ALONE_MS = 1_000;
const MAX_SLOW = 1_000;

const keyOf = ({ name, text }: Part): string => name ?? text;

/** A statement_timeout of 0 is none. */
const boundedSettings = (settings: Settings): Settings => ({
  ...settings,
  statement_timeout: String(Math.min(Number(settings.statement_timeout) || MAX_MS, MAX_MS)),
});

/** The connection is gone, or going; any other error is that of one statement. */
const isLost = (error: Error): boolean =>
  !(error instanceof pg.DatabaseError) || /^(57P|25P03)/.test(error.code ?? "");

function giveBack(client: pg.PoolClient, error: Error | undefined): void {
  charge(client, undefined);
  if (error && isLost(error)) destroy(client);
  else client.release();
}

export function createBatches({ pool, prepare, maxBytes, node, nodes }: BatchesOptions): Batches {
  const groups = new WeakMap<Settings, Group>();
  /** Groups that have entries, the one that waits longest first. */
  const due: Group[] = [];
  let running = 0;
  let isTurnDue = false;
  /** How often each statement still goes alone. */
  const slowStatements = new Map<string, number>();
  /** Until when each caller's reads go alone. */
  const slowCallers = new Map<string, number>();

  const named = (part: Part): Part => (prepare ? part : { ...part, name: undefined });
  const openingOf = (settings: Settings): Part => named(applyReadOnly(settings, nodes !== undefined));
  /** Says how much the reads before it may have seen. */
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
      entry = { ...request, resolve, reject, isForgotten: false };
    });
    queue(group, [...group.entries, entry]);
    return {
      answer,
      cancel() {
        entry.isForgotten = true;
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
    // By then, all requests that have come meanwhile are read.
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
    const entries = group.entries.filter(({ isForgotten }) => !isForgotten);
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
        giveBack(client, error);
        const [before, ...answers] = texts;
        const after = answers[entries.length];
        for (const [i, text] of answers.slice(0, entries.length).entries())
          settlePositioned({ ...entries[i]!, text }, before, after);
        finish(error, group, entries, Math.min(texts.length, entries.length + 1));
      });
    });
  }

  /** Of those without an answer, the first is the one that failed; the others were skipped. */
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

  /** With all that may take as long. */
  function takeOut(slow: Entry, group: Group, skipped: Entry[]): void {
    const key = keyOf(slow.statement);
    remember(slowStatements, key, TIMES_ALONE);
    remember(slowCallers, slow.caller, performance.now() + CALLER_ALONE_MS);
    const others: Entry[] = [];
    for (const entry of [slow, ...skipped, ...group.entries]) {
      if (entry.caller === slow.caller || keyOf(entry.statement) === key) entry.reject(new TookLong());
      else others.push(entry);
    }
    queue(group, others);
  }

  /** A batch that was cut short ends without its position. */
  function settlePositioned(
    { route, resolve, reject, text }: Waiting & Pick<ReadRequest, "route"> & { text: string | undefined },
    before: string | undefined,
    after: string | undefined,
  ): void {
    if (!nodes || !node || !route) return settle({ resolve, reject }, undefined, text);
    const finish = (position: string): void => {
      try {
        nodes.accept(node, before, route);
        nodes.note(node, position, route);
        settle({ resolve, reject }, undefined, text);
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
    let forget!: () => void;
    const answer = new Promise<string>((resolve, reject) => {
      let isForgotten = false;
      pool.connect((fault, client) => {
        if (fault) return reject(fault);
        if (isForgotten) return client!.release();
        running = client!;
        charge(running, createBudget(maxBytes));
        readTexts(client!, parts, (error, [before, text, after]) => {
          if (running) giveBack(running, error);
          running = undefined;
          if (error) reject(error);
          else settlePositioned({ resolve, reject, route, text }, before, after);
        });
      });
      forget = () => {
        isForgotten = true;
        reject(cancelled());
        const client = running;
        running = undefined;
        if (client) void cancel(client).then(() => destroy(client));
      };
    });
    return { answer, cancel: forget };
  }

  return { isSmall, readShared, readAlone };
}

function settle({ resolve, reject }: Waiting, error: Error | undefined, text: string | undefined): void {
  if (text !== undefined && !error) resolve(text);
  else reject(error ?? new Error("A read gave no text"));
}

function remember(map: Map<string, number>, key: string, value: number): void {
  if (map.size >= MAX_SLOW) map.clear();
  map.set(key, value);
}
