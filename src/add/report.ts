// Formats a proposal as text for a terminal.
import { styleText } from "node:util";
import type { Proposal } from "./proposal.ts";

const shell = (word: string): string =>
  /^[\w./=:@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

export function ingestCommandFor(
  file: string,
  { dataset, columns }: Proposal,
  reading: Record<string, unknown> = {},
): string {
  // dateFormat is --date-format there.
  const options = Object.entries(reading).flatMap(([name, value]) =>
    [value]
      .flat()
      .map(
        (one) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} ${shell(String(one))}`,
      ),
  );
  const maps = columns
    .filter(({ header, name }) => header !== name)
    .map(({ header, name }) => `--map ${shell(`${header}=${name}`)}`);
  return ["npx strata-graphql ingest", dataset, shell(file), ...options, ...maps].join(" ");
}

export function report(proposal: Proposal, rows: number): void {
  const { dataset, columns, key, keyWhy, constraints, day, remarks } = proposal;
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  say(
    styleText("bold", `${dataset}: ${rows.toLocaleString("en")} rows, key ${key.join(", ")} (${keyWhy})`, {
      stream: process.stderr,
    }),
  );
  const cells = columns.map(({ header, name, type, notNull, why }) => [
    header === name ? name : `${header} → ${name}`,
    `${type}${notNull ? " not null" : ""}`,
    why.join("; "),
  ]);
  if (day) cells.push([day.name, "date", `the day of ${day.of}, for metrics by day`]);
  const width = (i: number): number => Math.max(...cells.map((row) => row[i]!.length));
  for (const [name, type, why] of cells)
    say(`  ${name!.padEnd(width(0))}  ${type!.padEnd(width(1))}  ${why}`);
  for (const { name, sql, doubt } of constraints)
    say(
      `  ${doubt === undefined ? "" : "not active: "}${name} ${sql}${doubt === undefined ? "" : `; ${doubt}`}`,
    );
  for (const remark of remarks) say(`  ${remark}`);
}
