// Random tables, metrics of the class whose stale partitions can be proven, and statements that change the tables.
import { chance, type Chance } from "../support/random.ts";

interface Table {
  name: string;
  /** Columns that refer to other tables, some by a foreign key, some only by equal values. */
  references: { column: string; to: Table; isForeignKey: boolean }[];
}

export interface Metric {
  name: string;
  query: string;
  partition: string;
}

export interface Case {
  setup: string[];
  metrics: Metric[];
  statement: () => string;
  drop: string;
}

const DAYS = 40;
const SCHEMA = "production";

export function randomCase(seed: number, prefix = `r${seed}`): Case {
  const c = chance(seed);
  const tables = randomTables(c, prefix);
  const metrics = [randomMetric(c, tables, `${prefix}_first`)];
  if (c.is(0.5)) metrics.push(randomMetric(c, tables, `${prefix}_second`));
  if (c.is(0.5)) metrics.push(metricOverMetric(c, metrics[0]!, `${prefix}_over`));
  return {
    setup: tables.flatMap((table) => [
      `create table ${table.name} (
         id integer primary key, n integer, t text, d date, ts timestamp, m numeric(10, 2), u uuid
         ${table.references.map(({ column, to, isForeignKey }) => `, ${column} integer ${isForeignKey ? `references ${to.name} on update cascade ${c.pick(["on delete cascade", "on delete set null"])}` : ""}`).join("")});`,
      ...(c.is(0.7) ? [`create index on ${table.name} (d)`] : []),
      ...table.references
        .filter(() => c.is(0.8))
        .map(({ column }) => `create index on ${table.name} (${column})`),
      `insert into ${table.name} ${rows(c, table, 1, 60)}`,
    ]),
    metrics,
    statement: () => randomStatement(c, tables),
    drop: `drop table ${tables.map(({ name }) => name).join(", ")} cascade`,
  };
}

function randomTables(c: Chance, prefix: string): Table[] {
  const tables: Table[] = [];
  for (let i = 0; i < 2 + c.below(4); i++) {
    const name = `${SCHEMA}.${prefix}_${"abcdef"[i]}`;
    const references = tables.length
      ? c.times(2, (j) => ({ column: `ref${j}`, to: c.pick(tables), isForeignKey: c.is(0.6) }))
      : [];
    tables.push({ name, references });
  }
  return tables;
}

/** A query for rows with these numbers; references lead to rows that may exist. */
function rows(c: Chance, table: Table, first: number, count: number): string {
  const references = table.references.map(
    ({ to, isForeignKey }, j) =>
      `, ${isForeignKey ? `(select r.id from ${to.name} r where r.id >= (i * ${7 + j} + ${c.below(9)}) % 70 order by r.id limit 1)` : `nullif((i * ${3 + j}) % 65, 0)`}`,
  );
  return `select i, nullif(i * ${1 + c.below(5)} % 50, 7), 'text ' || nullif(i % ${20 + c.below(20)}, 3), date '2024-01-01' + nullif(i * ${1 + c.below(9)} % ${DAYS}, 5),
      timestamp '2024-01-01' + i * interval '${1 + c.below(30)} hours', (i % 13) * ${c.pick(["0.5", "1.00", "2.25"])}, ('00000000-0000-0000-0000-0000000000' || lpad((i % 30)::text, 2, '0'))::uuid ${references.join("")}
    from generate_series(${first}, ${first + count - 1}) i`;
}

/** SQL over the columns of one table that tells about forty values apart. */
const partitionOf = (c: Chance, alias: string): string =>
  c.pick([
    `${alias}.d`,
    `${alias}.d`,
    `${alias}.n`,
    `${alias}.t`,
    `${alias}.u`,
    `${alias}.id`,
    `date(${alias}.ts)`,
    `date_trunc('day', ${alias}.ts)`,
    `coalesce(${alias}.d, date '2000-01-01')`,
    `${alias}.id % 40`,
    `case when ${alias}.n > 40 then 'many, or "more"' else 'it''s ' || ${alias}.n end`,
  ]);

const valueOf = (c: Chance, alias: string): string => `${alias}.${c.pick(["n", "t", "d", "m", "id"])}`;

