/** @module-tag long */
import { describe, expect, test } from "vitest";
import { isServer } from "../support/database.ts";
import { asAdministrator } from "../support/server.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, retry, rawUsers, rawTransactions, rawEvents, quarantine } = usePipeline();
const transform = () => run("transform");

test("takes over users, transactions and events, and says how many", async () => {
  await rawUsers({ user_id: 1, username: " ann ", email: "ann@example.org", country: "" });
  await rawTransactions({ transaction_id: 7, amount: 9.5, status: "Completed" });
  await rawEvents({ event_id: 3, event_data: { page: "/" } });
  const done = await transform();
  expect(done).toMatchObject({
    step: "transform",
    status: "succeeded",
    trigger: "cli",
    rowsRead: 3,
    rowsWritten: 3,
    rowsRejected: 0,
    error: null,
  });
  expect(done.durationMs).toBeGreaterThanOrEqual(0);
  expect(await sql("select username, email, country from production.users")).toEqual([
    { username: "ann", email: "ann@example.org", country: null },
  ]);
  expect(await sql("select transaction_id, amount, status from production.transactions")).toEqual([
    { transaction_id: 7, amount: "9.50", status: "completed" },
  ]);
  expect(
    await sql("select event_id, event_data, public.st_y(position) as latitude from production.events"),
  ).toEqual([{ event_id: "3", event_data: { page: "/" }, latitude: 50 }]);
  expect(await transform()).toMatchObject({ rowsRead: 0, rowsWritten: 0 });
});

test("moves through windows larger than a batch", async () => {
  await sql(
    `insert into staging.raw_users (user_id, username, email)
     select i, 'user' || i, 'user' || i || '@example.org' from generate_series(1, 45000) i`,
  );
  expect(await transform()).toMatchObject({ rowsRead: 45_000, rowsWritten: 45_000, rowsRejected: 0 });
  expect(await sql("select count(*)::integer as users from production.users")).toEqual([{ users: 45_000 }]);
}, 60_000);

describe("rejects", () => {
  test.each([
    [{ username: null }, ["username_missing"], "The username is missing."],
    [{ username: "  " }, ["username_missing"], "The username is missing."],
    [{ email: null }, ["email_missing"], "The email is missing."],
    [{ email: "bad@" }, ["valid_email"], 'not valid. Given: email = "bad@"'],
    [{ username: null, email: "bad" }, ["username_missing", "valid_email"], /missing.*not valid/],
    [{ created_at: "1823-01-01" }, ["impossible_date"], /between 1900 and tomorrow. Given: 1823/],
  ])("the user %j", async (fields, reasons, detail) => {
    await rawUsers({ user_id: 5, ...fields });
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 1,
      rowsWritten: 0,
      rowsRejected: 1,
    });
    expect(await quarantine()).toMatchObject([
      {
        dataset: "users",
        stage: "transform",
        reasons,
        waiting: false,
        payload: { user_id: 5 },
        detail: expect.stringMatching(detail) as string,
      },
    ]);
    expect(await sql("select from production.users")).toEqual([]);
  });

  test.each([
    [{ user_id: null }, ["user_id_missing"], false],
    [{ user_id: 404 }, ["fk_user"], true],
    [{ amount: null }, ["amount_missing"], false],
    [{ amount: 0 }, ["positive_amount"], false],
    [{ amount: 0.004 }, ["positive_amount"], false],
    [{ amount: -3 }, ["positive_amount"], false],
    [{ amount: "100000000" }, ["amount_out_of_range"], false],
    [{ amount: "99999999.995" }, ["amount_out_of_range"], false],
    [{ amount: "NaN" }, ["amount_out_of_range"], false],
    [{ amount: "Infinity" }, ["amount_out_of_range"], false],
    [{ status: "paid" }, ["valid_status"], false],
    [{ transaction_date: null }, ["transaction_date_missing"], false],
    [{ transaction_date: "infinity" }, ["impossible_date"], false],
    [{ transaction_date: "9999-01-01" }, ["impossible_date"], false],
    [
      { user_id: 404, amount: -1, status: "paid", transaction_date: null },
      ["positive_amount", "valid_status", "fk_user", "transaction_date_missing"],
      false,
    ],
  ])("the transaction %j", async (fields, reasons, waiting) => {
    await rawUsers({ user_id: 1 });
    await rawTransactions({ transaction_id: 1, ...fields }, { transaction_id: 2 });
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 3,
      rowsWritten: 2,
      rowsRejected: 1,
    });
    expect(await quarantine()).toMatchObject([{ dataset: "transactions", reasons, waiting }]);
    expect(await sql("select transaction_id from production.transactions")).toEqual([{ transaction_id: 2 }]);
  });

  test.each([
    [{ user_id: 404 }, ["fk_user"], true],
    [{ event_type: " " }, ["event_type_missing"], false],
    [{ event_time: null }, ["event_time_missing"], false],
    [{ event_time: "-infinity" }, ["impossible_date"], false],
    [{ latitude: 91 }, ["invalid_position"], false],
    [{ longitude: -181 }, ["invalid_position"], false],
    [{ longitude: "NaN" }, ["invalid_position"], false],
    [{ latitude: null }, ["invalid_position"], false],
  ])("the event %j", async (fields, reasons, waiting) => {
    await rawUsers({ user_id: 1 });
    await rawEvents(
      { event_id: 1, ...fields },
      { event_id: 2, user_id: null, latitude: null, longitude: null },
    );
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 3,
      rowsWritten: 2,
      rowsRejected: 1,
    });
    expect(await quarantine()).toMatchObject([{ dataset: "events", reasons, waiting }]);
    expect(await sql("select event_id, position from production.events")).toEqual([
      { event_id: "2", position: null },
    ]);
  });
});

