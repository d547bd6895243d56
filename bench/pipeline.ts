// What the pipeline costs: ingest against \copy, transform against a bare INSERT … SELECT, refresh against its work.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { compareExport } from "./export.ts";
import { plot } from "./plot.ts";
import { median, spread, table } from "./statistics.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const HISTORIES = [0.05, 0.1, 0.25, 0.5, 1];
const DAYS = 730;

function timed(command: string, args: string[], env: Record<string, string>): number {
  const startedAt = performance.now();
  const { status, stderr } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} failed: ${stderr}`);
  return performance.now() - startedAt;
}

export async function comparePipeline(
  server: string,
  size: number,
  rounds: number,
  chosen: string[] | undefined,
  report: (name: string, text: string) => void,
): Promise<void> {
  const url = new URL(server);
  url.pathname = "/strata_bench_pipeline";
  const administrator = new pg.Client({ connectionString: server });
  await administrator.connect();
  await administrator.query("drop database if exists strata_bench_pipeline with (force)");
  await administrator.query("create database strata_bench_pipeline");
  const env = { DATABASE_URL: url.href };
  const folder = mkdtempSync(join(tmpdir(), "strata-bench-"));
  const strata = (...args: string[]): number => timed(process.execPath, ["src/cli.ts", ...args], env);
  strata("migrate");
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    const parts: Record<string, () => Promise<string>> = {
      ingest: () => compareIngest(client, strata, folder, url.href, size, rounds),
      transform: () => compareTransform(client, strata, size, rounds),
      export: () => compareExport(client, folder, url.href, size, rounds),
      triggers: () => compareTriggers(client, size, rounds),
      refresh: () => compareRefresh(client, size, rounds),
      metric: () => compareMetric(client, size, rounds),
    };
    for (const [name, compare] of Object.entries(parts))
      if (!chosen || chosen.includes(name)) report(name, await compare());
  } finally {
    await client.end();
    rmSync(folder, { recursive: true });
    await administrator.query("drop database strata_bench_pipeline with (force)");
    await administrator.end();
  }
}

type Strata = (...args: string[]) => number;
const line = (n: number, users: number): string =>
  `${n},${1 + ((n * 7919) % users)},${(1 + ((n * 31) % 99_999)) / 100},completed,2024-${String(1 + (n % 12)).padStart(2, "0")}-${String(1 + (n % 28)).padStart(2, "0")} 10:00:00`;
const jsonOf = (text: string): string => {
  const [id, user, amount, status, date] = text.split(",");
  return `{"transaction_id":${id},"user_id":${user},"amount":${amount},"status":"${status}","transaction_date":"${date}"}`;
};
/** quantity * unit_price is the amount of the same line. */
const orderOf = (text: string): string => {
  const [id, user, amount, , date] = text.split(",");
  return `${id},${user},4,${Number(amount) / 4},1,${date}`;
};
const MAPPING = [
  ...["--map", "id=transaction_id", "--map", "customer=user_id"],
  ...["--set", "amount=quantity * unit_price"],
  ...["--set", "status=case state when '1' then 'completed' when '2' then 'pending' else 'failed' end"],
];
const COLUMNS = "transaction_id,user_id,amount,status,transaction_date";
const usersOf = (size: number): number => Math.max(2000, Math.round(size / 20));

async function compareIngest(
  client: pg.Client,
  strata: Strata,
  folder: string,
  url: string,
  size: number,
  rounds: number,
): Promise<string> {
  const lines = Array.from({ length: size }, (_, n) => line(n + 1, usersOf(size)));
  const clean = join(folder, "clean.csv");
  const dirty = join(folder, "dirty.csv");
  const json = join(folder, "clean.ndjson");
  const mapped = join(folder, "mapped.csv");
  const none = join(folder, "none.csv");
  writeFileSync(clean, [COLUMNS, ...lines].join("\n"));
  writeFileSync(
    dirty,
    [COLUMNS, ...lines.map((text, n) => (n % 20 === 7 ? text.replace(",", ",x") : text))].join("\n"),
  );
  writeFileSync(json, lines.map(jsonOf).join("\n"));
  // The same rows, whose amount is yet to be computed and whose status is a number.
  writeFileSync(
    mapped,
    ["id,customer,quantity,unit_price,state,transaction_date", ...lines.map(orderOf)].join("\n"),
  );
  writeFileSync(none, `${COLUMNS}\n`);
  const reset = () => client.query("truncate staging.raw_transactions, staging.quarantine; checkpoint");
  const times: Record<string, number[]> = { copy: [], clean: [], mapped: [], dirty: [], json: [] };
  for (let round = 0; round < rounds; round++) {
    await reset();
    const copy = `\\copy staging.raw_transactions (${COLUMNS}) from '${clean}' csv header`;
    times.copy!.push(timed("psql", ["-q", url, "-c", copy], {}));
    // A process takes its time to start, however much it brings.
    const starting = strata("ingest", "transactions", none, "--json");
    for (const [name, file] of Object.entries({ clean, mapped, dirty, json })) {
      await reset();
      const options = name === "mapped" ? MAPPING : [];
      times[name]!.push(strata("ingest", "transactions", file, ...options, "--json") - starting);
    }
    if (round > 0) continue;
    const { rows } = await client.query("select count(*)::int as count from staging.raw_transactions");
    if (rows[0].count !== size) throw new Error(`${rows[0].count} of ${size} rows landed`);
  }
  const rows = Object.entries({
    clean: "clean file",
    mapped: "clean file, mapped: amount and status by expressions",
    dirty: "5 % bad rows",
    json: "clean NDJSON",
  }).map(([name, title]) => [
    title,
    `${(size / (median(times[name]!) / 1000)).toFixed(0)} rows/s`,
    spread(times[name]!.map((time, i) => times.copy![i]! / time)),
  ]);
  return table(["ingest", "speed", "relative to `\\copy`"], rows);
}

async function fillUsers(client: pg.Client, size: number): Promise<void> {
  await client.query("truncate staging.raw_transactions, staging.quarantine, production.users cascade");
  await client.query(
    `insert into production.users (user_id, username, email, country)
     select n, 'user' || n, 'user' || n || '@example.org', 'Country ' || n % 12 from generate_series(1, $1::int) n`,
    [usersOf(size)],
  );
}

async function fillStaging(client: pg.Client, size: number): Promise<void> {
  await fillUsers(client, size);
  await client.query(
    `insert into staging.raw_transactions (transaction_id, user_id, amount, status, transaction_date)
     select n, 1 + (n::bigint * 7919) % $2, (1 + (n::bigint * 31) % 99999) / 100.0, 'completed',
       timestamp '2024-01-01' + make_interval(secs => n::bigint * 7907 % ($3::int * 86400::bigint))
     from generate_series(1, $1::int) n`,
    [size, usersOf(size), DAYS],
  );
  await client.query("vacuum analyze");
}

async function compareTransform(
  client: pg.Client,
  strata: Strata,
  size: number,
  rounds: number,
): Promise<string> {
  await fillStaging(client, size);
  const times: Record<string, number[]> = { bare: [], transform: [] };
  for (let round = 0; round < rounds; round++) {
    await client.query("truncate production.transactions; checkpoint");
    const startedAt = performance.now();
    await client.query(
      `insert into production.transactions (${COLUMNS}) select ${COLUMNS} from staging.raw_transactions`,
    );
    times.bare!.push(performance.now() - startedAt);
    await client.query(
      "truncate production.transactions; update strata.datasets set xid = '0', seq = 0; checkpoint",
    );
    const whole = strata("transform");
    times.transform!.push(whole - strata("transform"));
  }
  const { rows } = await client.query("select count(*)::int as count from production.transactions");
  if (rows[0].count !== size) throw new Error(`The transform brought ${rows[0].count} of ${size} rows`);
  return table(
    ["transform", "speed", "relative to `INSERT … SELECT`"],
    [
      [
        `${size} transactions`,
        `${(size / (median(times.transform!) / 1000)).toFixed(0)} rows/s`,
        spread(times.transform!.map((time, i) => times.bare![i]! / time)),
      ],
    ],
  );
}

/** Every change of transactions is noted for the next refresh. */
async function compareTriggers(client: pg.Client, size: number, rounds: number): Promise<string> {
  await fillStaging(client, size);
  const loaded = Math.round(size / 4);
  const load = async (triggers: "enable" | "disable"): Promise<number> => {
    await client.query("truncate production.transactions; checkpoint");
    await client.query(`alter table production.transactions ${triggers} trigger user`);
    const startedAt = performance.now();
    await client.query(
      `insert into production.transactions (${COLUMNS}) select ${COLUMNS} from staging.raw_transactions
       where transaction_id <= $1`,
      [loaded],
    );
    return performance.now() - startedAt;
  };
  const ratios: number[] = [];
  for (let round = 0; round < rounds; round++) ratios.push((await load("enable")) / (await load("disable")));
  await client.query("alter table production.transactions enable trigger user");
  return table(
    ["bulk load", "time relative to one without triggers"],
    [[`${loaded} transactions`, spread(ratios)]],
  );
}

async function compareRefresh(client: pg.Client, size: number, rounds: number): Promise<string> {
  await fillStaging(client, size);
  const rows: string[][] = [];
  const points: { size: number; incremental: number; full: number }[] = [];
  const measure = async (transactions: number, days: number): Promise<void> => {
    await client.query("select strata.refresh(true)");
    await client.query("vacuum analyze");
    const incremental: number[] = [];
    const full: number[] = [];
    const time = async (text: string): Promise<number> => {
      const startedAt = performance.now();
      await client.query(text);
      return performance.now() - startedAt;
    };
    for (let round = 0; round < rounds; round++) {
      await client.query(
        "update production.transactions set amount = amount + 1 where transaction_day = '2024-06-01'",
      );
      incremental.push(await time("select strata.refresh(false)"));
      full.push(await time("select strata.refresh(true)"));
    }
    const { rows: groups } = await client.query("select count(*)::int from analytics.daily_user_metrics");
    if (days === DAYS)
      points.push({ size: transactions, incremental: median(incremental), full: median(full) });
    rows.push([
      String(transactions),
      String(days),
      String(groups[0].count),
      median(incremental).toFixed(0),
      median(full).toFixed(0),
      `${spread(
        incremental.map((one, i) => full[i]! / one),
        0,
      )} ×`,
    ]);
  };
  const fill = (from: number, until: number, days: number) =>
    client.query(
      `insert into production.transactions (${COLUMNS})
       select transaction_id, user_id, amount, status, transaction_date - make_interval(days => $3 * (transaction_id % $4::int))
       from staging.raw_transactions where transaction_id > $1 and transaction_id <= $2`,
      [from, until, DAYS, days / DAYS],
    );
  await client.query("truncate production.transactions");
  let filled = 0;
  for (const share of HISTORIES) {
    const until = Math.round(size * share);
    await fill(filled, until, DAYS);
    filled = until;
    await measure(until, DAYS);
  }
  // As many transactions, over a longer time: PostgreSQL compares more groups.
  await client.query("truncate production.transactions");
  await fill(0, size, DAYS * 10);
  await measure(size, DAYS * 10);
  writeFileSync(new URL("results/refresh.svg", import.meta.url), plot(points));
  const header = [
    "refresh of one changed day: transactions",
    "days",
    "groups",
    "incremental, ms",
    "full, ms",
  ];
  return `${table([...header, "faster"], rows)}\n\n![Time of a refresh by history](refresh.svg)`;
}

/** A metric of one's own is kept in a table, so that only the groups of the changed day are read and written. */
async function compareMetric(client: pg.Client, size: number, rounds: number): Promise<string> {
  const rows: string[][] = [];
  await fillUsers(client, size);
  const measure = async (transactions: number, days: number, groupsOfDay: number): Promise<void> => {
    await client.query("truncate production.transactions");
    await client.query(
      `insert into production.transactions (${COLUMNS})
       select n, 1 + (n::bigint * 7919) % $2, (1 + (n::bigint * 31) % 99999) / 100.0, 'completed',
         timestamp '2024-01-01' + make_interval(days => n % $3::int)
       from generate_series(1, $1::int) n`,
      [transactions, usersOf(size), days],
    );
    await client.query("select strata.add_metric('bench_revenue', $1, partition => 'day')", [
      `select transaction_day as day, user_id % ${groupsOfDay} as user_group, count(*) as transactions,
         sum(amount) as revenue, count(distinct user_id) as users
       from production.transactions group by 1, 2`,
    ]);
    await client.query("select strata.refresh(true)");
    await client.query("vacuum analyze");
    const compute = async (stale: string): Promise<number> => {
      await client.query(
        "update production.transactions set amount = amount + 1 where transaction_day = '2024-01-15'",
      );
      const startedAt = performance.now();
      await client.query(`select strata.compute_metric('bench_revenue', ${stale})`);
      const time = performance.now() - startedAt;
      await client.query("select strata.refresh(false)");
      return time;
    };
    const changed: number[] = [];
    const all: number[] = [];
    for (let round = 0; round < rounds; round++) {
      changed.push(await compute("strata.stale_partitions('bench_revenue')"));
      all.push(await compute("null"));
    }
    const { rows: groups } = await client.query("select count(*)::int from analytics.bench_revenue");
    rows.push([
      String(transactions),
      String(days),
      String(groups[0].count),
      median(changed).toFixed(0),
      median(all).toFixed(0),
      `${spread(
        changed.map((one, i) => all[i]! / one),
        0,
      )} ×`,
    ]);
  };
  await measure(size / 10, DAYS / 10, 10);
  await measure(size, DAYS, 10);
  await measure(size, DAYS, 100);
  await client.query("select strata.remove_metric('bench_revenue')");
  return table(
    ["metric, one changed day: transactions", "days", "groups", "one day, ms", "all, ms", "faster"],
    rows,
  );
}
