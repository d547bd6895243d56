// Reads what PostgreSQL's own catalogue does not tell: datasets with their fields, and relations that only a refresh
// changes.
import { withPgClientFromPgService } from "@dataplan/pg";
import { getNullableType } from "grafast/graphql";
import { gatherConfig } from "graphile-build";
import type {} from "postgraphile";
import type { Refreshed } from "./RefreshedPlugin.ts";
import { tagsOf } from "./support/tags.ts";

export interface DatasetField {
  field: string;
  type: string;
  is_key: boolean;
  is_required: boolean;
  description: string | null;
}

/** A table whose changed rows are announced. */
export interface AnnouncedTable {
  /** The table's oid. */
  relation: string;
  schema: string;
  name: string;
  keys: { column: string; type: string }[];
  /** True if row-level security hides some rows from readers. */
  has_policies: boolean;
}

interface Catalogue {
  datasets: { dataset: string; fields: DatasetField[] }[];
  refreshed: Refreshed;
  /** Stored columns with the day of a time column. */
  days: { relation: string; day: string; time: string }[];
  /** Columns that some role may not read although it reads others of the relation. */
  restricted: { relation: string; column: string }[];
  /** Columns of views and metrics that are provably never NULL. */
  not_null: { relation: string; column: string }[];
  /** Columns with a trigram index. */
  trigrams: { relation: string; column: string }[];
  /** Columns that a CHECK limits to a few names. */
  enums: { relation: string; column: string; base: string; base_column: string; names: string[] }[];
  announced: AnnouncedTable[];
}

declare global {
  namespace GraphileBuild {
    interface BuildInput {
      strataAnnounced: AnnouncedTable[];
      strataDatasets: Catalogue["datasets"];
      strataRefreshed: Refreshed;
    }
  }
  namespace GraphileConfig {
    interface GatherHelpers {
      strataCatalogue: { get(): Promise<Catalogue> };
    }
  }
}
declare module "graphile-build-pg" {
  interface PgResourceTags {
    /** Set if only a refresh changes the rows. */
    refreshed: true;
  }
  interface PgCodecAttributeTags {
    /** Set if some roles that read the relation may not read the column. */
    restricted: true;
  }
}

/** SQL of a text that changes with the definitions and policies of relations, given as an array of oids. */
export const shapeOf = (relations: string): string => `(
  select coalesce(md5(string_agg(concat_ws('.', c.oid, c.relrowsecurity, c.reloptions, w.xmin), ' ' order by c.oid)), '')
  from pg_catalog.pg_class c left join pg_catalog.pg_rewrite w on w.ev_class = c.oid
  where c.oid = any (${relations}))`;

// Relations with policies, or with the reader's rights (security_invoker), differ between readers.
const CATALOGUE = `
  with refreshed as (
    select array(
      select c.oid
      from strata.refreshed_relations r join pg_catalog.pg_class c on c.oid = r.relation
      where not c.relrowsecurity and coalesce(c.reloptions::text !~ 'security_invoker', true)
    ) as relations
  )
  select
    (select coalesce(json_agg(json_build_object(
       'dataset', d.dataset,
       'fields', (select coalesce(json_agg(f order by f.place), '[]') from strata.fields(d.dataset) f)
     ) order by d.dataset), '[]') from strata.datasets d) as datasets,
    json_build_object('relations', refreshed.relations::text[], 'shape', ${shapeOf("refreshed.relations")}) as refreshed,
    (select coalesce(json_agg(json_build_object('relation', day.attrelid::text, 'day', day.attname, 'time', t.attname)), '[]')
     from pg_catalog.pg_attribute day
       join pg_catalog.pg_attrdef d on d.adrelid = day.attrelid and d.adnum = day.attnum
       join pg_catalog.pg_attribute t on t.attrelid = day.attrelid and t.attnum > 0
     where day.attgenerated = 's' and day.atttypid = 'date'::regtype
       and pg_catalog.pg_get_expr(d.adbin, d.adrelid) in (
         format('(%I)::date', t.attname), format('%I::date', t.attname), format('date(%I)', t.attname),
         format('((%I AT TIME ZONE ''UTC''::text))::date', t.attname))
    ) as days,
    (select coalesce(json_agg(json_build_object('relation', c.oid::text, 'column', a.attname)), '[]')
     from pg_catalog.pg_class c
       join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname in ('production', 'analytics')
       join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relkind in ('r', 'v', 'm', 'p', 'f') and exists (
       select from pg_catalog.pg_roles r
       where has_any_column_privilege(r.oid, c.oid, 'select') and not has_column_privilege(r.oid, c.oid, a.attnum, 'select')
         and not r.rolsuper and r.rolname <> current_user
         and (pg_has_role(r.oid, 'strata_reader', 'member') or pg_has_role(r.oid, 'strata_ingestor', 'member')))
    ) as restricted,
    (select coalesce(json_agg(json_build_object('relation', c.oid::text, 'column', a.attname)), '[]')
     from pg_catalog.pg_class c
       join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname in ('production', 'analytics')
       cross join lateral unnest(strata.never_null_columns(c.oid)) never_null (place)
       join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = never_null.place
     where (c.relkind in ('v', 'm') or exists (select from strata.metrics m where to_regclass(strata.metric_table(m)) = c.oid))
       and not a.attnotnull
       -- Whoever says it by a tag says all of it.
       and coalesce(obj_description(c.oid, 'pg_class'), '') !~ '(^|\n)@notNull '
    ) as not_null,
    (select coalesce(json_agg(json_build_object('relation', k.relation::oid::text, 'column', k.column_name, 'base', k.base::oid::text,
                                                'base_column', k.base_column, 'names', k.names)
                              order by k.relation <> k.base, k.relation::text, k.column_name), '[]')
     from strata.known_values k) as enums,
    (select coalesce(json_agg(json_build_object('relation', i.indrelid::text, 'column', a.attname)), '[]')
     from pg_catalog.pg_index i
       cross join lateral unnest(i.indkey::smallint[], i.indclass::oid[]) k (attnum, opclass)
       join pg_catalog.pg_opclass o on o.oid = k.opclass and o.opcname in ('gin_trgm_ops', 'gist_trgm_ops')
       join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and a.attnum > 0
     where i.indisvalid and i.indpred is null
    ) as trigrams,
    (select coalesce(json_agg(json_build_object(
       'relation', c.oid::text, 'schema', n.nspname, 'name', c.relname, 'has_policies', c.relrowsecurity,
       'keys', (select json_agg(json_build_object('column', a.attname, 'type', format_type(a.atttypid, a.atttypmod)) order by k.place)
                from unnest(strata.key_columns(c.oid)) with ordinality k (name, place)
                join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = k.name))), '[]')
     from strata.announced_tables t
       join pg_catalog.pg_class c on c.oid = t.relation
       join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    ) as announced
  from refreshed`;

