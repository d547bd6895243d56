/** @module-tag long */
// What a load as a whole may say: how much may be rejected, that its rows are deletions, that it is all there is.
import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { dryRun } from "../../src/ingest/dry-run.ts";
import { ingest, type IngestOptions } from "../../src/ingest/ingest.ts";
import { usePipeline } from "./fixture.ts";

const { pool, sql, run, retry, rawUsers, rawTransactions } = usePipeline();
const transform = () => run("transform");

const load = (dataset: string, csv: string, options: Partial<IngestOptions> = {}) =>
  ingest(pool(), dataset, Readable.from([csv]), {
    format: "csv",
    sourceSystem: "crm",
    sourceName: `${dataset}.csv`,
    trigger: "cli",
    ...options,
  });

const user = (id: number, name = `user${id}`) => `${id},${name},${name}@example.org\n`;
const loadUsers = (ids: number[], options: Partial<IngestOptions> = {}) =>
  load("users", `user_id,username,email\n${ids.map((id) => user(id)).join("")}`, options);
const deleteUsers = (ids: number[]) =>
  load("users", `user_id\n${ids.join("\n")}\n`, { operation: "delete", sourceName: "gone.csv" });
const userIds = async () =>
  (await sql<{ id: number }>("select user_id as id from production.users order by 1")).map(({ id }) => id);
const entries = () =>
  sql(
    `select reasons, detail, source_name as file, source_line::int as line, row_key as key, waiting, operation
       from analytics.quarantine order by quarantine_id`,
  );

describe("rows that the transform rejects", () => {
  test("keep file, line and key", async () => {
    await load("users", 'user_id,username,email\n1,ann,ann@example.org\n\n2,"b\nob",bad\n3,,c@example.org\n');
    expect(await transform()).toMatchObject({ rowsWritten: 1, rowsRejected: 2 });
    expect(await entries()).toMatchObject([
      { reasons: ["valid_email"], file: "users.csv", line: 4, key: "2", operation: null },
      { reasons: ["username_missing"], file: "users.csv", line: 6, key: "3" },
    ]);
  });

  test("and keep them when they are tried again", async () => {
    await load("transactions", "transaction_id,user_id,amount,transaction_date\n7,1,5,2024-05-01\n");
    await transform();
    await retry({ everything: true }, { amount: 6 });
    await transform();
    expect(await entries()).toMatchObject([
      { reasons: ["fk_user"], file: "transactions.csv", line: 2, key: "7", waiting: true },
    ]);
  });

  test("as those that the ingest rejects do", async () => {
    await load("users", "user_id,username,created_at\n1,ann,2024-02-31\n2,bob,2024-02-01\n");
    expect(await entries()).toMatchObject([
      { reasons: ["impossible_date"], file: "users.csv", line: 2, key: "1" },
    ]);
  });
});

describe("a limit of rejected rows", () => {
  const csv = (good: number, bad: number) =>
    `user_id,username,email\n${Array.from({ length: good }, (_, i) => user(i + 1)).join("")}${"x,y,z\n".repeat(bad)}`;
  const raw = async () => (await sql("select user_id from staging.raw_users")).length;

  test.each([
    [8, 2, "2", true],
    [8, 2, "1", false],
    [8, 2, "0", false],
    [8, 2, "20%", true],
    [8, 2, "19.9%", false],
    [8, 0, "0", true],
  ])("%i good rows and %i bad ones with at most %s: %s", async (good, bad, maxRejected, succeeds) => {
    const done = await load("users", csv(good, bad), { maxRejected });
    expect(done).toMatchObject({
      status: succeeds ? "succeeded" : "failed",
      rowsRejected: bad,
      rowsWritten: succeeds ? good : 0,
    });
    expect(await raw()).toBe(succeeds ? good : 0);
    expect(await entries()).toHaveLength(bad);
    if (!succeeds)
      expect(done.error).toBe(
        `2 of the first 10 rows were rejected (invalid_integer 2); allowed: ${maxRejected}. ` +
          "None of the load's rows goes on; the rejected ones are in quarantine",
      );
    await transform();
    expect(await userIds()).toHaveLength(succeeds ? good : 0);
  });

  test.each(["-1", "1.5", "101%", "", "many", "5 %"])("%j is no limit", async (maxRejected) => {
    await expect(loadUsers([1], { maxRejected })).rejects.toThrow(
      /is not a limit for rejected rows; allowed/,
    );
  });

  test("a number that is exceeded ends the load at once", async () => {
    let read = 0;
    const rows = function* () {
      yield "user_id,username\n";
      for (let i = 0; i < 100; i++) {
        read += 1;
        yield "x,y\n".repeat(100_000);
      }
    };
    const done = await ingest(pool(), "users", Readable.from(rows()), {
      format: "csv",
      trigger: "cli",
      maxRejected: "10",
    });
    expect(done.error).toMatch(/^\d+ of the first \d+ rows were rejected .*allowed: 10\./);
    expect(read).toBeLessThan(50);
    await sql("truncate staging.quarantine");
  });

  test("no row goes to production before the load is decided, nor after it failed", async () => {
    await rawUsers({ user_id: 99 });
    let onLanded: () => void = () => undefined;
    const landed = new Promise<void>((resolve) => (onLanded = resolve));
    let goOn: () => void = () => undefined;
    const waiting = new Promise<void>((resolve) => (goOn = resolve));
    const rows = async function* () {
      yield `user_id,username,email\n${user(1)}${user(2)}`;
      await waiting;
      yield "x,y,z\nx,y,z\n";
    };
    const loading = ingest(pool(), "users", Readable.from(rows()), {
      format: "csv",
      trigger: "cli",
      maxRejected: "1",
      onProgress: () => onLanded(),
    });
    await landed;
    expect(await raw()).toBe(3);
    // Rows of others that came before go on, those that came after wait for the decision.
    await rawUsers({ user_id: 100 });
    await transform();
    expect(await userIds()).toEqual([99]);
    goOn();
    expect((await loading).status).toBe("failed");
    await transform();
    expect(await userIds()).toEqual([99, 100]);
    expect(await raw()).toBe(2);
  });

  test("rows of a load whose process died are deleted by the next transform", async () => {
    await loadUsers([1, 2], { maxRejected: "1" });
    await sql(
      "update strata.runs set status = 'running', finished_at = null, heartbeat_at = now() - interval '1 minute', held_from = '4'",
    );
    await loadUsers([3]);
    await transform();
    expect(await userIds()).toEqual([3]);
    expect(
      await sql("select status, held_from, rows_written::int from strata.runs order by run_id limit 1"),
    ).toEqual([{ status: "failed", held_from: null, rows_written: 0 }]);
  });
});