describe("counts the rows that replaced others", () => {
  const user = (row: object) => rawUsers({ user_id: 1, ...row });
  const counts = { rowsReplaced: 0, rowsReplacedFromOtherSource: 0 };

  test("in production, and those of another source apart", async () => {
    await user({ source_system: "crm" });
    expect(await transform()).toMatchObject({ rowsWritten: 1, ...counts });
    // The same again, from wherever, replaces nothing.
    await user({ source_system: "crm" });
    expect(await transform()).toMatchObject({ rowsRead: 1, rowsWritten: 0, ...counts });
    await user({ source_system: "crm", country: "FR" });
    expect(await transform()).toMatchObject({ rowsWritten: 1, ...counts, rowsReplaced: 1 });
    await user({ source_system: "shop", country: "IT" });
    const done = await transform();
    expect(done).toMatchObject({ rowsWritten: 1, rowsReplaced: 1, rowsReplacedFromOtherSource: 1 });
    expect(await sql("select country, strata_source from production.users")).toEqual([
      { country: "IT", strata_source: "shop" },
    ]);
    expect(
      await sql(
        `select dataset, rows_written::integer, rows_replaced::integer, rows_replaced_from_other_source::integer
         from analytics.run_datasets where run_id = $1`,
        [done.id],
      ),
    ).toEqual([{ dataset: "users", rows_written: 1, rows_replaced: 1, rows_replaced_from_other_source: 1 }]);
  });

  test("whose values another source had sent, too", async () => {
    await user({ source_system: "crm" });
    await user({ source_system: "shop" });
    expect(await transform()).toMatchObject({ rowsRead: 2, rowsWritten: 1, ...counts });
    await user({ source_system: "shop", country: "FR" });
    expect(await transform()).toMatchObject({ ...counts, rowsReplaced: 1 });
  });

  test("earlier in the same batch, also where a trigger rejects a row between", async () => {
    await rawUsers({ user_id: 1 }, { user_id: 2 });
    await transform();
    await sql(`
      create function public.reject_odd() returns trigger language plpgsql as
      $$ begin if new.amount = 13 then raise exception 'odd'; end if; return new; end $$;
      create trigger reject_odd before insert or update on production.transactions for each row execute function public.reject_odd()`);
    try {
      await rawTransactions(
        { transaction_id: 1, amount: 1, source_system: "crm" },
        { transaction_id: 1, amount: 2, source_system: "crm" },
        { transaction_id: 2, amount: 1, source_system: "crm" },
        { transaction_id: 1, amount: 3, source_system: "shop" },
        { transaction_id: 1, amount: 3, source_system: "crm" },
      );
      expect(await transform()).toMatchObject({
        rowsRead: 5,
        rowsWritten: 2,
        rowsReplaced: 2,
        rowsReplacedFromOtherSource: 1,
      });
      await rawTransactions(
        { transaction_id: 1, amount: 4, source_system: "crm" },
        { transaction_id: 3, amount: 13, source_system: "shop" },
        { transaction_id: 2, amount: 5, source_system: "shop" },
      );
      expect(await transform()).toMatchObject({
        rowsWritten: 2,
        rowsRejected: 1,
        rowsReplaced: 2,
        rowsReplacedFromOtherSource: 1,
      });
    } finally {
      await sql("drop function public.reject_odd() cascade");
    }
  });

  test("a contested value is decided row by row, and counted so", async () => {
    await rawUsers({ user_id: 1, username: "ann", source_system: "crm" });
    await transform();
    // User 1 gives the name up in one record, and user 2 takes it.
    await rawUsers(
      { user_id: 1, username: "bob", source_system: "shop" },
      { user_id: 2, username: "ann", source_system: "shop" },
      { user_id: 1, username: "cid", source_system: "shop" },
    );
    expect(await transform()).toMatchObject({
      rowsWritten: 3,
      rowsRejected: 0,
      rowsReplaced: 2,
      rowsReplacedFromOtherSource: 1,
    });
  });

  test("a pipeline counts what its transform does", async () => {
    await user({ source_system: "crm" });
    await run("pipeline");
    await user({ source_system: "shop", country: "FR" });
    expect(await run("pipeline")).toMatchObject({ rowsReplaced: 1, rowsReplacedFromOtherSource: 1 });
  });

  test("a row made in production has no source to differ from", async () => {
    await sql("insert into production.users (user_id, username, email) values (1, 'ann', 'a@example.org')");
    await user({ source_system: "crm" });
    expect(await transform()).toMatchObject({ ...counts, rowsReplaced: 1 });
  });
});

