// Cache of parsed documents, compiled reads and plans, within one budget of memory. Reads and plans belong to their
// document and are evicted with it.
import type { DocumentNode, GraphQLSchema } from "grafast/graphql";
import { createBoundedMap, type BoundedMap } from "../bounded-map.ts";
import type { CheckedDocument } from "../guard/document.ts";

export interface OperationCache {
  /** The documents of a schema by their text. */
  of(this: void, schema: GraphQLSchema): BoundedMap<string, CheckedDocument>;
  /** Adds the bytes of a document's compiled reads or plans. */
  grow(this: void, schema: GraphQLSchema, document: DocumentNode, bytes: number): void;
}

export function createOperationCache(maxBytes: number): OperationCache {
  // Entries of a replaced schema are freed with it, when its last operation ends.
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