describe("deletions", () => {
  test("delete the rows that they name, and are counted", async () => {
    await loadUsers([1, 2, 3]);
    await transform();
    await deleteUsers([1, 3, 404]);
    expect(await transform()).toMatchObject({ rowsRead: 3, rowsWritten: 0, rowsDeleted: 2, rowsRejected: 0 });
    expect(await userIds()).toEqual([2]);
    expect(await transform()).toMatchObject({ rowsRead: 0, rowsDeleted: 0 });
  });

  test("keep the order of events, within a window and across", async () => {
    await loadUsers([1, 2]);
    await deleteUsers([1, 2]);
    await load("users", `user_id,username,email\n${user(2, "again")}`);
    expect(await transform()).toMatchObject({ rowsRead: 5, rowsDeleted: 2 });
    expect(await sql("select user_id, username from production.users")).toEqual([
      { user_id: 2, username: "again" },
    ]);
  });

  test("an older record that comes later does not bring a row back", async () => {
    await loadUsers([1]);
    await load("users", "user_id,username,email\n1,ann,bad\n2,bob,bad\n");
    await transform();
    await deleteUsers([1]);
    await transform();
    await retry({ everything: true }, { email: "good@example.org" });
    await transform();
    expect(await userIds()).toEqual([2]);
    expect(await entries()).toEqual([]);
  });

  test("a row that others refer to waits in quarantine until they are gone", async () => {
    await loadUsers([1, 2]);
    await rawTransactions({ transaction_id: 5, user_id: 1 });
    await transform();
    await deleteUsers([1, 2]);
    expect(await transform()).toMatchObject({ rowsDeleted: 1, rowsRejected: 1 });
    expect(await userIds()).toEqual([1]);
    expect(await entries()).toEqual([
      {
        reasons: ["referenced_by_transactions"],
        detail: "Rows of transactions refer to the row. Given: user_id = 1.",
        file: "gone.csv",
        line: 2,
        key: "1",
        waiting: true,
        operation: "delete",
      },
    ]);
    await load("transactions", "transaction_id\n5\n", { operation: "delete" });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 2 });
    expect(await userIds()).toEqual([]);
    expect(await entries()).toEqual([]);
  });

  test("one that waits does not delete a row that was written since", async () => {
    await loadUsers([1]);
    await rawTransactions({ transaction_id: 5, user_id: 1 });
    await transform();
    await deleteUsers([1]);
    await transform();
    await load("users", `user_id,username,email\n${user(1, "newer")}`);
    await transform();
    await load("transactions", "transaction_id\n5\n", { operation: "delete" });
    await transform();
    expect(await userIds()).toEqual([1]);
    expect(await entries()).toEqual([]);
  });

  test("one without a key is rejected when it arrives, and is a deletion still when it is corrected", async () => {
    await loadUsers([1, 2]);
    await transform();
    await load("users", "user_id,username\n1,\nx,\n", { operation: "delete" });
    expect(await entries()).toMatchObject([{ reasons: ["invalid_integer"], operation: "delete" }]);
    await retry({ everything: true }, { user_id: 2 });
    await transform();
    expect(await userIds()).toEqual([]);
  });

  test("a trigger that rejects one costs no other", async () => {
    await loadUsers([1, 2, 3, 4]);
    await transform();
    await sql(`
      create function production.protect() returns trigger language plpgsql as $$
      begin if old.user_id = 3 then raise exception 'user 3 stays'; end if; return old; end $$;
      create trigger protect before delete on production.users for each row execute function production.protect()`);
    try {
      await deleteUsers([1, 2, 3, 4]);
      expect(await transform()).toMatchObject({ rowsDeleted: 3, rowsRejected: 1 });
      expect(await userIds()).toEqual([3]);
      expect(await entries()).toMatchObject(
        [{ reasons: ["rejected_by_trigger"], detail: /user 3 stays/ }].map(({ reasons }) => ({
          reasons,
          detail: "user 3 stays",
          operation: "delete",
        })),
      );
    } finally {
      await sql("drop trigger protect on production.users; drop function production.protect()");
    }
  });

  test("metrics notice", async () => {
    await loadUsers([1]);
    await rawTransactions(
      { transaction_id: 5, user_id: 1, amount: 7 },
      { transaction_id: 6, user_id: 1, amount: 4 },
    );
    await run("pipeline");
    await load("transactions", "transaction_id\n5\n", { operation: "delete" });
    expect(await run("pipeline")).toMatchObject({ status: "succeeded", rowsDeleted: 1 });
    expect(
      await sql("select total_revenue from analytics.daily_user_metrics where date = '2024-05-01'"),
    ).toEqual([{ total_revenue: "4.00" }]);
  });
});

