// The primary and its replicas: which one answers a read, and how far each has come. A client sends back the position
// that it has seen; a replica answers it only if it has replayed as much. That is compared on the connection that
// answers and before its snapshot: within it, the comparison would be newer than the rows.
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
  /** Why it gets no reads; undefined if it gets some. */
  fault: string | undefined;
  /** Bytes of write-ahead log between the primary and it, when they were last looked at. */
  behind: number;
  /** Empty until it has answered. */
  history: string;
  /** At least this LSN; a hint for the choice only. */
  lsn: string;
}

/** Where a read goes, and what became of that; one for each operation. */
export interface Route {
  /** Nothing older may be read. */
  floor: Position | undefined;
  primaryOnly: boolean;
  /** Set when a kept answer was looked for there. */
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
  /** When its LSN was last seen to grow. */
  movedAt: number;
  /** The LSN at which somebody has waited in vain. */
  stuckAt: string;
}

interface Waiter {
  lsn: string;
  reached: (node: Node) => void;
}

export interface Nodes {
  /** Resolves when all have been looked at for the first time, whatever came of it. */
  ready: Promise<unknown>;
  primary: Node;
  replicas: readonly Node[];
  choose(this: void, route: Route): Node | Promise<Node>;
  /** Reads on a replica, and once more on the primary if that fails for a reason of the replica's. */
  read<T>(this: void, route: Route, attempt: (node: Node) => Promise<T>): Promise<T>;
  /** Throws unless the node had come far enough before it read. */
  accept(this: void, node: Node, before: string | undefined, route: Route): void;
  /** Remembers how much may have been read. */
  note(this: void, node: Node, after: string | undefined, route: Route): void;
  /** Is it worth a try on the primary? Takes a node that is gone out of the choice at once. */
  mayRetry(this: void, node: Node, error: unknown): boolean;
  /** The next choice is the primary. */
  startOver(this: void, route: Route, error: unknown): void;
  /** Remembers a position behind all that is committed, also where nothing was read. */
  noteWritten(this: void, route: Route): Promise<void>;
  positionOf(this: void, node: Node): Promise<string>;
  /** Called with each announcement before it is passed on, on the connection that brought it. */
  announce(this: void, client: pg.ClientBase): Promise<void>;
  /** Behind the commit of every announcement so far. */
  readonly announced: Position | undefined;
  release(this: void): Promise<void>;
}

/** Longest wait in ms for a replica to reach a position; more would delay reads, less would send more to the primary. */
const WAIT_MS = 100;
/** Between two looks at a node, in ms: so long may a lost one go unseen that breaks no connection. */
const LOOK_MS = 1_000;
/** Attempts before the start goes on without knowing the primary; each may take WATCH_CONNECTIONS' time-outs. */
const FIRST_LOOKS = 5;
/** Bytes behind at which a replica gets no reads; a heavy write puts more of them on the primary if it is less. */
const MAX_BEHIND = 64 * 1024 * 1024;
/** Milliseconds without any replay, while there is something to replay, after which a replica gets no reads. */
const MAX_STANDSTILL_MS = 10_000;
/** Between two questions whether a replica has come far enough, in ms. */
const POLL_MS = 2;

/** The fault of a node until it has been looked at. */
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

  /** Behind the same address there may be another server now. */
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
    // Until it is looked at for the first time, nothing is wrong with it.
    if (fault === undefined) log?.info(facts, "the node takes reads");
    else if (node.fault === undefined || node.fault === NOT_ASKED)
      log?.warn(facts, "the node takes no reads");
    node.fault = fault;
  }

  /** Ends the connections of a node whose pending statements will not be answered; the primary runs them instead. */
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

  /** Asks a node what it is, and how far it has come. */
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
      // It may be another server by now, which has come less far.
      node.lsn = reached;
      if (!node.isPrimary) node.behind = primary.lsn === "" ? 0 : bytesBetween(node.lsn, primary.lsn);
      if (node.behind === 0) node.movedAt = performance.now();
      judge(node, findFault(node, recovering));
    } catch (error) {
      if (!released.signal.aborted) lose(node, error);
    }
  }

  /** Without the primary's identity answers have no position: a busy machine is asked several times. */
  async function firstLook(): Promise<void> {
    for (let i = 0; i < FIRST_LOOKS && primary.history === ""; i++) await look(primary);
  }

  async function keepLooking(node: Watched): Promise<void> {
    while (!released.signal.aborted) {
      await sleep(LOOK_MS, undefined, { signal: released.signal, ref: false }).catch(() => undefined);
      if (!released.signal.aborted) await look(node);
    }
  }

  /** Where there is no choice no turn passes: reads that alternate with such ones would all go to one node. */
  const inTurn = (nodes: readonly Node[]): Node => nodes[nodes.length > 1 ? turn++ % nodes.length : 0]!;

  const at = (route: Route, node: Node, why: string): Node => {
    route.why ??= why;
    return (route.node = node);
  };

  function choose(route: Route): Node | Promise<Node> {
    if (route.primaryOnly) return at(route, primary, "asked for");
    const { floor, pinned } = route;
    // After a failover the LSN of a lost branch may be less than one of the new.
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

  /** Undefined if none of them comes so far in time. */
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
      // Whoever waits there asks the primary when the time is up; the next look says what is wrong.
    } finally {
      node.isPolled = false;
    }
  }

  function accept(node: Node, before: string | undefined, { floor }: Route): void {
    if (node.isPrimary) return;
    const [kind, text = "0/0", timeline] = (before ?? "").split(" ");
    if (kind !== "replica") throw new NotReached("The replica takes writes now");
    // Unseen by a login without pg_monitor; then it is as old as the last look.
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
    // Its own time is over, or its values are wrong: neither is better on the primary.
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

  // The replicas are compared with it.
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
