/** @module-tag long */
// What a role may not read is null alone, and named, in payloads of mutations and in events of subscriptions, too.
import { randomBytes } from "node:crypto";
import type { Client } from "graphql-ws";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { connect } from "../support/socket.ts";

const editor = `editor_${randomBytes(4).toString("hex")}`;

let server: TestApp;
let client: Client;
const sql = (text: string) => server.database.pool.query(text);

beforeAll(async () => {
  server = await createTestApp(
    {},
    {},
    `
    create role ${editor} in role strata_reader;
    grant ${editor} to current_user;
    grant insert (username, email, country), update (username, email, country), delete on production.users to ${editor};
    create table production.gadgets (gadget_id integer primary key, name text not null, price integer default 5);
    grant select on production.gadgets to strata_operator;
    -- By xmax an upsert knows whether the row is new.
    grant select (gadget_id, name, xmax), insert (gadget_id, name), update (name) on production.gadgets to ${editor};
    create table production.secrets (secret_id integer primary key, words text not null);
    grant select on production.secrets to strata_operator;
    grant insert (secret_id, words) on production.secrets to ${editor};
    create function production.register(user_id integer, name text) returns production.users
      language plpgsql volatile security definer set search_path = '' as $$
      declare made production.users;
      begin
        insert into production.users (user_id, username, email)
        values (register.user_id, name, name || '@example.org') returning * into made;
        return made;
      end $$;
    grant usage on sequence production.users_user_id_seq to ${editor};
    grant execute on function production.register to ${editor};
    select setval('production.users_user_id_seq', 1000);
    select strata.announce_changes('users');
    select strata.reconcile();`,
  );
  client = connect(await server.listen(), server.as.reader);
});
afterAll(async () => {
  await client.dispose();
  await server.app.close();
  await sql(`drop owned by ${editor}; drop role ${editor}`);
  await server.database.drop();
});

const ask = (query: string, variables?: object, role = editor) => server.askWith({ role }, query, variables);

const usersOf = async () =>
  (await sql("select user_id, username, email, country from production.users order by user_id")).rows;

const forbidden = (field: string, path: unknown[], type = "User", role = editor) =>
  expect.objectContaining({
    message: expect.stringMatching(`^Your role \\(${role}\\) may not read .*\`${field}\` of \`${type}\``),
    path,
    extensions: expect.objectContaining({ code: "FORBIDDEN", role, field, type }),
  });

test("in the payload of a mutation a column is null alone, and the change is made", async () => {
  await sql("insert into production.users (user_id, username, email) values (1, 'ada', 'ada@example.org')");
  const update = `mutation ($country: String) {
    updateUser(input: { userId: 1, patch: { country: $country } }) {
      user { username mail: email country ...More }
      query { user(userId: 1) { email } }
    }
  } fragment More on User { email }`;
  for (const country of ["Chile", "Norway"]) {
    const { status, data, errors } = await ask(update, { country });
    expect({ status, data, errors }).toEqual({
      status: 200,
      data: {
        updateUser: {
          user: { username: "ada", mail: null, country, email: null },
          query: { user: { email: null } },
        },
      },
      errors: [
        forbidden("email", ["updateUser", "user", "mail"]),
        forbidden("email", ["updateUser", "user", "email"]),
        forbidden("email", ["updateUser", "query", "user", "email"]),
      ],
    });
    expect(await usersOf()).toMatchObject([{ user_id: 1, country }]);
  }
  // Whoever may read it gets it, by the same document.
  const { data, errors } = await server.ask("operator", update, { country: "Chile" });
  expect(errors).toEqual([]);
  expect(data.updateUser.user.mail).toBe("ada@example.org");
});

test("so it is when a row is created, upserted and deleted", async () => {
  const made = await ask(
    `mutation { createUser(input: { user: { username: "new", email: "new@example.org" } }) {
      user { userId username email } userEdge { node { email } } } }`,
  );
  const { userId } = made.data.createUser.user;
  expect(made.data).toEqual({
    createUser: { user: { userId, username: "new", email: null }, userEdge: { node: { email: null } } },
  });
  expect(made.errors).toEqual([
    forbidden("email", ["createUser", "user", "email"]),
    forbidden("email", ["createUser", "userEdge", "node", "email"]),
  ]);
  const upsert = `mutation { upsertGadget(input: { gadget: { gadgetId: 3, name: "torch" } }) {
    created gadget { name price } } }`;
  for (const created of [true, false]) {
    const upserted = await ask(upsert);
    expect(upserted.data).toEqual({ upsertGadget: { created, gadget: { name: "torch", price: null } } });
    expect(upserted.errors).toEqual([forbidden("price", ["upsertGadget", "gadget", "price"], "Gadget")]);
  }
  const deleted = await ask(
    `mutation { deleteUser(input: { userId: ${userId} }) { user { username email } } }`,
  );
  expect(deleted.data).toEqual({ deleteUser: { user: { username: "new", email: null } } });
  expect(deleted.errors).toEqual([forbidden("email", ["deleteUser", "user", "email"])]);
  expect(await usersOf()).not.toContainEqual(expect.objectContaining({ username: "new" }));
});