describe("a full snapshot", () => {
  const snapshot = (ids: number[], options: Partial<IngestOptions> = {}) =>
    loadUsers(ids, { operation: "replace", ...options });

  test("deletes what it does not hold of its source, and nothing of others", async () => {
    await loadUsers([1, 2, 3]);
    await loadUsers([10], { sourceSystem: "shop" });
    await transform();
    await snapshot([2, 4]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsRead: 2, rowsDeleted: 2 });
    expect(await userIds()).toEqual([2, 4, 10]);
  });

  test("with what came before and after it in the same window", async () => {
    await loadUsers([1, 2]);
    await snapshot([2, 3]);
    await loadUsers([5]);
    expect(await transform()).toMatchObject({ rowsRead: 5, rowsDeleted: 1 });
    expect(await userIds()).toEqual([2, 3, 5]);
  });

  test("older rows of its source do not come back", async () => {
    await load("users", "user_id,username,email\n1,ann,bad\n");
    await transform();
    await snapshot([2]);
    await transform();
    await retry({ everything: true }, { email: "good@example.org" });
    await transform();
    expect(await userIds()).toEqual([2]);
  });

  test("an empty one, a failed one and one with a rejected row delete nothing", async () => {
    await loadUsers([1, 2]);
    await transform();
    expect(await snapshot([])).toMatchObject({
      status: "failed",
      error: "The snapshot is empty: it deletes nothing",
    });
    const broken = async function* () {
      yield `user_id,username,email\n${user(3)}`;
      await Promise.resolve();
      throw new Error("the source broke");
    };
    const options = { format: "csv", sourceSystem: "crm", trigger: "cli", operation: "replace" } as const;
    expect(await ingest(pool(), "users", Readable.from(broken()), options)).toMatchObject({
      status: "failed",
    });
    expect(
      await load("users", `user_id,username,email\n${user(4)}x,y,z\n`, { operation: "replace" }),
    ).toMatchObject({
      status: "failed",
      error:
        "1 of 2 rows were rejected (invalid_integer 1), so the snapshot deletes nothing; the other rows have landed",
    });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 0 });
    expect(await userIds()).toEqual([1, 2, 3, 4]);
  });

  test("one of which the transform rejects a row deletes nothing, and the run says so", async () => {
    await loadUsers([1, 2]);
    await transform();
    await load("users", `user_id,username,email\n${user(3)}4,dan,bad\n`, { operation: "replace" });
    const done = await transform();
    expect(done).toMatchObject({ status: "failed", rowsDeleted: 0 });
    expect(done.error).toMatch(
      /^users: The full snapshot of the source crm \(run \d+\) deleted nothing: 1 of its rows is in quarantine$/,
    );
    expect(await userIds()).toEqual([1, 2, 3]);
    await snapshot([3]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 2 });
    expect(await userIds()).toEqual([3]);
  });

  test("a row that others refer to waits, once, and goes when they have gone", async () => {
    await loadUsers([1, 2]);
    await rawTransactions({ transaction_id: 5, user_id: 1 });
    await transform();
    await snapshot([2]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 0, rowsRejected: 1 });
    await snapshot([2]);
    await transform();
    expect(await entries()).toMatchObject([
      {
        reasons: ["referenced_by_transactions"],
        key: "1",
        waiting: true,
        operation: "delete",
        file: "users.csv",
      },
    ]);
    await load("transactions", "transaction_id\n5\n", { operation: "delete" });
    await transform();
    expect(await userIds()).toEqual([2]);
    expect(await entries()).toEqual([]);
  });
});

