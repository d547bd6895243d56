// Adds <row>Changed for every table whose changes are announced (strata.announce_changes), with the changed rows in
// their current state.
import type { PgCodec, PgResource } from "@dataplan/pg";
import { access, lambda, type Step } from "grafast";
import pg from "pg";
import type {} from "postgraphile";
import type { AnnouncedTable } from "./CataloguePlugin.ts";
import { query, subscribe, type Announcements, type Source } from "./support/subscriptions.ts";

interface Key {
  column: string;
  type: string;
  /** Name of the argument and of the payload's field. */
  field: string;
  codec: PgCodec;
}

/** A table with the names of its subscription. */
interface Subject {
  table: AnnouncedTable;
  resource: PgResource;
  type: string;
  /** Name of the payload's field with the row. */
  field: string;
  subscription: string;
  payload: string;
  keys: Key[];
}

/** A trigger's announcement; without keys it concerns more rows than it could name. */
interface Announcement {
  relation: string;
  operation: "INSERT" | "UPDATE" | "DELETE" | "TRUNCATE";
  keys: string[][] | null;
}

interface RowChange {
  operation: "INSERTED" | "UPDATED" | "DELETED" | "MANY";
  /** Values of the key's columns, as text. */
  key?: string[];
}

const OPERATIONS = { INSERT: "INSERTED", UPDATE: "UPDATED", DELETE: "DELETED" } as const;
const MANY: RowChange = { operation: "MANY" };

const quoted = pg.escapeIdentifier;
const nameOf = ({ schema, name }: AnnouncedTable): string => `${quoted(schema)}.${quoted(name)}`;

function subjectOf(build: GraphileBuild.Build, table: AnnouncedTable): Subject[] {
  const { inflection, pgResources, behavior } = build;
  const resource = Object.values(pgResources).find(
    ({ parameters, extensions }) =>
      !parameters && extensions?.pg?.schemaName === table.schema && extensions.pg.name === table.name,
  ) as PgResource | undefined;
  // No role may read it, or a tag hides it.
  if (!resource || !behavior.pgResourceMatches(resource, "resource:select")) return [];
  const codec = resource.codec as never;
  const type = inflection.tableType(codec);
  const keys = table.keys.map(({ column, type: sqlType }): Key => ({
    column,
    type: sqlType,
    field: inflection.attribute({ codec, attributeName: column }),
    codec: resource.codec.attributes![column]!.codec,
  }));
  return [
    {
      table,
      resource,
      type,
      payload: inflection.upperCamelCase(`${type}-changed-payload`),
      field: inflection.camelCase(type),
      subscription: inflection.camelCase(`${type}-changed`),
      keys,
    },
  ];
}

/** Omit a key with the name of another field; the row has its value. */
const isShown = ({ field }: Subject, key: Key): boolean => ![field, "operation", "query"].includes(key.field);

/** Reads the rows of these keys that the client may see, in the order of the keys. */
async function visible(source: Source, { table, keys }: Subject, wanted: string[][]): Promise<string[][]> {
  const names = keys.map(({ column }) => quoted(column));
  const given = keys.map(({ type }, i) => `g.key${i}::${type}`);
  const rows = await query<{ place: number }>(
    source,
    `select g.place::int as place
     from unnest(${keys.map((_, i) => `$${i + 1}::text[]`).join(", ")}) with ordinality g (${keys.map((_, i) => `key${i}`).join(", ")}, place)
     where exists (select from ${nameOf(table)} where (${names.join(", ")}) = (${given.join(", ")}))
     order by 1`,
    keys.map((_, i) => wanted.map((key) => key[i])),
  );
  return rows.map(({ place }) => wanted[place - 1]!);
}

async function* rowChanges(
  source: Source,
  announcements: Announcements,
  subject: Subject,
  filter: Record<string, unknown>,
): AsyncGenerator<RowChange> {
  const { table, keys } = subject;
  const names = keys.map(({ column }) => quoted(column)).join(", ");
  const given = keys.map(({ type }, i) => `$${i + 1}::text::${type}::text`).join(", ");
  // Fails at once for roles without the right to read, and formats the key as announcements do.
  const [start] = await query<{ wanted: (string | null)[] }>(
    source,
    `select array[${given}] as wanted, (select count(*) from (select ${names} from ${nameOf(table)} limit 0) t)`,
    keys.map(({ field }) => filter[field] ?? null),
  );
  const isWanted = (key: string[]): boolean =>
    start!.wanted.every((value, i) => value === null || value === key[i]);
  for await (const announcement of announcements) {
    if (announcement === "") {
      yield MANY;
      continue;
    }
    const { relation, operation, keys: changed } = JSON.parse(announcement) as Announcement;
    if (relation !== table.relation) continue;
    if (!changed || operation === "TRUNCATE" || (operation === "DELETE" && table.has_policies)) {
      yield MANY;
      continue;
    }
    const wanted = changed.filter(isWanted);
    if (wanted.length === 0) continue;
    const told = operation === "DELETE" ? wanted : await visible(source, subject, wanted);
    for (const key of told) yield { operation: OPERATIONS[operation], key };
  }
}

