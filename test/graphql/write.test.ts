import { afterAll, beforeAll, expect, test } from "vitest";
import { createApi, type Api } from "./api.ts";

let api: Api;

beforeAll(async () => {
  api = await createApi();
  await api.read(`mutation {
    createUser(input: { user: { username: "ada", email: "ada@example.org", country: "UK" } }) { user { userId } }
    bo: createUser(input: { user: { username: "bo", email: "bo@example.org" } }) { user { userId } } }`);
});
afterAll(() => api.close());

test("an operator creates, changes and deletes", async () => {
  const { createTransaction } = await api.read(`mutation {
    createTransaction(input: { transaction: { userId: 1, amount: 12.5, transactionDate: "2025-01-05T00:30:00+01:00" } }) {
      transaction { transactionId amount status transactionDate user { username } } } }`);
  const { transactionId, ...created } = createTransaction.transaction;
  expect(created).toEqual({
    amount: "12.50",
    status: "pending",
    transactionDate: "2025-01-04T23:30:00.000000Z",
    user: { username: "ada" },
  });
  const changed = await api.read(
    `mutation ($id: Int!) { updateTransaction(input: { transactionId: $id, patch: { status: "completed" } }) {
      transaction { status amount } query { transactions { totalCount } } } }`,
    { id: transactionId },
  );
  expect(changed.updateTransaction).toEqual({
    transaction: { status: "completed", amount: "12.50" },
    query: { transactions: { totalCount: 1 } },
  });
  const remove = `mutation ($id: Int!) { deleteTransaction(input: { transactionId: $id }) { transaction { amount } } }`;
  await api.read(remove, { id: transactionId });
  const { errors } = await api.ask("operator", remove, { id: transactionId });
  expect(errors).toMatchObject([{ extensions: { code: "NOT_FOUND" } }]);
});

test("an event keeps every digit: a number that JSON would round is refused, a string and a long that fits are not", async () => {
  const create = `mutation ($data: JSON) { createEvent(input: { event: { eventType: "digits", eventData: $data } }) { event { eventData } } }`;
  const written = (data: string) => create.replace("($data: JSON)", "").replace("$data", data);
  for (const answer of [
    await api.ask("operator", create, { data: { a: [2 ** 53] } }),
    await api.ask("operator", written("{ a: [9007199254740993] }")),
    await api.ask("operator", written("1e400")),
  ])
    expect(answer.errors).toMatchObject([{ message: expect.stringMatching(/give it as a string/) }]);
  await api.read(written('{ a: [9007199254740991, 0.1, "9007199254740993"] }'));
  const { rows } = await api.database.pool.query(
    "select event_data::text from production.events where event_type = 'digits'",
  );
  expect(rows).toEqual([{ event_data: '{"a": [9007199254740991, 0.1, "9007199254740993"]}' }]);
});

const upsert = `mutation ($input: UpsertUserInput!) {
  upsertUser(input: $input) { created clientMutationId user { userId username email country } query { users { totalCount } } } }`;

test("an upsert creates a user, and changes the one that is there", async () => {
  const user = { username: "cy", email: "cy@example.org" };
  const first = (await api.read(upsert, { input: { user, clientMutationId: "one" } })).upsertUser;
  expect(first).toMatchObject({ created: true, clientMutationId: "one", user: { ...user, country: null } });
  const byName = await api.read(upsert, { input: { user: { ...user, country: "FR" } } });
  expect(byName.upsertUser).toEqual({
    created: false,
    clientMutationId: null,
    user: { ...first.user, country: "FR" },
    query: { users: { totalCount: 3 } },
  });
  const byEmail = await api.read(upsert, { input: { by: "EMAIL", user: { ...user, username: "cyd" } } });
  expect(byEmail.upsertUser).toMatchObject({
    created: false,
    user: { userId: first.user.userId, username: "cyd", country: "FR" },
  });
});

test("a dimension's holidays are set by hand, its days are not", async () => {
  const data = await api.read(`mutation {
    updateDimDateByFullDate(input: { fullDate: "2025-12-25", patch: { isHoliday: true } }) { dimDate { isHoliday } } }`);
  expect(data.updateDimDateByFullDate.dimDate).toEqual({ isHoliday: true });
  const schema = await api.read(`{
    mutation: __type(name: "Mutation") { fields { name } } patch: __type(name: "DimDatePatch") { inputFields { name } } }`);
  expect(schema.patch.inputFields).toEqual([{ name: "isHoliday" }]);
  const mutations = schema.mutation.fields.map(({ name }: { name: string }) => name);
  expect(mutations).not.toContain("createDimDate");
  expect(mutations).not.toContain("deleteDimDate");
});

