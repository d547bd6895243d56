/** @module-tag long */
// The port of the embedded database: psql and BI tools beside Strata, in one session.
import { execFile } from "node:child_process";
import { connect } from "node:net";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { openDatabase, type Database } from "../../src/database/connect.ts";
import { verifierOf } from "../../src/database/scram.ts";
import { createPlace, isServer, type Place } from "../support/database.ts";
import { freePort } from "../support/process.ts";

const PASSWORD = "a password of tests";

describe.runIf(!isServer)("guests of the embedded database", () => {
  let place: Place;
  let database: Database;
  let port: number;
  beforeAll(async () => {
    place = await createPlace();
    port = await freePort();
    database = await openDatabase(loadConfig(place.environment), { port });
    await database.pool.query(
      "insert into production.users (user_id, username, email, created_at) values (1, 'ann', 'ann@example.com', '2026-01-31')",
    );
    for (const role of ["reader", "operator"])
      await database.pool.query("select strata.create_login($1, $2, $3, 2, '30s')", [
        `bi_${role}_login`,
        `strata_${role}`,
        verifierOf(PASSWORD),
      ]);
  });
  afterAll(async () => {
    await database.close();
    await place.remove();
  });

  async function as<T>(
    role: string,
    work: (client: pg.Client) => Promise<T>,
    options: pg.ClientConfig = {},
  ): Promise<T> {
    const client = new pg.Client({
      host: "127.0.0.1",
      port,
      user: `bi_${role}_login`,
      password: PASSWORD,
      database: "postgres",
      ...options,
    });
    client.on("error", () => undefined);
    await client.connect();
    try {
      return await work(client);
    } finally {
      await client.end();
    }
  }
  const own = async (sql: string) => (await database.pool.query<Record<string, unknown>>(sql)).rows;
  const STATE = `select current_user::text as who, current_setting('search_path') as path, current_setting('timezone') as zone,
                        current_setting('default_transaction_read_only') as read_only`;

  test("a password is asked for, and counts are kept", async () => {
    const nothing = () => Promise.resolve();
    for (const options of [{ password: "wrong password" }, { user: "postgres" }, { user: "nobody" }])
      await expect(as("reader", nothing, options)).rejects.toMatchObject({ code: "28P01" });
    await as("reader", () =>
      as("reader", () => expect(as("reader", nothing)).rejects.toMatchObject({ code: "53300" })),
    );
    await as("reader", nothing);
  });

  test("a reader reads, by the names of its login, and Strata's session stays as it is", async () => {
    const before = await own(STATE);
    await as("reader", async (client) => {
      const { rows } = await client.query<object>("select * from users");
      expect(rows).toMatchObject([{ user_id: 1, username: "ann" }]);
      expect(rows[0]).not.toHaveProperty("email");
      expect(await own(STATE)).toEqual(before);
      await expect(client.query("select email from production.users")).rejects.toThrow("permission denied");
      await expect(client.query("insert into production.dim_date (date_id) values (1)")).rejects.toThrow(
        /read-only/,
      );
      // What the client sets is its own, and lasts.
      await client.query("set timezone = 'Asia/Tokyo'; set search_path = production");
      expect(await own(STATE)).toEqual(before);
      expect((await client.query(STATE)).rows).toEqual([
        { who: "bi_reader_login", path: "production", zone: "Asia/Tokyo", read_only: "on" },
      ]);
      expect((await client.query("select username from users where user_id = $1", [1])).rows).toEqual([
        { username: "ann" },
      ]);
      await client.query("set role strata_reader");
      expect(await own(STATE)).toEqual(before);
      for (const statement of ["discard all", "unlisten *", "listen x", "deallocate all", "reset all"])
        await expect(client.query(statement)).rejects.toMatchObject({ code: "0A000" });
    });
    expect(await own(STATE)).toEqual(before);
  });

  test("transactions keep the role, and end with the client", async () => {
    await as("operator", async (client) => {
      await client.query("begin");
      await client.query("update production.users set country = 'DE'");
      expect((await client.query("select current_user::text as who")).rows).toEqual([
        { who: "bi_operator_login" },
      ]);
      const other = own("select country, current_user::text as who from production.users");
      await client.query("commit");
      expect(await other).toEqual([{ country: "DE", who: "postgres" }]);
      await client.query("begin; update production.users set country = 'FR'");
    });
    expect(await own("select country, current_user::text as who from production.users")).toEqual([
      { country: "DE", who: "postgres" },
    ]);
  });

  test("notifications for Strata do not come to guests, and a dropped login is out", async () => {
    await as("operator", async (client) => {
      const heard: unknown[] = [];
      client.on("notification", (message) => heard.push(message));
      const listener = await database.pool.connect();
      await listener.query("listen guests");
      const told = new Promise((done) => listener.once("notification", done));
      await own("notify guests");
      await told;
      await client.query("select 1");
      expect(heard).toEqual([]);
      listener.release(true);
      await own("select strata.drop_login('bi_operator_login')");
      await expect(client.query("select 1")).rejects.toThrow(/bi_operator_login/);
    });
  });

  test("nonsense and silence before the password do no harm", async () => {
    for (const bytes of [Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(8, 255)]) {
      const socket = connect(port, "127.0.0.1");
      const closed = new Promise((done) => socket.once("close", done));
      socket.on("error", () => undefined).resume();
      socket.write(bytes);
      await closed;
    }
    expect(await own("select 1 as one")).toEqual([{ one: 1 }]);
  });

  const hasPsql = promisify(execFile)("psql", ["--version"]).then(
    () => true,
    () => false,
  );
  test("psql works", async (context) => {
    if (!(await hasPsql)) return context.skip();
    const url = `postgres://bi_reader_login@127.0.0.1:${port}/postgres`;
    const psql = async (...args: string[]) =>
      (
        await promisify(execFile)("psql", [url, "-X", ...args], {
          env: { PATH: process.env.PATH, PGPASSWORD: PASSWORD },
        })
      ).stdout;
    expect(await psql("-Atc", "select username from users")).toBe("ann\n");
    expect(await psql("-c", "\\d users")).toContain("username");
    expect(await psql("-c", "\\copy (select username from users) to stdout csv header")).toBe(
      "username\nann\n",
    );
  });
});
