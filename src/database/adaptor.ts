// One transaction per GraphQL operation, in place of PostGraphile's one per SQL statement: a response shows one state
// of the database, and BEGIN, role, statement and COMMIT share round trips.
import type { WithPgClient } from "@dataplan/pg";
import pg from "pg";
import { charge, createBudget, isExceeded, type Budget } from "./budget.ts";
import { cancel } from "./cancel.ts";
import { destroy } from "./connect.ts";
import type { Node, Nodes, Route } from "./nodes.ts";
import { AFTER, BEFORE, BEFORE_READ, later } from "./positions.ts";
import { run, type Part, type StatementOptions, type StatementResult } from "./statement.ts";

type Client = Parameters<Parameters<WithPgClient>[1]>[0];
export type Settings = Record<string, string | undefined>;

export interface OperationOptions {
  /** Must be made with `pipeline: true`. */
  pool: pg.Pool;
  /** False behind a pooler that gives each transaction another connection. */
  prepare: boolean;
  /** Bytes that PostgreSQL may send for the operation, or for each event of a subscription. */
  maxBytes: number;
  signal?: AbortSignal | undefined;
  /** Set if there are replicas: reads go to the node that the route chooses. */
  nodes?: Nodes | undefined;
  route?: Route | undefined;
}

/** A statement that reads one value. */
export interface Reading {
  /** The value as PostgreSQL's text. */
  answer: Promise<string>;
  cancel(this: void): void;
}

/** The SQL side of one GraphQL operation. */
export interface Operation {
  withPgClient: WithPgClient;
  /** Declares the kind of the operation and its number of statements, if known, before the first one. */
  describe(kind: Kind, statements: number): void;
  /** Waits for a read that has a transaction of its own, and cancels it if the operation ends before. */
  waitFor(start: () => Reading): Promise<string>;
  /** Ends the transaction and cancels statements that still run. */
  end: () => void;
  readonly route: Route | undefined;
  /** True if a query has failed on a replica and should be executed again, on the primary. */
  startOver(): boolean;
  /** Prepares the operation for executing its query again, as another document. */
  restart(): void;
  /** Milliseconds in which at least one statement was waited for, and their number. */
  readonly sql: { milliseconds: number; statements: number };
  kind(this: void): Kind;
  /** PostgreSQL sent more than it may; statements that were not complete by then have failed. */
  isTooLarge(this: void): boolean;
}

type Kind = "query" | "mutation" | "subscription";

const BEGIN_READ: Part = { name: "begin_read", text: "begin isolation level repeatable read read only" };
const BEGIN_WRITE: Part = { name: "begin_write", text: "begin" };
const COMMIT: Part = { name: "commit", text: "commit" };
const ROLLBACK: Part = { name: "rollback", text: "rollback" };
// A statement that fails rolls back to here, so that the operation's other statements still run.
const SAVEPOINT: Part = { name: "savepoint", text: "savepoint opened" };
const RECOVER: Part = { name: "recover", text: "rollback to savepoint opened" };

const setters = new Map<string, { name: string; text: string }>();

const readOnly = new WeakMap<object, Part>();
const positioned = new WeakMap<object, Part>();

/** Opens a read-only transaction with its settings; cached, since the same settings often come again. With replicas it reads the position first. */
export function applyReadOnly(settings: Settings | null, isPositioned = false): Part {
  const known = isPositioned ? positioned : readOnly;
  let part = settings ? known.get(settings) : undefined;
  if (!part) {
    part = applySettings(settings, { transaction_read_only: "on" }, isPositioned ? [BEFORE_READ] : []);
    if (settings) known.set(settings, part);
  }
  return part;
}

/** The role comes last: it may not be allowed to change the others. */
function applySettings(
  settings: Settings | null,
  extra: Record<string, string> = {},
  first: readonly string[] = [],
): Part {
  const { role, ...others } = { ...settings, ...extra };
  // Without one the statement would run with the rights of the server's own login.
  if (!role || role === "none") throw new Error("An operation needs a role");
  const entries = [...Object.entries(others), ["role", role] as const].filter(([, value]) => value != null);
  const keys = [...first, ...entries.map(([key]) => key)].join();
  let setter = setters.get(keys);
  if (!setter) {
    const calls = entries.map(
      ([key], i) => `pg_catalog.set_config(${pg.escapeLiteral(key)}, $${i + 1}, true)`,
    );
    setter = { name: `settings_${setters.size}`, text: `select ${[...first, ...calls].join(", ")}` };
    setters.set(keys, setter);
  }
  return { ...setter, values: entries.map(([, value]) => value) };
}

