// PostgreSQL's wire protocol in front of an embedded engine that has one session for everybody.
// Ordinary clients work against it because: one connection's messages up to its Sync run as one unit, and
// a transaction keeps the engine until it ends; each connection has prepared-statement names of its own;
// COPY FROM STDIN is handed over whole (the engine cannot wait for input); notifications reach everyone.
// A connection that starts no session holds the engine: that is how other processes say that they work on it.
import { createServer, type Socket } from "node:net";
import type { PGlite } from "@electric-sql/pglite";

interface Connection {
  id: number;
  socket: Socket;
  started: boolean;
  input: Buffer;
  unit: Buffer[];
  statements: Set<string>;
  copying: boolean;
  closed: boolean;
}

interface Job {
  connection: Connection;
  message: Buffer;
  stripCopyResponse: boolean;
}

export interface ProtocolServer {
  /** True while another process works on the engine. */
  isHeld(): boolean;
  /** Takes nobody any more, and tells those who are still there. */
  close(): void;
}

export const CLOSED = "The embedded database was closed by the process that ran it";
export const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const MAX_COPY_BYTES = 256 * 1024 * 1024;
const IDLE_IN_TRANSACTION_MS = 120_000;

const frame = (type: string, body: Buffer = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([head, body]);
};
const text = (...values: string[]): Buffer => Buffer.from(values.map((value) => `${value}\0`).join(""));
const READY = frame("Z", Buffer.from("I"));
const COPY_IN = frame("G", Buffer.from([0, 0, 0]));
const isCopyIn = (sql: string): boolean => /^\s*copy\b[^;]*\bfrom\s+stdin\b/i.test(sql);

/** Serves `db` on a Unix socket; resolves once it listens. */
export async function serveProtocol(db: PGlite, path: string): Promise<ProtocolServer> {
  const serverVersion = (await db.query<{ server_version: string }>("show server_version")).rows[0]!
    .server_version;
  const connections = new Set<Connection>();
  const queue: Job[] = [];
  let owner: Connection | undefined;
  let ownerTimer: NodeJS.Timeout | undefined;
  let running = false;
  let nextId = 1;

  function greet(connection: Connection): void {
    const parameters = {
      server_version: serverVersion,
      server_encoding: "UTF8",
      client_encoding: "UTF8",
      DateStyle: "ISO, MDY",
      IntervalStyle: "postgres",
      TimeZone: "UTC",
      integer_datetimes: "on",
      standard_conforming_strings: "on",
      is_superuser: "on",
      session_authorization: "postgres",
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

  // Two clients may both prepare "a": each gets its own name in the one session.
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

  function refuse(connection: Connection, code: string, message: string): void {
    connection.socket.end(
      frame("E", Buffer.concat([text("SFATAL", `C${code}`, `M${message}`), Buffer.alloc(1)])),
    );
    connection.socket.destroySoon();
  }

  function take(connection: Connection, type: string, message: Buffer): void {
    if (connection.copying) {
      if (type === "S" || type === "H") return;
      connection.unit.push(message);
      if (type !== "d") {
        connection.copying = false;
        enqueue(connection, true);
      } else if (connection.unit.reduce((sum, part) => sum + part.length, 0) > MAX_COPY_BYTES) {
        refuse(
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
      if (input.length < (connection.started ? 5 : 8)) return;
      const length = connection.started ? 1 + input.readInt32BE(1) : input.readInt32BE(0);
      if (length < 4 || length > MAX_COPY_BYTES) return void connection.socket.destroy();
      if (input.length < length) return;
      const message = input.subarray(0, length);
      connection.input = input.subarray(length);
      if (connection.started) take(connection, String.fromCharCode(message[0]!), message);
      else {
        const code = message.readInt32BE(4);
        if (code === SSL_REQUEST || code === GSS_REQUEST) connection.socket.write("N");
        else if (code === CANCEL_REQUEST) return void connection.socket.end();
        else greet(connection);
      }
    }
  }

  // Keeps what belongs to this connection; notifications go to everyone, since all share the session.
  function answer(job: Job, output: Buffer): string {
    const parts: Buffer[] = [];
    let status = "";
    let strip = job.stripCopyResponse;
    for (let at = 0; at + 5 <= output.length;) {
      const end = at + 1 + output.readInt32BE(at + 1);
      const type = String.fromCharCode(output[at]!);
      const message = output.subarray(at, end);
      at = end;
      if (type === "A") for (const other of connections) other.socket.write(message);
      else if (type === "G" && strip) strip = false;
      else {
        if (type === "Z") {
          // After an error the engine says twice that it is ready: for a pipelining client, an answer too many.
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
        () => refuse(connection, "25P03", "terminating connection due to idle-in-transaction timeout"),
        IDLE_IN_TRANSACTION_MS,
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
    if (owner === connection) own(undefined);
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
        const status = answer(job, await execute(job.message));
        own(status === "I" ? undefined : job.connection);
        if (job.connection.closed) await release(job.connection);
        // Queries finish in microtasks: without this pause sockets and timers of this thread would starve.
        await new Promise(setImmediate);
      }
    } finally {
      running = false;
    }
  }

  const server = createServer((socket) => {
    const connection: Connection = {
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
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return {
    isHeld: () => [...connections].some(({ started }) => !started),
    close() {
      server.close();
      for (const connection of connections) refuse(connection, "57P01", CLOSED);
    },
  };
}