describe("deletions that a snapshot left waiting", () => {
  const snapshot = (ids: number[], options: Partial<IngestOptions> = {}) =>
    loadUsers(ids, { operation: "replace", ...options });
  const waiting = async () => (await entries()).map(({ key, reasons }) => `${key} ${reasons.join()}`);
  /** Users 1, 2 and 3 of the source, all but 3 referred to, and a snapshot without the first two. */
  const leaveWaiting = async () => {
    await loadUsers([1, 2, 3]);
    await rawTransactions({ transaction_id: 5, user_id: 1 }, { transaction_id: 6, user_id: 2 });
    await transform();
    await snapshot([3]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 0, rowsRejected: 2 });
  };
  const bothWait = ["1 referenced_by_transactions", "2 referenced_by_transactions"];

  test("wait on when they are tried too early, and go together", async () => {
    await leaveWaiting();
    expect(await retry({ everything: true })).toBe(2);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 0, rowsRejected: 2 });
    expect(await waiting()).toEqual(bothWait);
    await load("transactions", "transaction_id\n5\n6\n", { operation: "delete" });
    expect(await transform()).toMatchObject({
      status: "succeeded",
      rowsRead: 4,
      rowsDeleted: 4,
      rowsRejected: 0,
    });
    expect(await userIds()).toEqual([3]);
    expect(await entries()).toEqual([]);
    expect(await sql("select from staging.raw_users where ingest_operation is not null")).toEqual([]);
  });

  test("leave a row alone that its source has sent again, or that another one has taken", async () => {
    await loadUsers([1, 2, 3]);
    await rawTransactions({ transaction_id: 5, user_id: 1 }, { transaction_id: 6, user_id: 2 });
    // Older than the snapshot, and in quarantine until after it.
    await load("users", "user_id,username,email\n2,bob,bad\n", { sourceSystem: "shop" });
    await transform();
    await snapshot([3]);
    await transform();
    await retry({ reason: "valid_email" }, { email: "bob@example.org" });
    await loadUsers([1]);
    await transform();
    expect(await waiting()).toEqual(bothWait);
    await load("transactions", "transaction_id\n5\n6\n", { operation: "delete" });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 2, rowsRejected: 0 });
    expect(
      await sql("select user_id as id, strata_source as source from production.users order by 1"),
    ).toEqual([
      { id: 1, source: "crm" },
      { id: 2, source: "shop" },
      { id: 3, source: "crm" },
    ]);
    expect(await entries()).toEqual([]);
  });

  test("are those of the last snapshot, once each", async () => {
    await leaveWaiting();
    await retry({ everything: true });
    await transform();
    await snapshot([3]);
    await transform();
    expect(await waiting()).toEqual(bothWait);
    await snapshot([2, 3]);
    await transform();
    expect(await waiting()).toEqual([bothWait[0]]);
  });

  test("one that a trigger rejects costs no other", async () => {
    await leaveWaiting();
    await sql(`
      create function production.protect() returns trigger language plpgsql as $$
      begin if old.user_id = 1 then raise exception 'user 1 stays'; end if; return old; end $$;
      create trigger protect before delete on production.users for each row execute function production.protect()`);
    try {
      await load("transactions", "transaction_id\n5\n6\n", { operation: "delete" });
      expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 3, rowsRejected: 1 });
      expect(await userIds()).toEqual([1, 3]);
      expect(await entries()).toMatchObject([
        { key: "1", reasons: ["rejected_by_trigger"], detail: "user 1 stays", waiting: false },
      ]);
    } finally {
      await sql("drop trigger protect on production.users; drop function production.protect()");
    }
    await retry({ everything: true });
    expect(await transform()).toMatchObject({ rowsDeleted: 1 });
    expect(await userIds()).toEqual([3]);
  });

  test("a deletion that somebody sent stays in quarantine", async () => {
    await loadUsers([1, 2]);
    await transform();
    await load("users", "user_id\n2\nx\n", { operation: "delete" });
    expect(await entries()).toMatchObject([{ reasons: ["invalid_integer"], operation: "delete" }]);
    await snapshot([1]);
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 1 });
    expect(await entries()).toMatchObject([{ reasons: ["invalid_integer"], operation: "delete" }]);
  });
});

describe("keys of two columns", () => {
  const stock = (rows: string, options: Partial<IngestOptions> = {}) =>
    load("stock", `shop,part,amount\n${rows}`, options);
  const left = async () =>
    (await sql<{ r: string }>("select shop || part || amount as r from production.stock order by 1")).map(
      ({ r }) => r,
    );
  const usingStock = async (work: () => Promise<void>) => {
    await sql(`
      create table production.stock (shop text, part integer, amount integer not null, primary key (shop, part));
      select strata.add_dataset('stock')`);
    try {
      await work();
    } finally {
      await sql("select strata.remove_dataset('stock'); drop table production.stock, staging.raw_stock");
    }
  };

  test("are deleted as a whole, and one that lacks a part names no row", () =>
    usingStock(async () => {
      await stock("a,1,10\na,2,20\nb,1,30\n");
      await transform();
      const gone = await load("stock", "shop,part\na,1\n,2\nb,\nc,1\n", { operation: "delete" });
      expect(gone).toMatchObject({ rowsWritten: 2, rowsRejected: 2, reasons: { missing_key: 2 } });
      expect(await transform()).toMatchObject({ rowsRead: 2, rowsDeleted: 1, rowsRejected: 0 });
      expect(await left()).toEqual(["a220", "b130"]);
      // Past the ingest, as by SQL.
      await sql("insert into staging.raw_stock (shop, ingest_operation) values ('a', 'delete')");
      expect(await transform()).toMatchObject({ rowsDeleted: 0, rowsRejected: 1 });
      expect((await entries()).map(({ reasons }) => reasons)).toContainEqual(["part_missing"]);
    }));

  test("are compared as a whole by a snapshot, and against older records", () =>
    usingStock(async () => {
      await stock("a,1,10\na,2,20\nb,1,30\n");
      await stock("b,2,40\n", { sourceSystem: "shop" });
      await stock("a,3,x\n");
      await transform();
      await stock("a,2,21\n", { operation: "replace" });
      expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 1, rowsDeleted: 2 });
      expect(await left()).toEqual(["a221", "b240"]);
      await retry({ everything: true }, { amount: 5 });
      await transform();
      expect(await left()).toEqual(["a221", "b240"]);
    }));
});

