// Asks the database about values that are not certain to be of their type, for a whole batch at once.
import type pg from "pg";
import type { Dataset } from "./dataset.ts";
import type { Fault } from "./faults.ts";
import type { Doubts } from "./format.ts";

/** Replaces certain values in place, and returns the faults of those that are not of their type. */
export async function doubtsOf(client: pg.PoolClient, dataset: Dataset, rows: Doubts[]): Promise<Fault[][]> {
  const faults = rows.map((): Fault[] => []);
  const asked = rows.flatMap(({ cells, places }, row) => places.map((place) => ({ row, cells, place })));
  if (asked.length === 0) return faults;
  const { rows: answers } = await client.query<{ value: string; reason: string | null; problem: string }>(
    "select value, reason, problem from strata.typed_values($1::text[], $2::text[])",
    [asked.map(({ place }) => dataset.fields[place]!.type), asked.map(({ cells, place }) => cells[place])],
  );
  for (const [i, { row, cells, place }] of asked.entries()) {
    const { value, reason, problem } = answers[i]!;
    if (reason === null) cells[place] = value;
    else faults[row]!.push({ reason, detail: `${dataset.fields[place]!.name}: ${problem}.` });
  }
  return faults;
}
