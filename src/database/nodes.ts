// The primary and its replicas: chooses the node for each read. A client sends back the position that it has seen; a
// replica answers only if it has replayed that much. The comparison is made on the connection that answers, before
// its snapshot: made within it, it would be newer than the rows.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { Cancelled } from "./adaptor.ts";
import { TookLong } from "./batches.ts";
import { meter, ResponseTooLarge } from "./budget.ts";
import { createPool, cut, REPLICA_CONNECTIONS, WATCH_CONNECTIONS } from "./connect.ts";
import { isUnavailable } from "./unavailable.ts";
import {
  BEFORE,
  bytesBetween,
  historyOf,
  IDENTITY,
  later,
  lsnOf,
  toHistory,
  toLsn,
  toTimeline,
  WRITTEN,
  AFTER,
  type Position,
} from "./positions.ts";

export interface Node {
  name: string;
  isPrimary: boolean;
  /** Connections that operations take. */
  pool: pg.Pool;
  /** One connection that operations do not take. */
  watch: pg.Pool;
  /** Why the node gets no reads; undefined if it gets reads. */
  fault: string | undefined;
  /** Bytes of write-ahead log by which it lags behind the primary, as last polled. */
  behind: number;
  /** Empty until the first poll has succeeded. */
  history: string;
  /** An LSN that the node has reached, by the last poll; used for the choice only. */
  lsn: string;
}

/** The routing of one operation: what it requires, and the node that answered. */
export interface Route {
  /** Position that a node must have reached. */
  floor: Position | undefined;
  primaryOnly: boolean;
  /** The node whose data version was read for the response cache. */
  pinned?: Node | undefined;
  node?: Node;
  why?: string;
  /** Position up to which data has been read or written. */
  position?: Position | undefined;
  /** A statement on a replica failed: the operation starts over on the primary. */
  failure?: unknown;
}

interface Log {
  warn(facts: object, message: string): void;
  info(facts: object, message: string): void;
}

interface Watched extends Node {
  /** Connections of its pool. */
  clients: Set<pg.PoolClient>;
  waiting: Set<Waiter>;
  isPolled: boolean;
  /** Time at which its LSN last grew. */
  movedAt: number;
  /** LSN at which the last wait for the node timed out. */
  stuckAt: string;
}

interface Waiter {
  lsn: string;
  reached: (node: Node) => void;
}

export interface Nodes {
  /** Resolves after the first poll of all nodes, whether it succeeded or not. */
  ready: Promise<unknown>;
  primary: Node;
  replicas: readonly Node[];
  choose(this: void, route: Route): Node | Promise<Node>;
  /** Reads on a replica, and again on the primary if the replica is the reason for a failure. */
  read<T>(this: void, route: Route, attempt: (node: Node) => Promise<T>): Promise<T>;
  /** Throws unless the node had reached the required position before it read. */
  accept(this: void, node: Node, before: string | undefined, route: Route): void;
  /** Records the position up to which data may have been read. */
  note(this: void, node: Node, after: string | undefined, route: Route): void;
  /** Whether the error may not occur on the primary. A node that is lost gets no more reads. */
  mayRetry(this: void, node: Node, error: unknown): boolean;
  /** Routes the operation's next attempt to the primary. */
  startOver(this: void, route: Route, error: unknown): void;
  /** Records a position after everything that is committed, even if nothing was read. */
  noteWritten(this: void, route: Route): Promise<void>;
  positionOf(this: void, node: Node): Promise<string>;
  /** Called for each announcement before it is passed on, with the connection that received it. */
  announce(this: void, client: pg.ClientBase): Promise<void>;
  /** Position after the commits of all announcements so far. */
  readonly announced: Position | undefined;
  release(this: void): Promise<void>;
}

/**
 * Maximum wait in ms for a replica to reach a position. A higher limit delays reads, a lower one sends more to the
 * primary.
 */