test("only known operations come into staging", async () => {
  for (const operation of ["replace", "DELETE", "upsert"])
    await expect(
      sql("insert into staging.raw_users (user_id, ingest_operation) values (1, $1)", [operation]),
    ).rejects.toMatchObject({ code: "23514" });
});

test("records with one number that cannot be judged end the run, and are not divided for ever", async () => {
  await sql(`
    create table production.parts (part text primary key, price numeric not null);
    select strata.add_dataset('parts');
    create view staging.parts as select part, 1 / (price - 3) as price, ingest_xid, ingest_seq, source_system from staging.raw_parts`);
  try {
    await load("parts", "part,price\na,1\nb,3\nc,5\n");
    expect(await transform()).toMatchObject({ status: "succeeded", rowsWritten: 2, rowsRejected: 1 });
    await sql(
      "insert into staging.raw_parts (part, price, ingest_seq) values ('d', 1, 900), ('e', 3, 901), ('f', 3, 901)",
    );
    const failed = await transform();
    expect(failed).toMatchObject({ status: "failed" });
    expect(failed.error).toMatch(/division by zero/);
  } finally {
    await sql(
      "select strata.remove_dataset('parts'); drop view staging.parts; drop table production.parts, staging.raw_parts",
    );
  }
});

describe("a dry run", () => {
  const tryLoad = (csv: string, options: Partial<IngestOptions> = {}) =>
    dryRun(pool(), "users", Readable.from([csv]), {
      format: "csv",
      sourceSystem: "shop",
      trigger: "cli",
      ...options,
    });
  /** Everything that a load may change. */
  const everything = async () =>
    JSON.stringify(
      await Promise.all(
        [
          "staging.raw_users",
          "staging.quarantine",
          "production.users",
          "strata.runs",
          "strata.datasets",
          "strata.snapshots",
          "strata.deletions",
          "strata.changes",
        ].map((table) => sql(`select t::text from ${table} t order by 1`)),
      ),
    );
  const csv = `user_id,username,email\n${user(1)}${user(2, "other")}3,,c@example.org\nx,y,z\ny,y,z\n${user(9)}`;

  test("says what would land, be replaced and be rejected, and changes nothing", async () => {
    await loadUsers([1, 2]);
    await transform();
    const before = await everything();
    const tried = await tryLoad(csv);
    expect(await everything()).toBe(before);
    expect(tried).toMatchObject({
      rowsRead: 6,
      rowsLanding: 4,
      rowsRejected: 2,
      reasons: { invalid_integer: 2 },
      error: null,
      rejected: [
        { line: 5, reasons: ["invalid_integer"], text: "x,y,z" },
        { line: 6, reasons: ["invalid_integer"], text: "y,y,z" },
      ],
      transform: {
        rowsRead: 4,
        rowsWritten: 2,
        rowsReplaced: 1,
        rowsReplacedFromOtherSource: 1,
        rowsDeleted: 0,
        rowsRejected: 1,
        reasons: { username_missing: 1 },
        replaced: [
          {
            line: 3,
            key: "2",
            source: "crm",
            before: { username: "user2", email: "user2@example.org" },
            after: { username: "other", email: "other@example.org" },
          },
        ],
        deleted: [],
        rejected: [{ line: 4, key: "3", reasons: ["username_missing"], detail: "The username is missing." }],
      },
    });
    expect(tried.landing[0]).toEqual({
      line: 2,
      row: { user_id: "1", username: "user1", email: "user1@example.org" },
    });
    // It said the truth.
    const done = await load("users", csv, { sourceSystem: "shop" });
    expect(done).toMatchObject({ rowsWritten: tried.rowsLanding, reasons: tried.reasons });
    const { rowsWritten, rowsReplaced, rowsReplacedFromOtherSource, rowsRejected } = tried.transform!;
    expect(await transform()).toMatchObject({
      rowsWritten,
      rowsReplaced,
      rowsReplacedFromOtherSource,
      rowsRejected,
    });
  });

  test("says what would be deleted, and which loads would fail", async () => {
    await loadUsers([1, 2, 3]);
    await transform();
    const before = await everything();
    expect(await tryLoad("user_id\n1\n404\n", { operation: "delete" })).toMatchObject({
      transform: { rowsDeleted: 1, deleted: [{ line: 2, key: "1", source: "crm" }] },
    });
    const options = { operation: "replace", sourceSystem: "crm" } as const;
    const head = "user_id,username,email\n";
    expect(await tryLoad(head + user(3), options)).toMatchObject({
      error: null,
      transform: { rowsDeleted: 2, deleted: [{ key: "1" }, { key: "2" }], problem: null },
    });
    expect(await tryLoad(`${head}${user(3)}4,dan,bad\n`, options)).toMatchObject({
      transform: { rowsDeleted: 0, problem: "1 of its rows is in quarantine" },
    });
    expect(await tryLoad(`${head}${user(3)}x,y,z\n`, options)).toMatchObject({
      error: expect.stringMatching(/^1 of 2 rows were rejected .* the snapshot deletes nothing/) as string,
      transform: { rowsDeleted: 0 },
    });
    expect(await tryLoad(`${head}${user(3)}x,y,z\n`, { maxRejected: "0" })).toMatchObject({
      error: expect.stringMatching(/allowed: 0\./) as string,
      transform: { rowsRead: 1 },
    });
    expect(await tryLoad(`${head}x,y,z\n`)).toMatchObject({
      error: "The only row was rejected: invalid_integer 1",
      transform: null,
    });
    expect(await everything()).toBe(before);
  });

  test("counts only its own rows, and names parents that wait", async () => {
    await rawUsers({ user_id: 1 });
    const before = await everything();
    const tried = await dryRun(
      pool(),
      "transactions",
      Readable.from(["transaction_id,user_id,amount,transaction_date\n7,1,5,2024-05-01\n"]),
      { format: "csv", trigger: "cli" },
    );
    expect(tried.transform).toMatchObject({
      rowsRead: 1,
      rowsRejected: 1,
      reasons: { fk_user: 1 },
      waiting: { users: 1 },
    });
    expect(await everything()).toBe(before);
  });
});

