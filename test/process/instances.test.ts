/** @module-tag long */
// Two servers of one database, and a migration in between: both follow it, and no request fails.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createPlace, isServer } from "../support/database.ts";
import { graphql, runStrata, startReadyServer, until, type Server } from "../support/process.ts";

const PARCELS = `
create table if not exists production.parcels (parcel_id integer primary key, weight_kg numeric(6, 2) not null);
comment on table production.parcels is 'What was sent.';
select strata.add_dataset('parcels');`;
const COLUMN = `
alter table production.parcels add column if not exists destination text;
select strata.add_dataset('parcels');`;

test.runIf(isServer)(
  "two instances follow a migration under load, and no request fails",
  { timeout: 240_000 },
  async () => {
    const datasets = mkdtempSync(join(tmpdir(), "strata-instances-"));
    const place = await createPlace({
      ANONYMOUS_ROLE: "reader",
      DATASETS_DIR: datasets,
      RATE_LIMIT_COST: "0",
    });
    const servers: Server[] = [];
    const migrate = async (file: string, sql: string): Promise<void> => {
      writeFileSync(join(datasets, file), sql);
      const { code, stderr } = await runStrata(["migrate"], place.environment);
      expect([code, stderr]).toEqual([0, expect.any(String)]);
    };
    let isOver = false;
    try {
      for (const args of [[], ["--no-worker"]]) servers.push(await startReadyServer(place.environment, args));
      const failures: unknown[] = [];
      const answers = servers.map(() => 0);
      const load = servers.map(async (server, i) => {
        while (!isOver) {
          const answer = await graphql(
            server,
            "",
            "{ users(first: 5) { nodes { userId username } totalCount } }",
          );
          if (answer.data?.users) answers[i]!++;
          else failures.push(answer);
        }
      });
      const columnsOf = async (server: Server): Promise<string[]> => {
        const { data } = await graphql(server, "", '{ __type(name: "Parcel") { fields { name } } }');
        return data.__type?.fields.map(({ name }: { name: string }) => name) ?? [];
      };
      const everywhere = (column: string) =>
        until(async () =>
          (await Promise.all(servers.map(columnsOf))).every((names) => names.includes(column)),
        );

      await migrate("10-parcels.sql", PARCELS);
      await everywhere("weightKg");
      await migrate("20-destination.sql", COLUMN);
      await everywhere("destination");
      // Each goes on answering with the new schema.
      const before = [...answers];
      await until(() => Promise.resolve(answers.every((count, i) => count > before[i]!)));
      isOver = true;
      await Promise.all(load);
      expect(failures).toEqual([]);
    } finally {
      isOver = true;
      await Promise.all(servers.map((server) => server.stop("SIGKILL")));
      await place.remove();
      rmSync(datasets, { recursive: true, force: true });
    }
  },
);