test.each([
  [
    "UNIQUE_VIOLATION",
    `createUser(input: { user: { username: "dan", email: "ada@example.org" } })`,
    { field: "email", constraint: "users_email_key", message: "This email is already taken" },
  ],
  [
    "UNIQUE_VIOLATION",
    `updateUser(input: { userId: 2, patch: { username: "ada" } })`,
    { field: "username", constraint: "users_username_key", message: "This username is already taken" },
  ],
  [
    "UNIQUE_VIOLATION",
    `upsertUser(input: { user: { username: "ada", email: "bo@example.org" } })`,
    { field: "email", constraint: "users_email_key", message: "This email is already taken" },
  ],
  [
    "CHECK_VIOLATION",
    `createTransaction(input: { transaction: { userId: 1, amount: 1, status: "lost" } })`,
    {
      field: "status",
      constraint: "valid_status",
      message: "status must be pending, completed, failed or refunded",
    },
  ],
  [
    "CHECK_VIOLATION",
    `createUser(input: { user: { username: "dan", email: "nowhere" } })`,
    {
      field: "email",
      constraint: "valid_email",
      message: "email must be an e-mail address, such as name@example.org",
    },
  ],
  [
    "CHECK_VIOLATION",
    `createTransaction(input: { transaction: { userId: 1, amount: -1 } })`,
    { field: "amount", constraint: "positive_amount", message: "amount must be greater than 0" },
  ],
  [
    "FOREIGN_KEY_VIOLATION",
    `createEvent(input: { event: { userId: 999999, eventType: "view" } })`,
    { field: "userId", constraint: "fk_user", message: "userId refers to a row that does not exist" },
  ],
  [
    "NOT_NULL_VIOLATION",
    `updateUser(input: { userId: 1, patch: { email: null } })`,
    { field: "email", message: "email must not be null" },
  ],
  [
    "BAD_USER_INPUT",
    `createTransaction(input: { transaction: { userId: 1, amount: 123456789 } })`,
    { field: "amount", message: "amount must be at most 99999999.99" },
  ],
  [
    "BAD_USER_INPUT",
    `createEvent(input: { event: { userId: 1, eventType: "${"x".repeat(51)}" } })`,
    { message: "A text is too long: its field takes at most 50 characters" },
  ],
  [
    "BAD_USER_INPUT",
    `cleanupOldData(input: { daysToKeep: -1 })`,
    { field: "daysToKeep", message: "daysToKeep must be from 0 to 36500, not -1." },
  ],
  ["NOT_FOUND", `updateUser(input: { userId: 999999, patch: { country: "UK" } })`, {}],
])("%s: %s", async (code, mutation, expected) => {
  const { errors } = await api.ask("operator", `mutation { ${mutation} { clientMutationId } }`);
  const { message, ...extensions } = expected as Record<string, unknown>;
  expect(errors).toMatchObject([
    { ...(message !== undefined && { message }), extensions: { ...extensions, code } },
  ]);
  expect(JSON.stringify(errors)).not.toMatch(/insert into|production\.|@example\.org(?!")/);
});

test("an amount is the only number of limited length", async () => {
  const { rows } = await api.database.pool.query(`
    select column_name from information_schema.columns
     where table_schema in ('production', 'analytics') and data_type = 'numeric' and numeric_precision is not null`);
  expect(rows).toEqual([{ column_name: "amount" }]);
});

test.each(["reader", "ingestor"] as const)("the %s may not write", async (role) => {
  for (const mutation of [
    `createUser(input: { user: { username: "eve", email: "eve@example.org" } })`,
    `upsertUser(input: { user: { username: "eve", email: "eve@example.org" } })`,
    `updateUser(input: { userId: 1, patch: { country: "XX" } })`,
    `deleteUser(input: { userId: 1 })`,
    `createTransaction(input: { transaction: { userId: 1, amount: 1 } })`,
    `createEvent(input: { event: { eventType: "view" } })`,
  ]) {
    const { errors } = await api.ask(role, `mutation { ${mutation} { clientMutationId } }`);
    expect(errors, mutation).toMatchObject([{ extensions: { code: "FORBIDDEN" } }]);
  }
  expect((await api.read("{ users { totalCount } }")).users.totalCount).toBe(3);
});

test("a row that another one excludes", async () => {
  await api.database.pool.query(
    "alter table production.transactions add constraint one_of_666 exclude using btree (amount with =) where (amount = 666)",
  );
  const create = `mutation { createTransaction(input: { transaction: { userId: 1, amount: 666 } }) { clientMutationId } }`;
  await api.read(create);
  const { errors } = await api.ask("operator", create);
  expect(errors).toMatchObject([
    {
      message: "Another row excludes this one",
      extensions: { code: "UNIQUE_VIOLATION", field: "amount", constraint: "one_of_666" },
    },
  ]);
  await api.database.pool.query("alter table production.transactions drop constraint one_of_666");
});

test.each(["half \ud800", "\udc00", "a\0b"])("a text that PostgreSQL cannot hold: %j", async (country) => {
  const write = `mutation ($country: String) { updateUser(input: { userId: 1, patch: { country: $country } }) { user { country } } }`;
  for (const [query, variables] of [
    [write, { country }],
    [
      "query ($country: String) { users(filter: { country: { equalTo: $country } }) { totalCount } }",
      { country },
    ],
    [
      "query ($countries: [String!]) { users(filter: { country: { in: $countries } }) { nodes { userId } } }",
      { countries: ["UK", country] },
    ],
  ] as const) {
    const { errors } = await api.ask("operator", query, variables);
    expect(errors.map(({ extensions }) => extensions.code)).toEqual(["BAD_USER_INPUT"]);
  }
  expect((await api.read("{ user(userId: 1) { country } }")).user).toEqual({ country: "UK" });
  expect((await api.read(write, { country: "UK" })).updateUser.user).toEqual({ country: "UK" });
});