describe("the same content again", () => {
  const sha256 = "a".repeat(64);

  test("is skipped if it was ingested with the same options", async () => {
    const first = await loadUsers([1], { sha256, sourceName: "a.csv" });
    expect(await loadUsers([1], { sha256, sourceName: "b.csv", maxRejected: "1" })).toMatchObject({
      id: first.id,
      status: "succeeded",
      skipped: true,
    });
    expect(await sql("select user_id from staging.raw_users")).toHaveLength(1);
    const others: Partial<IngestOptions>[] = [
      { sha256: "b".repeat(64) },
      { sha256, sourceSystem: "shop" },
      { sha256, operation: "replace" },
      { sha256, dateFormat: "DD/MM/YYYY" },
      {},
    ];
    for (const options of others) expect((await loadUsers([1], options)).skipped).toBeUndefined();
    expect(await sql("select user_id from staging.raw_users")).toHaveLength(6);
  });

  test("is a snapshot's news if its source has sent something else since", async () => {
    const send = async (ids: number[], digest: string) => {
      const done = await loadUsers(ids, { sha256: digest.repeat(64), operation: "replace" });
      await transform();
      return done.skipped ?? false;
    };
    expect(await send([1], "a")).toBe(false);
    expect(await send([1], "a")).toBe(true);
    expect(await send([2], "b")).toBe(false);
    expect(await send([1], "a")).toBe(false);
    expect(await userIds()).toEqual([1]);
    // Other sources do not matter.
    await loadUsers([3], { sourceSystem: "shop" });
    expect(await send([1], "a")).toBe(true);
    await loadUsers([4]);
    expect(await send([1], "a")).toBe(false);
    expect(await userIds()).toEqual([1, 3]);
  });

  test("a dry run names the run that has ingested it", async () => {
    const { id } = await loadUsers([1], { sha256 });
    const csv = `user_id,username,email\n${user(1)}`;
    const tryAgain = (options: Partial<IngestOptions>) =>
      dryRun(pool(), "users", Readable.from([csv]), {
        format: "csv",
        sourceSystem: "crm",
        trigger: "cli",
        ...options,
      });
    expect(await tryAgain({ sha256 })).toMatchObject({ rowsLanding: 1, sameAs: id, error: null });
    expect(await tryAgain({ sha256, sourceSystem: "shop" })).toMatchObject({ sameAs: null });
    expect(await tryAgain({})).toMatchObject({ sameAs: null });
  });

  test("is ingested if it failed before, and refused while it is ingested", async () => {
    await load("users", "user_id\nx\n", { sha256 });
    expect((await loadUsers([1], { sha256 })).skipped).toBeUndefined();
    await sql("update strata.runs set status = 'running', finished_at = null, heartbeat_at = now()");
    await expect(loadUsers([1], { sha256 })).rejects.toThrow(/Run \d+ is ingesting the same input/);
  });
});

