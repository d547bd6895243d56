// The bench's own database: schema.sql, and as many made-up rows as asked for, the same ones every time.
import { spawnSync } from "node:child_process";
import pg from "pg";
import { root } from "./contenders.ts";

/** Which database Strata works on: DATABASE_URL, or DATA_DIR for an embedded one. */
export type Where = { DATABASE_URL: string; DATA_DIR?: string };

function strata(folder: string, where: Where, ...args: string[]): void {
  const { status, stderr } = spawnSync(process.execPath, ["src/cli.ts", ...args], {
    cwd: folder,
    env: { ...process.env, ...where },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`strata ${args.join(" ")} failed: ${stderr}`);
}

const ROWS = `
insert into production.users (user_id, username, email, country, created_at)
select n, 'user' || n, 'user' || n || '@example.com', (array['Germany', 'France', 'Spain', 'Italy', 'Japan', 'Brazil',
    'Canada', 'India', 'Kenya', 'Norway', 'Chile', 'Egypt'])[1 + n % 12], '2023-01-01'::timestamp + n * interval '1 minute'
from generate_series(1, $1::int) n`;
// In order of time, as payments arrive.
const TRANSACTIONS = `
insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
select n, 1 + (n::bigint * 7919 % $2::int)::int, (1 + n::bigint * 104729 % 50000) / 100.0,
  (array['completed', 'completed', 'completed', 'pending', 'failed', 'refunded'])[1 + n % 6],
  '2024-01-01'::timestamp + (n::bigint * (730 * 86400) / ($1::int + 1)) * interval '1 second'
from generate_series(1, $1::int) n`;

/** Creates and fills the database unless it is there; returns its URL. */
export async function prepare(
  server: string,
  transactions: number,
  folder = root,
  name = `strata_bench_${transactions}`,
): Promise<string> {
  const url = new URL(server);
  url.pathname = `/${name}`;
  const administrator = new pg.Client({ connectionString: server });
  await administrator.connect();
  const { rowCount } = await administrator.query("select from pg_database where datname = $1", [name]);
  if (!rowCount) await administrator.query(`create database ${name}`);
  await administrator.end();
  const pool = new pg.Pool({ connectionString: url.href, max: 1 });
  await fill({ DATABASE_URL: url.href }, pool, transactions, folder);
  return url.href;
}

/** Applies the schema, and makes the rows unless they are there. */
export async function fill(where: Where, pool: pg.Pool, transactions: number, folder = root): Promise<void> {
  strata(folder, where, "migrate");
  const { rows } = await pool.query("select count(*)::int as count from production.transactions");
  if (rows[0].count !== transactions) {
    console.log(`Filling a database with ${transactions} transactions …`);
    const users = Math.max(2000, Math.round(transactions / 20));
    await pool.query("truncate production.users cascade");
    await pool.query(ROWS, [users]);
    await pool.query(TRANSACTIONS, [transactions, users]);
    await pool.query("vacuum analyze");
    strata(folder, where, "refresh");
    await pool.query("vacuum analyze");
  }
  await pool.end();
}
