// The nested read on the embedded engine, which works on one statement at a time: how much of what the same
// statement, hand-written, gets out of it.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { openEmbedded } from "../src/embedded/embedded.ts";
import { check } from "./check.ts";
import { start, type Contender } from "./contenders.ts";
import { fill } from "./database.ts";
import { inTurn, rates, ratios, type ReadOptions } from "./reads.ts";
import { load } from "./load.ts";
import { median, spread, table } from "./statistics.ts";
import { works } from "./work.ts";

const TRANSACTIONS = 50_000;

export async function compareEmbedded(options: ReadOptions): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "strata-bench-"));
  const where = { DATABASE_URL: "", DATA_DIR: folder };
  const contenders: Contender[] = [];
  try {
    // It runs the engine; whoever comes later shares it.
    const strata = await start("Strata", "", where);
    contenders.push(strata);
    const { connection } = await openEmbedded(folder);
    await fill(where, new pg.Pool({ ...connection, max: 1 }), TRANSACTIONS);
    const url = `postgres://postgres@localhost/postgres?host=${encodeURIComponent(connection.host!)}`;
    const base = await start("hand-written SQL", url);
    contenders.unshift(base);
    const work = works.nested!;
    await check(contenders, "nested", work);
    const measured = await inTurn(
      {
        base: () => load(base, "nested", work, options),
        strata: () => load(strata, "nested", work, options),
      },
      options.rounds,
    );
    return table(
      ["embedded engine", base.name, strata.name],
      [
        [
          work.title,
          `${median(rates(measured.base!)).toFixed(0)}/s`,
          spread(ratios(measured.strata!, measured.base!)),
        ],
      ],
    );
  } finally {
    for (const { stop } of contenders) stop();
    rmSync(folder, { recursive: true, force: true });
  }
}
