import { TYPES, type PgCodec } from "@dataplan/pg";
// grafast does not export this module, so it is imported by its path.
import output from "../../node_modules/grafast/dist/tamedevilUtils.js";
import { relist } from "./lists.ts";

/**
 * A JSON document as PostgreSQL wrote it. A JavaScript number would round a long integer and take a greater one than
 * a double can hold for infinity, which is not JSON; the text goes into the answer as it is.
 */
class JsonText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  /** For answers that are objects first (over WebSocket): numbers that JavaScript would change are kept as text. */
  toJSON(): unknown {
    return exact.parse(this.text, (_key, value, { source }) =>
      typeof value === "number" && String(value) !== source ? exact.rawJSON(source) : value,
    );
  }
}

/** As it is in Node 22, which TypeScript does not know yet. */
const exact = JSON as unknown as {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
};

/** How grafast writes a value of a scalar; private, and called by this name. Without it `toJSON` gives the same answer. */
const writer: { stringifyJSON: (value: unknown) => string } = output;
const { stringifyJSON } = writer;
writer.stringifyJSON = (value) => (value instanceof JsonText ? value.text : stringifyJSON(value));

// JSON has a null of its own.
const fromPg = (text: string) => (text === "null" ? null : new JsonText(text));
for (const name of ["json", "jsonb"] as const) {
  (TYPES[name] as PgCodec).fromPg = fromPg;
  relist(name);
}
