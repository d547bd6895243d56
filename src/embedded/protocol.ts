// PostgreSQL's wire protocol in front of an embedded engine that has one session for everybody.
// Ordinary clients work against it because: one connection's messages up to its Sync run as one unit, and
// a transaction keeps the engine until it ends; each connection has prepared-statement names of its own;
// COPY FROM STDIN is handed over whole (the engine cannot wait for input); notifications reach everyone.
// A connection that starts no session holds the engine: that is how other processes say that they work on it.
// Guests come by a port and with a password (guests.ts).
import { createServer, type Server, type Socket } from "node:net";
import type { PGlite } from "@electric-sql/pglite";
import {
  admit,
  entering,
  harmless,
  leaving,
  parametersOf,
  SETTINGS,
  settingsOf,
  type Guest,
} from "./guests.ts";

interface Connection {
  id: number;
  socket: Socket;
  started: boolean;
  input: Buffer;
  unit: Buffer[];
  statements: Set<string>;
  copying: boolean;
  closed: boolean;
  /** True for a connection by the port, which becomes a guest once it has authenticated. */
  isForeign: boolean;
  guest?: Guest;
  /** Parameters of the client's startup message; set while its password is awaited. */
  parameters?: Map<string, string>;
}

interface Job {
  connection: Connection;
  message: Buffer;
  stripCopyResponse: boolean;
  /** Receives the output in place of the client. */
  done?: (output: Buffer) => void;
}

export interface ProtocolServer {
  /** True while another process uses the engine. */
  isHeld(): boolean;
  /** Accepts no further connections and notifies the open ones. */
  close(): void;
}

export const CLOSED = "The embedded database was closed by the process that ran it";
export const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const MAX_COPY_BYTES = 256 * 1024 * 1024;
const IDLE_IN_TRANSACTION_MS = 120_000;
/** Time in ms that a guest's transaction may be idle, since it blocks all other connections. */
const GUEST_IDLE_IN_TRANSACTION_MS = 15_000;
/** Time in ms within which a guest must authenticate. */
const GREETING_MS = 10_000;
/** Delay in ms before a wrong password is answered; a higher one slows down guessing, and users who mistype. */
const WRONG_PASSWORD_MS = 1_000;
const MAX_GREETING_BYTES = 10_000;
const GUESTS_ADDRESS = "127.0.0.1";

const frame = (type: string, body: Buffer = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([head, body]);
};
const text = (...values: string[]): Buffer => Buffer.from(values.map((value) => `${value}\0`).join(""));
const READY = frame("Z", Buffer.from("I"));
const CLEARTEXT_PASSWORD = frame("R", Buffer.from([0, 0, 0, 3]));
const COPY_IN = frame("G", Buffer.from([0, 0, 0]));
const isCopyIn = (sql: string): boolean => /^\s*copy\b[^;]*\bfrom\s+stdin\b/i.test(sql);

function hasFailed(output: Buffer): boolean {
  for (let at = 0; at + 5 <= output.length; at += 1 + output.readInt32BE(at + 1))
    if (output[at] === 0x45) return true;
  return false;
}

/** Returns the rows' values from a response of the simple query protocol. */
function rowsOf(output: Buffer): (string | null)[][] {
  const rows: (string | null)[][] = [];
  for (let at = 0; at + 5 <= output.length;) {
    const end = at + 1 + output.readInt32BE(at + 1);
    if (output[at] === 0x44) {
      const row: (string | null)[] = [];
      for (let cell = at + 7; cell < end;) {
        const length = output.readInt32BE(cell);
        row.push(length < 0 ? null : output.toString("utf8", cell + 4, cell + 4 + length));
        cell += 4 + Math.max(length, 0);
      }
      rows.push(row);
    }
    at = end;
  }
  return rows;
}

