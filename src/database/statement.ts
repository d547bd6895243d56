// One SQL statement with what has to surround it, sent up to a single Sync. After an error PostgreSQL skips
// everything up to the Sync, so a statement can never run outside the transaction and role meant for it.
import pg from "pg";
import { serialize } from "pg-protocol";
import { startAnew } from "./budget.ts";

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
  rowMode?: "array";
}

/** Members of pg's Query and Connection that a subclass needs and their published types leave out. */
interface Connection {
  stream: { writable: boolean; write(data: Buffer): void };
}
type Callback = (error: Error | null, result: any) => void;
interface QueryInternals {
  callback: Callback;
  handleDataRow(message: unknown): void;
  handleReadyForQuery(connection: Connection): void;
  handleCommandComplete(message: unknown, connection: Connection): void;
  handleError(error: Error, connection: Connection): void;
}
const internals = pg as unknown as {
  Query: new (config: object | string, values: undefined, callback: Callback) => QueryInternals;
  utils: { prepareValue: (value: unknown) => unknown };
};

/**
 * Replaces a text with a lone surrogate by NUL: PostgreSQL rejects that, without affecting other statements, whereas the
 * encoding to UTF-8 would silently store another character.
 */
function prepareValue(value: unknown): unknown {
  const prepared = internals.utils.prepareValue(value);
  return typeof prepared === "string" && !prepared.isWellFormed() ? "\0" : prepared;
}

const PREPARED_PER_CONNECTION = 200;
const prepared = new WeakMap<Connection, Map<string, number>>();
/** Incremented when a client has deallocated statements: on the embedded engine, those of all connections are gone. */
let generation = 0;
/** The statement may not be prepared, or may no longer match the schema. */
const IN_DOUBT = -1;

/** Names the connection has prepared, with their generation, the least recently used first. */
function preparedBy(connection: Connection): Map<string, number> {
  let names = prepared.get(connection);
  if (!names) prepared.set(connection, (names = new Map()));
  return names;
}

const close = (name: string): Buffer => serialize.close({ type: "S", name });

/** Closes come first in a batch: after an error they would be skipped. */
function closeOldest(messages: Buffer[], names: Map<string, number>): void {
  for (const name of names.keys()) {
    if (names.size <= PREPARED_PER_CONNECTION) return;
    names.delete(name);
    messages.push(close(name));
  }
}

function add(
  messages: Buffer[],
  names: Map<string, number>,
  { text, name = "", values = [] }: Part,
  isDescribed: boolean,
): void {
  if (names.get(name) !== generation) {
    // Closing a statement that does not exist is no error.
    if (name) messages.push(close(name));
    messages.push(serialize.parse({ text, name, types: [] }));
  }
  if (name) {
    names.delete(name);
    names.set(name, generation);
  }
  messages.push(serialize.bind({ statement: name, values: [...values], valueMapper: prepareValue }));
  if (isDescribed) messages.push(serialize.describe({ type: "P" }));
  messages.push(serialize.execute());
}

/** Sends all parts in one write, since each write is a system call. */
function send(connection: Connection, parts: readonly Part[], described?: number): Error | null {
  const messages: Buffer[] = [];
  const names = preparedBy(connection);
  try {
    closeOldest(messages, names);
    parts.forEach((part, i) => add(messages, names, part, i === described));
  } catch (error) {
    // A value could not be serialized; nothing has been sent yet.
    return error as Error;
  }
  messages.push(serialize.sync());
  if (connection.stream.writable) connection.stream.write(Buffer.concat(messages));
  return null;
}

/** Statements that were skipped after an error are not prepared; the failed one may no longer fit the schema. */
function doubt(connection: Connection, error: Error, parts: readonly Part[]): void {
  if ((error as { code?: unknown }).code === INVALID_STATEMENT_NAME) generation++;
  const names = preparedBy(connection);
  for (const { name } of parts) if (name) names.set(name, IN_DOUBT);
}

const INVALID_STATEMENT_NAME = "26000";

class Statement extends internals.Query {
  private readonly parts: readonly Part[];
  private readonly main: number;
  private completed = 0;

  constructor(main: Part, { before = [], after = [], rowMode }: StatementOptions, callback: Callback) {
    super({ text: main.text, rowMode }, undefined, callback);
    this.parts = [...before, main, ...after];
    this.main = before.length;
  }

  submit(connection: Connection): Error | null {
    return send(connection, this.parts, this.main);
  }

  override handleDataRow(message: unknown): void {
    if (this.completed === this.main) super.handleDataRow(message);
  }

  override handleCommandComplete(message: unknown, connection: Connection): void {
    if (this.completed++ === this.main) super.handleCommandComplete(message, connection);
  }

  override handleError(error: Error, connection: Connection): void {
    doubt(connection, error, this.parts.slice(this.completed));
    super.handleError(error, connection);
  }
}

/** Statements that return one row of one text each, so no description of the result is requested. */
class Texts extends internals.Query {
  private readonly parts: readonly Part[];
  private readonly texts: Text[] = [];
  private row: string[] | undefined;
  private isOver = false;

  constructor(parts: readonly Part[], done: TextsCallback) {
    // Errors arrive by the callback, which pg wraps to stop its timeout.
    super("", undefined, (error) => {
      if (!this.isOver) done(error ?? undefined, this.texts);
      this.isOver = true;
    });
    this.parts = parts;
  }

  submit(connection: Connection): Error | null {
    return send(connection, this.parts);
  }

  override handleDataRow({ fields }: { fields: string[] }): void {
    this.row = fields;
  }

  override handleCommandComplete(_message: unknown, connection: Connection): void {
    startAnew(connection);
    this.texts.push(this.row?.[0] ?? undefined);
    this.row = undefined;
  }

  override handleReadyForQuery(): void {
    this.callback(null, this.texts);
  }

  override handleError(error: Error, connection: Connection): void {
    doubt(connection, error, this.parts.slice(this.texts.length));
    this.callback(error, this.texts);
  }
}

/** Undefined for NULL, or if there is no row. */
type Text = string | undefined;
type TextsCallback = (error: Error | undefined, texts: Text[]) => void;

/** Calls back with the value of each part; after an error, with those before the part that failed. */
export function readTexts(client: pg.ClientBase, parts: readonly Part[], callback: TextsCallback): void {
  client.query(new Texts(parts, callback) as unknown as pg.Submittable);
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
