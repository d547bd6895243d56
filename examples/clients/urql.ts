// urql as it comes: queries go by GET, mutations by POST.
import { cacheExchange, Client, fetchExchange, gql } from "@urql/core";

const { STRATA_URL = "http://localhost:4000/graphql", STRATA_TOKEN } = process.env;

const client = new Client({
  url: STRATA_URL,
  exchanges: [cacheExchange, fetchExchange],
  fetchOptions: { headers: { authorization: `Bearer ${STRATA_TOKEN}` } },
});

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
const run = gql`
  mutation Transform {
    transformStaging {
      run {
        id
        status
      }
    }
  }
`;

const queried = await client.query(page, { first: 2, status: "completed" }).toPromise();
if (queried.error) throw queried.error;
const mutated = await client.mutation(run, {}).toPromise();
if (mutated.error) throw mutated.error;
console.log(JSON.stringify({ ...queried.data, ...mutated.data }));