test("a row of a table that the role may write to only is null as a whole", async () => {
  const { data, errors } = await ask(
    `mutation { createSecret(input: { secret: { secretId: 1, words: "open sesame" } }) { clientMutationId secret { words } } }`,
  );
  expect(data).toEqual({ createSecret: { clientMutationId: null, secret: null } });
  expect(errors).toEqual([forbidden("secret", ["createSecret", "secret"], "CreateSecretPayload")]);
  expect((await sql("select words from production.secrets")).rows).toEqual([{ words: "open sesame" }]);
});

test("what a function returns is its own to give", async () => {
  const { data, errors } = await ask(
    `mutation { register(input: { userId: 9, name: "reg" }) { result { username email } } }`,
  );
  expect(errors).toEqual([]);
  expect(data).toEqual({ register: { result: { username: "reg", email: "reg@example.org" } } });
});

test("a mutation that the role may not make is refused as it was, and changes nothing", async () => {
  const before = await usersOf();
  const { data, errors } = await ask(
    `mutation { updateUser(input: { userId: 1, patch: { country: "Peru" } }) { user { username email } } }`,
    {},
    "strata_reader",
  );
  expect(data).toEqual({ updateUser: null });
  expect(errors).toEqual([
    expect.objectContaining({ message: "Your role may not do this", path: ["updateUser"] }),
  ]);
  expect(await usersOf()).toEqual(before);
});

test("a column that cannot be null is named, and the mutation is refused as a whole", async () => {
  await sql("revoke select (username) on production.users from strata_reader");
  try {
    const { data, errors } = await ask(
      `mutation { updateUser(input: { userId: 1, patch: { country: "Peru" } }) { user { username } } }`,
    );
    expect(data).toEqual({ updateUser: null });
    expect(errors).toEqual([forbidden("username", ["updateUser"])]);
    expect(await usersOf()).not.toContainEqual(expect.objectContaining({ country: "Peru" }));
  } finally {
    await sql("grant select (username) on production.users to strata_reader");
  }
});

/** Changes a row until the subscription has begun, then gives its events one by one. */
async function follow(query: string) {
  const events = client.iterate<any>({ query });
  const next = async (): Promise<any> => (await events.next()).value;
  let isThere = false;
  const first = next().finally(() => (isThere = true));
  while (!isThere) {
    await sql("update production.users set country = 'Chile' where user_id = 1");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await first;
  const nextOf = async (userId: number): Promise<any> => {
    for (;;) {
      const event = await next();
      if (event.data?.userChanged?.userId === userId) return event;
    }
  };
  return { nextOf, stop: () => events.return!() };
}

test("in the events of a subscription a column is null alone, in each of them", async () => {
  const reader = "strata_reader";
  const { nextOf, stop } = await follow(
    "subscription { userChanged { operation userId user { username email country } } }",
  );
  await sql("insert into production.users (user_id, username, email) values (20, 'eve', 'eve@example.org')");
  expect(await nextOf(20)).toEqual({
    data: {
      userChanged: {
        operation: "INSERTED",
        userId: 20,
        user: { username: "eve", email: null, country: null },
      },
    },
    errors: [forbidden("email", ["userChanged", "user", "email"], "User", reader)],
  });
  await sql("update production.users set country = 'Chile' where user_id = 20");
  expect(await nextOf(20)).toMatchObject({
    data: { userChanged: { user: { email: null, country: "Chile" } } },
    errors: [forbidden("email", ["userChanged", "user", "email"], "User", reader)],
  });
  // A right that is withdrawn meanwhile: the event is an error that names it.
  await sql("revoke select (country) on production.users from strata_reader");
  await sql("update production.users set country = 'Peru' where user_id = 20");
  try {
    expect(await nextOf(20)).toMatchObject({
      data: { userChanged: { operation: "UPDATED", userId: 20, user: null } },
      errors: [forbidden("country", ["userChanged", "user"], "User", reader)],
    });
  } finally {
    await sql("grant select (country) on production.users to strata_reader");
  }
  await sql("delete from production.users where user_id = 20");
  expect(await nextOf(20)).toEqual({
    data: { userChanged: { operation: "DELETED", userId: 20, user: null } },
  });
  await stop();
});

test("so it is in the events of runs", async () => {
  const events = client.iterate<any>({
    query: 'subscription { pipelineRunUpdated(since: "2000-01-01T00:00Z") { run { step actor } } }',
  });
  await server.ask("operator", "mutation { refreshAnalytics { run { runId } } }");
  const { value } = await events.next();
  await events.return!();
  expect(value).toEqual({
    data: { pipelineRunUpdated: { run: { step: "refresh", actor: null } } },
    errors: [forbidden("actor", ["pipelineRunUpdated", "run", "actor"], "PipelineRun", "strata_reader")],
  });
});
