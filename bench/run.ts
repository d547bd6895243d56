// npm run bench -- [--transactions 2000000] [--rounds 7] [--seconds 5] [--only nested,flat]
// [--pipeline ingest,transform,export,triggers,refresh,metric] [--server URL]
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { parseArgs } from "node:util";
import pg from "pg";
import { prepare } from "./database.ts";
import { compareEmbedded } from "./embedded.ts";
import { comparePipeline } from "./pipeline.ts";
import { compareReads } from "./reads.ts";

const { values } = parseArgs({
  options: {
    server: { type: "string", default: process.env.TEST_DATABASE_URL },
    transactions: { type: "string", default: "200000" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "4" },
    connections: { type: "string", default: "16" },
    only: { type: "string" },
    pipeline: { type: "string" },
    "no-reads": { type: "boolean" },
    "no-pipeline": { type: "boolean" },
    "no-embedded": { type: "boolean" },
  },
});
if (!values.server)
  throw new Error("Give --server or TEST_DATABASE_URL: a PostgreSQL server that may be filled");

const transactions = Number(values.transactions);
const options = {
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  connections: Number(values.connections),
  only: values.only?.split(","),
};
const client = new pg.Client({ connectionString: values.server });
await client.connect();
const { rows } = await client.query<{ version: string; fsync: string }>(
  "select current_setting('server_version') as version, current_setting('fsync') as fsync",
);
await client.end();
const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
const given = process.argv.slice(2).filter((text) => !/^postgres|^--server/.test(text));

/** Prints a section when it is done, and writes it to results/<name>.md. */
function report(name: string, text: string): void {
  const page = `# Bench: ${name}

${new Date().toISOString().slice(0, 10)}, commit ${commit}: \`npm run bench -- ${given.join(" ")}\`

${availableParallelism()} × ${cpus()[0]!.model}, ${Math.round(totalmem() / 2 ** 30)} GB, shared by client, servers and database;
Node ${process.versions.node}, PostgreSQL ${rows[0]!.version}, fsync ${rows[0]!.fsync}; ${transactions} transactions; ${options.rounds} rounds of
${options.seconds} s with ${options.connections} connections. Medians; lowest and highest round in brackets.

${text}
`;
  writeFileSync(new URL(`results/${name}.md`, import.meta.url), page);
  console.log(page);
}

if (!values["no-reads"]) {
  const url = await prepare(values.server, transactions);
  report("reads", await compareReads(url, options));
}
if (!values["no-embedded"] && !values.only) report("embedded", await compareEmbedded(options));
if (!values["no-pipeline"] && !values.only)
  await comparePipeline(values.server, transactions, options.rounds, values.pipeline?.split(","), report);
