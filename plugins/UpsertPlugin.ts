// Adds upsert<Type> for every table that allows inserts and updates and has a unique key that clients can give.
import { sqlValueWithCodec, type PgResource } from "@dataplan/pg";
import {
  access,
  applyInput,
  context,
  lambda,
  object,
  SafeError,
  sideEffect,
  type FieldArgs,
  type Step,
} from "grafast";
import { parse } from "grafast/graphql";
import { gatherConfig } from "graphile-build";
import { sql } from "pg-sql2";
import type {} from "postgraphile";
import { extendSchema } from "postgraphile/utils";
import { text } from "./support/inputs.ts";

declare global {
  namespace DataplanPg {
    interface PgResourceUniqueExtensions {
      /** Set if ON CONFLICT can use the key. */
      strataArbiter?: true;
    }
  }
}

interface Key {
  /** Name of the key's enum value. */
  name: string;
  columns: string[];
  /** Input fields of its columns. */
  fields: string[];
  isPrimary: boolean;
  description: string;
}

/** A table with the names of its mutation. */
interface Upsert {
  resource: PgResource;
  type: string;
  field: string;
  mutation: string;
  /** Keys in the order of their columns in the table. */
  keys: Key[];
  defaultKey: Key;
  /** Columns by which the row is selected afterwards. */
  identity: readonly string[];
}

type Given = Map<string, unknown>;

const list = (names: string[]): string => names.join(" and ");

function keysOf(build: GraphileBuild.Build, { codec, uniques }: PgResource): Key[] {
  const { inflection } = build;
  const attributes = Object.entries(codec.attributes!);
  const isWritable = (column: string, right: "insert" | "update"): boolean =>
    build.behavior.pgCodecAttributeMatches([codec as never, column], `attribute:${right}`) === true;
  const inputs = attributes.filter(([column]) => isWritable(column, "insert"));
  const place = (column: string) => attributes.findIndex(([name]) => name === column);

  const keys = uniques.flatMap(({ attributes: columns, isPrimary = false, extensions }): Key[] => {
    const rest = inputs.filter(([column]) => !columns.includes(column));
    // An upsert updates all given columns but the key's. Leave out a key beside which a required column may not be
    // updated: no upsert by it could succeed.
    const isUsable =
      rest.length + columns.length === inputs.length &&
      rest.some(([column]) => isWritable(column, "update")) &&
      rest.every(
        ([column, { notNull, hasDefault }]) => isWritable(column, "update") || !notNull || hasDefault,
      );
    if (!extensions?.strataArbiter || !isUsable) return [];
    const fields = columns.map((attributeName) =>
      inflection.attribute({ codec: codec as never, attributeName }),
    );
    const [only] = columns.length === 1 ? columns : [];
    const comment = only && codec.attributes![only]!.description;
    return [
      {
        name: inflection.constantCase(fields.join("-and-")),
        columns: [...columns],
        fields,
        isPrimary,
        description: comment ?? `The ${list(columns.map(wordsOf))}.`,
      },
    ];
  });
  return keys
    .filter(({ name }, index) => keys.findIndex((key) => key.name === name) === index)
    .sort((a, b) => place(a.columns[0]!) - place(b.columns[0]!));
}

/** Converts a name to words in lower case. */
const wordsOf = (name: string): string =>
  name
    .replace(/([a-z\d])([A-Z])/g, "$1 $2")
    .replaceAll("_", " ")
    .toLowerCase();

function upsertOf(build: GraphileBuild.Build, resource: PgResource): Upsert[] {
  const { inflection, behavior } = build;
  const { codec, parameters, extensions } = resource;
  const isOffered =
    codec.attributes &&
    !parameters &&
    !extensions?.tags?.refreshed &&
    behavior.pgResourceMatches(resource, "resource:insert") &&
    behavior.pgResourceMatches(resource, "resource:update");
  const keys = isOffered ? keysOf(build, resource) : [];
  if (keys.length === 0) return [];
  const type = inflection.tableType(codec as never);
  const mutation = inflection.camelCase(`upsert-${type}`);
  const isTaken = Object.values(build.pgResources).some(
    (other) => other.isMutation && inflection.customMutationField({ resource: other as never }) === mutation,
  );
  // A user's function `upsert_<type>` takes precedence.
  if (isTaken) return [];
  const defaultKey = keys.find(({ isPrimary }) => !isPrimary) ?? keys[0]!;
  const isNeverNull = (column: string) => codec.attributes![column]!.notNull;
  const identity = resource.uniques.find(({ attributes }) => attributes.every(isNeverNull))?.attributes;
  return [
    {
      resource,
      type,
      field: inflection.tableFieldName(resource as never),
      mutation,
      keys: identity ? keys : [defaultKey],
      defaultKey,
      identity: identity ?? defaultKey.columns,
    },
  ];
}

