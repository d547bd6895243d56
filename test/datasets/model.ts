// What a transform has to do, replayed in TypeScript: random tables, records as sources send them, and a model that
// knows what each rule means without asking PostgreSQL.
import type { Chance } from "../support/random.ts";

export type Value = string | number | boolean | null;
export type Row = Record<string, Value>;

interface Column {
  name: string;
  ddl: string;
  isRequired?: boolean;
  fallback?: Value;
  make: (chance: Chance) => Value;
  /** How production holds a value that is there, or why it cannot. */
  hold?: (value: Value) => { value: Value } | { reason: string };
  /** Broken constraints of its type. */
  broken?: (value: Value) => string[];
}

interface Rule {
  name: string;
  ddl: string;
  isBroken: (row: Row) => boolean;
}

interface Unique {
  name: string;
  ddl: string;
  /** The value that no other row may have, or null. */
  of: (row: Row) => string | null;
}

interface Reference {
  name: string;
  parent: Table;
  columns: string[];
  cascades: boolean;
}

export interface Table {
  name: string;
  key: string[];
  columns: Column[];
  rules: Rule[];
  uniques: Unique[];
  references: Reference[];
  raises: boolean;
}

const identity = (row: Row, columns: string[]): string =>
  JSON.stringify(columns.map((column) => row[column]));
const small = (limit: number) => (chance: Chance) => chance.below(limit);
const ID = "00000000-0000-0000-0000-00000000000";

function keyColumns(prefix: string, chance: Chance): Column[] {
  const n = (type: string, make: Column["make"], at = ""): Column => ({
    name: `${prefix}${at}`,
    ddl: type,
    isRequired: true,
    make,
  });
  return chance.pick([
    () => [n("integer", small(12))],
    () => [n("text", (c) => `k${c.below(12)}`)],
    () => [n("uuid", (c) => ID + c.below(10))],
    () => [n("smallint", small(4), " A"), n("text", (c) => c.pick(["x", "y", "X"]), "-b")],
  ])();
}

/** Domains that every schema may use. */
export const PREPARATION = `
  do $$ begin
    create domain production.digit as integer constraint is_digit check (value between 0 and 9);
    create domain production.odd_digit as production.digit constraint is_odd check (value % 2 = 1);
  exception when duplicate_object then null; end $$;
  create or replace function production.refuse_boom() returns trigger language plpgsql as $$
  begin
    if new.word = 'boom' then raise exception 'boom'; end if;
    return new;
  end $$;`;

export function makeTables(prefix: string, chance: Chance): Table[] {
  const tables: Table[] = [];
  for (let i = 0; i <= chance.below(4); i++) tables.push(makeTable(`${prefix}_${i}`, tables, chance));
  return tables;
}

