/** @module-tag long */
// Fields made by expressions: as PostgreSQL would make them, and never more than that.
import { Readable } from "node:stream";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { compile, type Column } from "../../src/ingest/evaluate.ts";
import { writeNumber } from "../../src/ingest/exact.ts";
import { FUNCTIONS, parseExpression } from "../../src/ingest/expression.ts";
import { ingest, type IngestOptions } from "../../src/ingest/ingest.ts";
import { runStep } from "../../src/pipeline/runs.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { chance } from "../support/random.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(`
    create table production.orders (
      order_id text, email text, amount numeric, status text, paid boolean, at timestamptz, details jsonb,
      constraint orders_pkey primary key (order_id));
    comment on table production.orders is 'Orders.';
    select strata.add_dataset('orders');
    create function public.attempt(expression text, a text, b text, c text) returns text language plpgsql as $$
    declare result text;
    begin
      execute format('select (%s)::text from (values ($1, $2, $3)) t (a, b, c)', expression) into result using a, b, c;
      return result;
    exception when others then return 'ERROR';
    end $$;`);
});
afterAll(() => database.drop());
beforeEach(() => database.pool.query("truncate staging.raw_orders, staging.quarantine"));

type Cell = string | null;
function evaluated(text: string, row: Record<string, Cell>): Cell {
  const columns: Column[] = [];
  const evaluate = compile(parseExpression(text), columns);
  try {
    const value = evaluate(columns.map(({ name }) => row[name] ?? null));
    if (value === null || typeof value === "string") return value;
    return typeof value === "object" ? writeNumber(value) : String(value);
  } catch (error) {
    expect(error).toMatchObject({ code: "UNFIT_VALUE" });
    return "ERROR";
  }
}

/** Cases of the last comparison that had an error. */
let failed: number;
/** Both ways, for each row. */
async function compare(cases: { text: string; row: Cell[] }[]): Promise<void> {
  const { rows } = await database.pool.query<{ outcome: Cell }>(
    "select public.attempt(e, a, b, c) as outcome from unnest($1::text[], $2::text[], $3::text[], $4::text[]) t (e, a, b, c)",
    [cases.map(({ text }) => text), ...[0, 1, 2].map((i) => cases.map(({ row }) => row[i]))],
  );
  const ours = cases.map(({ text, row: [a, b, c] }) => ({
    text,
    row: [a, b, c],
    outcome: evaluated(text, { a: a!, b: b!, c: c! }),
  }));
  const theirs = cases.map(({ text, row }, i) => ({ text, row, outcome: rows[i]!.outcome }));
  expect(ours.filter((one, i) => one.outcome !== theirs[i]!.outcome)).toEqual([]);
  expect(ours).toEqual(theirs);
  failed = rows.filter(({ outcome }) => outcome === "ERROR").length;
}

const ROWS: Cell[][] = [
  ["3", "19.99", "x"],
  ["-0.5", "0.10", null],
  ["1000000", "3", "Ünï 😀cødé"],
  [null, "7", ""],
  ["12345678901234567890.123456789", "0.000001", " padded "],
  ["2.5", "-2.5", "a-b-c"],
];

