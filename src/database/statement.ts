// One SQL statement with what has to surround it, sent up to a single Sync. After an error PostgreSQL skips
// everything up to the Sync, so a statement can never run outside the transaction and role meant for it.
import pg from "pg";
import { serialize } from "pg-protocol";

export interface Part {
  text: string;
  /** Prepared once per connection under this name; parsed each time without it. */
  name?: string;
  values?: readonly unknown[];
}

export interface StatementResult {
  rows: any[];
  rowCount: number | null;
}

export interface StatementOptions {
  before?: readonly Part[];
  after?: readonly Part[];
  /** "text": the values as PostgreSQL writes them, without being told what they are. */
  rowMode?: "array" | "text";
}

/** What pg's own Query and Connection offer to a subclass, beyond their published types. */
interface Connection {
  stream: { writable: boolean; write(data: Buffer): void };
}
type Callback = (error: Error | null, result: StatementResult) => void;
interface QueryInternals {
  _result: { rows: unknown[] };
  handleDataRow(message: { fields: string[] }): void;
  handleReadyForQuery(connection: Connection): void;
  handleCommandComplete(message: unknown, connection: Connection): void;
  handleError(error: Error, connection: Connection): void;
}
const internals = pg as unknown as {
  Query: new (config: object, values: undefined, callback: Callback) => QueryInternals;
  utils: { prepareValue: (value: unknown) => unknown };
};

const { prepareValue } = internals.utils;

const PREPARED_PER_CONNECTION = 200;
const prepared = new WeakMap<Connection, Set<string>>();

/** Names the connection has prepared, the least recently used first. */
function preparedBy(connection: Connection): Set<string> {
  let names = prepared.get(connection);
  if (!names) prepared.set(connection, (names = new Set()));
  return names;
}

function add(
  messages: Buffer[],
  names: Set<string>,
  { text, name = "", values = [] }: Part,
  isDescribed: boolean,
): void {
  if (!names.delete(name)) {
    // Closing what does not exist is no error, and one that failed half-way may exist.
    if (name) messages.push(serialize.close({ type: "S", name }));
    messages.push(serialize.parse({ text, name, types: [] }));
  }
  if (name) {
    names.add(name);
    if (names.size > PREPARED_PER_CONNECTION) {
      const [oldest] = names;
      names.delete(oldest!);
      messages.push(serialize.close({ type: "S", name: oldest! }));
    }
  }
  messages.push(serialize.bind({ statement: name, values: [...values], valueMapper: prepareValue }));
  if (isDescribed) messages.push(serialize.describe({ type: "P" }));
  messages.push(serialize.execute());
}

class Statement extends internals.Query {
  private readonly parts: readonly Part[];
  private readonly main: number;
  private readonly texts: string[][] | undefined;
  private completed = 0;

  constructor(main: Part, { before = [], after = [], rowMode }: StatementOptions, callback: Callback) {
    super({ text: main.text, rowMode }, undefined, callback);
    this.parts = [...before, main, ...after];
    this.main = before.length;
    if (rowMode === "text") this.texts = [];
  }

  submit(connection: Connection): Error | null {
    const messages: Buffer[] = [];
    try {
      this.parts.forEach((part, i) =>
        add(messages, preparedBy(connection), part, i === this.main && !this.texts),
      );
    } catch (error) {
      // A value that cannot be sent: nothing has been sent yet.
      return error as Error;
    }
    messages.push(serialize.sync());
    // One write: each costs a system call, or a place in a list of them.
    if (connection.stream.writable) connection.stream.write(Buffer.concat(messages));
    return null;
  }

  override handleDataRow(message: { fields: string[] }): void {
    if (this.completed !== this.main) return;
    if (this.texts) this.texts.push(message.fields);
    else super.handleDataRow(message);
  }

  override handleReadyForQuery(connection: Connection): void {
    if (this.texts) this._result.rows = this.texts;
    super.handleReadyForQuery(connection);
  }

  override handleCommandComplete(message: unknown, connection: Connection): void {
    if (this.completed++ === this.main) super.handleCommandComplete(message, connection);
  }

  override handleError(error: Error, connection: Connection): void {
    // What was skipped is not prepared, and what the schema has outgrown has to be prepared again.
    const names = preparedBy(connection);
    for (const { name } of this.parts) if (name) names.delete(name);
    super.handleError(error, connection);
  }
}

/** The client's pool must have `pipeline: true`: statements are sent without waiting for the one before. */
export function run(
  client: pg.ClientBase,
  main: Part,
  options: StatementOptions = {},
): Promise<StatementResult> {
  return new Promise((resolve, reject) => {
    const done: Callback = (error, result) => (error ? reject(error) : resolve(result));
    client.query(new Statement(main, options, done) as unknown as pg.Submittable);
  });
}
