import { TYPES, type PgCodec } from "@dataplan/pg";
// Imported by its path, since grafast does not export this module.
import output from "../../node_modules/grafast/dist/tamedevilUtils.js";
import { relist } from "./lists.ts";

/**
 * A JSON document as PostgreSQL's text, which goes into the response unchanged: JavaScript would round long integers,
 * and turn those beyond a double into infinity, which JSON does not have.
 */
class JsonText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  /**
   * Used for responses that are objects first (over WebSocket); keeps the text of numbers that JavaScript would
   * change.
   */
  toJSON(): unknown {
    return exact.parse(this.text, (_key, value, { source }) =>
      typeof value === "number" && String(value) !== source ? exact.rawJSON(source) : value,
    );
  }
}

/** Members of JSON in Node 22, for which TypeScript has no types yet. */
const exact = JSON as unknown as {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
};

/**
 * grafast's private function that writes scalars, patched to write the text. If it were missing, `toJSON` would give
 * the same response.
 */
const writer: { stringifyJSON: (value: unknown) => string } = output;
const { stringifyJSON } = writer;
writer.stringifyJSON = (value) => (value instanceof JsonText ? value.text : stringifyJSON(value));

// JSON's own null becomes null.
const fromPg = (text: string) => (text === "null" ? null : new JsonText(text));
for (const name of ["json", "jsonb"] as const) {
  (TYPES[name] as PgCodec).fromPg = fromPg;
  relist(name);
}