describe("fields made by expressions", () => {
  const set = ["user_id=nr * 10", "username=lower(name)", "email=mail"];
  const people = (rows: string, options: Partial<IngestOptions> = {}) =>
    load("users", `nr,name,mail\n${rows}`, { set, ...options });

  test("name rows to delete, also when a row is corrected", async () => {
    await loadUsers([10, 20, 30]);
    await transform();
    const gone = await people("1,,\nx,,\n4,,\n", { operation: "delete" });
    expect(gone).toMatchObject({ rowsWritten: 2, rowsRejected: 1, reasons: { invalid_expression: 1 } });
    expect(await transform()).toMatchObject({ rowsRead: 2, rowsDeleted: 1, rowsRejected: 0 });
    expect(await userIds()).toEqual([20, 30]);
    await retry({ everything: true }, { nr: 3 });
    expect(await transform()).toMatchObject({ rowsDeleted: 1 });
    expect(await userIds()).toEqual([20]);
  });

  test("are those of a snapshot, which a row that cannot be made keeps from deleting", async () => {
    await people("1,ANN,a@x.org\n2,BOB,b@x.org\n3,CYD,c@x.org\n");
    await transform();
    expect(await people("2,BOB,b@x.org\nx,,\n", { operation: "replace" })).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/invalid_expression 1\), so the snapshot deletes nothing/) as string,
    });
    expect(await transform()).toMatchObject({ status: "succeeded", rowsDeleted: 0 });
    await people("3,DAN,d@x.org\n4,EVE,e@x.org\n", { operation: "replace" });
    expect(await transform()).toMatchObject({ rowsWritten: 2, rowsReplaced: 1, rowsDeleted: 2 });
    expect(await sql("select user_id, username from production.users order by 1")).toEqual([
      { user_id: 30, username: "dan" },
      { user_id: 40, username: "eve" },
    ]);
  });

  test("are shown by a dry run as they would land, of deletions and snapshots, too", async () => {
    await loadUsers([10, 20]);
    await transform();
    const tryPeople = (rows: string, options: Partial<IngestOptions>) =>
      dryRun(pool(), "users", Readable.from([`nr,name,mail\n${rows}`]), {
        format: "csv",
        sourceSystem: "crm",
        trigger: "cli",
        set,
        ...options,
      });
    expect(await tryPeople("2,A\tB,a@x.org\n", {})).toMatchObject({
      landing: [{ line: 2, row: { user_id: "20", username: "a\tb", email: "a@x.org" } }],
      transform: {
        rowsReplaced: 1,
        replaced: [{ key: "20", before: { username: "user20" }, after: { username: "a\tb" } }],
      },
    });
    expect(await tryPeople("1,,\nx,,\n", { operation: "delete" })).toMatchObject({
      rowsLanding: 1,
      reasons: { invalid_expression: 1 },
      landing: [{ line: 2, row: { user_id: "10" } }],
      transform: { rowsDeleted: 1, deleted: [{ line: 2, key: "10" }] },
      error: null,
    });
    expect(await tryPeople("2,BOB,b@x.org\n", { operation: "replace" })).toMatchObject({
      transform: { rowsWritten: 1, rowsDeleted: 1, deleted: [{ key: "10" }], problem: null },
      error: null,
    });
    expect(await tryPeople("2,BOB,b@x.org\nx,,\n", { operation: "replace" })).toMatchObject({
      transform: { rowsDeleted: 0 },
      error: expect.stringMatching(/invalid_expression 1/) as string,
    });
    expect(await userIds()).toEqual([10, 20]);
  });

  test("make another load of the same content", async () => {
    const sha256 = "c".repeat(64);
    const rows = "1,ANN,a@x.org\n";
    const first = await people(rows, { sha256 });
    expect(await people(rows, { sha256 })).toMatchObject({ id: first.id, skipped: true });
    for (const options of [
      { set: [...set, "country='DE'"] },
      { set: set.toReversed() },
      { operation: "delete" },
      { operation: "replace" },
    ] satisfies Partial<IngestOptions>[])
      expect((await people(rows, { sha256, ...options })).skipped).toBeUndefined();
  });
});

describe("a dataset that is owned by source", () => {
  test("keeps the rows of the source that brought them first", async () => {
    await sql(`
      create table production.parts (part text primary key, price numeric not null);
      select strata.add_dataset('parts', owned_by_source => true)`);
    try {
      await load("parts", "part,price\na,1\nb,1\n", { sourceSystem: "crm" });
      await load("parts", "part,price\nb,2\nc,2\n", { sourceSystem: "shop" });
      expect(await transform()).toMatchObject({ rowsWritten: 3, rowsRejected: 1 });
      await load("parts", "part,price\na,3\n", { sourceSystem: "crm" });
      await load("parts", "part,price\na,4\n", { sourceSystem: "shop" });
      await load("parts", "part\nc\n", { sourceSystem: "crm", operation: "delete" });
      expect(await transform()).toMatchObject({
        rowsWritten: 1,
        rowsReplaced: 1,
        rowsRejected: 2,
        rowsDeleted: 0,
      });
      expect(
        await sql("select part, price, strata_source as source from production.parts order by 1"),
      ).toEqual([
        { part: "a", price: "3", source: "crm" },
        { part: "b", price: "1", source: "crm" },
        { part: "c", price: "2", source: "shop" },
      ]);
      expect((await entries()).map(({ reasons, key, detail }) => [...reasons, key, detail])).toEqual([
        ["owned_by_another_source", "b", expect.stringMatching(/belongs to the source crm;/) as string],
        [
          "owned_by_another_source",
          "a",
          expect.stringMatching(/belongs to the source crm;.*Given: shop/) as string,
        ],
        ["owned_by_another_source", "c", expect.stringMatching(/belongs to the source shop;/) as string],
      ]);
      // A snapshot is about the rows of its source: one that belongs to another is rejected, and says nothing of them.
      await load("parts", "part,price\nc,2\nd,2\n", { sourceSystem: "shop" });
      await transform();
      await load("parts", "part,price\nb,7\nc,2\n", { sourceSystem: "shop", operation: "replace" });
      expect(await transform()).toMatchObject({ status: "succeeded", rowsRejected: 1, rowsDeleted: 1 });
      expect(await sql("select part from production.parts order by 1")).toEqual([
        { part: "a" },
        { part: "b" },
        { part: "c" },
      ]);
      // Its owner may delete it, and then another one may bring it.
      await load("parts", "part\nc\n", { sourceSystem: "shop", operation: "delete" });
      await load("parts", "part,price\nc,5\n", { sourceSystem: "crm" });
      expect(await transform()).toMatchObject({ rowsWritten: 1, rowsDeleted: 1, rowsRejected: 0 });
    } finally {
      await sql("select strata.remove_dataset('parts'); drop table production.parts, staging.raw_parts");
    }
  });
});

