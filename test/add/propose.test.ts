// What `strata add` makes of a file: every decision with its reason, nothing guessed.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createQuote, examine } from "../../src/add/examine.ts";
import { readParents } from "../../src/add/parents.ts";
import { ingestCommandFor } from "../../src/add/report.ts";
import { writeSql } from "../../src/add/sql.ts";
import { checkReadOptions, type ReadOptions } from "../../src/ingest/options.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

let database: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), "strata-add-"));
beforeAll(async () => {
  database = await createDatabase();
  await database.pool.query(
    `create table production.shops (shop_code varchar(8) primary key, name text);
     create table production.sales (sale_id integer, line integer, primary key (sale_id, line));
     insert into production.shops select 's' || n from generate_series(1, 100) n;
     insert into production.sales select n, 1 from generate_series(1, 100) n`,
  );
});
afterAll(async () => {
  await database.drop();
  rmSync(folder, { recursive: true, force: true });
});

const lines = (count: number, line: (i: number) => string): string =>
  Array.from({ length: count }, (_, i) => line(i + 1)).join("\n");

async function proposalFor(
  content: string | Buffer,
  options: { name?: string; dataset?: string; key?: string; reading?: ReadOptions } = {},
) {
  const file = join(folder, options.name ?? "things.csv");
  writeFileSync(file, content);
  const { pool } = database;
  const quote = await createQuote(pool);
  const parents = await readParents(pool, join(folder, "none"));
  const dataset = options.dataset ?? "things";
  const { rows, proposal } = await examine(pool, {
    file,
    dataset,
    parents,
    quote,
    format: undefined,
    key: options.key,
    dialect: checkReadOptions(options.reading ?? {}),
  });
  const sql = writeSql(proposal, { source: "things.csv", rows, ingest: "…", quote });
  return {
    ...proposal,
    rows,
    sql,
    column: (name: string) => proposal.columns.find((column) => column.name === name)!,
  };
}

/** The type of a column with these values, beside an id, and the reasons. */
async function typeOf(values: string[], name = "value"): Promise<[type: string, why: string]> {
  const { column } = await proposalFor(
    `id,${name}\n${values.map((value, i) => `${i + 1},"${value.replaceAll('"', '""')}"`).join("\n")}\n`,
  );
  const { type, notNull, why } = column(name);
  return [`${type}${notNull ? " not null" : ""}`, why.join("; ")];
}

describe("types", () => {
  test.each([
    [["1", "-2", "+30"], "integer not null"],
    [["1", "", "3"], "integer"],
    [["1", "3000000000"], "bigint not null"],
    [["1", "12345678901234567890123"], "numeric(27) not null"],
    [["1.5", "2", "-10.25"], "numeric(10, 2) not null"],
    [["123456789.125", "2"], "numeric(14, 3) not null"],
    [["1e5", "2.5"], "double precision not null"],
    [["true", "F", "yes"], "boolean not null"],
    [["2024-02-29", "2023-12-31"], "date not null"],
    [["2024-02-29", "2023-12-31T10:00:00"], "timestamp not null"],
    [["2024-02-29T10:00:00Z", "2023-12-31 10:00+02"], "timestamptz not null"],
    [["7d4f9f0e-3d6c-4b68-9f2e-0a1b2c3d4e5f"], "uuid not null"],
    [['{"a": 1}', "[1]"], "jsonb not null"],
    [["{a}", "[1]"], "text not null"],
    [["2023-02-29", "2023-13-01"], "text not null"],
    [["0012", "0345"], "text not null"],
    [["", ""], "text"],
  ])("%j is %s", async (values, type) => {
    expect((await typeOf(values))[0]).toBe(type);
  });

  test("what two countries read in two ways stays text, and the reason is given", async () => {
    expect(await typeOf(["06/10/2011", "13/10/2011"])).toEqual([
      "text not null",
      expect.stringMatching(
        /"06\/10\/2011" \(line 2\) is one day in Europe and another in America: left text; bring dates as 2011-10-06/,
      ),
    ]);
    expect(await typeOf(["1,234.50", "12.00"])).toEqual(["text not null", expect.any(String)]);
    expect(await typeOf(["1.234,50", "$5", "12,50"])).toEqual([
      "text not null",
      expect.stringMatching(/"1\.234,50" \(line 2\) is written for people/),
    ]);
    expect((await typeOf(["47110", "12345"], "zip_code"))[0]).toBe("text not null");
    expect(await typeOf(["0012", "0345"])).toEqual([
      expect.any(String),
      expect.stringMatching(/leading zeros/),
    ]);
  });

  test("a few wrong values do not change the type; they are counted and named", async () => {
    const values = [...Array(98).keys()].map(String);
    const [type, why] = await typeOf([...values, "n/a", "oops"]);
    expect(type).toBe("integer not null");
    expect(why).toMatch(/2 will be rejected: "n\/a" \(line 100\), "oops" \(line 101\)/);
    expect((await typeOf([...values, "a", "b", "c", "d"]))[0]).toBe("text not null");
    // In an identifier they are no mistake.
    expect((await typeOf([...values, "A17"], "article_code"))[0]).toBe("varchar(10) not null");
  });
});

