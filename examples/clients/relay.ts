// Relay: what its compiler made of the query below, sent by its id. The compiler writes the texts into a manifest, which
// the server reads (PERSISTED_OPERATIONS_DIR).
import {
  Environment,
  fetchQuery,
  Network,
  RecordSource,
  Store,
  type FetchFunction,
  type GraphQLResponse,
} from "relay-runtime";
import compiled, { type relayTransactionsQuery } from "../generated/relay/relayTransactionsQuery.graphql.ts";

const { STRATA_URL = "http://localhost:4000/graphql", STRATA_TOKEN } = process.env;

// The compiler looks for this tag; in an application Babel puts what is compiled in its place.
const graphql = String.raw;
void graphql`
  query relayTransactionsQuery($first: Int!, $status: String) {
    transactions(first: $first, filter: { status: { equalTo: $status } }) {
      nodes {
        id
        amount
        status
      }
    }
  }
`;

const ask: FetchFunction = async ({ id }, variables) => {
  const response = await fetch(STRATA_URL, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${STRATA_TOKEN}` },
    body: JSON.stringify({ doc_id: id, variables }),
  });
  return (await response.json()) as GraphQLResponse;
};
const environment = new Environment({
  network: Network.create(ask),
  store: new Store(new RecordSource()),
});

const variables = { first: 2, status: "completed" } as const;
const data = await fetchQuery<relayTransactionsQuery>(environment, compiled, variables).toPromise();
console.log(JSON.stringify(data));
