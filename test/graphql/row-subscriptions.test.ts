/** @module-tag long */
// Subscriptions to rows of tables that announce their changes.
import type { Client } from "graphql-ws";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestApp, type TestApp } from "../support/app.ts";
import { connect } from "../support/socket.ts";

const OWN = `
  create table production.places (country text, code integer, name text, primary key (country, code));
  grant select on production.places to strata_reader;
  create table production.secrets (secret_id integer primary key, owner text);
  grant select on production.secrets to strata_reader;
  alter table production.secrets enable row level security;
  create policy own on production.secrets using (owner = 'reader');
  create table production.hidden (hidden_id integer primary key, name text);
  grant select on production.hidden to strata_operator;
  select strata.announce_changes(name) from unnest(array['users', 'places', 'secrets', 'hidden']) name;
  select strata.reconcile();`;

let server: TestApp;
let client: Client;

beforeAll(async () => {
  server = await createTestApp({}, {}, OWN);
  client = connect(await server.listen(), server.as.reader);
});
afterAll(async () => {
  await client.dispose();
  await server.close();
});

const sql = (text: string, values: unknown[] = []) => server.database.pool.query(text, values);

/** The events of a subscription; a mark, a change of a row that nobody else uses, tells that it has begun. */
async function follow(field: string, selection: string, mark: () => Promise<unknown>) {
  const events = client.iterate({ query: `subscription { ${field} { ${selection} } }` });
  const next = async (): Promise<any> => {
    const { value } = await events.next();
    if (value.errors) throw new Error(JSON.stringify(value.errors));
    return Object.values(value.data as object)[0];
  };
  let isThere = false;
  const first = next().finally(() => (isThere = true));
  while (!isThere) {
    await mark();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await first;
  return { next, stop: () => events.return!() };
}
type Events = Awaited<ReturnType<typeof follow>>;

const user = (name: string) =>
  `insert into production.users (username, email) values ('${name}', '${name}@example.org')
   on conflict (username) do update set country = null returning user_id`;

/** The next event that is not about marks. */
async function nextOf(events: Events, isMark: (event: any) => boolean): Promise<any> {
  for (;;) {
    const event = await events.next();
    if (!isMark(event)) return event;
  }
}
const isMark = (event: any): boolean => event.user?.username === "mark";

test("tells of inserted, updated and deleted rows, with the row as it is now", async () => {
  const events = await follow("userChanged", "operation userId user { username country }", () =>
    sql(user("mark")),
  );
  const next = () => nextOf(events, isMark);
  const { rows } = await sql(user("ann"));
  const userId: number = rows[0].user_id;
  expect(await next()).toEqual({ operation: "INSERTED", userId, user: { username: "ann", country: null } });
  await sql("update production.users set country = 'Chile' where user_id = $1", [userId]);
  expect(await next()).toEqual({ operation: "UPDATED", userId, user: { username: "ann", country: "Chile" } });
  await sql("delete from production.users where user_id = $1", [userId]);
  expect(await next()).toEqual({ operation: "DELETED", userId, user: null });
  await events.stop();
});

test("tells of rows of one key alone, but of many at once always", async () => {
  const { rows } = await sql(user("bob"));
  const userId: number = rows[0].user_id;
  const events = await follow(`userChanged(userId: ${userId})`, "operation userId", () => sql(user("bob")));
  await sql(user("cecil"));
  await sql(`insert into production.users (username, email)
             select 'many' || n, 'many' || n || '@example.org' from generate_series(1, 101) n`);
  const isBob = (event: any): boolean => event.userId === userId;
  expect(await nextOf(events, isBob)).toEqual({ operation: "MANY", userId: null });
  await events.stop();
});

test("a change that is rolled back is not told", async () => {
  const events = await follow("userChanged", "operation user { username }", () => sql(user("mark")));
  await sql(`begin; ${user("dora")}; rollback`);
  await sql(user("emil"));
  expect((await nextOf(events, isMark)).user.username).toBe("emil");
  await events.stop();
});

test("a key may have several columns, of which one may be given", async () => {
  const place = (country: string, code: number) =>
    sql(
      `insert into production.places values ($1, $2, 'somewhere')
       on conflict (country, code) do update set name = 'elsewhere'`,
      [country, code],
    );
  const events = await follow('placeChanged(country: "CL")', "operation country code place { name }", () =>
    place("CL", 0),
  );
  await place("NO", 1);
  await place("CL", 2);
  expect(await nextOf(events, ({ code }) => code === 0)).toEqual({
    operation: "INSERTED",
    country: "CL",
    code: 2,
    place: { name: "somewhere" },
  });
  // The old key is gone, without a name.
  await sql("update production.places set code = 3 where code = 2");
  expect((await nextOf(events, ({ code }) => code === 0)).operation).toBe("MANY");
  await sql("truncate production.places");
  expect((await events.next()).operation).toBe("MANY");
  await events.stop();
});

test("rows that a policy hides are not told of, and deleted ones are not named", async () => {
  const secret = (id: number, owner: string) =>
    sql(
      "insert into production.secrets values ($1, $2) on conflict (secret_id) do update set owner = excluded.owner",
      [id, owner],
    );
  const events = await follow("secretChanged", "operation secretId secret { owner }", () =>
    secret(0, "reader"),
  );
  await secret(1, "somebody");
  await secret(2, "reader");
  const isZero = ({ secretId }: any): boolean => secretId === 0;
  expect(await nextOf(events, isZero)).toMatchObject({ secretId: 2, secret: { owner: "reader" } });
  await sql("delete from production.secrets where secret_id = 1");
  expect(await nextOf(events, isZero)).toEqual({ operation: "MANY", secretId: null, secret: null });
  await events.stop();
});

test("whoever may not read the table is refused", async () => {
  const events = client.iterate({ query: "subscription { hiddenChanged { operation } }" });
  const answer = await events.next().then(
    ({ value }) => value,
    (error: unknown) => ({ errors: error }),
  );
  expect(JSON.stringify(answer)).toContain("FORBIDDEN");
});

test("tables have no subscription until they announce their changes, nor after", async () => {
  const fields = async (): Promise<string[]> => {
    const { data } = await server.ask("operator", '{ __type(name: "Subscription") { fields { name } } }');
    return data.__type.fields.map(({ name }: { name: string }) => name);
  };
  expect(await fields()).not.toContain("transactionChanged");
  await sql("select strata.announce_changes('transactions'), strata.announce_changes('places', false)");
  await sql("select strata.reconcile()");
  await expect.poll(fields, { timeout: 50_000 }).toContain("transactionChanged");
  expect(await fields()).not.toContain("placeChanged");
  await expect(sql("select strata.announce_changes('nothing')")).rejects.toThrow(
    "There is no table production.nothing with a primary key",
  );
});
