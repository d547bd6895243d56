// Cache of parsed documents, compiled reads and plans, with one budget of memory for all of them.
// All of it hangs on the document, and goes with it.
import type { DocumentNode, GraphQLSchema } from "grafast/graphql";
import { createBoundedMap, type BoundedMap } from "../bounded-map.ts";
import type { CheckedDocument } from "../guard/document.ts";

export interface OperationCache {
  /** The documents of a schema by their text. */
  of(this: void, schema: GraphQLSchema): BoundedMap<string, CheckedDocument>;
  /** Adds the bytes of what was made of a document. */
  grow(this: void, schema: GraphQLSchema, document: DocumentNode, bytes: number): void;
}

export function createOperationCache(maxBytes: number): OperationCache {
  // Those of a schema that was replaced go with it, when its last operation ends.
  const bySchema = new WeakMap<GraphQLSchema, BoundedMap<string, CheckedDocument>>();
  const of: OperationCache["of"] = (schema) => {
    let documents = bySchema.get(schema);
    if (!documents) bySchema.set(schema, (documents = createBoundedMap(maxBytes)));
    return documents;
  };
  return {
    of,
    grow(schema, document, bytes) {
      const text = document.loc?.source.body;
      if (text !== undefined) of(schema).grow(text, bytes);
    },
  };
}
