// Apollo Server with DataLoader.
import { ApolloServer } from "@apollo/server";
import fastifyApollo from "@as-integrations/fastify";
import DataLoader from "dataloader";
import Fastify from "fastify";
import { latestTransactions, resolvers, typeDefs } from "./schema.ts";

const apollo = new ApolloServer({
  typeDefs,
  resolvers: {
    ...resolvers,
    User: {
      transactions: (user: { userId: number }, { first }: { first: number }, context: any) => {
        context.loader ??= new DataLoader((ids: readonly number[]) => latestTransactions(ids, first));
        return context.loader.load(user.userId);
      },
    },
  },
});
await apollo.start();
const app = Fastify();
await app.register((fastifyApollo as any)(apollo), { context: () => Promise.resolve({}) });
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
console.log("ready");
