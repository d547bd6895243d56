// COPY … TO STDOUT as a stream with backpressure: rows that are not read yet wait in PostgreSQL's socket, not in this
// process.
import { Readable } from "node:stream";
import pg from "pg";
import type { Settings } from "./adaptor.ts";
import { cancel } from "./cancel.ts";
import { destroy } from "./connect.ts";

interface Socket {
  listeners(event: "data"): Listener[];
  on(event: "data", listener: Listener): void;
  removeListener(event: "data", listener: Listener): void;
  pause(): void;
  resume(): void;
}
type Listener = (chunk: Buffer) => void;
interface Connection {
  stream: Socket;
  query(text: string): void;
}

const COPY_DATA = 0x64;
const HEADER_BYTES = 5;

/**
 * A "submittable" of pg that reads COPY's data from the socket itself: pg's parser would make an object of each row.
 */
class CopyOut extends Readable {
  /** Number of rows received: PostgreSQL sends each row as one message. */
  rows = 0;
  private readonly text: string;
  private connection: Connection | undefined;
  private parse!: Listener;
  private rest: Buffer = Buffer.alloc(0);
  /** Bytes of the last row that are still to come. */
  private missing = 0;
  private readonly listener: Listener = (chunk) => this.receive(chunk);

  constructor(text: string) {
    super();
    this.text = text;
  }

  submit(connection: Connection): void {
    const { stream } = connection;
    this.connection = connection;
    this.parse = stream.listeners("data").at(-1)!;
    stream.removeListener("data", this.parse);
    stream.on("data", this.listener);
    connection.query(this.text);
  }

  get isRunning(): boolean {
    return this.connection !== undefined;
  }

  private receive(chunk: Buffer): void {
    const data = this.rest.length > 0 ? Buffer.concat([this.rest, chunk]) : chunk;
    const out = Buffer.allocUnsafe(data.length);
    let length = 0;
    let sent = 0;
    let at = 0;
    const flush = (): void => {
      if (length > sent && !this.push(out.subarray(sent, length))) this.connection?.stream.pause();
      sent = length;
    };
    while (at < data.length && this.connection) {
      if (this.missing > 0) {
        const end = Math.min(at + this.missing, data.length);
        length += data.copy(out, length, at, end);
        this.missing -= end - at;
        at = end;
        continue;
      }
      if (data.length - at < HEADER_BYTES) break;
      const bodyBytes = data.readUInt32BE(at + 1) - 4;
      if (data[at] === COPY_DATA) {
        this.rows++;
        this.missing = bodyBytes;
        at += HEADER_BYTES;
        continue;
      }
      const end = at + HEADER_BYTES + bodyBytes;
      if (end > data.length) break;
      flush();
      this.parse(data.subarray(at, end));
      at = end;
    }
    flush();
    if (this.connection) this.rest = data.subarray(at);
    // Bytes after the last response belong to the connection's next statement.
    else if (at < data.length) this.parse(data.subarray(at));
  }

  private detach(): void {
    const stream = this.connection?.stream;
    this.connection = undefined;
    stream?.removeListener("data", this.listener);
    stream?.on("data", this.parse);
    stream?.resume();
  }

  override _read(): void {
    this.connection?.stream.resume();
  }

  handleCommandComplete(): void {
    // BEGIN and COMMIT complete as well; only ReadyForQuery ends the export.
  }

  handleReadyForQuery(): void {
    this.detach();
    this.push(null);
  }

  handleError(error: Error): void {
    this.detach();
    this.destroy(error);
  }
}

/** Bytes of COPY, and how many rows they are so far. */
export type Copying = Readable & { readonly rows: number };

interface CopyOptions {
  settings: Settings;
  /** A read-only statement whose parameters `inline` has replaced: COPY takes none. */
  select: string;
  /** Options of COPY, in parentheses. */
  format: string;
  /** Ends the export when aborted. The reason must be an Error; the stream fails with it. */
  signal?: AbortSignal | undefined;
}

/**
 * Sent as one message, so that the embedded engine, with its single session, is free again once the rows are
 * computed.
 */
function textOf({ settings, select, format }: CopyOptions): string {
  const { role, ...others } = settings;
  // Without one the statement would run with the rights of the server's own login.
  if (!role || role === "none") throw new Error("An export needs a role");
  const set = Object.entries(others).flatMap(([name, value]) =>
    value === undefined ? [] : [`set local ${pg.escapeIdentifier(name)} = ${pg.escapeLiteral(value)}`],
  );
  return [
    "begin isolation level repeatable read read only",
    ...set,
    // Last: the role may not be allowed to change the others.
    `set local role ${pg.escapeIdentifier(role)}`,
    `copy (${select}) to stdout ${format}`,
    "commit",
  ].join("; ");
}

/** Runs COPY in a read-only transaction, which is cancelled when the stream is destroyed, or by the signal. */
export async function copyOut(pool: pg.Pool, options: CopyOptions): Promise<Copying> {
  const { signal } = options;
  const copying = new CopyOut(textOf(options));
  const client = await pool.connect();
  if (signal?.aborted) {
    client.release();
    throw signal.reason as Error;
  }
  const stop = (): void => void copying.destroy(signal!.reason as Error);
  signal?.addEventListener("abort", stop, { once: true });
  copying.once("error", () => undefined);
  copying.once("close", () => {
    signal?.removeEventListener("abort", stop);
    if (!copying.isRunning) return client.release(copying.errored !== null);
    // PostgreSQL checks for cancellation only between rows that it can send, so close the connection as well.
    void cancel(client).then(() => destroy(client));
  });
  client.query(copying as unknown as pg.Submittable);
  return copying;
}

const TOKEN = /'(?:[^']|'')*'|"(?:[^"]|"")*"|\/\*[^]*?\*\/|\$(\d+)/g;

const { prepareValue } = (pg as unknown as { utils: { prepareValue: (value: unknown) => unknown } }).utils;

/** Replaces parameters by literals, to which PostgreSQL gives the same types. */
export function inline({ text, values }: { text: string; values: readonly unknown[] }): string {
  return text.replace(TOKEN, (token, number?: string) => {
    if (number === undefined) return token;
    const value = prepareValue(values[Number(number) - 1]) as string | null | undefined;
    return value == null ? "null" : pg.escapeLiteral(String(value));
  });
}