describe("many rows that a trigger rejects cost no other", () => {
  /** Rows 1 to 1000, of which a hundred are in production already; every third has the amount that is rejected. */
  const send = (amount: string) =>
    sql(
      `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
       select n, 1, ${amount}, 'completed', '2024-05-01' from generate_series(1, 1000) n`,
    );
  test.each([
    ["before", "each row", "new.amount = 13"],
    ["after", "each row", "new.amount = 13"],
    ["after", "each statement", "exists (select from production.transactions where amount = 13)"],
  ])("%s %s", async (when, level, condition) => {
    await rawUsers({ user_id: 1 });
    await transform();
    await sql(`insert into production.transactions (transaction_id, user_id, amount)
               select 5 * n, 1, 1 from generate_series(1, 100) n`);
    await sql(`
      create function public.reject() returns trigger language plpgsql as
      $$ begin if ${condition} then raise exception 'no'; end if; return new; end $$;
      create trigger reject ${when} insert or update on production.transactions for ${level} execute function public.reject()`);
    try {
      await send("case when n % 3 = 0 then 13 else 2 end");
      expect(await transform()).toMatchObject({ rowsRead: 1000, rowsWritten: 667, rowsRejected: 333 });
      expect(
        await sql(
          `select count(*)::integer as rows, count(*) filter (where transaction_id % 3 > 0 and amount = 2)::integer as good
           from production.transactions`,
        ),
      ).toEqual([{ rows: 667 + 33, good: 667 }]);
      expect(
        await sql(
          `select reasons, count(*)::integer as rows, count(*) filter (where (payload ->> 'amount') = '13')::integer as bad
           from staging.quarantine group by 1`,
        ),
      ).toEqual([{ reasons: ["rejected_by_trigger"], rows: 333, bad: 333 }]);
    } finally {
      await sql("drop function public.reject() cascade");
    }
  });
});