/** Serves `db` on a Unix socket, and to guests on a port; resolves once it listens. */
export async function serveProtocol(db: PGlite, path: string, port?: number): Promise<ProtocolServer> {
  const serverVersion = (await db.query<{ server_version: string }>("show server_version")).rows[0]!
    .server_version;
  const connections = new Set<Connection>();
  const queue: Job[] = [];
  let owner: Connection | undefined;
  let ownerTimer: NodeJS.Timeout | undefined;
  let running = false;
  let nextId = 1;

  /** The session's own settings, restored after a guest's transaction. */
  const sessionSettings = settingsOf((await db.query<string[]>(SETTINGS, [], { rowMode: "array" })).rows);

  /** Runs SQL in the connection's place in the queue, like its own messages. */
  const ask = (connection: Connection, sql: string): Promise<(string | null)[][]> =>
    new Promise((done) => {
      const message = frame("Q", text(sql));
      queue.push({ connection, message, stripCopyResponse: false, done: (output) => done(rowsOf(output)) });
      void run();
    });

  async function letIn(connection: Connection, password: string): Promise<void> {
    const parameters = connection.parameters!;
    const connectedAs = (login: string): number =>
      [...connections].filter(({ guest }) => guest?.login === login).length;
    const found = await admit((sql) => ask(connection, sql), parameters, password, connectedAs);
    if ("code" in found)
      return void setTimeout(() => reject(connection, found.code, found.message), WRONG_PASSWORD_MS).unref();
    connection.guest = found;
    connection.socket.setTimeout(0);
    greet(connection);
  }

  function greet(connection: Connection): void {
    const { guest } = connection;
    const parameters = {
      server_version: serverVersion,
      server_encoding: "UTF8",
      client_encoding: "UTF8",
      DateStyle: "ISO, MDY",
      IntervalStyle: "postgres",
      TimeZone: "UTC",
      integer_datetimes: "on",
      standard_conforming_strings: "on",
      is_superuser: guest ? "off" : "on",
      session_authorization: guest?.login ?? "postgres",
    };
    connection.started = true;
    connection.socket.write(
      Buffer.concat([
        frame("R", Buffer.alloc(4)),
        ...Object.entries(parameters).map(([name, value]) => frame("S", text(name, value))),
        frame("K", Buffer.alloc(8)),
        READY,
      ]),
    );
  }

  // Makes statement names unique per connection: two clients may both prepare "a" in the one session.
  function ownName(connection: Connection, message: Buffer): Buffer {
    const type = String.fromCharCode(message[0]!);
    const body = message.subarray(5);
    const at = type === "B" ? body.indexOf(0) + 1 : type === "P" ? 0 : 1;
    if ((type === "D" || type === "C") && body[0] !== 0x53) return message;
    const end = body.indexOf(0, at);
    const name = body.toString("utf8", at, end);
    if (name === "") return message;
    const renamed = `s${connection.id}_${name}`;
    if (type === "P") connection.statements.add(renamed);
    if (type === "C") connection.statements.delete(renamed);
    return frame(type, Buffer.concat([body.subarray(0, at), Buffer.from(renamed), body.subarray(end)]));
  }

  function enqueue(connection: Connection, stripCopyResponse = false): void {
    queue.push({ connection, message: Buffer.concat(connection.unit), stripCopyResponse });
    connection.unit = [];
    void run();
  }

  function reject(connection: Connection, code: string, message: string): void {
    connection.socket.end(
      frame("E", Buffer.concat([text("SFATAL", `C${code}`, `M${message}`), Buffer.alloc(1)])),
    );
    connection.socket.destroySoon();
  }

  /** Returns a guest's message, or the error that replaces it. */
  function ofGuest(type: string, message: Buffer): Buffer {
    const start = type === "P" ? message.indexOf(0, 5) + 1 : 5;
    const end = message.indexOf(0, start);
    const instead = harmless(message.toString("utf8", start, end));
    if (instead === undefined) return message;
    return frame(type, Buffer.concat([message.subarray(5, start), text(instead), message.subarray(end + 1)]));
  }

  function take(connection: Connection, type: string, given: Buffer): void {
    const message = connection.guest && "QP".includes(type) ? ofGuest(type, given) : given;
    if (connection.copying) {
      if (type === "S" || type === "H") return;
      connection.unit.push(message);
      if (type !== "d") {
        connection.copying = false;
        enqueue(connection, true);
      } else if (connection.unit.reduce((sum, part) => sum + part.length, 0) > MAX_COPY_BYTES) {
        reject(
          connection,
          "54000",
          `COPY into the embedded engine takes at most ${MAX_COPY_BYTES} bytes at a time`,
        );
      }
    } else if (type === "X") {
      connection.socket.end();
    } else if (type === "Q") {
      connection.unit.push(message);
      if (isCopyIn(message.toString("utf8", 5, 2000))) {
        connection.copying = true;
        connection.socket.write(COPY_IN);
      } else enqueue(connection);
    } else {
      connection.unit.push("PBDC".includes(type) ? ownName(connection, message) : message);
      if (type === "S" || type === "H") enqueue(connection);
    }
  }

  function receive(connection: Connection, data: Buffer): void {
    connection.input = connection.input.length === 0 ? data : Buffer.concat([connection.input, data]);
    for (;;) {
      const { input } = connection;
      const isTyped = connection.started || connection.parameters !== undefined;
      if (input.length < (isTyped ? 5 : 8)) return;
      const length = isTyped ? 1 + input.readInt32BE(1) : input.readInt32BE(0);
      const isGreeting = connection.isForeign && !connection.guest;
      if (length < 4 || length > (isGreeting ? MAX_GREETING_BYTES : MAX_COPY_BYTES))
        return void connection.socket.destroy();
      if (input.length < length) return;
      const message = input.subarray(0, length);
      connection.input = input.subarray(length);
      if (connection.started) take(connection, String.fromCharCode(message[0]!), message);
      else if (connection.parameters) {
        const body = message.subarray(5);
        const end = body.indexOf(0);
        if (message[0] !== 0x70 || end < 0) return void connection.socket.destroy();
        letIn(connection, body.toString("utf8", 0, end)).catch(() => connection.socket.destroy());
      } else {
        const code = message.readInt32BE(4);
        if (code === SSL_REQUEST || code === GSS_REQUEST) connection.socket.write("N");
        else if (code === CANCEL_REQUEST) return void connection.socket.end();
        else if (connection.isForeign) {
          connection.parameters = parametersOf(message.subarray(8));
          connection.socket.write(CLEARTEXT_PASSWORD);
        } else greet(connection);
      }
    }
  }

  // Sends output to its connection, and notifications to all, since all share the session.
  function answer(job: Job, output: Buffer): string {
    const parts: Buffer[] = [];
    let status = "";
    let strip = job.stripCopyResponse;
    for (let at = 0; at + 5 <= output.length;) {
      const end = at + 1 + output.readInt32BE(at + 1);
      const type = String.fromCharCode(output[at]!);
      const message = output.subarray(at, end);
      at = end;
      if (type === "A") {
        for (const other of connections) if (!other.isForeign) other.socket.write(message);
      } else if (type === "G" && strip) strip = false;
      else {
        if (type === "Z") {
          // After an error the engine sends ReadyForQuery twice; a pipelining client must get it once.
          if (status !== "") parts.pop();
          status = String.fromCharCode(message[5]!);
        }
        parts.push(message);
      }
    }
    if (!job.connection.closed) job.connection.socket.write(Buffer.concat(parts));
    return status;
  }

  async function execute(message: Buffer): Promise<Buffer> {
    const parts: Buffer[] = [];
    await db.runExclusive(() =>
      db.execProtocolRawStream(new Uint8Array(message), {
        onRawData: (data) => void parts.push(Buffer.from(data)),
      }),
    );
    return Buffer.concat(parts);
  }

  function own(connection: Connection | undefined): void {
    owner = connection;
    clearTimeout(ownerTimer);
    ownerTimer =
      connection &&
      setTimeout(
        () => reject(connection, "25P03", "terminating connection due to idle-in-transaction timeout"),
        connection.isForeign ? GUEST_IDLE_IN_TRANSACTION_MS : IDLE_IN_TRANSACTION_MS,
      ).unref();
  }

  async function release(connection: Connection): Promise<void> {
    const message = [
      ...(owner === connection ? [frame("S"), frame("Q", text("rollback"))] : []),
      ...[...connection.statements].map((name) => frame("C", Buffer.concat([Buffer.from("S"), text(name)]))),
      frame("S"),
    ];
    connection.statements.clear();
    await execute(Buffer.concat(message));
    if (connection.guest && owner === connection) await leave(connection.guest);
    if (owner === connection) own(undefined);
  }

  async function leave(guest: Guest): Promise<void> {
    guest.settings = settingsOf(rowsOf(await execute(frame("Q", text(leaving(sessionSettings))))));
  }

  /** Runs one unit of a connection; a guest's is enclosed by applying its settings and restoring the session's. */
  async function perform({ connection, message, done }: Job): Promise<Buffer> {
    const { guest } = connection;
    if (!guest || done) return execute(message);
    if (owner !== connection) {
      const entered = await execute(frame("Q", text(entering(guest))));
      // The login may have been dropped meanwhile. Without its role the unit would run with all rights.
      if (hasFailed(entered)) return entered;
    }
    return execute(message);
  }

  async function run(): Promise<void> {
    if (running) return;
    running = true;
    try {
      for (;;) {
        const index = owner ? queue.findIndex((job) => job.connection === owner) : 0;
        const job = index < 0 ? undefined : queue.splice(index, 1)[0];
        if (!job) break;
        if (job.connection.closed) {
          await release(job.connection);
          continue;
        }
        const output = await perform(job);
        if (job.done) {
          job.done(output);
          continue;
        }
        const status = answer(job, output);
        if (status === "I" && job.connection.guest) await leave(job.connection.guest);
        own(status === "I" ? undefined : job.connection);
        if (job.connection.closed) await release(job.connection);
        // Queries finish in microtasks: without this pause sockets and timers of this thread would starve.
        await new Promise(setImmediate);
      }
    } finally {
      running = false;
    }
  }

  const accept = (socket: Socket, isForeign: boolean): void => {
    const connection: Connection = {
      isForeign,
      id: nextId++,
      socket,
      started: false,
      input: Buffer.alloc(0),
      unit: [],
      statements: new Set(),
      copying: false,
      closed: false,
    };
    connections.add(connection);
    socket.on("data", (data) => receive(connection, data));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      connection.closed = true;
      connections.delete(connection);
      for (let i = queue.length - 1; i >= 0; i--) if (queue[i]!.connection === connection) queue.splice(i, 1);
      // An empty unit makes the queue release whatever this connection still holds.
      queue.unshift({ connection, message: Buffer.alloc(0), stripCopyResponse: false });
      void run();
    });
  };
  const server = createServer((socket) => accept(socket, false));
  const guests = createServer((socket) => {
    socket.setTimeout(GREETING_MS, () => socket.destroy());
    accept(socket, true);
  });
  const listen = (on: Server, address: string | { port: number; host: string }): Promise<void> =>
    new Promise((resolve, reject) => {
      on.once("error", reject);
      on.listen(address, resolve);
    });
  await listen(server, path);
  if (port !== undefined)
    await listen(guests, { port, host: GUESTS_ADDRESS }).catch((error: NodeJS.ErrnoException) => {
      throw new Error(
        error.code === "EADDRINUSE"
          ? `port ${port} on ${GUESTS_ADDRESS} is in use; set EMBEDDED_PORT to a free one`
          : `cannot listen on ${GUESTS_ADDRESS}:${port} (EMBEDDED_PORT): ${error.message}`,
      );
    });
  return {
    isHeld: () => [...connections].some(({ started, isForeign }) => !started && !isForeign),
    close() {
      server.close();
      guests.close();
      for (const connection of connections) reject(connection, "57P01", CLOSED);
    },
  };
}
