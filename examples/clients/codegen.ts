// graphql-codegen with its client preset: documents, variables and results are typed, and fetch does the rest.
import { graphql } from "../generated/gql/index.ts";
import type { TypedDocumentString } from "../generated/gql/graphql.ts";

const { STRATA_URL = "http://localhost:4000/graphql", STRATA_TOKEN } = process.env;

const page = graphql(`
  query CodegenTransactions($first: Int!, $status: String) {
    transactions(first: $first, filter: { status: { equalTo: $status } }) {
      nodes {
        id
        amount
        status
      }
    }
  }
`);

async function ask<Data, Variables>(
  document: TypedDocumentString<Data, Variables>,
  variables: Variables,
): Promise<Data> {
  const response = await fetch(STRATA_URL, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${STRATA_TOKEN}` },
    body: JSON.stringify({ query: document.toString(), variables }),
  });
  const { data, errors } = (await response.json()) as { data: Data; errors?: { message: string }[] };
  if (errors) throw new Error(errors.map(({ message }) => message).join("; "));
  return data;
}

const { transactions } = await ask(page, { first: 2, status: "completed" });
// Digits stay text, and what the database says is never null needs no question mark.
const amounts: string[] = transactions?.nodes.map(({ amount }) => amount) ?? [];
console.log(JSON.stringify({ transactions, amounts }));
