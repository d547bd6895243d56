// Finds the columns that identify the rows of a file.
import { badInput } from "../ingest/faults.ts";
import { keyRank, partRank } from "./names.ts";
import { findUnique, type Reading } from "./profile.ts";
import { dirtOf, rowsThat, type ColumnProposal, type Key } from "./proposal.ts";

/** Columns that are tried in pairs when no single one is a key; each more would add a dozen pairs. */
const MAX_PAIRED = 12;

export async function findKey(
  reading: Reading,
  columns: ColumnProposal[],
  { dataset, rows, given }: { dataset: string; rows: number; given: string | undefined },
): Promise<Key> {
  if (given !== undefined) return givenKey(reading, columns, rows, given);
  const [best] = keyCandidates(columns, dataset, rows);
  if (best) return { columns: [best.name], why: describeKey(best, rows) };
  const paired = columns
    .filter(
      ({ type, profile }) =>
        rows - profile.filled <= dirtOf(rows) &&
        profile.maxLength <= 100 &&
        /^(integer|bigint|uuid|text|date)/.test(type),
    )
    .sort((a, b) => rankOfPart(b.name) - rankOfPart(a.name))
    .slice(0, MAX_PAIRED);
  const pairs = paired.flatMap((first, i) => paired.slice(i + 1).map((second) => [first, second] as const));
  const trackers = await findUnique(
    reading,
    pairs.map((pair) => pair.map(({ header }) => header)),
  );
  const index = pairs
    .map((pair, i) => ({
      i,
      rank: rankOfPart(pair[0].name) + rankOfPart(pair[1].name),
      repeats: trackers[i]!.repeats,
    }))
    .filter(({ i }) => rows > 0 && !trackers[i]!.gaveUp)
    .sort((a, b) => b.rank - a.rank || a.repeats - b.repeats)[0];
  if (!index)
    throw badInput(
      "No column or pair of columns identifies the rows; give the key with --key column,column (the last row of each key wins)",
    );
  const pair = pairs[index.i]!.toSorted((a, b) => columns.indexOf(a) - columns.indexOf(b));
  const why =
    index.repeats === 0
      ? "no pair occurs twice"
      : `${rowsThat(index.repeats, "repeats", "repeat")} a pair; the last one wins`;
  return { columns: pair.map(({ name }) => name), why };
}

const rankOfPart = (name: string): number => (keyRank(name, "") > 0 ? 2 : 0) + partRank(name);

async function givenKey(
  reading: Reading,
  columns: ColumnProposal[],
  rows: number,
  given: string,
): Promise<Key> {
  const chosen = given.split(",").map((word) => {
    const column = columns.find(({ header, name }) => [header, name].includes(word.trim()));
    if (column) return column;
    throw badInput(
      `--key names "${word}"; the file has: ${columns.map(({ header }) => `"${header}"`).join(", ")}`,
    );
  });
  const [tracker] = await findUnique(reading, [chosen.map(({ header }) => header)]);
  const repeats = tracker!.gaveUp
    ? "many rows repeat it; the last one wins"
    : tracker!.repeats > 0
      ? `${rowsThat(tracker!.repeats, "repeats", "repeat")} it; the last one wins`
      : "no value occurs twice";
  const empty = Math.max(...chosen.map(({ profile }) => rows - profile.filled));
  const rejected = empty > 0 ? `, ${rowsThat(empty, "without it", "without it")} will be rejected` : "";
  return { columns: chosen.map(({ name }) => name), why: `given; ${repeats}${rejected}` };
}

/** Columns that could be a key by what is in them, the likeliest first. */
function keyCandidates(columns: ColumnProposal[], dataset: string, rows: number): ColumnProposal[] {
  const isKey = ({ profile, type, misfits }: ColumnProposal): boolean =>
    rows > 0 &&
    rows - profile.filled <= dirtOf(rows) &&
    misfits.count <= dirtOf(rows) &&
    profile.maxLength <= 100 &&
    !profile.distinct.gaveUp &&
    /^(integer|bigint|uuid|text|date)/.test(type);
  const rank = ({ name, profile }: ColumnProposal): number =>
    keyRank(name, dataset) || (profile.distinct.repeats > 0 || profile.filled < rows ? -1 : 0);
  return columns.filter((column) => isKey(column) && rank(column) >= 0).sort((a, b) => rank(b) - rank(a));
}

function describeKey(column: ColumnProposal, rows: number): string {
  const { repeats, share } = column.profile.distinct;
  const empty = rows - column.profile.filled;
  const whole = share === 1 ? "" : ` (looked at every ${1 / share}th value)`;
  return [
    repeats === 0
      ? `no value occurs twice${whole}`
      : `${rowsThat(Math.round(repeats / share), "repeats", "repeat")} a value; the last one wins${whole}`,
    ...(empty > 0 ? [`${rowsThat(empty, "without it", "without it")} will be rejected`] : []),
  ].join(", ");
}
