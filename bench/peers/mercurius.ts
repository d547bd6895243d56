// Mercurius with JIT and hand-batched loaders.
import Fastify from "fastify";
import mercurius from "mercurius";
import { latestTransactions, resolvers, typeDefs } from "./schema.ts";

const app = Fastify();
app.register(mercurius, {
  schema: typeDefs,
  resolvers,
  loaders: {
    User: {
      transactions: {
        loader: (queries: { obj: { userId: number }; params: { first: number } }[]) =>
          latestTransactions(
            queries.map(({ obj }) => obj.userId),
            queries[0]!.params.first,
          ),
        opts: { cache: false },
      },
    },
  },
  jit: 1,
});
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
console.log("ready");
