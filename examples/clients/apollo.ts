// Apollo Client with its link for persisted queries as it comes: hashes first, texts where the server has none.
import { createHash } from "node:crypto";
import { ApolloClient, gql, HttpLink, InMemoryCache } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";

const { STRATA_URL = "http://localhost:4000/graphql", STRATA_TOKEN } = process.env;

const persisted = new PersistedQueryLink({
  sha256: (text) => createHash("sha256").update(text).digest("hex"),
});
const http = new HttpLink({ uri: STRATA_URL, headers: { authorization: `Bearer ${STRATA_TOKEN}` } });
const client = new ApolloClient({ link: persisted.concat(http), cache: new InMemoryCache() });

const page = gql`
  query Transactions($first: Int!, $status: String) {
    transactions(first: $first, filter: { status: { equalTo: $status } }) {
      nodes {
        id
        amount
        status
      }
    }
  }
`;
const count = gql`
  query Count {
    users {
      totalCount
    }
  }
`;

const { data: transactions } = await client.query<object>({
  query: page,
  variables: { first: 2, status: "completed" },
});
const { data: users } = await client.query<object>({ query: count });
console.log(JSON.stringify({ ...transactions, ...users }));
