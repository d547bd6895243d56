// Which state the pre-computed data is in, asked for so that no answer is older than its request.
import type { GraphQLSchema } from "grafast/graphql";
import type { Pool } from "pg";
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

/** Undefined while the relations are not what the schema was built from: nothing may be kept then. */
export type DataVersion = () => Promise<string | undefined>;

interface State {
  shape: string;
  version: string;
}

/** A question that has been sent may be too old for who comes now: all who come meanwhile share the next one. */
export function createDataVersion(
  pool: Pool,
  getSchema: () => GraphQLSchema,
  /** Asked for a schema that knows the relations as they are now. */
  rebuild: () => void,
): DataVersion {
  const generations = new WeakMap<GraphQLSchema, number>();
  let generation = 0;
  let running: Promise<unknown> | undefined;
  let next: Promise<string | undefined> | undefined;

  async function ask(): Promise<string | undefined> {
    await running?.catch(() => undefined);
    next = undefined;
    const schema = getSchema();
    const { relations, shape } = schema.extensions.strataRefreshed!;
    const answer = pool.query<State>({ ...VERSION, values: [relations] });
    running = answer;
    const state = (await answer).rows[0]!;
    if (!generations.has(schema)) generations.set(schema, ++generation);
    if (state.shape === shape) return `${generations.get(schema)}:${state.version}`;
    rebuild();
    return undefined;
  }
  return () => (next ??= ask());
}
