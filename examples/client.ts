// Strata from TypeScript: pages through the transactions, adds up revenue, refreshes the analytics.
// Every result and variable has its type from ../schema.graphql; at run time there is only fetch.
import { setTimeout as sleep } from "node:timers/promises";
import type { initGraphQLTada, ResultOf, TadaDocumentNode } from "gql.tada";
import type { introspection } from "./schema.d.ts";

type Schema = {
  introspection: introspection;
  // Numbers that JavaScript's cannot hold come as text.
  scalars: { BigFloat: string; BigInt: string; Cursor: string; Date: string; Datetime: string };
};
// Only the types are gql.tada's: a document stays the text it is.
const graphql = ((text: string) => text) as unknown as ReturnType<typeof initGraphQLTada<Schema>>;

const PAGE = graphql(`
  query TransactionPage($after: Cursor) {
    transactions(first: 1000, after: $after) {
      nodes {
        transactionId
        amount
      }
      pageInfo {
        hasNextPage
        endCursor
      }
    }
  }
`);

const REVENUE = graphql(`
  query Revenue {
    transactions {
      groupedAggregates(groupBy: [DIM_DATE_YEAR, DIM_DATE_QUARTER, DIM_DATE_IS_WEEKEND]) {
        keys
        sum {
          amount
        }
      }
    }
  }
`);

const REFRESH = graphql(`
  mutation Refresh {
    refreshAnalytics(input: { background: true }) {
      run {
        runId
      }
    }
  }
`);

const RUN = graphql(`
  query Run($runId: BigInt!) {
    pipelineRun(runId: $runId) {
      status
      durationMs
      rowsWritten
      error
    }
  }
`);

const { STRATA_URL = "http://localhost:4000/graphql", STRATA_TOKEN } = process.env;

async function request<Data, Variables>(
  document: TadaDocumentNode<Data, Variables>,
  variables: Variables,
): Promise<Data> {
  const response = await fetch(STRATA_URL, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(STRATA_TOKEN && { authorization: `Bearer ${STRATA_TOKEN}` }),
    },
    body: JSON.stringify({ query: document, variables }),
  });
  const { data, errors } = (await response.json()) as { data: Data; errors?: { message: string }[] };
  if (errors) throw new Error(errors.map(({ message }) => message).join("; "));
  return data;
}

async function* allTransactions() {
  for (let after: string | null = null; ;) {
    const { transactions }: ResultOf<typeof PAGE> = await request(PAGE, { after });
    if (!transactions) return;
    yield* transactions.nodes;
    if (!transactions.pageInfo.hasNextPage) return;
    after = transactions.pageInfo.endCursor;
  }
}

async function refresh() {
  const { refreshAnalytics } = await request(REFRESH, {});
  const runId = refreshAnalytics!.run!.runId;
  for (;;) {
    const { pipelineRun: run } = await request(RUN, { runId });
    if (run?.status === "succeeded") return run;
    if (run?.status !== "queued" && run?.status !== "running")
      throw new Error(`Run ${runId} failed: ${run?.error}`);
    await sleep(250);
  }
}

let count = 0;
let cents = 0;
for await (const { amount } of allTransactions()) {
  count += 1;
  cents += Math.round(Number(amount) * 100);
}
console.log(`${count} transactions, ${(cents / 100).toFixed(2)} in total`);

const revenue = await request(REVENUE, {});
const lines = (revenue.transactions?.groupedAggregates ?? []).map(({ keys, sum }) => {
  const [year, quarter, isWeekend] = keys ?? [];
  return `${year} Q${quarter} ${isWeekend === "true" ? "weekends" : "weekdays"}: ${sum?.amount}`;
});
// Groups have no order of their own.
console.log(lines.sort().join("\n"));

const run = await refresh();
console.log(`Refreshed in ${run.durationMs} ms: ${run.rowsWritten} rows written`);