describe("last write wins", () => {
  test("within a batch and across batches", async () => {
    await rawUsers({ user_id: 1, country: "DE" }, { user_id: 1, country: "FR" });
    await transform();
    expect(await sql("select country from production.users")).toEqual([{ country: "FR" }]);
    await rawUsers({ user_id: 1, country: "IT" }, { user_id: 1, country: "ES", email: "broken" });
    expect(await transform()).toMatchObject({ rowsWritten: 1, rowsRejected: 1 });
    expect(await sql("select country from production.users")).toEqual([{ country: "IT" }]);
  });

  test("a retried old row does not overwrite a newer one", async () => {
    await rawUsers({ user_id: 1 });
    await rawTransactions({ transaction_id: 1, amount: 1, status: "typo" }, { transaction_id: 1, amount: 2 });
    await transform();
    await retry({ everything: true }, { status: "pending" });
    expect(await transform()).toMatchObject({ rowsRead: 1, rowsWritten: 0, rowsRejected: 0 });
    expect(await sql("select amount from production.transactions")).toEqual([{ amount: "2.00" }]);
    expect(await quarantine()).toEqual([]);
  });

  test("also when the newer one brought the same values again", async () => {
    await rawUsers({ user_id: 1 });
    await rawTransactions({ transaction_id: 1, amount: 1 });
    await transform();
    await rawTransactions({ transaction_id: 1, amount: 5, status: "typo" }, { transaction_id: 1, amount: 1 });
    await transform();
    await retry({ everything: true }, { status: "completed" });
    await transform();
    expect(await sql("select amount from production.transactions")).toEqual([{ amount: "1.00" }]);
  });

  test("a row created through the API gives way to the first record about it", async () => {
    await sql("insert into production.users (user_id, username, email) values (1, 'api', 'api@example.org')");
    await rawUsers({ user_id: 1, username: "source" });
    await transform();
    expect(await sql("select username, email from production.users")).toEqual([
      { username: "source", email: "user1@example.org" },
    ]);
  });

  test("the same records again change nothing", async () => {
    const load = async () => {
      await rawUsers({ user_id: 1 }, { user_id: 2, created_at: null });
      await rawTransactions({ transaction_id: 1 });
      await rawEvents({ event_id: 1 });
      return transform();
    };
    const state = () =>
      sql(
        `select to_jsonb(u) - '{source_seq,strata_source}'::text[] as row from production.users u union all
         select to_jsonb(t) - '{source_seq,strata_source}'::text[] from production.transactions t union all
         select to_jsonb(e) - '{source_seq,strata_source}'::text[] from production.events e order by 1`,
      );
    expect(await load()).toMatchObject({ rowsWritten: 4 });
    const before = await state();
    await run("refresh");
    expect(await load()).toMatchObject({ rowsRead: 4, rowsWritten: 0, rowsRejected: 0 });
    expect(await state()).toEqual(before);
    expect(await sql("select from strata.changes")).toEqual([]);
  });
});

describe("unique names and addresses", () => {
  const names = () => sql("select user_id, username, email from production.users order by user_id");

  test("the first of a batch keeps a contested address, all others land", async () => {
    await rawUsers(
      { user_id: 1, email: "same@example.org" },
      { user_id: 2, email: "same@example.org" },
      { user_id: 3 },
    );
    expect(await transform()).toMatchObject({ rowsWritten: 2, rowsRejected: 1 });
    expect((await names()).map(({ user_id }) => user_id as number)).toEqual([1, 3]);
    expect(await quarantine()).toMatchObject([{ reasons: ["users_email_key"], payload: { user_id: 2 } }]);
  });

  test("sent again, contested users count only if they changed", async () => {
    const send = async (country: string) => {
      await rawUsers(
        { user_id: 1, email: "same@example.org", country },
        { user_id: 2, email: "same@example.org" },
        { user_id: 1, email: "same@example.org", country, created_at: null },
      );
      return transform();
    };
    expect(await send("DE")).toMatchObject({ rowsWritten: 1, rowsRejected: 1 });
    expect(await send("DE")).toMatchObject({ rowsRead: 3, rowsWritten: 0, rowsRejected: 1 });
    expect(await send("FR")).toMatchObject({ rowsRead: 3, rowsWritten: 1, rowsRejected: 1 });
  });

  test("what another user holds already is taken", async () => {
    await sql("insert into production.users (user_id, username, email) values (1, 'ann', 'ann@example.org')");
    await rawUsers({ user_id: 2, username: "ann", email: "ann@example.org" });
    await transform();
    expect(await quarantine()).toMatchObject([
      {
        reasons: ["users_email_key", "users_username_key"],
        detail:
          'Another user has the e-mail address. Given: email = "ann@example.org". Another user has the username. Given: username = "ann".',
      },
    ]);
  });

  test("an address that its holder gives up first passes on", async () => {
    await rawUsers({ user_id: 1, email: "old@example.org" });
    await transform();
    await rawUsers({ user_id: 1, email: "new@example.org" }, { user_id: 2, email: "old@example.org" });
    expect(await transform()).toMatchObject({ rowsWritten: 2, rowsRejected: 0 });
    expect(await names()).toMatchObject([{ email: "new@example.org" }, { email: "old@example.org" }]);
  });

  test("in the other order it is taken still", async () => {
    await rawUsers({ user_id: 1, email: "old@example.org" });
    await transform();
    await rawUsers({ user_id: 2, email: "old@example.org" }, { user_id: 1, email: "new@example.org" });
    expect(await transform()).toMatchObject({ rowsWritten: 1, rowsRejected: 1 });
    await retry({ reason: "users_email_key" });
    expect(await transform()).toMatchObject({ rowsWritten: 1, rowsRejected: 0 });
    expect(await names()).toMatchObject([{ email: "new@example.org" }, { email: "old@example.org" }]);
  });

  test("two users cannot swap", async () => {
    await rawUsers({ user_id: 1, email: "a@example.org" }, { user_id: 2, email: "b@example.org" });
    await transform();
    await rawUsers({ user_id: 1, email: "b@example.org" }, { user_id: 2, email: "a@example.org" });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsRejected: 2 });
    expect(await names()).toMatchObject([{ email: "a@example.org" }, { email: "b@example.org" }]);
  });
});