test("a file is read as the caller says it is written, and the ingest that is proposed says the same", async () => {
  const reading = {
    delimiter: ";",
    encoding: "latin-1",
    decimal: ",",
    dateFormat: "DD.MM.YYYY",
    timezone: "Europe/Berlin",
    null: ["NA", "-"],
  };
  const content = lines(
    30,
    (i) => `${i};1.${100 + i},50;${(i % 28) + 1}.10.2024 12:00;${i % 2 ? "NA" : "Gr\xf6\xdfe"}`,
  );
  const found = await proposalFor(Buffer.from(`id;price;sold_at;size\n${content}\n`, "latin1"), { reading });
  expect(found.columns.map(({ name, type }) => [name, type])).toEqual([
    ["id", "integer"],
    ["price", "numeric(10, 2)"],
    ["sold_at", "timestamptz"],
    ["size", "text"],
  ]);
  expect(found.column("price").why.join()).toContain("numbers from 1101.5 to 1130.5");
  expect(found.column("size").why.join()).toContain("15 of 30 are empty");
  expect(ingestCommandFor("f.csv", found, reading)).toBe(
    "npx strata-graphql ingest things f.csv --delimiter ';' --encoding latin-1 --decimal ',' " +
      "--date-format DD.MM.YYYY --timezone Europe/Berlin --null NA --null -",
  );
});

describe("keys", () => {
  const key = async (content: string, options = {}) => {
    const { key: found, keyWhy } = await proposalFor(content, options);
    return [found.join(), keyWhy];
  };

  test("a column that is named like one comes first, then any that tells rows apart", async () => {
    const rows = lines(50, (i) => `${i},${100 + i},n${i}`);
    expect(await key(`code,thing_id,name\n${rows}`)).toEqual(["thing_id", "no value occurs twice"]);
    expect((await key(`name,id,other\n${rows}`))[0]).toBe("id");
    expect((await key(`a,b,c\n${rows}`))[0]).toBe("a");
  });

  test("some rows that come twice are an update of the same thing", async () => {
    const rows = lines(200, (i) => `${i % 198},x`);
    expect(await key(`thing_id,x\n${rows}`)).toEqual([
      "thing_id",
      "2 rows repeat a value; the last one wins",
    ]);
  });

  test("two columns, when no single one is enough; those named like a key first", async () => {
    const rows = lines(100, (i) => `${i % 10},${Math.floor(i / 10)},${i % 10},${Math.floor(i / 10)}`);
    expect(await key(`amount,weight,order_id,line_no\n${rows}`)).toEqual([
      "order_id,line_no",
      "no pair occurs twice",
    ]);
  });

  test("none is an error, unless it is given", async () => {
    const rows = lines(100, (i) => `${i % 3},${i % 2}`);
    await expect(key(`a,b\n${rows}`)).rejects.toThrow(
      /No column or pair of columns identifies the rows; .*--key/,
    );
    expect(await key(`a,b\n${rows}`, { key: "a" })).toEqual([
      "a",
      "given; many rows repeat it; the last one wins",
    ]);
    await expect(key(`a,b\n${rows}`, { key: "c" })).rejects.toThrow(
      '--key names "c"; the file has: "a", "b"',
    );
  });
});

describe("rules", () => {
  test("few values, positive numbers, names that identify", async () => {
    const rows = lines(
      100,
      (i) => `${i},${["new", "it's old"][i % 2]},${i}.50,${i - 1},sku-${i},${60 + i},${(i % 7) - 3}`,
    );
    const { constraints, sql } = await proposalFor(`id,state,price,stock,sku,latitude,change\n${rows}`);
    expect(constraints.map(({ name, sql: text, doubt }) => [name, text, doubt])).toEqual([
      ["things_pkey", "primary key (id)", undefined],
      ["valid_state", "check (state in ('it''s old', 'new'))", undefined],
      ["positive_price", "check (price > 0)", undefined],
      ["not_negative_stock", "check (stock >= 0)", undefined],
      ["things_sku_key", "unique (sku)", undefined],
    ]);
    expect(sql).toContain(
      "comment on constraint positive_price on production.things is 'Price must be positive.';",
    );
  });

  test("a rule that a few rows break is written down, and not active", async () => {
    const rows = lines(100, (i) => `${i},${i === 7 ? -1 : i}`);
    const { sql } = await proposalFor(`id,price\n${rows}`);
    expect(sql).toMatch(
      /-- Not active, 1 of 100 values violate it: "-1" \(line 8\):\n-- alter table production.things drop constraint if exists positive_price, add constraint positive_price check \(price > 0\);/,
    );
  });
});