function makeTable(name: string, earlier: Table[], chance: Chance): Table {
  const key = keyColumns("k", chance);
  const table: Table = {
    name,
    key: key.map((column) => column.name),
    columns: [...key],
    rules: [],
    uniques: [],
    references: [],
    raises: false,
  };
  const isRequired = () => chance.is(0.3);
  const number = (value: Value | undefined): number => value as number;
  if (chance.is(0.6)) {
    table.columns.push({
      name: "Num",
      ddl: "integer",
      isRequired: isRequired(),
      make: (c) => c.below(20) - 3,
    });
    table.rules.push({
      name: `${name} num: "at least" 0`,
      ddl: `check ("Num" >= 0)`,
      isBroken: (row) => row.Num != null && number(row.Num) < 0,
    });
  }
  if (chance.is(0.6)) {
    table.columns.push({
      name: "amount",
      ddl: "numeric(6, 2)",
      isRequired: isRequired(),
      // Thousandths: PostgreSQL rounds halves away from zero.
      make: (c) => c.pick([c.below(20_000) - 1000, 9_999_994, 9_999_995, 5, 4]) / 1000,
      hold: (value) => {
        const thousandths = Math.round(number(value) * 1000);
        const cents = Math.sign(thousandths) * Math.floor((Math.abs(thousandths) + 5) / 10);
        return Math.abs(cents) >= 1_000_000 ? { reason: "amount_out_of_range" } : { value: cents / 100 };
      },
    });
    table.rules.push({
      name: "positive_amount",
      ddl: "check (amount > 0)",
      isBroken: (row) => row.amount != null && number(row.amount) <= 0,
    });
  }
  if (chance.is(0.5)) {
    table.columns.push({
      name: "kind",
      ddl: "text",
      isRequired: isRequired(),
      fallback: "a",
      make: (c) => c.pick(["a", "b", "c", "d"]),
    });
    table.rules.push({
      name: "known_kind",
      ddl: "check (kind in ('a', 'b', 'c'))",
      isBroken: (row) => row.kind === "d",
    });
  }
  if (chance.is(0.5)) {
    for (const column of ["lo", "hi"])
      table.columns.push({ name: column, ddl: "integer", isRequired: isRequired(), make: small(10) });
    table.rules.push({
      name: "in_order",
      ddl: "check (lo <= hi)",
      isBroken: (row) => row.lo != null && row.hi != null && number(row.lo) > number(row.hi),
    });
    table.rules.push({
      name: "small_total",
      ddl: "check (total < 15)",
      isBroken: (row) => number(row.total) >= 15,
    });
  }
  if (chance.is(0.5)) {
    const isOdd = chance.is(0.5);
    table.columns.push({
      name: "digit",
      ddl: isOdd ? "production.odd_digit" : "production.digit",
      isRequired: isRequired(),
      make: (c) => c.pick([1, 3, 5, 7, 2, 12, 13]),
      broken: (value) => [
        ...(number(value) > 9 ? ["is_digit"] : []),
        ...(isOdd && number(value) % 2 === 0 ? ["is_odd"] : []),
      ],
    });
  }
  // A row that refers to one of its own table stands and falls with it: what decides only when it is written (a
  // unique value, a trigger) would make the outcome depend on the size of batches.
  const refersToItself = chance.is(0.3);
  if (chance.is(0.7)) {
    table.raises = !refersToItself && chance.is(0.4);
    const limit = chance.pick([4, 5]);
    table.columns.push({
      name: "word",
      ddl: `${chance.pick(["varchar", "char"])}(${limit})`,
      isRequired: isRequired(),
      make: (c) => c.pick(["one", "two", "boom", "toolong", "x"]),
      hold: (value) => (String(value).length > limit ? { reason: "word_too_long" } : { value }),
    });
  }
  if (!refersToItself && chance.is(0.6)) {
    const size = chance.pick([6, 30]);
    table.columns.push({ name: "u", ddl: "integer", make: small(size) });
    table.columns.push({ name: "flag", ddl: "boolean", fallback: false, make: (c) => c.is(0.5) });
    const of = (row: Row) => (row.u == null ? null : String(row.u));
    table.uniques.push(
      chance.pick([
        { name: `${name}_u_key`, ddl: `alter table NAME add constraint "${name}_u_key" unique (u)`, of },
        {
          name: `${name}_u_half`,
          ddl: `create unique index "${name}_u_half" on NAME ((u / 2)) where flag`,
          of: (row: Row) => (row.u == null || !row.flag ? null : String(Math.floor(number(row.u) / 2))),
        },
      ]),
    );
  }
  if (!refersToItself && chance.is(0.4)) {
    const isEqual = chance.is(0.5);
    for (const column of ["v", "w"]) table.columns.push({ name: column, ddl: "integer", make: small(8) });
    table.uniques.push({
      name: `${name}_vw_key`,
      ddl: `alter table NAME add constraint "${name}_vw_key" unique ${isEqual ? "nulls not distinct" : ""} (v, w)`,
      of: (row) => (!isEqual && (row.v == null || row.w == null) ? null : identity(row, ["v", "w"])),
    });
  }
  const parents = earlier.filter(() => chance.is(0.6)).slice(-2);
  if (refersToItself) parents.push(table);
  parents.forEach((parent, i) => {
    const needsParent = parent !== table && chance.is(0.4);
    const columns = parent.columns
      .filter((column) => parent.key.includes(column.name))
      .map((column, at) => ({ ...column, name: `p${i}${at}`, isRequired: needsParent }));
    table.columns.push(...columns);
    table.references.push({
      name: `fk "${i}"`,
      parent,
      columns: columns.map((column) => column.name),
      cascades: needsParent || chance.is(0.5),
    });
  });
  return table;
}