test("a row that waits for its user comes along when the user does", async () => {
  await rawTransactions({ transaction_id: 1 });
  await rawEvents({ event_id: 1 });
  expect(await transform()).toMatchObject({ rowsRejected: 2 });
  expect(await transform()).toMatchObject({ rowsRead: 0 });
  expect(await quarantine()).toMatchObject([{ waiting: true, attempts: 1 }, { waiting: true }]);
  await rawUsers({ user_id: 1 });
  expect(await transform()).toMatchObject({ rowsRead: 3, rowsWritten: 3, rowsRejected: 0 });
  expect(await quarantine()).toEqual([]);
});

test("the next created row gets a free id", async () => {
  await sql(
    "select setval('production.users_user_id_seq', 1, false), setval('production.transactions_transaction_id_seq', 1, false)",
  );
  await rawUsers({ user_id: 1 }, { user_id: 30 });
  await rawTransactions({ transaction_id: 123_456 });
  await transform();
  expect(
    await sql(
      "insert into production.users (username, email) values ('new', 'new@example.org') returning user_id",
    ),
  ).toEqual([{ user_id: 31 }]);
  expect(
    await sql("insert into production.transactions (user_id, amount) values (1, 1) returning transaction_id"),
  ).toEqual([{ transaction_id: 123_457 }]);
});

test("the calendar grows with the data", async () => {
  await rawUsers({ user_id: 1 });
  await rawTransactions({ transaction_id: 1, transaction_date: "2009-07-01" });
  await transform();
  expect(await sql("select min(full_date)::text as first from production.dim_date")).toEqual([
    { first: "2009-01-01" },
  ]);
  expect(
    await sql(
      "select count(*)::integer as days, max(full_date) - min(full_date) + 1 as span from production.dim_date",
    ),
  ).toEqual([{ days: 9861, span: 9861 }]);
});

test("rows restored from the dump of an older cluster are taken once", async () => {
  await rawUsers({ user_id: 1 });
  await rawTransactions({ transaction_id: 1 });
  await transform();
  await rawTransactions({ transaction_id: 2 });
  // As if this cluster had just been made and the dump came from one that had used many more transactions.
  await sql("update staging.raw_transactions set ingest_xid = '900000000000'");
  await sql(
    "update strata.datasets set xid = '900000000000', seq = (select min(ingest_seq) from staging.raw_transactions) where dataset = 'transactions'",
  );
  await rawTransactions({ transaction_id: 3 });
  await sql("delete from production.transactions where transaction_id = 1");
  expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 2 });
  expect(await sql("select transaction_id from production.transactions order by 1")).toEqual([
    { transaction_id: 2 },
    { transaction_id: 3 },
  ]);
  await rawTransactions({ transaction_id: 4 });
  expect(await transform()).toMatchObject({ rowsRead: 1, rowsWritten: 1 });
});