const WAIT_MS = 100;
/** Polling interval of a node in ms: the time for which a node may be lost unnoticed if no connection breaks. */
const LOOK_MS = 1_000;
/** Attempts before the start goes on without knowing the primary; each may take WATCH_CONNECTIONS' time-outs. */
const FIRST_LOOKS = 5;
/**
 * Lag in bytes from which a replica gets no reads. With a lower limit a heavy write moves reads to the primary
 * sooner.
 */
const MAX_BEHIND = 64 * 1024 * 1024;
/** Time in ms without progress, while there is something to replay, after which a replica gets no reads. */
const MAX_STANDSTILL_MS = 10_000;
/** Interval in ms at which a waiting read checks a replica's position. */
const POLL_MS = 2;

/** The fault of a node until its first poll. */
const NOT_ASKED = "not asked yet";

class NotReached extends Error {}

export interface NodesOptions {
  /** Pool of the primary, for operations. */
  pool: pg.Pool;
  connection: pg.PoolConfig;
  urls: readonly string[];
  log?: Log | undefined;
}

export const nameOf = (index: number): string => `replica-${index + 1}`;

export function createNodes({ pool, connection, urls, log }: NodesOptions): Nodes {
  const toNode = (name: string, nodePool: pg.Pool, nodeConnection: pg.PoolConfig): Watched => ({
    name,
    isPrimary: name === "primary",
    pool: nodePool,
    watch: createPool(nodeConnection, {
      ...WATCH_CONNECTIONS,
      ...(name !== "primary" && { verify: verifying }),
    }),
    fault: NOT_ASKED,
    clients: new Set(),
    behind: 0,
    history: "",
    lsn: "",
    waiting: new Set(),
    isPolled: false,
    movedAt: performance.now(),
    stuckAt: "-",
  });
  const primary = toNode("primary", pool, connection);
  const replicas = urls.map((connectionString, i): Watched => {
    const nodePool = createPool({ connectionString }, { ...REPLICA_CONNECTIONS, verify: verifying });
    meter(nodePool);
    const node = toNode(nameOf(i), nodePool, { connectionString });
    nodePool.on("connect", (client) => node.clients.add(client));
    nodePool.on("remove", (client) => node.clients.delete(client));
    return node;
  });
  const released = new AbortController();
  let announced: Position | undefined;
  let turn = 0;

  /** Another server may answer at this address now. */
  function verifying(client: pg.PoolClient, done: (error?: Error) => void): void {
    void verify(client).then(() => done(), done);
  }

  async function verify(client: pg.PoolClient): Promise<void> {
    const { rows } = await client.query<{ system: string }>(
      "select system_identifier::text as system from pg_catalog.pg_control_system()",
    );
    if (primary.history === "") throw new NotReached("the primary has not been reached yet");
    if (!primary.history.startsWith(`${rows[0]!.system}-`))
      throw new NotReached("belongs to another cluster");
  }

  function judge(node: Watched, fault: string | undefined): void {
    if (node.fault === fault) return;
    const facts = { node: node.name, behind: node.behind, why: fault };
    // Before the first poll a node has no fault to recover from.
    if (fault === undefined) log?.info(facts, "the node takes reads");
    else if (node.fault === undefined || node.fault === NOT_ASKED)
      log?.warn(facts, "the node takes no reads");
    node.fault = fault;
  }

  /** Closes the connections of a node that will not answer its pending statements; the primary runs them instead. */
  function lose(node: Watched, error: unknown): void {
    const { code, message } = error as { code?: string; message?: string };
    judge(node, error instanceof NotReached ? error.message : `does not answer (${code ?? message})`);
    node.clients.forEach(cut);
  }

  function findFault(node: Watched, recovering: boolean): string | undefined {
    if (node.isPrimary) return recovering ? "in recovery; the primary is elsewhere" : undefined;
    if (primary.history === "") return "the primary has not been reached yet";
    if (!recovering) return "takes writes: it was promoted, or is no replica";
    if (node.history.split("-")[0] !== primary.history.split("-")[0]) return "belongs to another cluster";
    if (node.history !== primary.history)
      return `on timeline ${node.history.split("-")[1]}, the primary on ${primary.history.split("-")[1]}`;
    if (node.behind > MAX_BEHIND) return `${node.behind} bytes behind`;
    if (node.behind > 0 && performance.now() - node.movedAt > MAX_STANDSTILL_MS)
      return `stands still, ${node.behind} bytes behind`;
    return undefined;
  }

  /** Polls a node's role and position. */
  async function look(node: Watched): Promise<void> {
    try {
      const { rows } = await node.watch.query<{
        system: string;
        recovering: boolean;
        lsn: string | null;
        timeline: string;
      }>(IDENTITY);
      const { system, recovering, lsn, timeline } = rows[0]!;
      node.history = toHistory(system, toTimeline(timeline));
      const reached = toLsn(lsn ?? "0/0");
      if (reached !== node.lsn) node.movedAt = performance.now();
      // The LSN may be lower than before: another server may answer now.
      node.lsn = reached;
      if (!node.isPrimary) node.behind = primary.lsn === "" ? 0 : bytesBetween(node.lsn, primary.lsn);
      if (node.behind === 0) node.movedAt = performance.now();
      judge(node, findFault(node, recovering));
    } catch (error) {
      if (!released.signal.aborted) lose(node, error);
    }
  }

  /** Without the primary's identity responses have no position, so try several times on a busy machine. */
  async function firstLook(): Promise<void> {
    for (let i = 0; i < FIRST_LOOKS && primary.history === ""; i++) await look(primary);
  }

  async function keepLooking(node: Watched): Promise<void> {
    while (!released.signal.aborted) {
      await sleep(LOOK_MS, undefined, { signal: released.signal, ref: false }).catch(() => undefined);
      if (!released.signal.aborted) await look(node);
    }
  }

  /**
   * The turn advances only where there is a choice; otherwise reads that alternate with others would all reach one
   * node.
   */
  const inTurn = (nodes: readonly Node[]): Node => nodes[nodes.length > 1 ? turn++ % nodes.length : 0]!;

  const at = (route: Route, node: Node, why: string): Node => {
    route.why ??= why;
    return (route.node = node);
  };

  function choose(route: Route): Node | Promise<Node> {
    if (route.primaryOnly) return at(route, primary, "asked for");
    const { floor, pinned } = route;
    // After a failover LSNs of the lost branch do not compare with those of the new one.
    if (floor !== undefined && historyOf(floor) !== primary.history)
      return at(route, primary, "other history");
    const usable = replicas.filter(({ fault }) => fault === undefined);
    if (usable.length === 0) return at(route, primary, "no replica");
    if (pinned && (pinned.isPrimary || pinned.fault === undefined)) return at(route, pinned, "kept answer");
    if (floor === undefined) return at(route, inTurn(usable), "any");
    const lsn = lsnOf(floor);
    const ready = usable.filter((node) => node.lsn >= lsn);
    if (ready.length > 0) return at(route, inTurn(ready), "reached");
    const moving = usable.filter((node) => node.stuckAt !== node.lsn);
    if (moving.length === 0) return at(route, primary, "behind");
    return waitFor(lsn, moving).then((node) => at(route, node ?? primary, node ? "waited" : "behind"));
  }

  /** Resolves with undefined if none of them reaches the LSN in time. */
  function waitFor(lsn: string, candidates: Watched[]): Promise<Node | undefined> {
    return new Promise((resolve) => {
      const from = new Map(candidates.map((node) => [node, node.lsn]));
      const end = (node: Node | undefined): void => {
        clearTimeout(timer);
        for (const candidate of candidates) candidate.waiting.delete(waiter);
        resolve(node);
      };
      const timer = setTimeout(() => {
        for (const [node, start] of from) if (node.lsn === start) node.stuckAt = start;
        end(undefined);
      }, WAIT_MS);
      const waiter: Waiter = { lsn, reached: end };
      for (const node of candidates) {
        node.waiting.add(waiter);
        if (!node.isPolled) void poll(node);
      }
    });
  }

  async function poll(node: Watched): Promise<void> {
    node.isPolled = true;
    try {
      while (node.waiting.size > 0 && !released.signal.aborted) {
        const { rows } = await node.watch.query<{ position: string }>(BEFORE);
        const [kind, text] = rows[0]!.position.split(" ");
        if (kind !== "replica") break;
        node.lsn = toLsn(text!);
        for (const waiter of [...node.waiting]) if (node.lsn >= waiter.lsn) waiter.reached(node);
        if (node.waiting.size > 0) await sleep(POLL_MS);
      }
    } catch {
      // Reads that wait for this node go to the primary when their time is up; the next poll finds the fault.
    } finally {
      node.isPolled = false;
    }
  }

  function accept(node: Node, before: string | undefined, { floor }: Route): void {
    if (node.isPrimary) return;
    const [kind, text = "0/0", timeline] = (before ?? "").split(" ");
    if (kind !== "replica") throw new NotReached("The replica takes writes now");
    // Logins without pg_monitor cannot see the timeline; then the last poll's is used.
    if (timeline) node.history = toHistory(node.history.split("-")[0]!, toTimeline(timeline));
    if (node.history !== primary.history) throw new NotReached("The replica is on another timeline");
    const lsn = toLsn(text);
    if (lsn > node.lsn) node.lsn = lsn;
    if (floor !== undefined && lsn < lsnOf(floor)) throw new NotReached("The replica is behind");
  }

  function note(node: Node, after: string | undefined, route: Route): void {
    const [, text, timeline] = (after ?? "").split(" ");
    if (text === undefined) throw new NotReached("The node does not say how far it has come");
    if (node.history === "") return;
    if (node.isPrimary && timeline) {
      node.history = toHistory(node.history.split("-")[0]!, timeline);
      const lsn = toLsn(text);
      if (lsn > node.lsn) node.lsn = lsn;
    }
    route.position = later(route.position, `${node.history}-${toLsn(text)}`);
  }

  function mayRetry(node: Node, error: unknown): boolean {
    if (node.isPrimary || error instanceof TookLong || error instanceof Cancelled) return false;
    if (error instanceof ResponseTooLarge) return false;
    const code = String((error as { code?: unknown }).code);
    // Timeouts and wrong values would fail on the primary as well.
    if (code === "57014" || code.startsWith("22")) return false;
    if (isUnavailable(error)) {
      judge(node as Watched, `does not answer (${code === "undefined" ? (error as Error).message : code})`);
    }
    return true;
  }

  async function read<T>(route: Route, attempt: (node: Node) => Promise<T>): Promise<T> {
    const node = await choose(route);
    try {
      return await attempt(node);
    } catch (error) {
      if (!mayRetry(node, error)) throw error;
      startOver(route, error);
      return attempt(await choose(route));
    }
  }

  async function noteWritten(route: Route): Promise<void> {
    if (primary.history === "") await look(primary);
    const { rows } = await primary.watch.query<{ position: string }>(WRITTEN);
    note(primary, rows[0]!.position, route);
    route.node = primary;
    route.why = "written";
  }

  // The replicas are compared with the primary.
  const ready = firstLook().then(() => Promise.all(replicas.map(look)));
  void ready.then(() => [primary, ...replicas].map(keepLooking));
  return {
    ready,
    primary,
    replicas,
    choose,
    read,
    accept,
    note,
    mayRetry,
    startOver,
    noteWritten,
    async positionOf(node) {
      const { rows } = await (node as Watched).watch.query<{ position: string }>(AFTER);
      return rows[0]!.position;
    },
    async announce(client) {
      const route: Route = { floor: undefined, primaryOnly: true };
      const { rows } = await client.query<{ position: string }>(AFTER);
      note(primary, rows[0]!.position, route);
      announced = later(announced, route.position);
    },
    get announced() {
      return announced;
    },
    async release() {
      released.abort();
      const pools = [
        ...replicas.map(({ pool }) => pool),
        ...[primary, ...replicas].map(({ watch }) => watch),
      ];
      await Promise.all(pools.map((ending) => ending.end()));
    },
  };
}

function startOver(route: Route, error: unknown): void {
  route.primaryOnly = true;
  const { code, message } = error as { code?: string; message: string };
  route.why = `failed on ${route.node?.name}: ${error instanceof NotReached ? message : (code ?? message)}`;
}