const quote = (text: string): string => `"${text.replaceAll('"', '""')}"`;

export function ddl(table: Table): string {
  const columns = table.columns.map(
    ({ name, ddl: type, isRequired, fallback }) =>
      `${quote(name)} ${type}${isRequired ? " not null" : ""}${fallback === undefined ? "" : ` default '${fallback}'`}`,
  );
  if (table.rules.some(({ name }) => name === "small_total"))
    columns.push("total integer generated always as (lo + hi) stored");
  const list = (names: string[]) => names.map(quote).join(", ");
  const constraints = [
    `primary key (${list(table.key)})`,
    ...table.rules.map((rule) => `constraint ${quote(rule.name)} ${rule.ddl}`),
    ...table.references.map(
      ({ name, parent, columns: own, cascades }) =>
        `constraint ${quote(name)} foreign key (${list(own)}) references production.${quote(parent.name)} (${list(parent.key)})
         on delete ${cascades ? "cascade" : "set null"}`,
    ),
  ];
  return [
    `create table production.${quote(table.name)} (${[...columns, ...constraints].join(", ")})`,
    ...table.uniques.map((unique) => unique.ddl.replace("NAME", `production.${quote(table.name)}`)),
    ...(table.raises
      ? [
          `create trigger refuse_boom before insert or update on production.${quote(table.name)}
           for each row execute function production.refuse_boom()`,
        ]
      : []),
  ].join(";\n");
}

export const makeRecord = (table: Table, chance: Chance): Row =>
  Object.fromEntries(
    table.columns.map(({ name, make }) => [
      name,
      chance.is(table.key.includes(name) ? 0.02 : name.startsWith("p") ? 0.3 : 0.1) ? null : make(chance),
    ]),
  );

interface Arrival {
  seq: number;
  record: Row;
}

export interface Entry {
  reasons: string[];
  waiting: boolean;
  /** It may as well have been passed over: a later record of its key came in the same batch. */
  isOptional: boolean;
}

interface Contents {
  table: Table;
  production: Map<string, { row: Row; seq: number }>;
  quarantine: Map<
    number,
    Entry & { record: Row; missing: Map<Reference, string>; attempts: number; run: number }
  >;
  /** In the order of the window: by transaction, then by number. */
  pending: Arrival[];
  lastSeq: number;
}

export class Model {
  readonly contents = new Map<Table, Contents>();
  private run = 0;

  private readonly tables: Table[];

  /** In the order of the transform. */
  constructor(tables: Table[]) {
    this.tables = tables;
    for (const table of tables)
      this.contents.set(table, {
        table,
        production: new Map(),
        quarantine: new Map(),
        pending: [],
        lastSeq: 0,
      });
  }

  arrive(table: Table, records: Row[]): void {
    const contents = this.contents.get(table)!;
    contents.pending.push(...records.map((record) => ({ seq: ++contents.lastSeq, record })));
  }

  /** Puts every quarantined record of a table back. */
  retry(table: Table): void {
    const contents = this.contents.get(table)!;
    this.putBack(contents, [...contents.quarantine.keys()]);
  }

  delete(table: Table, key: string): void {
    const { production } = this.contents.get(table)!;
    if (!production.delete(key)) return;
    for (const child of this.contents.values())
      for (const { parent, columns, cascades } of child.table.references) {
        if (parent !== table) continue;
        for (const [childKey, { row }] of [...child.production]) {
          if (identity(row, columns) !== key) continue;
          if (cascades) this.delete(child.table, childKey);
          else for (const column of columns) row[column] = null;
        }
      }
  }

  transform(batchSize: number): void {
    this.run++;
    for (let pass = 1, requeued = 1; requeued > 0 || pass === 2; pass++) {
      requeued = 0;
      for (const table of this.tables) {
        const contents = this.contents.get(table)!;
        const ready = [...contents.quarantine]
          .filter(
            ([, { waiting, missing, attempts, run }]) =>
              waiting &&
              (attempts < 5 || run !== this.run) &&
              [...missing].every(([{ parent }, key]) => this.contents.get(parent)!.production.has(key)),
          )
          .map(([seq]) => seq);
        this.putBack(contents, ready);
        requeued += ready.length;
        while (contents.pending.length > 0) this.take(contents, contents.pending.splice(0, batchSize));
      }
    }
  }