describe("a replay", () => {
  const rows = (...cents: number[]) =>
    `part,price\n${cents.map((price, i) => `p${i + 1},${price}\n`).join("")}`;
  const replay = (given: object = {}) => run("transform", { replays: [{ dataset: "parts", ...given }] });
  const prices = async () =>
    (await sql<{ p: string }>("select part || ' ' || price as p from production.parts order by part")).map(
      ({ p }) => p,
    );
  const usingParts = async (work: () => Promise<void>) => {
    await sql(`
      create table production.parts (part text primary key, price numeric not null, updated_at timestamptz default clock_timestamp());
      select strata.add_dataset('parts')`);
    try {
      await work();
    } finally {
      await sql(
        "select strata.remove_dataset('parts'); drop view if exists staging.parts; drop table production.parts, staging.raw_parts",
      );
    }
  };
  const map = (price: string) =>
    sql(`create or replace view staging.parts as
           select part, ${price} as price, ingest_xid, ingest_seq, source_system from staging.raw_parts`);

  test("takes rows that are in staging still again, by the mapping of today, and no more than was asked", () =>
    usingParts(async () => {
      await load("parts", rows(1, 2, 3));
      await transform();
      await load("parts", rows(9));
      await load("parts", "part\np3\n", { operation: "delete" });
      await transform();
      expect(await prices()).toEqual(["p1 9", "p2 2"]);
      await map("price * 100");
      expect(await transform()).toMatchObject({ rowsRead: 0 });
      const done = await replay();
      expect(done).toMatchObject({
        status: "succeeded",
        rowsRead: 5,
        rowsWritten: 2,
        rowsDeleted: 0,
      });
      // The older record of p1 does not win, and what was deleted does not come back.
      expect(await prices()).toEqual(["p1 900", "p2 200"]);
      const before = await sql("select * from production.parts order by 1");
      expect(await replay()).toMatchObject({ rowsRead: 5, rowsWritten: 0 });
      expect(await sql("select * from production.parts order by 1")).toEqual(before);
    }));

  test("of a time takes the rows that arrived in it", () =>
    usingParts(async () => {
      for (const price of [1, 2, 3]) await load("parts", `part,price\np${price},${price}\n`);
      await transform();
      await sql(
        `update staging.raw_parts set ingested_at = timestamp '2024-01-01' + price * interval '1 day'`,
      );
      await map("price * 100");
      expect(await replay({ since: "2024-01-03T00:00Z", until: "2024-01-04T00:00Z" })).toMatchObject({
        rowsRead: 1,
      });
      expect(await prices()).toEqual(["p1 1", "p2 200", "p3 3"]);
      expect(await replay({ since: "2024-01-03T00:00Z" })).toMatchObject({ rowsRead: 2, rowsWritten: 1 });
      expect(await replay({ until: "2024-01-03T00:00Z" })).toMatchObject({ rowsRead: 1, rowsWritten: 1 });
      expect(await prices()).toEqual(["p1 100", "p2 200", "p3 300"]);
    }));

  test("moves rows between production and quarantine as the rules say today", () =>
    usingParts(async () => {
      await map("nullif(price, 2)");
      await load("parts", rows(1, 2, 3));
      await transform();
      expect((await entries()).map(({ key }) => key)).toEqual(["p2"]);
      await map("nullif(price, 3)");
      expect(await replay()).toMatchObject({ rowsWritten: 1, rowsRejected: 1 });
      expect(await prices()).toEqual(["p1 1", "p2 2", "p3 3"]);
      expect((await entries()).map(({ key, file, line }) => [key, file, line])).toEqual([
        ["p3", "parts.csv", 4],
      ]);
    }));
});

test("a refresh computes the days of a range, whether they changed or not", async () => {
  await loadUsers([1]);
  await rawTransactions(
    ...[1, 2, 3].map((day) => ({
      transaction_id: day,
      user_id: 1,
      amount: day,
      transaction_date: `2024-05-0${day}`,
    })),
  );
  await run("pipeline");
  const revenue = async () =>
    (
      await sql<{ r: string }>(
        "select date || ' ' || completed::float8 as r from analytics.daily_revenue order by 1",
      )
    ).map(({ r }) => r.slice("2024-05-".length));
  expect(await revenue()).toEqual(["01 1", "02 2", "03 3"]);
  // By hand, which no log of changes of production knows.
  await sql("update analytics.daily_revenue set completed = 0");
  expect(await run("refresh")).toMatchObject({ status: "succeeded" });
  expect(await revenue()).toEqual(["01 0", "02 0", "03 0"]);
  expect(await run("refresh", { from: "2024-05-02", to: "2024-05-02" })).toMatchObject({
    status: "succeeded",
  });
  expect(await revenue()).toEqual(["01 0", "02 2", "03 0"]);
  expect(await run("refresh", { from: "2024-05-01", to: "2024-05-31" })).toMatchObject({
    status: "succeeded",
  });
  expect(await revenue()).toEqual(["01 1", "02 2", "03 3"]);
});