// Each request makes one, so it has no getters: V8 creates those in the old generation, together with all they refer to.
export function createOperation(options: OperationOptions): Operation {
  const { pool, prepare, maxBytes, signal, nodes, route } = options;
  let kind: Kind = "query";
  const budget = createBudget(maxBytes);
  let expected = Infinity;
  let ended = false;
  let reading: Transaction | undefined;
  const open = new Set<Pick<Transaction, "abandon">>();
  const sql = { milliseconds: 0, statements: 0 };
  let waiting = 0;
  let since = 0;

  /** Each event of a subscription chooses its node anew, at least as recent as the announcement. */
  const routeOf = (): Route | undefined =>
    route && kind === "subscription"
      ? { floor: later(route.floor, nodes!.announced), primaryOnly: route.primaryOnly }
      : route;

  const transaction = (
    settings: Settings | null,
    writes: boolean,
    limit: number,
    ownRoute = routeOf(),
  ): Transaction => {
    if (ended) throw cancelled();
    const created = createTransaction({
      pool,
      prepare,
      settings,
      writes,
      limit,
      budget: kind === "subscription" ? createBudget(maxBytes) : budget,
      nodes: writes ? undefined : nodes,
      route: ownRoute,
      onPosition: () => {
        if (!route || !ownRoute || ownRoute === route) return;
        const { node, why } = ownRoute;
        Object.assign(route, { node, why, position: later(route.position, ownRoute.position) });
      },
      onClosed: () => open.delete(created),
    });
    open.add(created);
    return created;
  };

  async function measured<T>(query: () => Promise<T>): Promise<T> {
    sql.statements++;
    if (waiting++ === 0) since = performance.now();
    try {
      return await query();
    } finally {
      if (--waiting === 0) sql.milliseconds += performance.now() - since;
    }
  }

  /**
   * An event cannot be executed again as a whole, so a statement that fails on a replica is repeated on the primary,
   * which is newer.
   */
  async function query(
    current: Transaction,
    part: Part,
    options: StatementOptions,
  ): Promise<StatementResult> {
    try {
      return await current.query(part, options);
    } catch (error) {
      if (kind !== "subscription" || ended || current.route?.failure === undefined) throw error;
      if (!reading || reading === current) {
        nodes!.startOver(current.route, error);
        reading = transaction(current.settings, false, Infinity, { ...current.route, failure: undefined });
      }
      return reading.query(part, options);
    }
  }

  const toClient = (current: Transaction): Client => {
    const client: Client = {
      rawClient: null,
      query: ({ text, name, values, arrayMode }) =>
        measured(() => query(current, { text, name, values }, arrayMode ? { rowMode: "array" } : {})),
      withTransaction: (callback) => callback(client),
    } as Client;
    return client;
  };

  const withPgClient = async <T>(
    settings: Settings | null,
    callback: (client: Client) => T | Promise<T>,
  ): Promise<T> => {
    if (kind === "mutation") {
      const current = transaction(settings, true, Infinity);
      try {
        const result = await callback(toClient(current));
        await current.commit();
        return result;
      } catch (error) {
        current.abandon();
        throw error;
      }
    }
    const current = (reading ??= transaction(settings, false, expected));
    try {
      return await callback(toClient(current));
    } catch (error) {
      // The connection may be closed, so the next event of a subscription takes another one.
      if (kind === "subscription" && reading === current) reading = undefined;
      throw error;
    } finally {
      // Nothing marks the end of a subscription's event: it has ended when its statements have, and their results
      // have led to no further ones.
      if (kind === "subscription")
        setImmediate(() => {
          closeIdle(current);
          if (reading) closeIdle(reading);
        });
    }
  };

  async function waitFor(start: () => Reading): Promise<string> {
    if (ended) throw cancelled();
    return measured(async () => {
      const { answer, cancel } = start();
      const reading = { abandon: cancel };
      open.add(reading);
      try {
        return await answer;
      } finally {
        open.delete(reading);
      }
    });
  }

  function closeIdle(current: Transaction): void {
    if (current.pending > 0) return;
    if (reading === current) reading = undefined;
    current.abandon();
  }

  function startOver(): boolean {
    if (kind !== "query" || ended || route?.failure === undefined) return false;
    nodes!.startOver(route, route.failure);
    route.failure = undefined;
    restart();
    return true;
  }

  function restart(): void {
    budget.received = 0;
    expected = Infinity;
    reading?.abandon();
    reading = undefined;
  }

  function end(): void {
    ended = true;
    signal?.removeEventListener("abort", end);
    for (const current of open) current.abandon();
  }

  if (signal?.aborted) end();
  else signal?.addEventListener("abort", end, { once: true });
  return {
    withPgClient,
    describe(given, statements) {
      kind = given;
      expected = statements;
    },
    waitFor,
    end,
    startOver,
    restart,
    route,
    sql,
    kind: () => kind,
    isTooLarge: () => isExceeded(budget),
  };
}

const QUERY_CANCELED = "57014";
export const isCancelled = (error: unknown): boolean => (error as { code?: unknown }).code === QUERY_CANCELED;

/** Thrown for a statement whose operation has ended before it, mostly because the client disconnected. */
export class Cancelled extends Error {
  readonly code = QUERY_CANCELED;
}
export const cancelled = (): Error => new Cancelled("The operation was cancelled");

interface Transaction {
  settings: Settings | null;
  route: Route | undefined;
  pending: number;
  query(part: Part, options: StatementOptions): Promise<StatementResult>;
  commit(): Promise<void>;
  /** Returns the connection to the pool; if a statement still runs, cancels it and closes the connection. */
  abandon(): void;
}

