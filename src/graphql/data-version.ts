// Reads the version of the pre-computed data, after a request has arrived, so that no cached response is older than its request.
import type { GraphQLSchema } from "grafast/graphql";
import type { Pool } from "pg";
import type { Node, Nodes, Route } from "../database/nodes.ts";
import { AFTER, BEFORE } from "../database/positions.ts";
import { readTexts } from "../database/statement.ts";
import { shapeOf } from "../../plugins/CataloguePlugin.ts";

/**
 * data_version grows with every refresh, in the refresh's own transaction, also with a bare REFRESH. The rest changes
 * with the relations and with who may read them: grants on them, their columns and schemas, and memberships of roles.
 */
const VERSION = {
  name: "data_version",
  text: `
    select ${shapeOf("$1::oid[]")} as shape, state.data_version || ':' || md5(concat_ws(' ',
      (select string_agg(c.xmin::text, '.' order by c.oid) from pg_catalog.pg_class c where c.oid = any ($1::oid[])),
      (select string_agg(a.xmin::text, '.' order by a.attrelid, a.attnum)
       from pg_catalog.pg_attribute a where a.attrelid = any ($1::oid[]) and a.attnum > 0),
      (select string_agg(n.xmin::text, '.' order by n.oid)
       from pg_catalog.pg_namespace n where n.nspname in ('production', 'analytics')),
      (select string_agg(m.xmin::text, '.' order by m.roleid, m.member) from pg_catalog.pg_auth_members m)
    )) as version
    from strata.refresh_state state`,
};

/** Undefined while the relations differ from those that the schema was built from; nothing may be cached then. */
export type DataVersion = () => Promise<string | undefined>;

interface State {
  shape: string;
  version: string;
}

const VERSION_TEXT = {
  name: "data_version_text",
  text: `select row_to_json(known)::text from (${VERSION.text}) known`,
};

interface Positioned {
  version: string | undefined;
  before: string | undefined;
  after: string | undefined;
}

export interface DataVersions {
  /** The data version on the node of the route, which the operation then stays on. */
  of(this: void, route: Route): Promise<string | undefined>;
  /** Whether the node still has that version: then everything read there in between is of it. */
  isStill(this: void, node: Node, version: string): Promise<boolean>;
}

/** Reads the version of each node; on a replica also its position. */
export function createDataVersions(
  nodes: Nodes,
  getSchema: () => GraphQLSchema,
  rebuild: () => void,
): DataVersions {
  const readers = new Map<Node, () => Promise<Positioned>>();
  for (const node of [nodes.primary, ...nodes.replicas])
    readers.set(
      node,
      // A replica that lags has an older catalogue, so only the primary's may cause a new schema.
      share(getSchema, node.isPrimary ? rebuild : () => void readers.get(nodes.primary)!(), (relations) =>
        readPositioned(node.watch, relations),
      ),
    );
  return {
    of: (route) =>
      nodes.read(route, async (node) => {
        const { version, before, after } = await readers.get(node)!();
        nodes.accept(node, before, route);
        nodes.note(node, after, route);
        route.pinned = node;
        return version;
      }),
    isStill: async (node, version) => (await readers.get(node)!()).version === version,
  };
}

async function readPositioned(pool: Pool, relations: readonly string[]): Promise<State & Positioned> {
  const client = await pool.connect();
  return new Promise((resolve, reject) => {
    const parts = [BEFORE, { ...VERSION_TEXT, values: [relations] }, AFTER];
    readTexts(client, parts, (error, [before, text, after]) => {
      client.release(error);
      if (error) reject(error);
      else resolve({ ...(JSON.parse(text!) as State), before, after });
    });
  });
}

/**
 * Reads the data version for requests that arrive together. A query that is already running may have read before a
 * request arrived, so that request shares the next one with all that arrive meanwhile.
 */
export function createDataVersion(
  pool: Pool,
  getSchema: () => GraphQLSchema,
  rebuild: () => void,
): DataVersion {
  const ask = share(getSchema, rebuild, async (relations) => {
    const { rows } = await pool.query<State>({ ...VERSION, values: [relations] });
    return rows[0]!;
  });
  return async () => (await ask()).version;
}

function share<T extends State>(
  getSchema: () => GraphQLSchema,
  /** Has the schema built again, with the relations as they are now. */
  rebuild: () => void,
  read: (relations: readonly string[]) => Promise<T>,
): () => Promise<Omit<T, "version"> & { version: string | undefined }> {
  const generations = new WeakMap<GraphQLSchema, number>();
  let generation = 0;
  let running: Promise<unknown> | undefined;
  let next: ReturnType<typeof ask> | undefined;

  async function ask(): Promise<Omit<T, "version"> & { version: string | undefined }> {
    await running?.catch(() => undefined);
    next = undefined;
    const schema = getSchema();
    const { relations, shape } = schema.extensions.strataRefreshed!;
    const answer = read(relations);
    running = answer;
    const state = await answer;
    if (!generations.has(schema)) generations.set(schema, ++generation);
    if (state.shape === shape) return { ...state, version: `${generations.get(schema)}:${state.version}` };
    rebuild();
    return { ...state, version: undefined };
  }
  return () => (next ??= ask());
}