function randomMetric(c: Chance, tables: Table[], name: string): Metric {
  const joined = [{ alias: "f", table: c.pick(tables) }];
  // The partition may belong to another table only if every row has one.
  const onlyInner = c.is(0.5);
  let from = `${joined[0]!.table.name} f`;
  const where: string[] = [];
  for (let i = 0; i < c.below(4); i++) {
    const other = c.pick(joined);
    const alias = `j${i}`;
    const parent = other.table.references.length && c.is(0.6) ? c.pick(other.table.references) : undefined;
    const children = tables.flatMap((table) =>
      table.references.filter(({ to }) => to === other.table).map(({ column }) => ({ table, column })),
    );
    const child = !parent && children.length && c.is(0.7) ? c.pick(children) : undefined;
    const table = parent?.to ?? child?.table ?? c.pick(tables);
    const on = parent
      ? `${alias}.id = ${other.alias}.${parent.column}`
      : child
        ? `${other.alias}.id = ${alias}.${child.column}`
        : c.pick([
            `${alias}.id = ${other.alias}.n`,
            `${other.alias}.id = ${alias}.n`,
            `${other.alias}.u = ${alias}.u and ${alias}.n > 20`,
          ]);
    const more = c.is(0.3)
      ? ` and ${c.pick([`${alias}.n < 45`, `${alias}.t is not null`, `${other.alias}.m > ${alias}.m`, `${c.pick(joined).alias}.n = ${c.pick(joined).alias}.id`])}`
      : "";
    if (!onlyInner && c.is(0.6))
      from = c.is(0.8)
        ? `${from} left join ${table.name} ${alias} on ${on}${more}`
        : `${table.name} ${alias} right join ${from.includes(" join ") ? `(${from})` : from} on ${on}${more}`;
    else if (c.is(0.3) && onlyInner) {
      from = `${from} cross join ${table.name} ${alias}`;
      where.push(on + more);
    } else from = `${from} join ${table.name} ${alias} on ${on}${more}`;
    joined.push({ alias, table });
  }
  if (c.is(0.3))
    where.push(
      c.pick([
        "f.n > 5",
        "f.t is not null",
        "(f.n < 30 or f.m > 2)",
        `${c.pick(joined).alias}.m is not null`,
      ]),
    );
  const partition = partitionOf(c, onlyInner ? c.pick(joined).alias : "f");
  const filter = where.length ? ` where ${where.join(" and ")}` : "";
  const any = () => c.pick(joined).alias;
  const shape = c.below(10);
  if (shape === 0)
    return {
      name,
      partition: "p",
      query: `select distinct ${partition} as p, ${valueOf(c, any())} as v from ${from}${filter}`,
    };
  if (shape === 1)
    return {
      name,
      partition: "p",
      query: `select ${partition} as p, ${joined.map(({ alias }) => `${alias}.id as ${alias}_id`).join(", ")}, ${valueOf(c, any())} as v from ${from}${filter}`,
    };
  const aggregates = c
    .times(3, () =>
      c.pick([
        `sum(${any()}.m)`,
        `avg(${any()}.n)`,
        `count(distinct ${valueOf(c, any())})`,
        `count(distinct ${any()})`,
        `min(${any()}.t)`,
        `max(${any()}::text)`,
        `percentile_disc(0.5) within group (order by ${any()}.m)`,
        `array_agg(distinct f.n order by f.n)`,
        `count(*) filter (where ${any()}.n > 10)`,
        `bool_or(${any()}.m > 2)`,
      ]),
    )
    .map((aggregate, i) => `, ${aggregate} as v${i}`);
  const group = c.is(0.4) ? `, ${valueOf(c, any())} as g` : "";
  const having = c.is(0.2) ? " having count(*) > 1" : "";
  return {
    name,
    partition: "p",
    query: `select ${partition} as p${group}, count(*) as rows${aggregates.join("")} from ${from}${filter} group by 1${group && ", 2"}${having}`,
  };
}

/** What was computed once is a table like others. */
function metricOverMetric(c: Chance, inner: Metric, name: string): Metric {
  const kept = `analytics.${inner.name}`;
  return {
    name,
    partition: "p",
    query: c.pick([
      `select p, count(*) as n, max(x::text) as last from ${kept} x group by p`,
      `select coalesce(x.p::text, 'none') as p, count(*) as n from ${kept} x group by 1`,
    ]),
  };
}

function randomStatement(c: Chance, tables: Table[]): string {
  const table = c.pick(tables);
  const some = `id % ${5 + c.below(20)} = ${c.below(5)}`;
  const one = `id = ${1 + c.below(60)}`;
  const which = c.is(0.5) ? one : some;
  const reference = table.references.length ? c.pick(table.references) : undefined;
  const change = () =>
    c.pick([
      `n = n + ${1 + c.below(20)}`,
      `n = null`,
      `t = 'text ' || ${c.below(30)}`,
      `d = d + ${1 + c.below(10)}`,
      `d = null`,
      `ts = ts - interval '1 day'`,
      `m = m * 1.0`,
      `m = m + 0.5`,
      `u = '00000000-0000-0000-0000-0000000000${10 + c.below(20)}'`,
      ...(reference
        ? [
            `${reference.column} = ${reference.isForeignKey ? `(select max(id) from ${reference.to.name} where id < ${c.below(80)})` : c.below(65)}`,
            `${reference.column} = null`,
          ]
        : []),
    ]);
  const free = 100 + c.below(800);
  return c.pick([
    () => `insert into ${table.name} ${rows(c, table, free, 1 + c.below(3))} on conflict do nothing`,
    () =>
      `insert into ${table.name} ${rows(c, table, 1 + c.below(70), 1 + c.below(3))} on conflict (id) do update set n = excluded.n, d = excluded.d`,
    () => `update ${table.name} set ${change()} where ${which}`,
    () => `update ${table.name} set ${change()} where ${which}`,
    () => `update ${table.name} set m = 3, n = coalesce(n, 1), ts = ts + interval '1 hour' where ${which}`,
    () => `update ${table.name} set t = t, m = m where ${some}`,
    () => `update ${table.name} set id = id + 1000 where ${one}`,
    () => `update ${table.name} set id = -id where ${some}`,
    () => `delete from ${table.name} where ${which}`,
    () =>
      `with gone as (delete from ${table.name} where ${one} returning *) insert into ${table.name} select * from gone where false`,
    () => `merge into ${table.name} o using (${rows(c, table, 1 + c.below(70), 4)}) s (id, n, t, d, ts, m, u${table.references.map(({ column }) => `, ${column}`).join("")}) on o.id = s.id
           when matched and s.id % 2 = 0 then delete when matched then update set d = s.d, m = s.m
           when not matched then insert (id, n, d, ts, m) values (s.id, s.n, s.d, s.ts, s.m)`,
    () =>
      c.is(0.2) ? `truncate ${table.name} cascade` : `delete from ${table.name} where id = ${c.below(60)}`,
  ])();
}