function valueOf($event: Step, { codec }: Key, place: number): Step {
  const $text = access<string | undefined>($event, ["key", place]);
  return lambda($text, (given) => (given === undefined ? null : codec.fromPg(given)), true);
}

function registerPayload(build: GraphileBuild.Build, subject: Subject): void {
  const { table, resource, type, payload, field, keys } = subject;
  build.registerObjectType(
    payload,
    // The scope adds `query`, to read more when something has changed.
    { isMutationPayload: true },
    () => ({
      description: `A change of ${table.name}.`,
      fields: () => ({
        operation: {
          description: "Kind of the change.",
          type: new build.graphql.GraphQLNonNull(build.getOutputTypeByName("RowOperation")),
          plan: ($event: Step) => access($event, "operation"),
        },
        ...Object.fromEntries(
          keys.flatMap((key, place) =>
            isShown(subject, key)
              ? [
                  [
                    key.field,
                    {
                      description: "Key of the row; null for MANY.",
                      type: build.getGraphQLTypeByPgCodec(key.codec, "output"),
                      plan: ($event: Step) => valueOf($event, key, place),
                    },
                  ],
                ]
              : [],
          ),
        ),
        [field]: {
          description: "The row as it is now; null if it was deleted, and for MANY.",
          type: build.getOutputTypeByName(type),
          plan: ($event: Step) =>
            resource.get(
              Object.fromEntries(keys.map((key, place) => [key.column, valueOf($event, key, place)])),
            ),
        },
      }),
    }),
    `Change of ${table.name}`,
  );
}

function fieldOf(build: GraphileBuild.Build, subject: Subject) {
  const { table, keys, payload } = subject;
  const hidden = table.has_policies
    ? " Since row-level security hides some rows from some roles, deleted rows are announced as MANY, without their keys."
    : "";
  return {
    description: `Announces rows of ${table.name} that are inserted, updated or deleted.${hidden}`,
    type: build.getOutputTypeByName(payload),
    args: Object.fromEntries(
      keys.map(({ field, codec }) => [
        field,
        {
          description: `Announces only rows with this ${field}, and changes of many rows at once.`,
          type: build.getGraphQLTypeByPgCodec(codec, "input"),
        },
      ]),
    ),
    subscribePlan: subscribe<Record<string, unknown>>("strata:rows", (source, announcements, args) =>
      rowChanges(source, announcements, subject, args),
    ),
    plan: ($event: Step) => $event,
  };
}

const subjectsOf = (build: GraphileBuild.Build): Subject[] =>
  build.input.strataAnnounced.flatMap((table) => subjectOf(build, table));

/** Adds subscriptions to the rows of tables. */
export const RowSubscriptionsPlugin: GraphileConfig.Plugin = {
  name: "RowSubscriptionsPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      init(value, build) {
        const subjects = subjectsOf(build);
        if (subjects.length > 0)
          build.registerEnumType(
            "RowOperation",
            {},
            () => ({
              description: "Kind of a change of rows.",
              values: {
                INSERTED: { description: "A row was inserted." },
                UPDATED: { description: "A row was updated; its values may be the same." },
                DELETED: { description: "A row was deleted." },
                MANY: {
                  description:
                    "More than 100 rows changed at once, or changes may have been missed; read the rows again.",
                },
              },
            }),
            "What was done to rows",
          );
        for (const subject of subjects) registerPayload(build, subject);
        return value;
      },
      GraphQLObjectType_fields(fields, build, { scope: { isRootSubscription } }) {
        if (!isRootSubscription) return fields;
        const own = subjectsOf(build).map((subject) => [subject.subscription, fieldOf(build, subject)]);
        return build.extend(fields, Object.fromEntries(own), "Adding subscriptions to rows");
      },
    },
  },
};