/** SQLSTATEs if schema strata, its datasets or a function is missing. */
const MISSING = new Set(["3F000", "42P01", "42883"]);

async function read(pgService: GraphileConfig.PgServiceConfiguration): Promise<Catalogue> {
  try {
    return await withPgClientFromPgService(
      pgService,
      pgService.pgSettingsForIntrospection ?? null,
      async (client) => {
        const { rows } = await client.query<Catalogue>({ text: CATALOGUE });
        return rows[0]!;
      },
    );
  } catch (error) {
    if (!MISSING.has(String((error as { code?: unknown }).code))) throw error;
    const { message } = error as Error;
    throw new Error(
      `The database does not have Strata's schema (${message}); run: npx strata-graphql migrate`,
      {
        cause: error,
      },
    );
  }
}

export const CataloguePlugin: GraphileConfig.Plugin = {
  name: "CataloguePlugin",
  version: "1.0.0",
  before: ["smart-tags", "RelationsPlugin", "RightsPlugin"],
  gather: gatherConfig({
    namespace: "strataCatalogue",
    initialCache: () => ({}),
    initialState: (): { read: { catalogue?: Promise<Catalogue> } } => ({ read: {} }),
    helpers: {
      get: (info) => (info.state.read.catalogue ??= read(info.resolvedPreset.pgServices![0]!)),
    },
    async main(output, info) {
      const { datasets, refreshed, announced } = await info.helpers.strataCatalogue.get();
      Object.assign(output, {
        strataAnnounced: announced,
        strataDatasets: datasets,
        strataRefreshed: refreshed,
      });
    },
    hooks: {
      async pgIntrospection_introspection(info, { introspection }) {
        const {
          refreshed,
          days,
          restricted,
          not_null: notNull,
          trigrams,
        } = await info.helpers.strataCatalogue.get();
        for (const relation of introspection.classes) {
          if (refreshed.relations.includes(relation._id)) tagsOf(relation).refreshed = true;
        }
        const find = (relation: string, name: string) =>
          introspection.classes.find(({ _id }) => _id === relation)?.getAttribute({ name });
        for (const { relation, day, time } of days) {
          const column = find(relation, day);
          if (column) tagsOf(column).dayOf = time;
        }
        for (const { relation, column: name } of restricted) {
          const column = find(relation, name);
          if (column) tagsOf(column).restricted = true;
        }
        for (const { relation, column: name } of notNull) {
          const column = find(relation, name);
          if (column) tagsOf(column).notNull ??= true;
        }
        for (const { relation, column: name } of trigrams) {
          const column = find(relation, name);
          if (column) tagsOf(column).trigrams = true;
        }
      },
    },
  }),
  schema: {
    hooks: {
      // The field is nullable: a role without the right gets null and an error that names it, and the rest of the
      // response.
      GraphQLObjectType_fields_field(field, _build, { scope: { pgFieldAttribute } }) {
        if (!pgFieldAttribute?.extensions?.tags?.restricted) return field;
        return { ...field, type: getNullableType(field.type) };
      },
    },
  },
};
