import {
  sqlValueWithCodec,
  type PgCodecAttribute,
  type PgCodecWithAttributes,
  type PgResource,
} from "@dataplan/pg";
import { access, context, object, SafeError, sideEffect, type FieldArgs, type Step } from "grafast";
import { sql } from "pg-sql2";
import type {} from "postgraphile";
import { extendSchema, gql } from "postgraphile/utils";

const typeDefs = gql`
  """
  What tells whether a user exists already.
  """
  enum UserUniqueKey {
    """
    The e-mail address.
    """
    EMAIL
    """
    The name.
    """
    USERNAME
  }
  """
  All input for the upsert \`User\` mutation.
  """
  input UpsertUserInput {
    """
    An arbitrary text that the payload repeats.
    """
    clientMutationId: String
    """
    What tells whether the user exists already.
    """
    by: UserUniqueKey! = USERNAME
    """
    The user: all of it if new, and what to change if not.
    """
    user: UserInput!
  }
  """
  The output of our upsert \`User\` mutation.
  """
  type UpsertUserPayload {
    """
    The text given as \`clientMutationId\`.
    """
    clientMutationId: String
    """
    The user as it is now.
    """
    user: User
    """
    Whether the user was created, not changed.
    """
    created: Boolean!
  }
  extend type Mutation {
    """
    Creates a \`User\`, or changes the one that has this name or e-mail address. Operators only.
    """
    upsertUser(
      """
      The user, and what it is recognised by.
      """
      input: UpsertUserInput!
    ): UpsertUserPayload
  }
`;

interface UpsertInput {
  by: "EMAIL" | "USERNAME";
  user: Record<string, unknown>;
}

/** Create or change in one statement, which no concurrent request can come between. */
export const UpsertUserPlugin = extendSchema((build) => {
  const users = build.pgResources.users as PgResource;
  const attributes = users.codec.attributes as Record<string, PgCodecAttribute>;
  const columnOf = new Map(
    Object.keys(attributes).map((attributeName) => [
      build.inflection.attribute({ codec: users.codec as PgCodecWithAttributes, attributeName }),
      attributeName,
    ]),
  );

  const statement = ({ by, user }: UpsertInput) => {
    const key = by.toLowerCase();
    const given = Object.entries(user).map(([field, value]) => ({ column: columnOf.get(field)!, value }));
    const changed = given.filter(({ column }) => column !== key);
    if (changed.length === 0) {
      throw new SafeError("Nothing is given to change.", { code: "BAD_USER_INPUT" });
    }
    const columns = given.map(({ column }) => sql.identifier(column));
    const values = given.map(({ column, value }) => sqlValueWithCodec(value, attributes[column]!.codec));
    const changes = changed.map(({ column }) => {
      const name = sql.identifier(column);
      return sql`${name} = excluded.${name}`;
    });
    return sql.compile(sql`
      insert into ${users.from as never} as users (${sql.join(columns, ", ")}) values (${sql.join(values, ", ")})
      on conflict (${sql.identifier(key)}) do update set ${sql.join(changes, ", ")}
      returning user_id as "userId", (xmax = 0) as created`);
  };

  return {
    typeDefs,
    objects: {
      Mutation: {
        plans: {
          upsertUser(_$root: Step, args: FieldArgs) {
            const $context = context();
            const $input = args.getRaw("input");
            const $row = sideEffect(
              [$context.get("withPgClient"), $context.get("pgSettings"), $input] as const,
              async ([withPgClient, pgSettings, input]) => {
                const { rows } = await withPgClient(pgSettings, (client) =>
                  client.query<{ userId: number; created: boolean }>(statement(input as UpsertInput)),
                );
                return rows[0]!;
              },
            );
            return object({ row: $row, clientMutationId: args.getRaw(["input", "clientMutationId"]) });
          },
        },
      },
      UpsertUserPayload: {
        scope: { isMutationPayload: true },
        plans: {
          clientMutationId: ($payload) => access($payload as Step, "clientMutationId"),
          created: ($payload) => access($payload as Step, ["row", "created"]),
          user: ($payload) => users.get({ user_id: access($payload as Step, ["row", "userId"]) }),
        },
      },
    },
  };
}, "UpsertUserPlugin");
