/** @module-tag long */
// The typed example, as its reader runs it: a process of its own with a token, against a server with sample data.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPlace, type Place } from "../support/database.ts";
import { graphql, runStrata, startReadyServer, type Server } from "../support/process.ts";

const client = fileURLToPath(new URL("../../examples/client.ts", import.meta.url));
let place: Place;
let server: Server;

beforeAll(async () => {
  place = await createPlace();
  // More transactions than a page has.
  const sizes = ["--users", "100", "--transactions", "2500", "--events", "50"];
  expect(await runStrata(["sample", ...sizes], place.environment)).toMatchObject({ code: 0 });
  server = await startReadyServer(place.environment);
});
afterAll(async () => {
  await server?.stop();
  await place?.remove();
});

const createToken = async (role: string) =>
  (await runStrata(["token", "--role", role], place.environment)).stdout.trim();
const runExample = (token: string) =>
  promisify(execFile)(process.execPath, [client], {
    env: { PATH: process.env.PATH, STRATA_URL: `${server.url}/graphql`, STRATA_TOKEN: token },
  });

test("pages, adds up and refreshes", async () => {
  const token = await createToken("operator");
  const { stdout } = await runExample(token);
  const { data } = await graphql(
    server,
    token,
    `
      {
        transactions {
          totalCount
          aggregates {
            sum {
              amount
            }
          }
        }
        quarterlyRevenues(orderBy: [YEAR_ASC, QUARTER_ASC]) {
          nodes {
            year
            quarter
            totalRevenue
            weekendRevenue
          }
        }
        pipelineRuns(filter: { step: { equalTo: refresh }, trigger: { equalTo: api } }) {
          nodes {
            status
            durationMs
            rowsWritten
          }
        }
      }
    `,
  );
  const [run] = data.pipelineRuns.nodes;
  const { totalCount, aggregates } = data.transactions;
  expect(totalCount).toBeGreaterThan(2000);
  expect(run.status).toBe("succeeded");
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toBe(`${totalCount} transactions, ${aggregates.sum.amount} in total`);
  expect(lines.slice(1, -1)).toEqual(
    data.quarterlyRevenues.nodes.flatMap(({ year, quarter, totalRevenue, weekendRevenue }: any) =>
      [
        { days: "weekdays", revenue: (totalRevenue - weekendRevenue).toFixed(2) },
        { days: "weekends", revenue: weekendRevenue },
      ]
        // A year may begin or end in a quarter's last days: no row, no group.
        .filter(({ revenue }) => Number(revenue) > 0)
        .map(({ days, revenue }) => `${year} Q${quarter} ${days}: ${revenue}`),
    ),
  );
  expect(data.quarterlyRevenues.nodes.length).toBeGreaterThan(3);
  expect(lines.at(-1)).toBe(`Refreshed in ${run.durationMs} ms: ${run.rowsWritten} rows written`);
});

test("a reader may not refresh, and is told so", async () => {
  const error = await runExample(await createToken("reader")).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: 1, stdout: expect.stringMatching(/in total\n(\d{4} Q\d .*\n)+$/) });
  expect((error as { stderr: string }).stderr).toContain("Error: Your role may not do this\n");
});
