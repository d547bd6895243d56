// The bench's own database: schema.sql, and as many made-up rows as asked for, the same ones every time.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import pg from "pg";

const root = fileURLToPath(new URL("..", import.meta.url));

function strata(url: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(process.execPath, ["src/cli.ts", ...args], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: url },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`strata ${args.join(" ")} failed: ${stderr}`);
}

const ROWS = `
insert into production.users (user_id, username, email, country, created_at)
select n, 'user' || n, 'user' || n || '@example.com', (array['Germany', 'France', 'Spain', 'Italy', 'Japan', 'Brazil',
    'Canada', 'India', 'Kenya', 'Norway', 'Chile', 'Egypt'])[1 + n % 12], '2023-01-01'::timestamp + n * interval '1 minute'
from generate_series(1, $1::int) n`;
const TRANSACTIONS = `
insert into production.transactions (transaction_id, user_id, amount, status, transaction_date)
select n, 1 + (n::bigint * 7919 % $2::int)::int, (1 + n::bigint * 104729 % 50000) / 100.0,
  (array['completed', 'completed', 'completed', 'pending', 'failed', 'refunded'])[1 + n % 6],
  '2024-01-01'::timestamp + (n::bigint * 15485863 % (730 * 86400)) * interval '1 second'
from generate_series(1, $1::int) n`;

/** Creates and fills the database unless it is there; returns its URL. */
export async function prepare(server: string, transactions: number): Promise<string> {
  const name = `strata_bench_${transactions}`;
  const url = new URL(server);
  url.pathname = `/${name}`;
  const administrator = new pg.Client({ connectionString: server });
  await administrator.connect();
  const { rowCount } = await administrator.query("select from pg_database where datname = $1", [name]);
  if (!rowCount) await administrator.query(`create database ${name}`);
  await administrator.end();
  strata(url.href, "migrate");

  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  const { rows } = await client.query("select count(*)::int as count from production.transactions");
  if (rows[0].count !== transactions) {
    console.log(`Filling ${name} with ${transactions} transactions …`);
    const users = Math.max(2000, Math.round(transactions / 20));
    await client.query("truncate production.users cascade");
    await client.query(ROWS, [users]);
    await client.query(TRANSACTIONS, [transactions, users]);
    await client.query("vacuum analyze");
    strata(url.href, "refresh");
    await client.query("vacuum analyze");
  }
  await client.end();
  return url.href;
}