  private attempts = new Map<string, number>();

  private putBack(contents: Contents, seqs: number[]): void {
    for (const seq of seqs.sort((a, b) => a - b)) {
      contents.pending.push({ seq, record: contents.quarantine.get(seq)!.record });
      contents.quarantine.delete(seq);
    }
  }

  private take(contents: Contents, batch: Arrival[]): void {
    const { table, production } = contents;
    const judged = batch
      .map(({ seq, record }) => ({ seq, record, ...this.judge(table, record) }))
      .sort((a, b) => a.seq - b.seq);
    const self = table.references.find(({ parent }) => parent === table);
    if (self) {
      for (let isSettled = false; !isSettled;) {
        isSettled = true;
        const valid = new Set(
          judged.filter(({ reasons }) => reasons.length === 0).map(({ row }) => identity(row, table.key)),
        );
        for (const { row, reasons, missing } of judged) {
          const key = identity(row, self.columns);
          if (reasons.includes(self.name) || self.columns.some((column) => row[column] == null)) continue;
          if (production.has(key) || valid.has(key)) continue;
          reasons.push(self.name);
          missing.set(self, key);
          isSettled = false;
        }
      }
    }
    const valid = judged.filter(({ reasons }) => reasons.length === 0);
    for (const arrival of judged) {
      const { seq, row, reasons } = arrival;
      const key = identity(row, table.key);
      let isOptional = false;
      if (reasons.length === 0) {
        if ((production.get(key)?.seq ?? -1) >= seq) continue;
        for (const unique of table.uniques) {
          const value = unique.of(row);
          const isTaken = [...production].some(
            ([other, held]) => other !== key && unique.of(held.row) === value,
          );
          if (value !== null && isTaken) reasons.push(unique.name);
        }
        if (reasons.length === 0 && table.raises && row.word === "boom") {
          reasons.push("rejected_by_trigger");
          isOptional = valid.some((other) => other.seq > seq && identity(other.row, table.key) === key);
        }
      }
      if (reasons.length === 0) production.set(key, { row, seq });
      else this.reject(contents, arrival, isOptional);
    }
  }

  private reject(
    { table, quarantine }: Contents,
    { seq, record, reasons, missing }: Arrival & { reasons: string[]; missing: Map<Reference, string> },
    isOptional: boolean,
  ): void {
    const id = `${table.name} ${seq}`;
    const attempts = (this.attempts.get(id) ?? 0) + 1;
    this.attempts.set(id, attempts);
    const waiting = reasons.every((reason) => table.references.some(({ name }) => name === reason));
    quarantine.set(seq, { record, reasons, waiting, missing, isOptional, attempts, run: this.run });
  }

  /** The row as production would hold it, and what is wrong with it by itself and with its parents. */
  private judge(table: Table, record: Row) {
    const row: Row = {};
    const reasons: string[] = [];
    const missing = new Map<Reference, string>();
    for (const { name, isRequired, fallback, hold, broken } of table.columns) {
      const given = record[name] ?? fallback ?? null;
      const held = given === null || !hold ? { value: given } : hold(given);
      row[name] = "value" in held ? held.value : null;
      if ("reason" in held) reasons.push(held.reason);
      else if (held.value === null && isRequired) reasons.push(`${name}_missing`);
      else if (held.value !== null && broken) reasons.push(...broken(held.value));
    }
    if (table.rules.some(({ name }) => name === "small_total"))
      row.total = row.lo == null || row.hi == null ? null : (row.lo as number) + (row.hi as number);
    for (const rule of table.rules) if (rule.isBroken(row)) reasons.push(rule.name);
    for (const reference of table.references) {
      if (reference.parent === table || reference.columns.some((column) => row[column] == null)) continue;
      const key = identity(row, reference.columns);
      if (this.contents.get(reference.parent)!.production.has(key)) continue;
      reasons.push(reference.name);
      missing.set(reference, key);
    }
    return { row, reasons, missing };
  }
}
