// What an export costs: GET /export against \copy … to of the same columns, and the memory that the server takes for it.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type pg from "pg";
import { createToken } from "../src/http/token.ts";
import { loadConfig } from "../src/config.ts";
import { median, spread, table } from "./statistics.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const JWT_SECRET = "a secret of the bench, long enough for HS256";
const COLUMNS = "transaction_id,user_id,amount,status,transaction_date";
const FIELDS = "transactionId,userId,amount,status,transactionDate";
const FORMATS = ["csv", "ndjson", "parquet"];
const STARTING_MS = 60_000;
/** Milliseconds between two looks at the server's memory. */
const LOOK_MS = 20;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

const megabytesOf = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024;

/** Milliseconds of a command, while `watch` is called. */
async function timed(command: string, args: string[], watch: () => void = () => undefined): Promise<number> {
  const startedAt = performance.now();
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] });
  const timer = setInterval(watch, LOOK_MS);
  const code = await new Promise((done) => child.once("exit", done));
  clearInterval(timer);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${String(code)}`);
  return performance.now() - startedAt;
}

export async function compareExport(
  client: pg.Client,
  folder: string,
  url: string,
  size: number,
  rounds: number,
): Promise<string> {
  await client.query("truncate production.users cascade");
  await client.query(
    "insert into production.users (user_id, username, email) values (1, 'ann', 'ann@example.org')",
  );
  await client.query(
    `insert into production.transactions (${COLUMNS})
     select n, 1, (1 + (n::bigint * 31) % 99999) / 100.0, 'completed', timestamp '2024-01-01' + make_interval(secs => n::bigint * 7907 % 63072000)
     from generate_series(1, $1::int) n`,
    [size],
  );
  await client.query("vacuum analyze production.transactions");
  const port = await freePort();
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: url,
    PORT: String(port),
    JWT_SECRET,
    LOG_LEVEL: "error",
  };
  const server = spawn(process.execPath, ["src/cli.ts", "serve", "--no-worker"], {
    cwd: root,
    env,
    stdio: "inherit",
  });
  try {
    const isReady = async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined))?.ok;
    for (const until = Date.now() + STARTING_MS; !(await isReady()); await sleep(100))
      if (Date.now() > until) throw new Error("The server does not get ready");
    const token = await createToken(loadConfig(env), {
      role: "strata_operator",
      subject: "bench",
      ttl: "1h",
    });
    const get = (format: string, watch: () => void, limit = ""): Promise<number> =>
      timed(
        "curl",
        [
          ...["-s", "--fail", "-H", `authorization: Bearer ${token}`, "-o", join(folder, `out.${format}`)],
          `http://127.0.0.1:${port}/export/transactions.${format}?columns=${FIELDS}${limit}`,
        ],
        watch,
      );
    const copy = `\\copy (select ${COLUMNS} from production.transactions) to '${join(folder, "out.copy")}' csv header`;
    const json = `\\copy (select row_to_json(r) from (select ${COLUMNS} from production.transactions) r) to '${join(folder, "out.json")}'`;
    const times = new Map(["copy", "json", ...FORMATS].map((name) => [name, [] as number[]]));
    const peaks = new Map(FORMATS.map((name) => [name, [] as number[]]));
    for (const format of FORMATS) await get(format, () => undefined, "&limit=20000");
    for (let round = 0; round < rounds; round++) {
      times.get("copy")!.push(await timed("psql", ["-q", url, "-c", copy]));
      times.get("json")!.push(await timed("psql", ["-q", url, "-c", json]));
      for (const format of FORMATS) {
        const before = megabytesOf(server.pid!);
        let peak = before;
        const watch = (): void => void (peak = Math.max(peak, megabytesOf(server.pid!)));
        times.get(format)!.push(await get(format, watch));
        peaks.get(format)!.push(peak - before);
      }
    }
    const relative = (format: string, to: string): string =>
      spread(times.get(format)!.map((time, i) => times.get(to)![i]! / time));
    const rows = FORMATS.map((format) => [
      format,
      `${(size / (median(times.get(format)!) / 1000)).toFixed(0)} rows/s`,
      relative(format, "copy"),
      format === "ndjson" ? relative(format, "json") : "",
      `${spread(peaks.get(format)!, 0)} MB`,
    ]);
    const head = ["export", "speed", "relative to `\\copy … to` as CSV", "as JSON (`row_to_json`)"];
    return table([...head, "memory of the server grew by"], rows);
  } finally {
    server.kill("SIGTERM");
    await new Promise((done) => server.once("exit", done));
  }
}
