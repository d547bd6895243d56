// Statements of a file, with their lines: what psql would send, one at a time.
import { describe, expect, test } from "vitest";
import { splitStatements } from "../../src/database/sql-text.ts";

const split = (sql: string) => splitStatements(sql).map(({ text, line }) => [line, text]);

describe("splitStatements", () => {
  test("ends a statement at a semicolon, and only there", () => {
    expect(
      split("select 1;\n\n-- a; comment\nselect ';' /* ; /* ; */ */ ;\n  select $$;$$, $a$ $$;$$ $a$"),
    ).toEqual([
      [1, "select 1"],
      [4, "select ';' /* ; /* ; */ */ "],
      [5, "select $$;$$, $a$ $$;$$ $a$"],
    ]);
  });

  test("knows quotes in quotes, escapes, and names with a dollar", () => {
    expect(split(`select 'it''s;', E'\\';', "a"";", a$1;select 2`)).toEqual([
      [1, `select 'it''s;', E'\\';', "a"";", a$1`],
      [1, "select 2"],
    ]);
    // Outside E'…' a backslash escapes nothing.
    expect(split("select '\\';select 2")).toHaveLength(2);
  });

  test("keeps the body of a function together", () => {
    const standard =
      "create or replace function f() returns int language sql begin atomic select case when true then 1 end; select 2; end";
    expect(split(`${standard};\nselect 3`)).toEqual([
      [1, standard],
      [2, "select 3"],
    ]);
    const rule = "create rule r as on insert to t do (select 1; select 2)";
    expect(split(`${rule};`)).toEqual([[1, rule]]);
  });

  test("nothing is nothing", () => {
    expect(split("-- only a comment\n;;\n/* and another */")).toEqual([]);
  });

  test.each([
    ["select 1;\n\\d production.users", 2, /"\\d" is a command of psql/],
    ["select 1;\n\nselect 'x", 3, /the quote ' is not closed/],
    ["do $body$ begin", 1, /the quote \$body\$ is not closed/],
    ["/* open", 1, /the comment \/\* is not closed/],
  ])("%j fails in line %i", (sql, line, message) => {
    let error: unknown;
    try {
      splitStatements(sql);
    } catch (caught) {
      error = caught;
    }
    expect(error).toMatchObject({ line, message: expect.stringMatching(message) });
  });
});
