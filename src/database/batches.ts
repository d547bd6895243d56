// Small reads of one caller that come at the same moment share a connection, the settings of their transaction and a
// round trip. Each stays a statement of its own, with a snapshot of its own. One that takes long is taken out, so that
// the others are not kept waiting, and from then on is to be read alone.
import type pg from "pg";
import { applyReadOnly, cancelled, type Settings } from "./adaptor.ts";
import { cancel } from "./cancel.ts";
import { destroy } from "./connect.ts";
import { readTexts, type Part } from "./statement.ts";
import { isUnavailable } from "./unavailable.ts";

export interface BatchesOptions {
  /** Must be made with `pipeline: true`. */
  pool: pg.Pool;
  /** False behind a pooler that gives each transaction another connection. */
  prepare: boolean;
}

export interface ReadRequest {
  /** The same object for the same caller. */
  settings: Settings;
  /** Returns one row of one value. */
  statement: Part;
  /** Of the operation, in rows. */
  cost: number;
}

export interface Reading {
  /** The value, as PostgreSQL writes it. */
  answer: Promise<string>;
  /** Nobody waits for it any more. */
  forget(this: void): void;
}

export interface Batches {
  /** May it be read with others? */
  isSmall(this: void, request: ReadRequest): boolean;
  /** Rejects with TookLong if it is to be read alone after all. */
  readShared(this: void, request: ReadRequest): Reading;
  readAlone(this: void, request: ReadRequest): Reading;
}

export class TookLong extends Error {}

interface Entry extends ReadRequest {
  resolve: (answer: string) => void;
  reject: (error: Error) => void;
  isForgotten: boolean;
}

/** What comes of one caller: what is sent is answered before more than a few others are. */
interface Group {
  opening: Part;
  entries: Entry[];
  running: number;
  isDue: boolean;
}

/** About what PostgreSQL reads in two milliseconds: a larger batch would keep its first answers waiting. */
const MAX_COST = 400;
/** More of one caller would take connections from others, and be smaller. */
const MAX_RUNNING = 4;
/** Of one statement in a batch. */
const MAX_MS = 50;
/** It may have been the machine, or its variables. */
const TIMES_ALONE = 100;
const MAX_SLOW = 1_000;
const QUERY_CANCELED = "57014";

const keyOf = ({ name, text }: Part): string => name ?? text;

/** A statement_timeout of 0 is none. */
const boundedSettings = (settings: Settings): Settings => ({
  ...settings,
  statement_timeout: String(Math.min(Number(settings.statement_timeout) || MAX_MS, MAX_MS)),
});

export function createBatches({ pool, prepare }: BatchesOptions): Batches {
  const groups = new WeakMap<Settings, Group>();
  /** How often each statement still goes alone. */
  const slow = new Map<string, number>();

  const named = (part: Part): Part => (prepare ? part : { ...part, name: undefined });

  function isSmall({ statement, cost }: ReadRequest): boolean {
    if (cost > MAX_COST) return false;
    const key = keyOf(statement);
    const times = slow.get(key);
    if (times === undefined) return true;
    if (times > 1) slow.set(key, times - 1);
    else slow.delete(key);
    return false;
  }

  function groupOf(settings: Settings): Group {
    let group = groups.get(settings);
    if (!group) {
      const opening = applyReadOnly(boundedSettings(settings));
      groups.set(settings, (group = { opening, entries: [], running: 0, isDue: false }));
    }
    return group;
  }

  function readShared(request: ReadRequest): Reading {
    const group = groupOf(request.settings);
    let entry!: Entry;
    const answer = new Promise<string>((resolve, reject) => {
      entry = { ...request, resolve, reject, isForgotten: false };
    });
    group.entries.push(entry);
    awaitTurn(group);
    return {
      answer,
      forget() {
        entry.isForgotten = true;
        entry.reject(cancelled());
      },
    };
  }

  function awaitTurn(group: Group): void {
    if (group.isDue || group.entries.length === 0 || group.running >= MAX_RUNNING) return;
    group.isDue = true;
    // By then, all requests that have come meanwhile are read.
    setImmediate(sendNext, group);
  }

  function sendNext(group: Group): void {
    group.isDue = false;
    group.running++;
    const done = (): void => {
      group.running--;
      awaitTurn(group);
    };
    pool.connect((error, client) => {
      const entries = take(group);
      if (!error && entries.length > 0) return run(client!, group, entries, done);
      client?.release();
      for (const { reject } of entries) reject(error!);
      done();
    });
    awaitTurn(group);
  }

  function take(group: Group): Entry[] {
    const entries: Entry[] = [];
    let cost = 0;
    while (group.entries.length > 0 && (entries.length === 0 || cost + group.entries[0]!.cost <= MAX_COST)) {
      const entry = group.entries.shift()!;
      if (entry.isForgotten) continue;
      entries.push(entry);
      cost += entry.cost;
    }
    return entries;
  }

  function run(client: pg.PoolClient, group: Group, entries: Entry[], done: () => void): void {
    const parts = [group.opening, ...entries.map(({ statement }) => statement)].map(named);
    readTexts(client, parts, (error, [, ...texts]) => {
      client.release();
      texts.forEach((text, i) => entries[i]!.resolve(text));
      if (error) recover(error, group, entries.slice(texts.length));
      done();
    });
  }

  /** Of those without an answer, the first is the one that failed; the others were skipped. */
  function recover(error: Error, group: Group, [failed, ...skipped]: Entry[]): void {
    if (isUnavailable(error)) {
      for (const { reject } of [failed!, ...skipped]) reject(error);
      return;
    }
    if ((error as { code?: unknown }).code === QUERY_CANCELED) {
      if (slow.size >= MAX_SLOW) slow.clear();
      slow.set(keyOf(failed!.statement), TIMES_ALONE);
      failed!.reject(new TookLong());
    } else failed!.reject(error);
    group.entries.unshift(...skipped);
  }

  function readAlone({ settings, statement }: ReadRequest): Reading {
    const parts = [applyReadOnly(settings), statement].map(named);
    let running: pg.PoolClient | undefined;
    let forget!: () => void;
    const answer = new Promise<string>((resolve, reject) => {
      let isForgotten = false;
      pool.connect((error, client) => {
        if (error) return reject(error);
        if (isForgotten) return client!.release();
        running = client!;
        readTexts(client!, parts, (error, texts) => {
          running?.release();
          running = undefined;
          if (error) reject(error);
          else resolve(texts[1]!);
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
    return { answer, forget };
  }

  return { isSmall, readShared, readAlone };
}