describe("gives what PostgreSQL gives", () => {
  it.each([
    "a::numeric * b::numeric",
    "a::numeric + b::numeric - 1",
    "a::numeric / b::numeric",
    "1 / 3.0",
    "2 / 3.00000000000000000000000000000001",
    "1e-3 / 7.00",
    "a::numeric % b::numeric",
    "-a::numeric",
    "- 2 - 3 - 4",
    "2 + 3 * 4 % 5.0",
    "round(a::numeric * b::numeric, 2)",
    "round(a::numeric)",
    "round(-2.5)",
    "a::numeric(22, 2)",
    "floor(a::numeric)",
    "ceil(b::numeric)",
    "abs(a::numeric)",
    "a::numeric::integer",
    "a::numeric::bigint",
    "a::numeric(12, 2)",
    "cast(a as numeric) + 0.50",
    "coalesce(a, 'none')",
    "coalesce(c, b, a)",
    "nullif(c, '')",
    "nullif(a::numeric, 3.0)",
    "a || '-' || b",
    "concat(a, '-', c)",
    "1.50 || 'x'",
    "lower(c)",
    "upper(c)",
    "trim(c)",
    "ltrim(c)",
    "rtrim(c)",
    "btrim(c, ' pd')",
    "replace(c, 'a', 'bb')",
    "replace(c, '', 'bb')",
    "split_part(c, '-', 2)",
    "split_part(c, '-', -1)",
    "split_part(c, '-', 9)",
    "split_part(c, '-', 0)",
    "left(c, 3)",
    "left(c, -2)",
    "right(c, 3)",
    "right(c, -2)",
    "substr(c, 2)",
    "substring(c, 0, 3)",
    "substr(c, 2, -1)",
    "lpad(a, 8, '0')",
    "lpad(c, 3, 'xy')",
    "lpad(c, 15, 'ü😀')",
    "length(c)",
    "md5(concat(a, '|', c))",
    "md5(c)::uuid",
    "case when a::numeric > 1 then 'many' when a is null then 'none' else 'few' end",
    "case a when '3' then 'three' when '2.5' then 'more' end",
    "case when c in ('x', 'a-b-c') then 1 else 0 end",
    "case when c not in ('x', null) then 1 else 0 end",
    "a::numeric between 0 and 3",
    "a::numeric not between -1 and b::numeric",
    "not a is null and b is not null or c = 'x'",
    "a = '3' and b = '19.99'",
    "a <> '3'",
    "a::numeric = b::numeric * -1",
    "null",
    "'it''s'",
    "true and null",
    "false and null",
    "null or a is null",
    "a::boolean",
    "'yes'::boolean",
    "1 / (a::numeric - a::numeric)",
    "'x'::numeric + 1",
    "99999999999::integer",
  ])("%s", async (text) => {
    await compare(ROWS.map((row) => ({ text, row })));
  });

  it.each([1, 2, 3])("of random expressions, seed %i", async (seed) => {
    const next = chance(seed);
    const pick = <T>(values: readonly T[]): T => next.pick(values);
    const integer = (least: number, most: number): number => least + next.below(most - least + 1);
    const number = (depth: number): string => {
      // A whole number is an integer in SQL, with its own division.
      if (depth === 0)
        return pick([
          "a::numeric",
          "b::numeric",
          "1::numeric",
          "0.5",
          "(-3)::numeric",
          "1000000007::numeric",
          "0.000000000001",
          "12.50",
          "7e3",
        ]);
      const [x, y] = [number(depth - 1), number(depth - 1)];
      return pick([
        `(${x} + ${y})`,
        `(${x} - ${y})`,
        `(${x} * ${y})`,
        `(${x} / ${y})`,
        `(${x} % ${y})`,
        `-(${x})`,
        `round(${x}, ${integer(0, 6)})`,
        `floor(${x})`,
        `ceil(${x})`,
        `abs(${x})`,
        `coalesce(${x}, ${y})`,
        `nullif(${x}, ${y})`,
        `case when ${condition(depth - 1)} then ${x} else ${y} end`,
        `length(${text(depth - 1)})::numeric`,
      ]);
    };
    const condition = (depth: number): string => {
      const [x, y] = [number(Math.max(depth - 1, 0)), number(Math.max(depth - 1, 0))];
      return pick([
        `${x} ${pick(["<", ">", "<=", ">=", "=", "<>"])} ${y}`,
        `${text(Math.max(depth - 1, 0))} = ${text(0)}`,
        `c is ${pick(["", "not "])}null`,
        `(not a is null) and b is not null`,
        `${x} between ${y} and 5`,
      ]);
    };
    const text = (depth: number): string => {
      if (depth === 0) return pick(["a", "b", "c", "'x'", "'Ä-b'", "' y '", "'😀'"]);
      const [x, y] = [text(depth - 1), text(depth - 1)];
      return pick([
        `(${x} || ${y})`,
        `concat(${x}, ${y})`,
        `lower(${x})`,
        `upper(${x})`,
        `trim(${x})`,
        `replace(${x}, ${pick(["'a'", "'-'", "' '"])}, ${y})`,
        `split_part(${x}, '-', ${pick([1, 2, -1])})`,
        `substr(${x}, ${integer(-1, 4)}, ${integer(0, 5)})`,
        `left(${x}, ${integer(-3, 3)})`,
        `right(${x}, ${integer(-3, 3)})`,
        `lpad(${x}, ${integer(0, 6)}, '0')`,
        `coalesce(${x}, ${y})`,
        `md5(${x})`,
        `(${number(depth - 1)})::text`,
        `case when ${condition(depth - 1)} then ${x} else ${y} end`,
      ]);
    };
    const cases = Array.from({ length: 400 }, () => ({
      text: pick([number, text])(integer(1, 4)),
      row: [
        pick(["1", "-2.50", "0", "99999.999", "3.14159", null]),
        pick(["2", "0.10", "-7", "123456789", "1e-5", null]),
        pick(["x", "Grüne", "a-b-c", "", " z ", "😀-😀", null]),
      ],
    })).filter(({ text: written }) => written.length <= 2000);
    await compare(cases);
    // Of nothing but errors nobody would learn anything.
    expect(failed).toBeLessThan(cases.length / 2);
  });
});