interface TransactionOptions {
  pool: pg.Pool;
  prepare: boolean;
  settings: Settings | null;
  writes: boolean;
  /** Number of statements after which the transaction ends, so that COMMIT needs no round trip of its own. */
  limit: number;
  budget: Budget;
  nodes: Nodes | undefined;
  route: Route | undefined;
  onPosition: () => void;
  onClosed: () => void;
}

function createTransaction({
  pool,
  prepare,
  settings,
  writes,
  limit,
  budget,
  nodes,
  route,
  onPosition,
  onClosed,
}: TransactionOptions): Transaction {
  let connecting: Promise<pg.PoolClient> | undefined;
  let client: pg.PoolClient | undefined;
  let opening: Promise<unknown> | undefined;
  let sent = 0;
  let failed = false;
  let closed = false;
  let node: Node | undefined;
  let isPositioned = false;

  const named = (part: Part): Part =>
    prepare || (node && !node.isPrimary) ? part : { ...part, name: undefined };
  const parts = (...list: (Part | false)[]): Part[] => list.filter((part) => part !== false).map(named);

  /** Statements that are sent before and after the next one, in the same batch. */
  function surroundings(): Pick<StatementOptions, "before" | "after"> {
    const isLast = ++sent === limit;
    if (sent > 1) return { before: writes ? [] : parts(RECOVER), after: isLast ? parts(COMMIT) : [] };
    if (writes) return { before: parts(BEGIN_WRITE, applySettings(settings)) };
    // Messages up to a Sync are a transaction already, and a single statement sees one state of the database.
    if (isLast) return { before: parts(applyReadOnly(settings)) };
    return { before: parts(BEGIN_READ, applySettings(settings), SAVEPOINT) };
  }

  async function acquire(): Promise<pg.PoolClient> {
    if (nodes) node = await nodes.choose(route!);
    const acquired = await (node?.pool ?? pool).connect();
    if (!closed) {
      charge(acquired, budget);
      return (client = acquired);
    }
    acquired.release();
    throw cancelled();
  }

  function release(isBroken: boolean): void {
    if (!client) return;
    charge(client, undefined);
    if (isBroken) destroy(client);
    else client.release();
    client = undefined;
  }

  function close(): boolean {
    if (closed) return false;
    closed = true;
    onClosed();
    return true;
  }

  /**
   * The positions go to the server together with the statement. The first is asked for in a transaction of its own,
   * before the snapshot; the other follows the first statement that succeeds.
   */
  async function readPositioned(current: pg.PoolClient, part: Part, options: StatementOptions) {
    const before = sent === 0 && !node!.isPrimary ? run(current, named(BEFORE)) : undefined;
    const result = run(current, named(part), { ...options, ...surroundings() });
    const after = run(current, named(AFTER));
    const [seen, read, reached] = await Promise.allSettled([before, result, after]);
    if (seen.status === "rejected") throw seen.reason;
    if (seen.value) nodes!.accept(node!, seen.value.rows[0].position as string, route!);
    if (read.status === "rejected") throw read.reason;
    if (reached.status === "rejected") throw reached.reason;
    nodes!.note(node!, reached.value.rows[0].position as string, route!);
    isPositioned = true;
    onPosition();
    return read.value;
  }

  const self: Transaction = {
    settings,
    route,
    pending: 0,
    async query(part, options) {
      if (closed) throw cancelled();
      self.pending++;
      try {
        const current = client ?? (await (connecting ??= acquire()));
        // Behind an opening that failed, a statement that writes would run outside of its role.
        if (writes && opening) await opening;
        if (closed) throw cancelled();
        if (nodes && !isPositioned) return await readPositioned(current, part, options);
        const result = run(current, named(part), { ...options, ...surroundings() });
        opening ??= result;
        return await result;
      } catch (error) {
        failed = true;
        if (!closed && node && nodes?.mayRetry(node, error)) route!.failure = error;
        // Whatever error the statement ended with, this process has cancelled it.
        throw closed ? cancelled() : error;
      } finally {
        self.pending--;
        if (sent >= limit && self.pending === 0) self.abandon();
      }
    },
    async commit() {
      if (!close() || !client) return;
      try {
        const { command } = (await run(client, named(COMMIT))) as StatementResult & { command: string };
        release(false);
        if (command !== "COMMIT") throw new Error("The transaction was rolled back");
      } catch (error) {
        if (client) release(true);
        throw error;
      }
    },
    abandon() {
      if (!close() || !client) return;
      const current = client;
      if (self.pending > 0) return void cancel(current).then(() => release(true));
      // The error arrives before the transaction's state; a single failed batch leaves no transaction open.
      const mayBeOpen = failed && (writes || limit > 1);
      if (
        !mayBeOpen &&
        (current as unknown as { getTransactionStatus(): string }).getTransactionStatus() === "I"
      )
        return release(false);
      run(current, named(ROLLBACK)).then(
        () => release(false),
        () => release(true),
      );
    },
  };
  return self;
}