function typeDefsOf({ type, field, mutation, keys, defaultKey }: Upsert): string {
  const noun = wordsOf(type);
  const article = /^(?!us|uni|eu|one)[aeiou]/.test(noun) ? "an" : "a";
  const anyKey = keys.map(({ columns }) => list(columns.map(wordsOf))).join(" or ");
  return `
    ${text(`Keys by which an existing ${noun} can be found.`)}
    enum ${type}UniqueKey {
      ${keys.map(({ name, description }) => `${text(description)}\n      ${name}`).join("\n      ")}
    }
    "All input for the upsert \`${type}\` mutation."
    input Upsert${type}Input {
      "Any text; the payload repeats it."
      clientMutationId: String
      "Key by which an existing ${noun} is found."
      by: ${type}UniqueKey! = ${defaultKey.name}
      "The ${noun}: all values to create it, or the values to change."
      ${field}: ${type}Input!
    }
    "The output of our upsert \`${type}\` mutation."
    type Upsert${type}Payload {
      "The text given as \`clientMutationId\`."
      clientMutationId: String
      "The ${noun} as it is now."
      ${field}: ${type}
      "Whether the ${noun} was created; false if it was changed."
      created: Boolean!
    }
    extend type Mutation {
      ${text(`Creates ${article} \`${type}\`, or changes the one that has this ${anyKey}. Operators only.`)}
      ${mutation}(
        "The ${noun}, and the key by which it is found."
        input: Upsert${type}Input!
      ): Upsert${type}Payload
    }`;
}

/** Builds one statement that inserts or updates, so that concurrent requests cannot interfere. */
function statementOf({ resource, identity }: Upsert, { name, columns: key, fields }: Key, given: Given) {
  const attributes = resource.codec.attributes!;
  // A key must be complete: nulls match no row, so each upsert would insert another one.
  const missing = fields.filter((_field, index) => given.get(key[index]!) == null);
  if (missing.length > 0) {
    const demand = `An upsert by ${name} needs ${list(fields)}`;
    throw new SafeError(`${demand}; not given: ${missing.join(", ")}.`, { code: "BAD_USER_INPUT" });
  }
  const changed = [...given.keys()].filter((column) => !key.includes(column));
  if (changed.length === 0) {
    throw new SafeError("The input has no value to change.", { code: "BAD_USER_INPUT" });
  }
  const namesOf = (columns: readonly string[]) =>
    sql.join(
      columns.map((column) => sql.identifier(column)),
      ", ",
    );
  const values = Array.from(given, ([column, value]) => sqlValueWithCodec(value, attributes[column]!.codec));
  const changes = changed.map((column) => {
    const name = sql.identifier(column);
    return sql`${name} = excluded.${name}`;
  });
  // Return keys as text for the codec: the driver would turn times into JavaScript dates and lose microseconds.
  const returned = identity.map((column, index) => {
    const { castFromPg } = attributes[column]!.codec;
    const name = sql.identifier(column);
    return sql`${castFromPg ? castFromPg(name, true) : sql`${name}::text`} as ${sql.identifier(`key${index}`)}`;
  });
  return sql.compile(sql`
    insert into ${resource.from as never} (${namesOf([...given.keys()])}) values (${sql.join(values, ", ")})
    on conflict (${namesOf(key)}) do update set ${sql.join(changes, ", ")}
    returning ${sql.join(returned, ", ")}, (xmax = 0) as created`);
}

function planOf(build: GraphileBuild.Build, upsert: Upsert) {
  const keys = new Map(upsert.keys.map((key) => [key.name, key]));
  return (_$root: Step, args: FieldArgs) => {
    const $context = context();
    // Apply the input's fields, which know their columns and conversions.
    const $apply = applyInput(
      build.getInputTypeByName(`${upsert.type}Input`),
      args.getRaw(["input", upsert.field]) as never,
    );
    const $row = sideEffect(
      [
        $context.get("withPgClient"),
        $context.get("pgSettings"),
        args.getRaw(["input", "by"]),
        $apply,
      ] as const,
      async ([withPgClient, pgSettings, by, apply]) => {
        const given: Given = new Map();
        apply({ set: (column: string, value: unknown) => given.set(column, value) });
        const statement = statementOf(upsert, keys.get(by as string)!, given);
        const { rows } = await withPgClient(pgSettings, (client) =>
          client.query<Record<string, string> & { created: boolean }>(statement),
        );
        return rows[0]!;
      },
    );
    return object({ row: $row, clientMutationId: args.getRaw(["input", "clientMutationId"]) });
  };
}

function payloadPlansOf({ resource, field, identity }: Upsert) {
  const { attributes } = resource.codec;
  return {
    clientMutationId: ($payload: Step) => access($payload, "clientMutationId"),
    created: ($payload: Step) => access($payload, ["row", "created"]),
    [field]: ($payload: Step) =>
      resource.get(
        Object.fromEntries(
          identity.map((column, index) => {
            const $text = access<string>($payload, ["row", `key${index}`]);
            return [column, lambda($text, (value) => attributes![column]!.codec.fromPg(value), true)];
          }),
        ),
      ),
  };
}

export const UpsertPlugin: GraphileConfig.Plugin = {
  ...extendSchema((build) => {
    const upserts = Object.values(build.pgResources).flatMap((resource) =>
      upsertOf(build, resource as PgResource),
    );
    // Plans for a type that is not extended would be an error.
    if (upserts.length === 0) return { typeDefs: [] };
    return {
      typeDefs: upserts.map((upsert) => parse(typeDefsOf(upsert))),
      objects: {
        Mutation: {
          plans: Object.fromEntries(upserts.map((upsert) => [upsert.mutation, planOf(build, upsert)])),
        },
        ...Object.fromEntries(
          upserts.map((upsert) => [
            `Upsert${upsert.type}Payload`,
            { scope: { isMutationPayload: true }, plans: payloadPlansOf(upsert) },
          ]),
        ),
      },
    };
  }, "UpsertPlugin"),
  gather: gatherConfig({
    hooks: {
      // PostgreSQL has no constraint for smart tags, deferrable ones cannot be arbiters, and rows of partitioned
      // tables do not tell by xmax whether they are new.
      pgTables_unique(_info, { pgClass, pgConstraint, unique }) {
        const isReal = pgConstraint.conindid !== "0" && !pgConstraint.condeferrable;
        if (pgClass.relkind === "r" && isReal)
          unique.extensions = { ...unique.extensions, strataArbiter: true };
      },
    },
  }),
};