describe("refuses what is not of the few things that are allowed", () => {
  const HOSTILE = [
    "pg_sleep(10)",
    "pg_catalog.pg_sleep(10)",
    "(select 1)",
    "(select password from users)",
    "exists (select 1)",
    "query_to_xml('select 1', true, true, '')",
    "pg_read_file('/etc/passwd')",
    "lo_import('/etc/passwd')",
    "current_setting('x')",
    "set_config('role', 'postgres', false)",
    "nextval('s')",
    "dblink('x', 'y')",
    "repeat('x', 1000000000)",
    "generate_series(1, 1000000000)",
    "current_user",
    "users.password",
    "a; drop table users",
    "a -- comment",
    "a /* comment */",
    "a::regclass",
    "'pg_class'::regclass",
    "'1 day'::interval",
    "'x'::xml",
    "E'\\x41'",
    "U&'\\0041'",
    "$$x$$",
    "$1",
    "a[1]",
    "array[a]",
    "row(a)",
    "a ~ '(x+)+y'",
    "a like '%x'",
    "a operator(pg_catalog.||) b",
    'a collate "C"',
    "a at time zone 'UTC'",
    "count(*)",
    "sum(a) over ()",
    "lower(distinct a)",
    "coalesce()",
    "lower(a, b)",
    "case end",
    "a +",
    "(a",
    "a)",
    "a b",
    "'a",
    '"a',
    "",
    "\0",
    "a is b",
    "constructor(a)",
    "__proto__(a)",
    "a::__proto__",
    "a::numeric(1000, 2)",
    `${"(".repeat(60)}a${")".repeat(60)}`,
    `${"-".split("").join("")}${"-(".repeat(60)}a${")".repeat(60)}`,
    `${"lower(".repeat(60)}a${")".repeat(60)}`,
    "x".repeat(2001),
  ];
  it.each(HOSTILE)("%s", (text) => {
    // A name is a column, which an input has or has not.
    if (text === "current_user") {
      const columns: Column[] = [];
      compile(parseExpression(text), columns);
      expect(columns).toEqual([{ name: "current_user", isQuoted: false }]);
    } else expect(() => parseExpression(text)).toThrow(expect.objectContaining({ code: "BAD_OPTION" }));
  });

  it.each(["case when a then 1 end", "not a", "a and b", "a < b", "a between 'x' and 'y'"])(
    "%s: neither guesses what is true nor how texts are ordered",
    (text) => {
      expect(() => compile(parseExpression(text), [])).toThrow(/cast/);
    },
  );

  it("makes no text and no number that is too long", () => {
    const row = { a: "x".repeat(60_000), b: "9".repeat(900) };
    for (const text of [
      "a || a",
      "concat(a, a)",
      "replace(a, 'x', 'yy')",
      "lpad('x', 100000000, 'y')",
      "replace(replace(replace(replace(a, 'x', 'xx'), 'x', 'xx'), 'x', 'xx'), 'x', 'xx')",
      `${"(b * b)".repeat(1)} * b`,
      "1e999 * 1e999 * 1e999",
      "1e-999 * 1e-999",
      "1e9999::text",
    ]) {
      let outcome: string | null;
      try {
        outcome = evaluated(text, row);
      } catch (error) {
        expect(error).toMatchObject({ code: "BAD_OPTION" });
        outcome = "ERROR";
      }
      expect([text, outcome]).toEqual([text, "ERROR"]);
    }
  });

  it.each([1, 2, 3])("reads garbage or refuses it, and never does anything else, seed %i", (seed) => {
    const next = chance(seed);
    const pick = <T>(values: readonly T[]): T => next.pick(values);
    const integer = (least: number, most: number): number => least + next.below(most - least + 1);
    const words = [
      ...Object.keys(FUNCTIONS),
      ..."a b c ( ) ( ) , , + - * / % || :: = <> < > case when then else end and or not is null in between 1 2.5 1e9 'x' '' \"a\" numeric text boolean integer true false cast as".split(
        " ",
      ),
      ...["select", "from", "pg_sleep", ";", "--", "/*", "$", "\\", "\u0000", "😀", "é", "."],
    ];
    let read = 0;
    for (let round = 0; round < 20_000; round++) {
      const text = Array.from({ length: integer(1, 12) }, () => pick(words)).join(pick(["", " ", " "]));
      try {
        const columns: Column[] = [];
        const evaluate = compile(parseExpression(text), columns);
        read++;
        // Whatever could be read names no table, no function of the database, and no type but those of the list.
        expect(text).not.toMatch(/pg_sleep\s*\(|;|--|\/\*|\$|\\/);
        for (const { name, isQuoted } of columns)
          if (!isQuoted) expect(name).toMatch(/^(?!(?:select|from)$)[\p{L}_][\p{L}\p{N}_]*$/u);
        const value = evaluate(columns.map(() => pick(["1", "x", null])));
        expect(["string", "boolean", "object"]).toContain(typeof value);
      } catch (error) {
        expect(["BAD_OPTION", "UNFIT_VALUE"]).toContain((error as { code?: string }).code ?? String(error));
      }
    }
    expect(read).toBeGreaterThan(200);
  });
});

describe("an ingest", () => {
  const send = (content: string, options: Partial<IngestOptions>) =>
    ingest(database.pool, "orders", Readable.from([content]), { trigger: "cli", ...options });
  const rows = async (text: string) => (await database.pool.query(text)).rows as unknown[];
  const landed = () =>
    rows("select order_id, email, amount::text, status, paid from staging.raw_orders order by order_id");
  const rejected = () => rows("select reasons, detail, payload from staging.quarantine order by source_line");
  const SET = [
    "order_id=md5(concat(Customer, '|', line))",
    "amount=round(quantity * unit_price, 2)",
    "email=lower(trim(email))",
    "status=case code when '1' then 'open' when '2' then 'closed' else 'unknown ' || coalesce(code, '?') end",
    "paid=unit_price > 10",
  ];
  const HASH = "md5(concat('ann', '|', '1'))";
  const CSV =
    'customer,line,quantity,"unit_price",email,code,junk\nann,1,3,19.99, Ann@X.org ,1,j\nann,2,x,5,b@x,9,j\nann,3,,5,,,j\n';

  it("makes fields of the columns of a CSV file, and quarantines rows that it cannot make them for", async () => {
    const run = await send(CSV, { set: SET, map: ["junk="] });
    expect(run).toMatchObject({ rowsWritten: 2, rowsRejected: 1, reasons: { invalid_expression: 1 } });
    const { rows: hashes } = await database.pool.query(`select ${HASH} as hash`);
    expect(await landed()).toEqual(
      expect.arrayContaining([
        { order_id: hashes[0].hash, email: "ann@x.org", amount: "59.97", status: "open", paid: true },
        {
          order_id: expect.stringMatching(/^[0-9a-f]{32}$/),
          email: null,
          amount: null,
          status: "unknown ?",
          paid: false,
        },
      ]),
    );
    expect(await rejected()).toEqual([
      {
        reasons: ["invalid_expression"],
        detail: 'amount: "x" is not a number (amount=round(quantity * unit_price, 2)).',
        payload: { customer: "ann", line: "2", quantity: "x", unit_price: "5", email: "b@x", code: "9" },
      },
    ]);
  });

  it("does the same with NDJSON", async () => {
    const lines = [
      { customer: "ann", line: 1, quantity: 3, unit_price: 19.99, email: " Ann@X.org ", code: 1 },
      { customer: "ann", line: 2, quantity: "x", unit_price: 5 },
    ];
    const text = lines.map((line) => JSON.stringify(line)).join("\n");
    await send(text, { set: SET.map((one) => one.replace("Customer", "customer")) });
    const { rows: hashes } = await database.pool.query(`select ${HASH} as hash`);
    expect(await landed()).toEqual([
      { order_id: hashes[0].hash, email: "ann@x.org", amount: "59.97", status: "open", paid: true },
    ]);
    expect(await rejected()).toMatchObject([{ reasons: ["invalid_expression"], payload: lines[1] }]);
  });

  it("reads columns as the file writes its values", async () => {
    await send("id;menge;preis\n1;1.000;0,50\n2;NA;0,50\n3;1.5;0,50\n", {
      delimiter: ";",
      decimal: ",",
      null: ["NA"],
      map: ["id=order_id"],
      set: ["amount=menge * preis + 0.25"],
    });
    expect(await rows("select order_id, amount::text from staging.raw_orders order by 1")).toEqual([
      { order_id: "1", amount: "500.25" },
      { order_id: "2", amount: null },
    ]);
    expect(await rejected()).toMatchObject([{ reasons: ["invalid_expression"] }]);
  });

  it("a retry makes the fields again; a corrected column counts, and so does a corrected field", async () => {
    await send(CSV, { set: SET, map: ["junk=", "customer=status"].slice(0, 1) });
    const retry = (patch: object) =>
      runStep(database.pool, {
        step: "retry",
        retry: { everything: true },
        patch: JSON.stringify(patch),
        trigger: "cli",
      });
    expect(await retry({ unit_price: "4" })).toMatchObject({ rowsWritten: 0, rowsRejected: 1 });
    expect(await rejected()).toMatchObject([
      { reasons: ["invalid_expression"], payload: { unit_price: "4" } },
    ]);
    expect(await retry({ quantity: 5, status: "given" })).toMatchObject({ rowsWritten: 1 });
    expect(
      await rows("select email, amount::text, status from staging.raw_orders where email = 'b@x'"),
    ).toEqual([{ email: "b@x", amount: "20.00", status: "given" }]);
  });

  it.each([
    [["amount"], /"amount" is not of the form field=expression/],
    [["nope=1"], /"nope=1" sets an unknown field of orders; allowed: "order_id"/],
    [["amount=1", "amount=2"], /More than one value is given for "amount"/],
    [["amount=pg_sleep(1)"], /there is no such function; allowed: coalesce, nullif/],
    [["amount=(select 1)"], /at "select 1\)" a value is missing/],
    [Array.from({ length: 201 }, (_, i) => `f${i}=1`), /201 fields are to be set/],
  ] as const)("refuses %j", async (set, message) => {
    await expect(send("order_id\n1\n", { set: [...set] })).rejects.toThrow(message);
  });

  it("says so if the file has no such column, or if two may be meant", async () => {
    await expect(send("order_id\n1\n", { set: ["amount=price"] })).rejects.toThrow(
      'An expression reads the column "price", which the input does not have; it has: "order_id"',
    );
    await expect(send("order_id,Price,PRICE\n1,2,3\n", { set: ["amount=price"] })).rejects.toThrow(
      'More than one column may be meant by price: "Price", "PRICE"; write it in double quotes',
    );
    await send("order_id,Price,PRICE\n1,2,3\n", { set: ['amount="PRICE"', "status=Price"] });
    expect(await landed()).toMatchObject([{ amount: "3", status: "2" }]);
  });
});