test("an id at the lower end of its range is taken like any other", async () => {
  await rawEvents({ event_id: 5, user_id: null });
  await transform();
  await sql(
    "insert into staging.raw_events (event_id, event_type, event_time) values (-9223372036854775808, 'x', '2024-05-01')",
  );
  expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 1 });
});

describe.runIf(isServer)("with other sessions", () => {
  const locked = (waiting: number) =>
    expect
      .poll(
        () =>
          sql("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"),
        { timeout: 10_000 },
      )
      .toHaveLength(waiting);

  test("rows that arrive at that moment are not taken for restored ones", async () => {
    let isOver = false;
    const arrive = async () => {
      for (let id = 1; !isOver; id++) await sql("insert into staging.raw_users (user_id) values ($1)", [id]);
    };
    const arriving = [arrive(), arrive()];
    const found: unknown[] = [];
    for (let i = 0; i < 100; i++) {
      // A new connection, which has to plan each statement: that gives rows time to arrive in between.
      const client = await pool().connect();
      found.push((await client.query("select strata.renumber_restored() as found")).rows[0].found);
      client.release(true);
    }
    isOver = true;
    await Promise.all(arriving);
    expect(found).not.toContain(true);
  });

  test("rows that arrive while restored ones are put in order are taken", async () => {
    await sql(
      "insert into staging.raw_events (event_id, event_type, event_time, ingest_xid) values (1, 'x', '2024-05-01', '900000000000')",
    );
    await sql("update strata.datasets set xid = '900000000001', seq = 5");
    const other = await pool().connect();
    try {
      await other.query("begin; select from staging.raw_events for update");
      const running = transform();
      await locked(1);
      const arriving = rawUsers({ user_id: 2 });
      await expect
        .poll(() => Promise.race([arriving.then(() => true), locked(2).then(() => true)]))
        .toBe(true);
      await other.query("commit");
      await arriving;
      await running;
    } finally {
      other.release();
    }
    await transform();
    expect(await sql("select user_id from production.users")).toEqual([{ user_id: 2 }]);
  });

  test("a row that commits late is not passed over", async () => {
    await rawUsers({ user_id: 1 });
    const late = await pool().connect();
    try {
      await late.query("begin");
      await late.query(
        "insert into staging.raw_transactions (transaction_id, user_id, amount, transaction_date) values (1, 1, 1, '2024-05-01')",
      );
      await rawTransactions({ transaction_id: 2 });
      await transform();
      await late.query("commit");
    } finally {
      late.release();
    }
    await transform();
    expect(await sql("select transaction_id from production.transactions order by 1")).toEqual([
      { transaction_id: 1 },
      { transaction_id: 2 },
    ]);
  });

  test("a transaction in another database holds nothing up", async () => {
    await asAdministrator(async (elsewhere) => {
      const client = await elsewhere.connect();
      await client.query("begin");
      await client.query("select pg_current_xact_id()");
      try {
        await rawUsers({ user_id: 1 });
        expect(await transform()).toMatchObject({ rowsWritten: 1 });
      } finally {
        client.release(true);
      }
    });
  });

  test("a user who is deleted meanwhile makes the row wait, not the batch fail", async () => {
    await rawUsers({ user_id: 1 }, { user_id: 2 });
    await transform();
    await rawTransactions({ transaction_id: 1, user_id: 1 }, { transaction_id: 2, user_id: 2 });
    const other = await pool().connect();
    try {
      await other.query("begin");
      await other.query("delete from production.users where user_id = 1");
      const running = transform();
      await expect
        .poll(
          () =>
            sql(
              "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%transform_batch%'",
            ),
          { timeout: 10_000 },
        )
        .toHaveLength(1);
      await other.query("commit");
      expect(await running).toMatchObject({ status: "succeeded", rowsWritten: 1, rowsRejected: 1 });
    } finally {
      other.release();
    }
    expect(await quarantine()).toMatchObject([{ reasons: ["fk_user"], waiting: true }]);
  });
});