describe("foreign keys", () => {
  test("by name and content", async () => {
    const rows = lines(50, (i) => `${i},s${i},${i},1`);
    const { parents, constraints, indexes, column } = await proposalFor(`id,shop_code,sale_id,line\n${rows}`);
    expect(parents.map(({ columns, parent }) => [columns, parent.table])).toEqual([
      [["shop_code"], "shops"],
      [["sale_id", "line"], "sales"],
    ]);
    expect(constraints.map(({ name }) => name)).toEqual(["things_pkey", "fk_shop", "fk_sale"]);
    expect(constraints.at(-1)!.sql).toBe(
      "foreign key (sale_id, line) references production.sales (sale_id, line) on delete restrict",
    );
    expect(indexes).toEqual([["shop_code"], ["sale_id", "line"]]);
    expect(column("shop_code")).toMatchObject({
      type: "character varying(8)",
      why: expect.arrayContaining(["50 of 50 values are in production.shops (shop_code)"]),
    });
  });

  test("some values without a parent wait; many are no reference", async () => {
    const some = await proposalFor(`id,shop\n${lines(50, (i) => `${i},s${i + 52}`)}`);
    expect(some.parents).toHaveLength(1);
    expect(some.remarks).toEqual([
      'shop: 48 of 50 values are in production.shops (shop_code), not "s101", "s102"; such rows wait for their parent',
    ]);
    const many = await proposalFor(`id,shop\n${lines(50, (i) => `${i},x${i}`)}`);
    expect(many.parents).toEqual([]);
    expect(many.sql).toMatch(
      /-- Not active, 0 of 50 values are in production.shops[^\n]*\n(-- [^\n]*\n)*-- alter table production.things .*fk_shop foreign key \(shop\)/,
    );
  });
});

test("the day of the main time column is generated and indexed", async () => {
  const rows = lines(30, (i) => `${i},2024-01-01T00:00:00Z,2024-01-${String(i).padStart(2, "0")} 10:00`);
  const { day, sql } = await proposalFor(`id,updated_at,ordered_at\n${rows}`);
  expect(day).toMatchObject({ name: "ordered_day", of: "ordered_at" });
  expect(sql).toContain("ordered_day date generated always as (ordered_at::date) stored,");
  expect(sql).toContain(
    "create index if not exists idx_things_ordered_day on production.things (ordered_day);",
  );
});

test("headers become names, reserved ones in quotes, and each is mapped", async () => {
  const { columns, sql } = await proposalFor(
    `ID,unitPrice,Größe (cm),2nd,order,order ,source_system,%\n${lines(3, (i) => `${i},1,1,1,1,1,1,1`)}`.replace(
      ",order ,",
      ",Order,",
    ),
  );
  expect(columns.map(({ header, name }) => [header, name])).toEqual([
    ["ID", "id"],
    ["unitPrice", "unit_price"],
    ["Größe (cm)", "gro_e_cm"],
    ["2nd", "n2nd"],
    ["order", "order"],
    ["Order", "order_2"],
    ["source_system", "thing_source_system"],
    ["%", "percent"],
  ]);
  expect(sql).toContain('\n  "order" integer not null,\n');
});

test("the SQL can be applied twice", async () => {
  const rows = lines(60, (i) => `${i},s${i},a\\b${i % 2},2024-01-01T00:00:00+01:00,it's`);
  const { sql } = await proposalFor(`id,shop,user,at,note\n${rows}`, { dataset: "select" });
  for (let i = 0; i < 2; i++) await database.pool.query(sql.replace(/^select strata.*$/m, ""));
  const { rows: found } = await database.pool.query(
    "select obj_description('production.select'::regclass) as comment, (select count(*)::int from pg_constraint where conrelid = 'production.select'::regclass and contype in ('p', 'c', 'f')) as constraints",
  );
  expect(found).toEqual([{ comment: "Select; one row per select.", constraints: 3 }]);
});

test("NDJSON and gzip, fields that come and go", async () => {
  const rows = lines(40, (i) =>
    JSON.stringify({ id: i, tags: [i], big: 1, ...(i > 20 && { late: true, none: null }) }),
  );
  const text = `${rows.replaceAll('"big":1', '"big":12345678901234567890')}\nnot json\n`;
  const { columns, remarks } = await proposalFor(gzipSync(text), { name: "things.ndjson.gz" });
  expect(columns.map(({ name, type, notNull }) => [name, type, notNull])).toEqual([
    ["id", "integer", true],
    ["tags", "jsonb", true],
    ["big", "numeric(24)", true],
    ["late", "boolean", false],
    ["none", "text", false],
  ]);
  expect(remarks).toEqual([
    "1 row cannot be read and will be quarantined: line 41: The line is not a JSON object.",
  ]);
});

test.each([
  ["", /is empty/],
  ["a;b\n1;2\n", /The header has one column and ";" in it; if that separates columns, say so by --delimiter/],
  ["a,,b\n1,2,3\n", /Column 2 has no name/],
  ["a,a\n1,2\n", /Two columns are named "a"/],
])("%j is refused", async (content, message) => {
  await expect(proposalFor(content)).rejects.toThrow(message);
});
